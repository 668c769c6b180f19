"""Admission of requests, what is awaited, and what is known of their authenticity. Rules 1.15, 1.17; 2.3, 2.4.

A full queue answers `busy`; the client backs off. Whatever the executed state answers already is answered and awaited
no longer. Only this file writes the queue and the demotions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable

from pbft.batch import ClientRequest
from pbft.messages import Nack, Refusal
from pbft.protocol.core import Core, Refused
from pbft.protocol.queue import IN_FLIGHT, Queue
from pbft.protocol.sessions import SessionMirror, Verdict

_VERIFIED = 8192
_DOUBTFUL = 4096
_FORWARD_AT_ONCE = 64
_FORWARD_OF_CLIENT = 4
"""Of a client with more waiting than this, what is awaited is passed on and nothing else."""
_ANSWERS = 64
_ANSWER_BYTES = 1 << 20
_ANSWER_BYTES_TOTAL = 4 << 20
_FORWARD_BYTES = 1 << 20
"""What a backup passes on to the primary in one STATUS interval."""


class Requests:
    """Admission of requests, and what is known of their authenticity."""

    def __init__(self, core: Core, mirror: SessionMirror) -> None:
        t = core.tunables
        self._core = core
        self._mirror = mirror
        self.queue = Queue(t.pending_per_client, t.pending_total, t.pending_bytes)
        self.in_flight: dict[bytes, int] = {}
        """Digest -> number, for requests in batches that this replica accepted and has not executed."""
        self._batches: dict[int, tuple[ClientRequest, ...]] = {}
        """Number -> requests of the batch accepted there. Invariant: numbers lie above the executed one."""
        self._flying: Counter[int] = Counter()
        """Client -> how many requests of it are in `_batches`."""
        self.executor_is_full = False
        """As many batches wait for the executor as may: no primary can be expected to propose more (rule 1.11)."""
        self._awaited: dict[bytes, int] = {}
        """Digest -> number it was pre-prepared at, or 0; oldest wait first. What a view timer runs for (rule 1.11).
        Invariant: in flight, or in `_first`."""
        self._first: dict[int, bytes] = {}
        """Client -> the one of its queued requests that is awaited. No more than one: a client that floods fills every
        replica's queue with other requests, and no primary could order all that backups wait for. Invariant: queued,
        signed and verified here."""
        self._verified: dict[bytes, bytes] = {}
        """Digest -> authenticator with which the request verified here, the signature if both did; the newest ones."""
        self._doubtful: list[ClientRequest] = []
        self._in_full: set[bytes] = set()
        self._forwards: dict[bytes, set[int]] = {}
        self._nacks: dict[tuple[int, int, bytes], set[int]] = {}
        self._demoted: dict[int, tuple[int, int]] = {}
        self._answered: dict[int, tuple[int, int]] = {}
        """Client -> (answers of the table, bytes of them) that it has had in this STATUS interval."""
        self.demotions = 0

    # ---- from clients and from backups that forward

    def on_request(self, sender: int, request: ClientRequest, authentic: bool, executed: int) -> Refused | None:
        """A REQUEST from its client, or forwarded by a backup. [CL99 §4.1], rule 1.17."""
        core = self._core
        from_replica = sender < core.quorums.n
        if not authentic and (request.is_signed or not (from_replica and self._vouched(sender, request))):
            if not from_replica:
                self._answer_refusal(request, "unauthentic")
            return core.refuse(sender, Refused.UNAUTHENTIC)
        if self.is_too_large(request):
            return self.refuse_too_large(sender, request)
        if self._is_sent_again(request) and len(self._in_full) < core.tunables.pending_total:
            self._in_full.add(request.digest)
        verdict = self._mirror.judge(request, executed)
        if verdict is Verdict.ANSWERED:
            self._in_full.discard(request.digest)
            if from_replica and sender != request.client:
                return None  # one replica could let all others send old results to any client, as often as it likes
            return self.answer_again(request)
        if verdict is Verdict.UNDECIDED and request.session >> 16 > core.log.high:
            self._in_full.discard(request.digest)
            return core.refuse(sender, Refused.UNAUTHENTIC)  # no such session can exist yet
        if verdict is Verdict.UNDECIDED:
            # What cannot be judged yet takes no room from what can, else a few clients fill every queue with requests
            # that nothing ever clears. Its client hears `busy` and sends it again.
            self._in_full.discard(request.digest)
            self._answer_refusal(request, "busy")
            return core.refuse(sender, Refused.NOT_WANTED)
        if request.digest in self.in_flight:
            return self._note_repeated(sender)
        if self._is_demoted(request.client, executed) and not request.is_signed:
            return core.refuse(sender, Refused.UNAUTHENTIC)  # it would wait in vain, in room that signed ones need
        # What a backup passes on waits there with a timer: its client, which may have filled its own room here and
        # nowhere else, must not evict a primary by that.
        insistent = from_replica and request.is_signed and authentic
        known = self.queue.get(request)
        if known is not None and (known.is_signed or not request.is_signed):
            if insistent:
                self.queue.to_front(known)
            return self._note_repeated(sender)
        if not self._queued(request, insistent):
            self._in_full.discard(request.digest)
            self._answer_refusal(request, "busy")
            return core.refuse(sender, Refused.TOO_OFTEN)
        if authentic:
            self.note_verified(request)
        if request.is_signed and authentic and verdict is Verdict.FRESH:
            self._begin_wait(request)
        if not from_replica and not core.is_primary and not request.is_signed:
            core.send(core.primary, request.message())  # a signed one went to all; `forward_again` sees to the rest
        return None

    def _queued(self, request: ClientRequest, insistent: bool = False) -> bool:
        """Whether there was, or was made, room. Whoever makes room hears `busy` and comes again."""
        evicted = self.queue.add(request, insistent)
        for victim in evicted or ():
            self._end_wait(victim.client, victim.digest)
            self._in_full.discard(victim.digest)
            self._answer_refusal(victim, "busy")
        return evicted is not None

    def _is_sent_again(self, request: ClientRequest) -> bool:
        """Whether its client has waited in vain once, and wants the full result from everybody."""
        if not self._core.tunables.signed_requests:
            return request.is_signed
        return request.digest in self.in_flight or self.queue.get(request) is not None

    def is_answered(self, request: ClientRequest, executed: int) -> bool:
        """Whether the replicated table answers the request already (4 #26)."""
        if request.client not in self._core.group.clients or self.is_too_large(request):
            return False
        return self._mirror.judge(request, executed) is Verdict.ANSWERED

    def _note_repeated(self, sender: int) -> Refused | None:
        """What waits here already came again: that too has a bound, for a client."""
        if sender < self._core.quorums.n:
            return None
        count, size = self._answered.get(sender, (0, 0))
        self._answered[sender] = count + 1, size
        return self._core.refuse(sender, Refused.TOO_OFTEN) if count >= _ANSWERS else None

    def answer_again(self, request: ClientRequest) -> Refused | None:
        """Have the table answer its client, within what one client may ask for again in a STATUS interval: a question
        costs it nothing, and the answer may be long (4 #7)."""
        count, size = self._answered.get(request.client, (0, 0))
        total = sum(size for _, size in self._answered.values())
        if count and (count >= _ANSWERS or size >= _ANSWER_BYTES or total >= _ANSWER_BYTES_TOTAL):
            return self._core.refuse(request.client, Refused.TOO_OFTEN)
        # How long the answer is, the table knows; until it has told, as long as it may be.
        self._answered[request.client] = count + 1, size + self._core.tunables.result_max_bytes
        self._core.effects.answers.append(request)
        return None

    def note_answer(self, client: int, size: int) -> None:
        """The table's answer has so many bytes."""
        count, before = self._answered.get(client, (0, 0))
        self._answered[client] = count, max(0, before - self._core.tunables.result_max_bytes) + size

    def begin_interval(self) -> None:
        """A STATUS interval begins."""
        self._answered.clear()

    def turns_away(self, request: ClientRequest) -> bool:
        """Whether its client, whose link it came over, has as much waiting here as it may: then it hears `busy` before
        anything of the request is verified. What is refused must not cost a signature."""
        if not self.queue.is_full_for(request) or self.queue.get(request) is not None:
            return False
        if request.digest in self.in_flight:
            return False
        self._answer_refusal(request, "busy")
        return True

    def wants_more(self, client: int) -> bool:
        """Whether it is of use to verify one more request of this client: what is awaited and what may be in flight is
        enough. Each replica's queue would hold others of one that floods, most of which are never ordered."""
        return sum(r.is_signed for r in self.queue.of(client)) < IN_FLIGHT

    def is_too_large(self, request: ClientRequest) -> bool:
        """Whether it exceeds what one REQUEST may carry."""
        t = self._core.tunables
        if len(request.authenticator) > self._core.group.authenticator_max_bytes:
            return True
        return len(request.body) > t.operation_max_bytes or len(request.operations) > t.operations_per_request

    def refuse_too_large(self, sender: int, request: ClientRequest) -> Refused:
        """Say so to the client if it comes from there."""
        if sender == request.client:
            self._answer_refusal(request, "too-large")
        return self._core.refuse(sender, Refused.TOO_LARGE)

    def _vouched(self, sender: int, request: ClientRequest) -> bool:
        """The primary also takes what f+1 backups forward with one digest (rule 1.17)."""
        if not self._core.is_primary:
            return False
        if len(self._forwards) >= 1024:
            self._forwards.clear()
        senders = self._forwards.setdefault(request.digest, set())
        senders.add(sender)
        return len(senders) >= self._core.quorums.weak

    def _answer_refusal(self, request: ClientRequest, reason: str) -> None:
        core = self._core
        if request.client in core.group.clients:
            core.send(request.client, Refusal(core.view, request.session, request.id, reason))

    def forward_again(self) -> None:
        """What still waits here goes to the primary once more; it may have missed it."""
        if not self._core.is_primary:
            sent = 0
            queued = {r.digest: r for r in self.queue.requests()}
            awaited = [d for d, number in self._awaited.items() if not number and d in queued]
            waiting = [queued.pop(d) for d in awaited]  # who has waited longest comes first
            modest = [r for r in queued.values() if self.queue.count_of(r.client) <= _FORWARD_OF_CLIENT]
            for request in [*waiting, *modest][:_FORWARD_AT_ONCE]:
                if sent and sent + request.size > _FORWARD_BYTES:
                    break
                sent += request.size
                self._core.send(self._core.primary, request.message())

    # ---- for the primary's proposals

    def next_batch(self, executed: int) -> list[ClientRequest]:
        """Requests for the next PRE-PREPARE, fair between clients; drops what the executed state already answers."""
        core = self._core
        answered: list[ClientRequest] = []

        def ready(request: ClientRequest) -> bool:
            verdict = self._mirror.judge(request, executed)
            if verdict is Verdict.ANSWERED:
                answered.append(request)
            acceptable = request.is_signed or not self._is_demoted(request.client, executed)
            return acceptable and verdict is Verdict.FRESH and request.digest not in self.in_flight

        taken = self.queue.take(core.tunables.batch_max_bytes - 64, ready, self._flying)
        for request in answered:
            self._drop_answered(request)
        return taken

    def _drop_answered(self, request: ClientRequest) -> None:
        self.queue.remove(request.client, request.digest)
        self._end_wait(request.client, request.digest)
        self._core.effects.answers.append(request)

    # ---- what is awaited

    def _begin_wait(self, request: ClientRequest) -> None:
        """A signed request that verified here waits for a PRE-PREPARE; if it is its client's only one, with a timer,
        unless no primary may propose it now: so much of its client has not executed, by whoever's fault."""
        if request.client not in self._first and self._flying[request.client] < IN_FLIGHT:
            self._first[request.client] = request.digest
            self._awaited.setdefault(request.digest, 0)

    def _end_wait(self, client: int, digest: bytes) -> None:
        """A request is not queued any more: it is awaited no longer, unless it is in flight; its client's next one is,
        from now on."""
        if digest not in self.in_flight:
            self._awaited.pop(digest, None)
        if self._first.get(client) == digest:
            del self._first[client]
            self._wait_for_next(client)

    def _wait_for_next(self, client: int) -> None:
        if (request := next((r for r in self.queue.of(client) if r.is_signed), None)) is not None:
            self._begin_wait(request)

    def oldest_awaited(self, committed_through: int) -> bytes | None:
        """The request that has waited longest: not executed, and not in a batch that is committed here with all below
        it and their bodies, whose execution needs nobody's help (rule 1.11)."""
        awaited = self._awaited
        while awaited:
            digest = next(iter(awaited))
            number = awaited[digest]
            if not number and self.executor_is_full:
                return next((d for d, n in awaited.items() if n > committed_through), None)
            if not number or number > committed_through:
                return digest
            del awaited[digest]
        return None

    @property
    def oldest_unproposed(self) -> bytes | None:
        """The request that has waited longest for a PRE-PREPARE that can be expected."""
        if self.executor_is_full:
            return None
        return next((digest for digest, number in self._awaited.items() if not number), None)

    @property
    def unproposed(self) -> int:
        """Requests that wait here and that a correct primary could propose now: of a client no more than it may have in
        flight, or what one of them has waiting would be compared with what many have."""
        queue = self.queue
        return sum(min(queue.count_of(c), max(0, IN_FLIGHT - self._flying[c])) for c in queue.clients())

    def review(self, executed: int) -> None:
        """At each STATUS interval: what the executed state answers by now is answered and awaited no longer, else one
        client's dead request makes every replica suspect every primary; what was undecided may be fresh (rule 1.15)."""
        for request in self.queue.requests():
            verdict = self._mirror.judge(request, executed)
            if verdict is Verdict.ANSWERED:
                self._drop_answered(request)
            elif verdict is Verdict.FRESH and request.is_signed:
                self._begin_wait(request)

    def wait_again(self, requests: Iterable[ClientRequest], executed: int) -> None:
        """A batch that was pre-prepared in an old view is not among those that the new one begins with. The copy that
        verified here waits again, not the one in the batch: a faulty primary may have spoiled the authenticator of that
        one, so that nobody could ever order it. What never verified here is looked at first."""
        again: set[int] = set()
        for request in requests:
            self.in_flight.pop(request.digest, None)
            if self._mirror.judge(request, executed) is Verdict.UNDECIDED:
                # It may never be decided, and who awaited it would suspect every primary; its client sends it again.
                self._end_wait(request.client, request.digest)
                continue
            authenticator = self._verified.get(request.digest)
            if authenticator is None:
                self._end_wait(request.client, request.digest)
                if len(self._doubtful) < _DOUBTFUL:
                    self._doubtful.append(request)
                continue
            same = request.authenticator == authenticator
            verified = request if same else ClientRequest(request.body, authenticator)
            # An unsigned one may be such that no other primary can get it accepted: it starts no timer.
            if not (self._queued(verified) and verified.is_signed) or verified.client in again:
                self._end_wait(verified.client, verified.digest)
                continue
            again.add(verified.client)
            if (newer := self._first.get(verified.client)) is not None:
                self._awaited.pop(newer, None)
            self._first[verified.client] = verified.digest
            self._awaited[verified.digest] = 0  # where it stood: its wait began when it came

    def take_doubtful(self) -> list[ClientRequest]:
        """Requests that would wait again if their authenticators verified, which nobody has looked at here: after a
        restart, or because f backups vouched for their batch. Each is told once, to who can tell."""
        taken, self._doubtful = self._doubtful, []
        return taken

    # ---- from ordering and execution

    def ordered(self, number: int, requests: tuple[ClientRequest, ...]) -> None:
        """These requests are in an accepted batch: they wait no longer, and are not proposed twice (4 #37)."""
        self._flying.subtract(r.client for r in self._batches.get(number, ()))
        self._batches[number] = requests
        self._flying.update(r.client for r in requests)
        for request in requests:
            self.in_flight[request.digest] = self._awaited[request.digest] = number
            self.queue.remove(request.client, request.digest)
            self._forwards.pop(request.digest, None)
        for request in requests:
            self._end_wait(request.client, request.digest)
            if self._flying[request.client] >= IN_FLIGHT:
                first = self._first.pop(request.client, b"")
                if first not in self.in_flight:
                    self._awaited.pop(first, None)

    def passed(self, number: int) -> None:
        """`number` has executed. If that was another batch than the one accepted here, in a view that this replica left
        alone, the requests in the latter wait again."""
        self._release(number, number)

    def _release(self, number: int, executed: int) -> None:
        batch = self._batches.pop(number, ())
        self._flying.subtract(r.client for r in batch)
        self.wait_again([r for r in batch if self.in_flight.get(r.digest) == number], executed)
        for client in dict.fromkeys(r.client for r in batch):
            if not self._flying[client]:
                del self._flying[client]
            if client not in self._first:
                self._wait_for_next(client)

    def view_begun(self, kept: Collection[int], committed_through: int, executed: int) -> None:
        """Of what was accepted in all views before, only what this one begins with (`kept`) is in flight still: else a
        faulty primary's proposals that never prepare keep their clients' requests from being ordered, in every view."""
        for n in sorted(n for n in self._batches if n > committed_through and n not in kept):
            self._release(n, executed)

    def passed_through(self, number: int) -> None:
        """A state from others holds all up to `number`: its table says whether what was accepted there has executed."""
        for n in [n for n in self._batches if n <= number]:
            self._release(n, number)

    def knows(self, request: ClientRequest) -> bool:
        """Whether this very request was verified here before (2.4 b)."""
        return request.digest in self._verified or self.queue.get(request) is not None

    def note_verified(self, request: ClientRequest) -> None:
        """Its signature, or this replica's entry of its authenticator, verifies."""
        known = self._verified.get(request.digest)
        if known is not None and not request.is_signed:
            return
        self._verified[request.digest] = request.authenticator
        while len(self._verified) > _VERIFIED:
            del self._verified[next(iter(self._verified))]

    def refuse_busy(self, request: ClientRequest) -> None:
        """More of this client waits than is good."""
        self._answer_refusal(request, "busy")

    def executed(self, client: int, digest: bytes) -> bool:
        """A request has executed. True if its client retransmitted it and so wants the full result from everybody."""
        self.in_flight.pop(digest, None)
        self._verified.pop(digest, None)
        waiting = self.queue.remove(client, digest)
        self._end_wait(client, digest)
        in_full = digest in self._in_full
        self._in_full.discard(digest)
        return in_full or (waiting is not None and waiting.is_signed)

    # ---- demotion (rule 1.17)

    def on_nack(self, sender: int, nack: Nack, executed: int) -> None:
        """A backup could not verify a request. f+1 of them: propose only signed requests of that client, whoever is
        the primary now; they went to all, so that the client cannot do the same to each primary in turn."""
        if nack.client not in self._core.group.clients:
            return
        if len(self._nacks) >= 1024:
            self._nacks.clear()
        senders = self._nacks.setdefault((nack.number, nack.client, nack.digest), set())
        senders.add(sender)
        if len(senders) == self._core.quorums.weak:
            self.demote(nack.client, executed)

    def demote(self, client: int, executed: int) -> None:
        """Propose only signed requests of this client for K batches, twice as long each time."""
        if self._is_demoted(client, executed):
            return
        times = self._demoted.get(client, (0, 0))[1] + 1
        interval = self._core.tunables.checkpoint_interval << min(times - 1, 16)
        self._demoted[client] = (executed + interval, times)
        self.demotions += 1
        for request in [r for r in self.queue.of(client) if not r.is_signed]:
            self._drop(request)  # nobody will order them, and signed ones of this client find no room

    def _drop(self, request: ClientRequest) -> None:
        """It waits no longer; its client hears `busy` and comes again."""
        self.queue.remove(request.client, request.digest)
        self._end_wait(request.client, request.digest)
        self._in_full.discard(request.digest)
        self._answer_refusal(request, "busy")

    def _is_demoted(self, client: int, executed: int) -> bool:
        until, _ = self._demoted.get(client, (0, 0))
        return executed < until
