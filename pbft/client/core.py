"""The client proxy without I/O: calls in, messages out, results that f+1 replicas vouch for. Rules 1.15 to 1.17.

A driver (the trio shell, the simulator) calls `invoke`, `on_message`, `on_link_up`, `on_tick` as things happen, and at
the end of each sweep `take_sends` and `take_completions`. Given the same inputs it does the same: time is a number
handed in, nonces come from `entropy`, jitter from `jitter`.

Calls that wait together travel as one REQUEST; a small window of REQUESTs is outstanding, and whatever waits while it
is full is the next one (DESIGN 1.4). Operations of one REQUEST execute in the order of the calls; REQUESTs outstanding
together have no order among each other.

Rules of this file: owns the session, the window and the queues; every call that it takes ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from pbft.batch import Answer, Kind, Outcome, decode_result, operations_body
from pbft.client.calls import Call, Deadlines
from pbft.client.conduct import Conduct
from pbft.client.errors import ClientClosed, ClientError, OperationFailed, RequestRejected
from pbft.client.opening import Opening
from pbft.client.pacing import Jitter, Pacing
from pbft.client.pending import FINAL_REASONS, Pending
from pbft.client.replicas import ClientStatistics, Replicas
from pbft.client.transmission import Send, Transmission
from pbft.client.verdicts import Verdicts
from pbft.client.waiting import Waiting
from pbft.codec import CodecError
from pbft.config import Group
from pbft.crypto import AuthenticatorKey
from pbft.messages import Refusal, Reply, decode

DEFAULT_WINDOW = 4
"""REQUESTs in flight."""
_REFUSAL_TEXT_MAX = 1024
"""Bytes of the text that an application can refuse with: such a result counts whatever `result_max_bytes` says."""


class ClientCore:
    """One client's calls, session and requests."""

    def __init__(
        self,
        group: Group,
        principal: int,
        sign: Callable[[bytes], bytes],
        entropy: Callable[[int], bytes],
        jitter: Jitter,
        window: int = DEFAULT_WINDOW,
    ) -> None:
        """`sign(body)`: the 64-byte signature by the client's key; `entropy(n)`: n unpredictable bytes."""
        self._principal = principal
        self._tunables = tunables = group.tunables
        self._quorums = quorums = group.quorums
        self._window = max(1, min(window, tunables.session_window // 2))
        self._now = 0.0
        self._replicas = Replicas(quorums)
        self._pacing = Pacing(jitter)
        self._transmission = Transmission(group, self._replicas, sign, self._pacing)
        self._opening = Opening(principal, quorums, entropy, self._transmission)
        self._verdicts = Verdicts(quorums, self._replicas)
        self._deadlines = Deadlines()
        self._waiting = Waiting(tunables)
        self._conduct = Conduct(self._replicas)
        self._session = 0
        self._next_id = 1
        self._outstanding: dict[int, Pending] = {}
        """By id, hence in order of ids. Invariant: at most `_window`, and each has a live call."""
        self._completions: list[tuple[Call, bytes | ClientError]] = []
        self._calls = self._succeeded = self._failed = self._requests = self._sessions = 0
        self._closed = False
        self.operation_max = self._waiting.operation_max
        """Bytes of the largest operation that fits into a REQUEST."""

    # ---- calls

    def invoke(self, operation: bytes, now: float, deadline: float, query: bool = False) -> Call:
        """Begin a call; returns its token. Raises RequestRejected if the operation is too large, ClientClosed."""
        if self._closed:
            raise ClientClosed("the client is closed; the operation was not sent", False)
        if len(operation) > self.operation_max:
            raise RequestRejected(
                f"an operation of {len(operation)} bytes exceeds the limit of {self.operation_max}, which follows from "
                "protocol.operation_max_bytes",
                "too-large",
            )
        self._now = now
        call = Call(operation, now, deadline)
        self._waiting.add(call, query)
        self._deadlines.add(call)
        self._calls += 1
        return call

    def cancel(self, call: Call) -> None:
        """Nobody waits for the call any more: forget it. What was sent may execute all the same."""
        if not call.ended:
            self._failed += 1
            self._forget(call)
            self._release(call)

    def close(self) -> None:
        """End all calls with ClientClosed; take no more."""
        self._closed = True
        unsent = "the client was closed; the operation was never sent"
        self._end_all(self._waiting.clear(), lambda: ClientClosed(unsent, False))
        unknown = "the client was closed; the outcome is unknown"
        for pending in self._outstanding.values():
            self._end_all(pending.calls, lambda: ClientClosed(unknown, None))
        self._outstanding.clear()
        self._opening.abandon()

    # ---- events

    def on_link_up(self, replica: int, key: AuthenticatorKey, now: float) -> None:
        """A link is up; `key` is what this client shares with the replica."""
        if replica not in self._replicas:
            return
        self._now = now
        self._replicas[replica].key = key
        self._transmission.link_up(replica, self._in_flight())

    def on_new_key(self, replica: int, key: AuthenticatorKey) -> None:
        """A link that is up has other keys."""
        if replica in self._replicas and self._replicas[replica].key is not None:
            self._replicas[replica].key = key

    def on_link_down(self, replica: int, now: float) -> None:
        """A link is gone, and with it whatever was on its way."""
        if replica not in self._replicas:
            return
        self._now = now
        self._replicas[replica].key = None
        if replica == self._replicas.primary:
            self._transmission.primary_lost(self._outstanding.values(), now)

    def on_message(self, replica: int, body: bytes, now: float) -> None:
        """A message that its link authenticated as from `replica`. Never raises for what it says."""
        if replica not in self._replicas:
            return
        self._now = now
        try:
            message = decode(body)
        except CodecError:
            self._replicas[replica].malformed += 1
            return
        if type(message) is Reply:
            self._on_reply(replica, message)
        elif type(message) is Refusal:
            self._on_refusal(replica, message)
        else:
            self._replicas[replica].malformed += 1

    def on_tick(self, now: float) -> None:
        """Time has passed: end calls that are overdue, send again what was not answered."""
        self._now = now
        for call in self._deadlines.expired(now):
            self._expire(call)
        for pending in self._in_flight():
            if now >= pending.retransmit_at:
                if pending.signed is None and pending.replier is not None and pending.collector.lacks_result:
                    self._replicas.replier_failed(pending.replier)
                self._transmission.again(pending, now)

    def next_wakeup(self) -> float | None:
        """When `on_tick` has something to do next; None if never."""
        times = [pending.retransmit_at for pending in self._in_flight()]
        due = self._deadlines.next()
        if due is not None:
            times.append(due)
        return min(times, default=None)

    # ---- effects

    def take_sends(self) -> list[Send]:
        """(replica, message, bulk) to send now. What waits is made into REQUESTs here: call it once per sweep."""
        if self._waiting:
            self._fill_window()
        return self._transmission.take()

    def take_completions(self) -> list[tuple[Call, bytes | ClientError]]:
        """Calls that have ended since the last time, each with its result or error. Cancelled ones are not among
        them."""
        completions, self._completions = self._completions, []
        return completions

    def statistics(self) -> ClientStatistics:
        """A snapshot."""
        return ClientStatistics(
            view=self._replicas.view,
            session=self._session,
            sessions=self._sessions,
            waiting=len(self._waiting),
            outstanding=len(self._outstanding),
            calls=self._calls,
            succeeded=self._succeeded,
            failed=self._failed,
            requests=self._requests,
            retransmissions=self._transmission.retransmissions,
            replicas=self._replicas.statistics(),
        )

    # ---- requests

    def _in_flight(self) -> list[Pending]:
        """What may be sent again: outstanding requests; while calls wait for a session, the OPEN."""
        opening = self._opening.pending
        if opening is not None and self._waiting:
            return [opening]
        return list(self._outstanding.values())

    def _fill_window(self) -> None:
        if next(self._replicas.connected(), None) is None:
            return  # nothing could leave: the calls wait, and can truly say so at their deadlines
        if not self._session:
            self._opening.start(self._now)
            return
        while self._waiting and len(self._outstanding) < self._window:
            floor = next(iter(self._outstanding), self._next_id) - 1
            if self._next_id - floor > self._tunables.session_window:
                return
            self._send_next(floor)

    def _send_next(self, floor: int) -> None:
        kind, calls = self._waiting.take()
        replier = self._replicas.next_replier()
        request_id = self._next_id
        self._next_id = request_id + 1
        body = operations_body(
            self._principal,
            self._session,
            request_id,
            floor,
            replier,
            [call.operation for call in calls],
            kind,
        )
        t = self._tunables
        together = t.results_together + len(calls) * (_REFUSAL_TEXT_MAX + 16)
        limit = min(together, len(calls) * (max(t.result_max_bytes, _REFUSAL_TEXT_MAX) + 16)) + 16
        pending = Pending(request_id, body, calls, self._quorums, limit, replier, kind is Kind.QUERIES)
        for call in calls:
            call.request = pending
        self._outstanding[request_id] = pending
        self._requests += 1
        self._transmission.first(pending, self._now, by_macs=not self._tunables.signed_requests)

    # ---- replies

    def _on_reply(self, replica: int, reply: Reply) -> None:
        self._see(replica, reply.view)
        self._replicas[replica].replies += 1
        if reply.session == 0:
            for nonce, tentative, digest, result in reply.rows:
                pending = self._opening.pending
                if pending is not None and pending.id == nonce:
                    self._count(pending, replica, reply.view, tentative, digest, result)
                    if pending.collector.accepted is not None:
                        self._opened(pending)
            return
        for request_id, tentative, digest, result in reply.rows:
            if reply.session != self._session:
                return
            pending = self._outstanding.get(request_id)
            if pending is None:
                self._conduct.compare(request_id, replica, tentative, digest, result)
                continue
            self._count(pending, replica, reply.view, tentative, digest, result)
            if pending.collector.accepted is not None:
                self._complete(pending, pending.collector.accepted[1])
            elif pending.collector.is_certified(digest):
                self._transmission.soon(pending, self._now)

    def _see(self, replica: int, view: int) -> None:
        if self._replicas.name_view(replica, view):
            for pending in self._outstanding.values():
                if pending.signed is None:  # only the primary that was has it
                    pending.retransmit_at = self._now

    def _count(self, pending: Pending, replica: int, view: int, tentative: bool, digest: bytes, result: bytes) -> None:
        if pending.collector.add(replica, view, tentative, digest, result):
            pending.busy &= ~(1 << replica)
        else:
            self._replicas[replica].outvoted += 1

    def _opened(self, pending: Pending) -> None:
        self._pacing.measured(self._now - pending.first_sent)
        verdict = self._opening.conclude(self._now)
        if isinstance(verdict, str):
            self._reject_waiting(verdict)
        elif verdict:
            self._session = verdict
            self._sessions += 1
            self._next_id = 1
            self._conduct.forget()

    def _complete(self, pending: Pending, result: bytes) -> None:
        verdicts = self._verdicts
        try:
            answer, value = decode_result(result)
        except CodecError:
            text = "the replicas agree on a result that this client cannot read; upgrade the older of the two"
            self._drop(pending, lambda: verdicts.unreadable(pending, text, None))
            return
        if answer is Answer.DONE and isinstance(value, Sequence) and len(value) == len(pending.calls):
            self._done(pending, len(result), value)
        elif answer is Answer.UNKNOWN_SESSION:
            self._lose_session()
        elif answer is Answer.FORGOTTEN:
            text = "the operation executed, but its result was too much for the replicas to remember"
            self._drop(pending, lambda: verdicts.unreadable(pending, text, True))
        elif answer is Answer.BEYOND_WINDOW:
            self._drop(pending, lambda: verdicts.rejected("beyond-window"))
        else:
            text = f"the replicas answered {answer.name.lower()} to a request of this session; the outcome is unknown"
            self._drop(pending, lambda: verdicts.unreadable(pending, text, None))

    def _done(self, pending: Pending, result_bytes: int, outcomes: Sequence[tuple[int, bytes]]) -> None:
        del self._outstanding[pending.id]
        self._pacing.measured(self._now - pending.first_sent)
        self._waiting.measured(len(pending.calls), result_bytes)
        self._conduct.accepted(pending.id, pending.collector)
        ok, crowded = Outcome.OK, Outcome.CROWDED
        for call, (outcome, value) in zip(pending.calls, outcomes, strict=True):
            if call.ended:
                continue
            if outcome == crowded and len(pending.calls) > 1:  # it changed nothing: ask again, with less company
                call.request = None
                self._waiting.add(call, pending.is_query)
                continue
            self._end(call, value if outcome == ok else OperationFailed(Outcome(outcome), value))

    def _lose_session(self) -> None:
        """Rule 1.15: what was sent in that session is never repeated in another; what still waits goes on in a new
        one."""
        self._session = 0
        lost, self._outstanding = self._outstanding, {}
        for pending in lost.values():
            self._end_all(pending.calls, partial(self._verdicts.session_lost, pending))

    # ---- refusals

    def _on_refusal(self, replica: int, refusal: Refusal) -> None:
        self._see(replica, refusal.view)
        record, reason = self._replicas[replica], refusal.reason
        if reason == "busy":
            record.busy += 1
        else:
            record.refused += 1
        opening = self._opening.pending
        if refusal.session == 0:
            pending = opening if opening is not None and opening.id == refusal.id else None
        else:
            pending = self._outstanding.get(refusal.id) if refusal.session == self._session else None
        if pending is None:
            return
        if reason == "busy":
            pending.busy |= 1 << replica
            if self._is_busy(pending):
                self._transmission.postpone(pending, self._now)
        elif reason in FINAL_REASONS:
            pending.refusals[replica] = reason
            if pending.refused_by(reason) >= self._quorums.weak:
                if pending is opening:
                    self._opening.abandon()
                    self._reject_waiting(reason)
                else:
                    self._drop(pending, lambda: self._verdicts.rejected(reason))
        elif reason == "unauthentic" and pending.signed is None and replica == self._replicas.primary:
            pending.retransmit_at = self._now  # it may have new keys; a signature does not depend on them

    def _is_busy(self, pending: Pending) -> bool:
        return pending.busy.bit_count() >= self._quorums.weak

    # ---- how calls end

    def _expire(self, call: Call) -> None:
        carrier = call.request
        asked = [carrier] if carrier is not None else self._in_flight()
        busy = any(map(self._is_busy, asked))
        self._end(call, self._verdicts.overdue(call, carrier, busy))
        self._release(call)

    def _release(self, call: Call) -> None:
        """The call ended before its request: where nobody waits for that any more, it is given up."""
        if call.request is None:
            self._waiting.remove(call)
            return
        call.request.live -= 1
        if not call.request.live:
            # The floor rises above it with the next request; should it still arrive after that, it does not execute.
            self._outstanding.pop(call.request.id, None)

    def _reject_waiting(self, reason: str) -> None:
        self._end_all(self._waiting.clear(), lambda: self._verdicts.rejected(reason))

    def _drop(self, pending: Pending, error: Callable[[], ClientError]) -> None:
        self._outstanding.pop(pending.id, None)
        self._end_all(pending.calls, error)

    def _end_all(self, calls: Iterable[Call], error: Callable[[], ClientError]) -> None:
        """End calls with an error each: an exception is raised in one place only."""
        for call in calls:
            if not call.ended:
                self._end(call, error())

    def _end(self, call: Call, result: bytes | ClientError) -> None:
        call.result = result
        if type(result) is bytes:
            self._succeeded += 1
        else:
            self._failed += 1
        self._forget(call)
        self._completions.append((call, result))

    def _forget(self, call: Call) -> None:
        call.ended = True
        self._deadlines.remove(call)
