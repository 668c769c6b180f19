"""The three-phase protocol: PRE-PREPARE, PREPARE, COMMIT; batching and pipelining. [CL99 §4.2], rules 1.5, 1.10, 1.14.
What a primary proposes, and when, is decided in `proposer.py`.

Every handler has one shape: reasons to refuse (which change nothing), what is now certain, change, effects.
Only this file writes slots' votes and phases; it knows nothing of what a batch means.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NamedTuple

from pbft.batch import Batch
from pbft.messages import Commit, Prepare, PrePrepare, ViewChange
from pbft.protocol.core import Core, Refused
from pbft.protocol.delivery import Delivery
from pbft.protocol.effects import ALL, invariant
from pbft.protocol.held import HeldProposals
from pbft.protocol.log import Slot
from pbft.protocol.proposer import Proposer
from pbft.protocol.records import Accepted, Prepared
from pbft.protocol.requests import Requests


class _OwnVote(NamedTuple):
    position: int
    view: int
    number: int
    is_commit: bool


class Ordering:
    """Agreement on one batch per sequence number in the present view."""

    def __init__(self, core: Core, requests: Requests, delivery: Delivery, secret: bytes) -> None:
        self._core = core
        self._requests = requests
        self._delivery = delivery
        self._own_votes: deque[_OwnVote] = deque()
        self.held = HeldProposals(core, requests, delivery, self._accept_fresh)
        self.proposer = Proposer(core, requests, delivery, self._accept, secret)
        self.ask_now = False
        """Something was missed that others can resend: ask by STATUS at once (4 #14, rule 1.18)."""
        self._supplied: dict[int, Batch] = {}
        """Fetched bodies of `chosen`. Invariant: at most one each, gone once all are accepted."""
        self._open_chosen: list[int] = []
        """Numbers that the view begins with and that are not accepted here yet."""
        self.fresh: list[int] = []
        """Requests in each fresh PRE-PREPARE accepted in this sweep; read and cleared by its caller, for the floor."""
        self.contradicted = False
        """The primary of this view wants a vote against what was executed here, or has proposed two batches for one
        number. Until the view ends."""

    def start(self) -> None:
        """This replica takes part from now on: the votes in its log count again, and none is made twice; what was
        pre-prepared and is not committed is awaited again (rule 1.11). Others have voted meanwhile, so that its own
        votes may complete a certificate here: what is written in consequence counts once it is durable, as ever."""
        log, durable = self._core.log, self._core.outbox.durable
        for slot in log.open_slots():
            if slot.batch is not None and slot.number > self._delivery.committed_through:
                self._requests.ordered(slot.number, slot.batch.requests)
            if slot.digest is not None and log.is_active and slot.accepted_at <= durable:
                had_prepared = 0 < slot.prepared_at <= durable
                self._count_own(slot, is_commit=False)
                if had_prepared:
                    self._count_own(slot, is_commit=True)
        self.proposer.start()
        self._open_chosen = sorted(n for n in log.chosen if n > log.low)

    # ---- views end and begin

    def on_left(self) -> None:
        """This replica has left the view: what it has not voted on in it, it never will."""
        self._own_votes.clear()
        self.held.forget()
        self.contradicted = False

    def on_entered(self, old: dict[int, Slot], testimony: Iterable[ViewChange]) -> None:
        """A new view begins with empty slots; requests of old ones that it does not begin with wait again.
        `testimony`: the VIEW-CHANGEs for it that are here, whether its NEW-VIEW names them or not."""
        core = self._core
        self._own_votes.clear()
        self.held.forget()
        self.contradicted = False
        self.proposer.on_entered(testimony)
        self._supplied.clear()
        self._open_chosen = sorted(n for n in core.log.chosen if n > core.log.low)
        kept = {n for n, slot in old.items() if slot.digest is not None and core.log.chosen.get(n) == slot.digest}
        self._requests.view_begun(kept, self._delivery.committed_through, self._delivery.executed)

    def accept_chosen(self) -> None:
        """Vote again on what the new view begins with: nothing but the body is asked for (rule 1.14). Batches already
        executed are agreed again, not executed again.

        The NEW-VIEW proposes all of it, but it is no vote: its primary may lack a body (A3), and whoever is counted for
        a batch must hold it on disk. So the primary too sends PREPARE for what it has accepted. Else with n = 4: view 0
        leaves d prepared at 2 and pre-prepared at 0; primary 1 has only the NEW-VIEW; 2 counts 1, itself and the liar
        3, so that its P says (d, 1), and 2 alone is a Q witness of view 1. If 3 falls silent now, neither A2 nor B can
        ever hold again.
        """
        core = self._core
        if not self._open_chosen or not core.may_vote:
            return
        waiting: list[int] = []
        for number in self._open_chosen:
            if number <= core.log.low or self._accept_chosen(number):
                continue
            waiting.append(number)
        self._open_chosen = waiting
        if not waiting:
            self._supplied.clear()

    def _accept_chosen(self, number: int) -> bool:
        core = self._core
        digest = core.log.chosen[number]
        batch = core.log.find(number, digest) or self._supplied.get(number)
        if batch is None or number > core.log.high:
            return False
        slot = core.log.slot(number)
        if slot.digest is not None or self._contradicts(number, digest):
            return True
        position = self._accept(slot, batch)
        core.send(ALL, Prepare(core.view, number, digest), position)
        self._try_prepared(slot)
        return True

    def supply(self, number: int, batch: Batch) -> None:
        """The body of a batch that the view begins with."""
        invariant(self._core.log.chosen.get(number) == batch.digest, "a supplied body was chosen", number=number)
        self._supplied[number] = batch
        self.accept_chosen()

    def missing_chosen(self) -> list[tuple[int, bytes]]:
        """(number, digest) of what the view begins with and whose body is not here. Rule A3."""
        log = self._core.log
        return [
            (n, log.chosen[n])
            for n in self._open_chosen
            if log.low < n <= log.high and n not in self._supplied and log.find(n, log.chosen[n]) is None
        ]

    def untold(self) -> list[tuple[int, bytes]]:
        """(number, digest) of fresh proposals that f+1 backups prepared and that never came here: one of those backups
        is correct and has the PRE-PREPARE, so the primary voted for it. A primary that leaves out f of the others, and
        says COMMIT to one alone, would else let that one execute, and those who wait for it never: on an idle group
        nobody complains."""
        core = self._core
        if not core.may_vote or core.is_primary:
            return []
        found: list[tuple[int, bytes]] = []
        for number, slot in core.log.slots.items():
            if slot.digest is None and slot.held is None and max(core.log.last_chosen, self._delivery.handed) < number:
                digest = slot.prepares.besides(core.primary).reached(core.quorums.weak)
                if digest is not None:
                    found.append((number, digest))
        return found

    def tell(self, number: int, batch: Batch) -> None:
        """The body of one of `untold`: as good as its PRE-PREPARE."""
        message = PrePrepare(self._core.view, number, batch.digest, batch.encoded)
        self.on_pre_prepare(self._core.primary, message, batch, ())

    def _contradicts(self, number: int, digest: bytes) -> bool:
        """Defence in depth (rule 1.7 b): a correct replica is never asked to vote for another digest than the one that
        it executed; if it is, it refuses, says so, and suspects."""
        core = self._core
        executed = core.log.tail.get(number)
        if executed is None or executed.digest == digest:
            return False
        core.accuse(
            core.primary, "contradiction", f"view {core.view} has another batch at {number} than was executed here"
        )
        self.contradicted = True
        return True

    # ---- fresh proposals

    def propose(self) -> None:
        """As primary: what waits, once all that the view begins with is accepted here."""
        if not self._open_chosen:
            self.proposer.propose()

    def on_pre_prepare(
        self,
        sender: int,
        message: PrePrepare,
        batch: Batch,
        unverified: tuple[bytes, ...],
        unknown: tuple[bytes, ...] = (),
    ) -> Refused | None:
        """PRE-PREPARE(v, n, d) with its parsed batch; `unverified`: digests of requests whose authenticator failed
        here, `unknown`: of those whose signature is being looked at."""
        core = self._core
        if reason := self._refuse_pre_prepare(sender, message, batch):
            return core.refuse(sender, reason)
        slot = core.log.slot(message.number)
        if slot.digest is not None:
            return None  # a duplicate
        if message.number <= core.log.last_chosen:
            self.supply(message.number, batch)
            return None
        self.held.hold(slot, message, batch, unverified, unknown)
        self._look_for_rival(slot, message.digest)
        return None

    def knows_proposal(self, message: PrePrepare) -> bool:
        """Whether this very PRE-PREPARE is accepted or held already: nothing of it is looked at again."""
        return message.view == self._core.view and message.digest == self._proposed_at(message.number)

    def is_second(self, message: PrePrepare) -> bool:
        """Whether this view has another proposal at its number already: then nothing in it is worth a look."""
        known = self._proposed_at(message.number)
        return known is not None and known != message.digest

    def _proposed_at(self, number: int) -> bytes | None:
        """Digest of the PRE-PREPARE that is accepted or held at a number in the present view."""
        slot = self._core.log.slots.get(number)
        if slot is None or slot.held is None:
            return None if slot is None else slot.digest
        return slot.held.message.digest

    def _refuse_pre_prepare(self, sender: int, message: PrePrepare, batch: Batch) -> Refused | None:
        core = self._core
        if core.is_mute:
            return Refused.NOT_VOTING
        if core.is_void:
            return Refused.VOID_VIEW
        if reason := self.refuse_place(message.view, message.number):
            return reason
        if sender != core.primary:
            return Refused.NOT_PRIMARY
        if batch.digest != message.digest:
            return Refused.WRONG_DIGEST
        if message.number <= core.log.last_chosen and core.log.chosen.get(message.number) != message.digest:
            return Refused.NOT_CHOSEN
        if self._contradicts(message.number, message.digest):
            return Refused.CONTRADICTS
        if len(batch.encoded) > core.tunables.batch_max_bytes:
            return Refused.TOO_LARGE
        if any(map(self._requests.is_too_large, batch.requests)):
            return Refused.TOO_LARGE
        if len({r.digest for r in batch.requests}) < len(batch.requests):
            return Refused.MALFORMED  # no correct primary orders one request twice in a batch
        if self.is_second(message):
            core.accuse(sender, "equivocation", f"two PRE-PREPAREs in view {message.view} at {message.number}")
            self.contradicted = True
            return Refused.EQUIVOCATION
        return None

    def _look_for_rival(self, slot: Slot, proposed: bytes) -> None:
        """Whether f+1 backups have prepared something else than was proposed here: one of them is correct, so the
        primary has proposed two. It may have brought one replica to execute the other one, whose client is content;
        those who are given NULL instead, or what they must hold, wait for nothing and would never complain."""
        core = self._core
        votes = slot.prepares.besides(core.primary)
        if self.contradicted or core.is_primary or slot.number <= core.log.last_chosen:
            return
        if any(digest != proposed and votes.count(digest) >= core.quorums.weak for _, digest in votes):
            text = f"another PRE-PREPARE in view {core.view} at {slot.number} than f+1 replicas have prepared"
            core.accuse(core.primary, "equivocation", text)
            self.contradicted = True

    def refuse_place(self, view: int, number: int) -> Refused | None:
        """The window and the view, for all three phases. [CL99 §4.2: "n is between h and H"]"""
        core = self._core
        if view != core.view:
            return Refused.OTHER_VIEW
        if not core.is_active:
            return Refused.LEFT_VIEW
        if number <= core.log.low:
            return Refused.BELOW_WINDOW
        if number > core.log.high:
            self.ask_now = True
            return Refused.ABOVE_WINDOW
        return None

    def _accept_fresh(self, slot: Slot, batch: Batch) -> None:
        """Vote for a fresh PRE-PREPARE that is held no longer."""
        core = self._core
        position = self._accept(slot, batch)
        self.fresh.append(len(batch.requests))
        slot.prepares.add(core.primary, batch.digest)
        core.send(ALL, Prepare(core.view, slot.number, batch.digest), position)
        self._try_prepared(slot)

    def _accept(self, slot: Slot, batch: Batch) -> int:
        """Write the pre-prepared batch; the own vote counts only when that is durable (rule 1.5)."""
        core = self._core
        invariant(slot.digest is None, "one digest per view and number", number=slot.number)
        held = core.log.holds_accepted(slot.number, batch.digest)
        position = core.record(Accepted(core.view, slot.number, batch.digest, b"" if held else batch.encoded), batch)
        slot.touched = core.now
        self._own_votes.append(_OwnVote(position, core.view, slot.number, is_commit=False))
        if slot.number > self._delivery.committed_through:
            self._requests.ordered(slot.number, batch.requests)
        return position

    # ---- votes

    def on_prepare(self, sender: int, message: Prepare) -> Refused | None:
        """PREPARE(v, n, d) of a backup; it may come before the PRE-PREPARE."""
        core = self._core
        if reason := self.refuse_place(message.view, message.number):
            return core.refuse(sender, reason)
        if sender == core.primary and message.number > core.log.last_chosen:  # its vote is its PRE-PREPARE
            return core.refuse(sender, Refused.FROM_PRIMARY)
        slot = core.log.slot(message.number)
        if not slot.prepares.add(sender, message.digest):
            core.accuse(sender, "equivocation", f"two PREPAREs in view {message.view} at {message.number}")
            return core.refuse(sender, Refused.EQUIVOCATION)
        proposed = self._proposed_at(message.number)
        if proposed is not None and proposed != message.digest:
            self._look_for_rival(slot, proposed)
        self.held.try_accept(slot)
        self._try_prepared(slot)
        return None

    def on_commit(self, sender: int, message: Commit) -> Refused | None:
        """COMMIT(v, n, d); it may come before this replica has prepared."""
        core = self._core
        if reason := self.refuse_place(message.view, message.number):
            return core.refuse(sender, reason)
        slot = core.log.slot(message.number)
        if not slot.commits.add(sender, message.digest):
            core.accuse(sender, "equivocation", f"two COMMITs in view {message.view} at {message.number}")
            return core.refuse(sender, Refused.EQUIVOCATION)
        self._try_committed(slot)
        return None

    def on_durable(self, durable: int) -> None:
        """The log is durable up to `durable`: own votes at or below it count from now on (rule 1.5)."""
        own = self._own_votes
        while own and own[0].position <= durable:
            vote = own.popleft()
            slot = self._core.log.slots.get(vote.number)
            if slot is not None and vote.view == self._core.view and self._core.is_active:
                self._count_own(slot, vote.is_commit)

    def _count_own(self, slot: Slot, is_commit: bool) -> None:
        core = self._core
        invariant(slot.digest is not None, "an own vote has a digest", number=slot.number)
        assert slot.digest is not None
        if is_commit:
            slot.commits.add(core.me, slot.digest)
            self._try_committed(slot)
        else:
            slot.own_durable = True
            slot.prepares.add(core.me, slot.digest)
            if slot.number > core.log.last_chosen:
                slot.prepares.add(core.primary, slot.digest)
            self._try_prepared(slot)

    def _try_prepared(self, slot: Slot) -> None:
        """Entered when: the batch is accepted here and durable, and q distinct replicas voted for its digest in this
        view, the primary by its PRE-PREPARE if it is a fresh one. [CL99 §4.2 predicate prepared]"""
        core = self._core
        if slot.digest is None or slot.prepared_at or not slot.own_durable:
            return
        if slot.prepares.count(slot.digest) < core.quorums.strong:
            return
        position = core.record(Prepared(core.view, slot.number, slot.digest))
        slot.touched = core.now
        if core.may_vote:
            self._own_votes.append(_OwnVote(position, core.view, slot.number, is_commit=True))
            core.send(ALL, Commit(core.view, slot.number, slot.digest), position)
        self._try_committed(slot)

    def _try_committed(self, slot: Slot) -> None:
        """Entered when: prepared here, and q distinct replicas sent COMMIT for its digest, own ones when durable.
        [CL99 §4.2 predicate committed-local]"""
        if slot.committed or not slot.prepared_at or slot.digest is None or slot.batch is None:
            return
        if slot.commits.count(slot.digest) < self._core.quorums.strong:
            return
        slot.committed = True
        self._delivery.commit(slot.number, slot.batch)

    # ---- time and the window

    def drop_votes(self, peer: int) -> None:
        """At the end of a key refresh, or of an incarnation: votes of this peer in certificates still incomplete came
        under keys that may be known to others; drop them and ask again (rule 1.18). An accepted PRE-PREPARE stays: it
        is in the own log."""
        core = self._core
        for slot in core.log.slots.values():
            is_proposal = peer == core.primary and slot.digest is not None and slot.number > core.log.last_chosen
            if not slot.prepared_at and not is_proposal:
                slot.prepares.drop(peer)
            if not slot.committed:
                slot.commits.drop(peer)
        self.ask_now = True

    def on_window_moved(self) -> None:
        """The low watermark moved: numbers at or below it are gone."""
        self.proposer.on_window_moved()
        self.held.on_window_moved()
