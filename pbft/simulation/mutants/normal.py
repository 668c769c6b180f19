"""Seeded bugs in the normal case, in execution, storage and clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pbft.client.collector import Collector
from pbft.config import Quorums
from pbft.execution.executor import Executor
from pbft.execution.sessions import Session, Sessions
from pbft.messages import Body
from pbft.protocol.delivery import Delivery
from pbft.protocol.effects import Outbox, Send
from pbft.protocol.log import Slot
from pbft.protocol.ordering import Ordering
from pbft.protocol.records import Accepted, Executing
from pbft.protocol.retransmission import Retransmission
from pbft.protocol.sessions import SessionMirror, Verdict
from pbft.protocol.votes import Votes
from pbft.simulation.keys import SimulatedAuthentication
from pbft.simulation.mutants.base import HONEST, QUIET, ROUGH, Mutant, Patch, stable_by, unwritten


def _smaller_quorum() -> list[Patch]:
    original = Quorums.__post_init__

    def broken(self: Quorums) -> None:
        original(self)
        object.__setattr__(self, "strong", self.strong - 1)

    return [(Quorums, "__post_init__", broken)]


def _own_vote_twice() -> list[Patch]:
    original = Ordering._count_own

    def broken(self: Ordering, slot: Slot, is_commit: bool) -> None:
        assert slot.digest is not None
        (slot.commits if is_commit else slot.prepares).add(1 << 20, slot.digest)
        original(self, slot, is_commit)

    return [(Ordering, "_count_own", broken)]


def _own_vote_before_durable() -> list[Patch]:
    original, propose = Ordering.on_durable, Ordering.propose

    def broken(self: Ordering, durable: int) -> None:
        original(self, 1 << 60)

    def at_once(self: Ordering) -> None:
        original(self, 1 << 60)
        propose(self)

    return [(Ordering, "on_durable", broken), (Ordering, "propose", at_once)]


def _said_before_durable() -> list[Patch]:
    def broken(self: Outbox, send: Send, ready: list[Send]) -> None:
        ready.append(send._replace(position=0))

    return [(Outbox, "put", broken)]


def _weak_commits() -> list[Patch]:
    def broken(self: Ordering, slot: Slot) -> None:
        if slot.committed or not slot.prepared_at or slot.digest is None or slot.batch is None:
            return
        if slot.commits.count(slot.digest) >= self._core.quorums.weak:
            slot.committed = True
            self._delivery.commit(slot.number, slot.batch)

    return [(Ordering, "_try_committed", broken)]


def _prepared_is_committed() -> list[Patch]:
    def broken(self: Ordering, slot: Slot) -> None:
        if slot.prepared_at and not slot.committed and slot.batch is not None:
            slot.committed = True
            self._delivery.commit(slot.number, slot.batch)

    return [(Ordering, "_try_committed", broken)]


def _digests_not_compared() -> list[Patch]:
    return [(Votes, "count", lambda self, digest: len(self))]


def _no_watermarks() -> list[Patch]:
    return [(Ordering, "refuse_place", lambda self, view, number: None)]


def _executed_twice() -> list[Patch]:
    return [
        (Executor, "_known", lambda self, session, request: None),
        (SessionMirror, "judge", lambda self, request, executed: Verdict.FRESH),
    ]


def _floor_too_high() -> list[Patch]:
    original = Session.raise_floor
    return [(Session, "raise_floor", lambda self, floor: original(self, floor + 1))]


def _unchecked_body() -> list[Patch]:
    def broken(self: Retransmission, sender: int, message: Body) -> None:
        from pbft.batch import NULL_BATCH

        if message.number in self._asked and message.number > self._delivery.handed:
            batch = self._core.log.body(message.number, message.digest) or NULL_BATCH
            self._delivery._ready[message.number] = batch

    return [(Retransmission, "on_body", broken)]


def _one_committed_believed() -> list[Patch]:
    def broken(self: Delivery) -> Iterator[tuple[int, bytes]]:
        number = self.handed + 1
        while number in self._ready or number in self._claims:
            if number not in self._ready:
                yield number, self._claims[number].reached(1) or b""
            number += 1

    original = Retransmission.fetch_learned

    def fetch(self: Retransmission) -> None:
        for number, digest in list(self._delivery.learned()):
            self._delivery._ready.setdefault(number, _made_up(digest))
        original(self)

    return [(Delivery, "learned", broken), (Retransmission, "fetch_learned", fetch)]


def _made_up(digest: bytes) -> Any:
    from pbft.batch import NULL_BATCH

    return NULL_BATCH._replace(digest=digest)


def _window_ignores_gaps() -> list[Patch]:
    original = Delivery.hand_over

    def broken(self: Delivery) -> None:
        if self._ready and self.handed + 1 not in self._ready and self.handed >= self._core.log.executing:
            self.handed = min(self._ready) - 1
            self._core.log.executing = self.handed
        original(self)

    return [(Delivery, "hand_over", broken)]


def _local_eviction() -> list[Patch]:
    original = Sessions.open
    born: dict[int, int] = {}

    def broken(self: Sessions, number: int, request: Any, used: int) -> Any:
        mine = self._by_client.get(request.client, [])
        if born.setdefault(id(self), len(born)) % 2:
            mine.reverse()
            for session in mine:
                session.used = -session.number
        return original(self, number, request, used)

    return [(Sessions, "open", broken)]


def _results_not_digested() -> list[Patch]:
    original = Session.encode
    return [(Session, "encode", lambda self: original(self)[:-1] + bytes([id(self) >> 6 & 1]))]


def _one_reply_believed() -> list[Patch]:
    return [(Collector, "is_certified", lambda self, digest: True)]


def _a_replica_counts_twice() -> list[Patch]:
    original = Collector.add

    def broken(self: Collector, replica: int, view: int, tentative: bool, digest: bytes, result: bytes) -> bool:
        free = next((i for i, vote in enumerate(self._committed) if vote is None), replica)
        return original(self, free, view, tentative, digest, result)

    return [(Collector, "add", broken)]


def _full_result_not_checked() -> list[Patch]:
    def broken(self: Collector, replica: int, view: int, tentative: bool, digest: bytes, result: bytes) -> bool:
        if result:
            self._full[0] = (digest, result)
        self._committed[replica] = digest
        if self.is_certified(digest) and self._full:
            self.accepted = digest, self._full[0][1]
        return True

    return [(Collector, "add", broken)]


def _unverified_requests() -> list[Patch]:
    return [(SimulatedAuthentication, "request_is_authentic", lambda self, request: True)]


def _no_status() -> list[Patch]:
    return [(Retransmission, "on_tick", lambda self: None)]


def _proposes_numbers_again() -> list[Patch]:
    original = Ordering.start

    def broken(self: Ordering) -> None:
        original(self)
        self.proposer.next_number = max(self._core.log.low, self._delivery.executed) + 1
        for number in [n for n in self._core.log.slots if n >= self.proposer.next_number]:
            self._core.log.slots[number] = Slot(number)

    return [(Ordering, "start", broken)]


def _sends_dropped() -> list[Patch]:
    original = Outbox.release

    def broken(self: Outbox, durable: int, ready: list[Send]) -> None:
        original(self, durable, [])

    return [(Outbox, "release", broken)]


NORMAL_CASE = (
    Mutant("quorum-too-small", "q is one too small everywhere", _smaller_quorum, rule="1 notation", within=40),
    Mutant("own-vote-twice", "the own vote counts twice", _own_vote_twice, rule="1.10"),
    Mutant("own-vote-undurable", "the own vote counts before it is on disk", _own_vote_before_durable, rule="1.5"),
    Mutant("said-undurable", "messages leave before what they rest on is on disk", _said_before_durable, rule="1.5"),
    Mutant("weak-commits", "f+1 COMMITs count as committed", _weak_commits, rule="1.13"),
    Mutant("prepared-executes", "prepared batches execute", _prepared_is_committed, rule="1.13"),
    Mutant(
        "votes-any-digest",
        "votes for different digests count together",
        _digests_not_compared,
        provoked_by="equivocating-primary",
        rule="1.10",
        fixed={"n": 7, "faulty": 0},
    ),
    Mutant("no-watermarks", "numbers outside the window are taken", _no_watermarks, rule="2.4"),
    Mutant("executes-twice", "a retransmitted request executes again", _executed_twice, rule="1.15"),
    Mutant("floor-too-high", "a session's floor rises one too far", _floor_too_high, rule="1.15"),
    Mutant("unchecked-body", "a fetched body is not compared with its digest", _unchecked_body, rule="1.13"),
    Mutant("one-committed", "COMMITTED of one replica is believed", _one_committed_believed, rule="1.13"),
    Mutant(
        "checkpoints-any-digest",
        "CHECKPOINTs of different digests count together",
        lambda: stable_by(lambda quorums: quorums.strong, any_digest=True),
        provoked_by="signed-false-checkpoints",
        rule="1.10",
    ),
    Mutant(
        "weak-checkpoints",
        "f+1 CHECKPOINTs are a stable certificate",
        lambda: stable_by(lambda quorums: quorums.weak),
        rule="1.4",
    ),
    Mutant("accepted-unwritten", "accepted PRE-PREPAREs are not written", lambda: unwritten(Accepted), rule="1.5"),
    Mutant(
        "executing-unwritten",
        "what executes is not written",
        lambda: unwritten(Executing),
        rule="1.6",
        fixed={"crashes": 12, "power_cuts": 2},
    ),
    Mutant("gaps-skipped", "execution does not wait for lower numbers", _window_ignores_gaps, rule="1.11"),
    Mutant("numbers-again", "a restarted primary proposes numbers again", _proposes_numbers_again, rule="1.5"),
    Mutant(
        "local-eviction",
        "which session is evicted depends on the replica",
        _local_eviction,
        rule="1.15",
        fixed={"sessions": 2, "client_restarts": 3},
    ),
    Mutant("digest-of-memory", "something local is in the state digest", _results_not_digested, rule="1.8"),
    Mutant("one-reply", "a client believes one reply", _one_reply_believed, provoked_by="lying-replies", rule="1.16"),
    Mutant(
        "replica-twice",
        "a client counts one replica several times",
        _a_replica_counts_twice,
        rule="1.16",
        fixed={**HONEST, "n": 4, "adversary": "lying-replies", "weather": ROUGH},
    ),
    Mutant(
        "result-unchecked",
        "a client does not digest the full result itself",
        _full_result_not_checked,
        provoked_by="mismatched-results",
        rule="1.16",
    ),
    Mutant(
        "unverified-requests",
        "requests are not verified",
        _unverified_requests,
        rule="1.17",
        fixed={"bad_client": True},
        within=80,
    ),
    Mutant("no-status", "nothing is retransmitted between replicas", _no_status, rule="2.7"),
    Mutant("waiting-dropped", "messages that waited for the disk are lost", _sends_dropped, rule="1.5", fixed=QUIET),
)
