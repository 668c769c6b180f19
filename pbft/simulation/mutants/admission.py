"""Seeded bugs in counting, timers, admission of requests and proposals, sessions, reads, and in bounds on memory."""

from __future__ import annotations

from typing import Any

from pbft.config import Quorums
from pbft.execution.executor import Executor
from pbft.execution.operations import Operations
from pbft.messages import Committed, NewView
from pbft.protocol.decision import decide
from pbft.protocol.delivery import Delivery
from pbft.protocol.ordering import Ordering
from pbft.protocol.requests import Requests
from pbft.protocol.retransmission import Retransmission
from pbft.protocol.sessions import SessionMirror, Verdict
from pbft.protocol.view_change import ViewChanges
from pbft.protocol.votes import Votes
from pbft.simulation.keys import SimulatedAuthentication
from pbft.simulation.mutants.base import HONEST, QUIET, ROUGH, Mutant, Patch, stable_by

# ---- counting


def _two_f_plus_one() -> list[Patch]:
    original = Quorums.__post_init__

    def broken(self: Quorums) -> None:
        original(self)
        object.__setattr__(self, "strong", 2 * self.weak - 1)

    return [(Quorums, "__post_init__", broken)]


def _again_is_equivocation() -> list[Patch]:
    original = Votes.add
    return [(Votes, "add", lambda self, sender, digest: self.of(sender) is None and original(self, sender, digest))]


def _first_view_change() -> list[Patch]:
    original = ViewChanges._enter

    def broken(self: ViewChanges, message: NewView) -> int:
        mine = {s: m for s, m in self.collected.items() if m.view == message.view}
        first = tuple(mine.get(m.sender, m) for m in message.view_changes)
        if decide(self._core.quorums, self._core.tunables.log_window, first) is not None:
            message = message._replace(view_changes=first)
        return original(self, message)

    return [(ViewChanges, "_enter", broken)]


def _one_suspect() -> list[Patch]:
    original = ViewChanges._reason_to_leave

    def broken(self: ViewChanges) -> int | None:
        current = self._core.log.promised
        return current + 1 if self._suspicion.fresh(current) else original(self)

    return [(ViewChanges, "_reason_to_leave", broken)]


def _offers_prepared() -> list[Patch]:
    original = Retransmission._offer_committed

    def broken(self: Retransmission, sender: int, executed: int) -> None:
        original(self, sender, executed)
        first, prepared = self._delivery.executed + 1, self._core.log.p
        digests: list[bytes] = []
        while (entry := prepared.get(first + len(digests))) is not None:
            digests.append(entry[0])
        if digests:
            self._core.send(sender, Committed(first, tuple(digests)))

    return [(Retransmission, "_offer_committed", broken)]


# ---- proposals and requests


def _chosen_checked() -> list[Patch]:
    original = Ordering._accept_chosen

    def broken(self: Ordering, number: int) -> bool:
        core = self._core
        batch = core.log.find(number, core.log.chosen[number]) or self._supplied.get(number)
        authentic = SimulatedAuthentication(core.group, core.me).request_is_authentic
        return (batch is None or all(map(authentic, batch.requests))) and original(self, number)

    return [(Ordering, "_accept_chosen", broken)]


def _answered_awaited() -> list[Patch]:
    def executed(self: Requests, client: int, digest: bytes) -> bool:
        self.in_flight.pop(digest, None)
        return self.queue.remove(client, digest) is not None

    return [(Requests, "executed", executed), (Requests, "review", lambda self, executed: None),
            (Requests, "oldest_awaited", lambda self, through: next(iter(self._awaited), None))]  # fmt: skip


def _unknown_too_early() -> list[Patch]:
    original, original_judge = Executor.answer, SessionMirror.judge

    def answer(self: Executor, request: Any) -> Any:
        before, self.last_executed = self.last_executed, 1 << 60
        try:
            return original(self, request)
        finally:
            self.last_executed = before

    def judge(self: SessionMirror, request: Any, executed: int) -> Verdict:
        return original_judge(self, request, 1 << 60)

    return [(Executor, "answer", answer), (SessionMirror, "judge", judge)]


def _cached_reads() -> list[Patch]:
    original = Operations.query

    def broken(self: Any, operations: Any, *rest: Any) -> Any:
        kept = _READ.setdefault(id(self), {})
        return kept.setdefault(tuple(operations), original(self, operations, *rest))

    _READ.clear()
    return [(Operations, "query", broken)]


_READ: dict[int, dict[Any, Any]] = {}


# ---- bounds


def _claims_unbounded() -> list[Patch]:
    def broken(self: Delivery, sender: int, message: Committed) -> None:
        for number, digest in enumerate(message.digests, message.first):
            if number > self.handed:
                self._claims.setdefault(number, Votes()).add(sender, digest)

    return [(Delivery, "on_committed", broken)]


_LONG = {"n": 4, "operations": 100, "callers": 5, "pipeline": 8, "crashes": 0, "faulty": 1}

ADMISSION = (
    Mutant(
        "two-f-plus-one",
        "q is 2f+1 where n = 6",
        _two_f_plus_one,
        rule="1 notation",
        fixed={**HONEST, "n": 6, "partitions": 3, "weather": ROUGH, "false_alarms": 25},
        within=40,
    ),
    Mutant("again-is-two", "a vote that comes again is taken for a second one", _again_is_equivocation, rule="1.10"),
    Mutant(
        "first-view-change",
        "of two VIEW-CHANGEs of a sender the first one counts, not the named one",
        _first_view_change,
        "two-view-changes",
        "1.3",
        {"false_alarms": 25},
    ),
    Mutant(
        "one-suspect",
        "one SUSPECT is enough to leave",
        _one_suspect,
        rule="1.12",
        fixed={**QUIET, "adversary": "suspecting", "faulty": 1},
    ),
    Mutant(
        "offers-prepared",
        "COMMITTED is sent for what is prepared",
        _offers_prepared,
        rule="1.13",
        fixed={**HONEST, "weather": ROUGH},
    ),
    Mutant(
        "chosen-checked",
        "requests in batches that a view begins with are verified again",
        _chosen_checked,
        "corrupt-authenticators",
        "1.14",
        {"faulty": 0, "false_alarms": 25},
    ),
    Mutant("answered-awaited", "an answered request is still awaited", _answered_awaited, rule="1.15", fixed=QUIET),
    Mutant(
        "unknown-too-early",
        "a replica that lags calls a session unknown",
        _unknown_too_early,
        rule="1.15",
        fixed={**HONEST, "weather": ROUGH, "pauses": 3},
    ),
    Mutant("cached-reads", "a read is answered from an older state", _cached_reads, rule="1.16", fixed=QUIET),
    Mutant(
        "claims-unbounded",
        "COMMITTED of any number is remembered",
        _claims_unbounded,
        "flooding",
        "1.19",
        _LONG,
    ),
    Mutant(
        "checkpoints-unbounded",
        "CHECKPOINTs far ahead are all remembered",
        lambda: stable_by(lambda quorums: quorums.strong),
        "signed-false-checkpoints",
        "1.19",
        {"interval": 2, "window": 4, "operations": 40},
    ),
)
