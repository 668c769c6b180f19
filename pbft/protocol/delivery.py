"""Committed batches go to the executor in order; what it did comes back here. Rules 1.6, 1.13, 1.15.

A number becomes ready when it is committed-local in the present view, or when f+1 replicas say COMMITTED(n, d) and the
body is here. Only this file writes `handed`, `executed` and the claims.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pbft.batch import EVERYBODY, Batch, decode_batch
from pbft.execution.results import Executed, ExecutionStart, Result
from pbft.messages import Committed, Reply
from pbft.protocol.core import Core, Refused
from pbft.protocol.effects import Execute, invariant
from pbft.protocol.records import Executing, Installed
from pbft.protocol.requests import Requests
from pbft.protocol.sessions import SessionMirror
from pbft.protocol.votes import Votes

CLAIM_AHEAD = 512
"""Numbers above the executed one for which COMMITTED is remembered: a bound on memory."""

MAX_AT_EXECUTOR = 32
"""Batches handed over and not yet executed: an application that hangs costs bounded memory."""


Row = tuple[int, bool, bytes, bytes]


def _split(rows: list[Row], most: int) -> Iterator[tuple[Row, ...]]:
    """Rows in messages of about `most` bytes of results: what a batch owes one session may exceed a message."""
    part: list[Row] = []
    size = 0
    for row in rows:
        if part and size + len(row[3]) > most:
            yield tuple(part)
            part, size = [], 0
        part.append(row)
        size += len(row[3])
    yield tuple(part)


class Delivery:
    """The bridge between agreement and execution."""

    def __init__(self, core: Core, requests: Requests, mirror: SessionMirror) -> None:
        self._core = core
        self._requests = requests
        self._mirror = mirror
        self.executed = 0
        """Last number that the executor has finished. Invariant: never decreases."""
        self.handed = 0
        """Last number handed to it. Invariant: executed <= handed."""
        self._ready: dict[int, Batch] = {}
        self._claims: dict[int, Votes] = {}
        self._reply_positions: dict[int, int] = {}
        self._answers_rest_on = 0

    def start(self, start: ExecutionStart) -> None:
        """The executor stands at `start`; what the log says was handed to it is handed to it again."""
        core = self._core
        self._mirror.load(start)
        if 0 < core.log.executing < start.number:  # it ended between writing a state from others and saying so
            core.record(Installed(start.number))
        core.log.start_at(start.number)
        self.executed = self.handed = start.number
        self._answers_rest_on = core.outbox.position
        self.hand_over()

    def install(self, start: ExecutionStart) -> None:
        """The executor stands at a state that came from others; it had nothing to do. Rule 2.9."""
        core, number = self._core, start.number
        invariant(self.handed == self.executed < number, "installed above what has executed", number=number)
        self._mirror.load(start)
        self._answers_rest_on = core.record(Installed(number))
        self.executed = self.handed = number
        self._ready = {n: batch for n, batch in self._ready.items() if n > number}
        self._claims = {n: votes for n, votes in self._claims.items() if n > number}
        self._requests.passed_through(number)

    # ---- what becomes ready

    def commit(self, number: int, batch: Batch) -> None:
        """`number` is committed-local here with this batch."""
        if number > self.handed:
            self._ready.setdefault(number, batch)

    def on_committed(self, sender: int, message: Committed) -> Refused | None:
        """COMMITTED(n, d): count it for numbers that this replica still lacks. Rule 1.13."""
        core = self._core
        last = message.first + len(message.digests) - 1
        if last <= self.handed:
            return core.refuse(sender, Refused.BELOW_WINDOW)
        if message.first > self.handed + CLAIM_AHEAD:
            return core.refuse(sender, Refused.ABOVE_WINDOW)
        for number, digest in enumerate(message.digests, message.first):
            if self.handed < number <= self.handed + CLAIM_AHEAD:
                self._claims.setdefault(number, Votes()).add(sender, digest)
        return None

    def learned(self) -> Iterable[tuple[int, bytes]]:
        """(number, digest) that f+1 vouch for and that is not ready yet, from the next number on without gaps."""
        number = self.handed + 1
        while self._claims:
            if number not in self._ready:
                votes = self._claims.get(number)
                digest = votes.reached(self._core.quorums.weak) if votes else None
                if digest is None:
                    return
                yield number, digest
            number += 1

    @property
    def committed_through(self) -> int:
        """Highest number up to which everything is committed, with its body here."""
        number = max(self.handed, self._core.log.executing)  # after a restart the log is ahead of what was handed over
        while number + 1 in self._ready:
            number += 1
        return number

    def claimants(self, number: int, digest: bytes) -> list[int]:
        """Who says that it executed `digest` at `number`."""
        votes = self._claims.get(number)
        return [s for s, d in votes if d == digest] if votes else []

    def learn(self, number: int, digest: bytes, batch: Batch) -> None:
        """The body of a learned batch is here."""
        invariant(batch.digest == digest, "a learned body has the digest that was vouched for", number=number)
        self._ready[number] = batch

    @property
    def is_full(self) -> bool:
        """Whether as much waits for the executor as may."""
        return self.handed >= self.executed + MAX_AT_EXECUTOR

    @property
    def behind(self) -> bool:
        """Whether somebody correct has executed more than this replica can."""
        return next(iter(self.learned()), None) is not None

    # ---- to the executor

    def hand_over(self) -> None:
        """Hand over what is ready, in order, a bounded number at a time; first what the log already says was."""
        core, log = self._core, self._core.log
        while self.handed < self.executed + MAX_AT_EXECUTOR and not core.diverged:
            number = self.handed + 1
            if number <= log.executing:  # replay after a start
                batch = decode_batch(log.tail[number].encoded)
                self._reply_positions[number] = core.outbox.position
            elif number in self._ready:
                batch = self._ready.pop(number)
                slot = log.slots.get(number)
                prepared_at = slot.prepared_at if slot and slot.digest == batch.digest else 0
                held = log.holds_accepted(number, batch.digest)
                position = core.record(Executing(number, batch.digest, b"" if held else batch.encoded))
                self._reply_positions[number] = prepared_at or position
            else:
                return
            self.handed = number
            self._claims.pop(number, None)
            core.effects.execute.append(Execute(number, batch))

    def on_executed(self, done: Executed) -> None:
        """A batch has executed: answer its clients, clear its requests, follow its sessions."""
        core = self._core
        invariant(done.number == self.executed + 1, "batches execute in order", got=done.number, had=self.executed)
        self.executed = done.number
        self._mirror.update(done.changes)
        position = self._reply_positions.pop(done.number)
        self._answers_rest_on = max(self._answers_rest_on, position)
        self._reply(done.results, position)
        self._requests.passed(done.number)
        core.log.forget_bodies()
        core.log.trim_tail()
        self.hand_over()

    # ---- to the clients

    def _reply(self, results: tuple[Result, ...], position: int) -> None:
        core = self._core
        small = core.tunables.full_reply_max
        rows: dict[tuple[int, int], list[Row]] = {}
        for r in results:
            in_full = self._requests.executed(r.client, r.request_digest)
            if in_full or r.replier in (core.me, EVERYBODY) or len(r.result) <= small:
                row = (r.id, False, r.digest, r.result)
            else:
                row = (r.id, False, r.digest, b"")
            rows.setdefault((r.client, r.session), []).append(row)
        for (client, session), entries in rows.items():
            if client in core.group.clients:
                for part in _split(entries, core.tunables.results_together):
                    core.send(client, Reply(core.view, session, part), position)

    def on_answered(self, result: Result) -> None:
        """The replicated table answered a request: full result, resting on all that has executed."""
        core = self._core
        row = (result.id, False, result.digest, result.result)
        if result.client in core.group.clients:
            self._requests.note_answer(result.client, len(result.result))
            core.send(result.client, Reply(core.view, result.session, (row,)), self._answers_rest_on)
