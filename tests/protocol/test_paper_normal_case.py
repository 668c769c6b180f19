"""The normal case as [CL99 §4.2] says it, with the rules of this variant."""

from __future__ import annotations

import pytest
from cluster import ALICE, Cluster

from pbft.messages import Commit, Prepare, PrePrepare, Reply


def test_a_request_is_ordered_and_executed_by_all() -> None:
    """PRE-PREPARE, PREPARE, COMMIT: every replica executes the same batch and replies."""
    c = Cluster()
    c.open()
    c.order()
    assert [len(m.executed) for m in c.members] == [2, 2, 2, 2]
    assert len({tuple(m.executed) for m in c.members}) == 1
    assert {s for s, m in c.acknowledged(Reply)} == {0, 1, 2, 3}


@pytest.mark.parametrize("n", [4, 5, 6, 7])
def test_every_group_size_orders(n: int) -> None:
    """n need not be 3f+1."""
    c = Cluster(n)
    c.open()
    c.order(10)
    assert [len(m.executed) for m in c.members] == [11] * n
    assert {m.replica.status().stable_checkpoint for m in c.members} == {8}


def test_f_silent_backups_do_not_matter() -> None:
    """q = n - f replicas suffice."""
    c = Cluster(7)
    c.members[5].down = c.members[6].down = True
    c.open()
    c.order(3)
    assert [len(m.executed) for m in c.members[:5]] == [4] * 5


def test_no_vote_leaves_before_it_is_durable() -> None:
    """PRE-PREPARE, PREPARE and COMMIT wait for their records (rule 1.5)."""
    c = Cluster()
    c.open()
    for m in c.members:
        m.auto_sync = False
    c.primary.give(ALICE, c.request())
    assert not c.wire
    c.primary.sync()
    assert len(c.take(PrePrepare)) == 3
    c.settle()
    assert not c.wire and c.members[1].replica.core.log.slots[2].digest is not None
    c.members[1].sync()
    assert len(c.take(Prepare, 1)) == 3 and not c.take(Commit)


def test_an_own_vote_counts_only_when_durable() -> None:
    """With q - 1 votes of others and its own unsynced one a backup is not prepared (rule 1.5)."""
    c = Cluster()
    c.open()
    laggard = c.members[3]
    laggard.auto_sync = False
    c.dropped = lambda s, t, m: (s, t) == (2, 3) and isinstance(m, (Prepare, Commit))
    c.order()
    assert not laggard.replica.core.log.slots[2].prepared_at
    laggard.sync()
    assert laggard.replica.core.log.slots[2].prepared_at


@pytest.mark.scenario("G08")
def test_a_prepare_of_the_primary_counts_for_nothing() -> None:
    """The primary's PRE-PREPARE is its vote; its PREPARE would be a second one."""
    c = Cluster()
    c.open()
    c.primary.give(ALICE, c.request())
    [(_, _, proposal), *_] = c.take(PrePrepare)
    c.wire.clear()
    backup = c.members[1]
    backup.give(0, proposal)
    c.wire.clear()
    backup.give(0, Prepare(0, 2, proposal.digest))
    assert backup.refused(0, "from-primary") == 1
    assert not backup.replica.core.log.slots[2].prepared_at
    backup.give(2, Prepare(0, 2, proposal.digest))
    assert backup.replica.core.log.slots[2].prepared_at, "its own and another backup's are enough beside the proposal"


@pytest.mark.scenario("G06")
def test_votes_for_another_digest_are_not_counted_together() -> None:
    """q votes are q votes for one digest."""
    c = Cluster()
    c.open()
    c.primary.give(ALICE, c.request())
    [(_, _, proposal), *_] = c.take(PrePrepare)
    c.wire.clear()
    backup = c.members[1]
    backup.give(0, proposal)
    for other in (2, 3):
        backup.give(other, Prepare(0, 2, b"x" * 32))
    assert not backup.replica.core.log.slots[2].prepared_at
    for other in (0, 2, 3):
        backup.give(other, Commit(0, 2, b"x" * 32))
    assert len(backup.executed) == 1


@pytest.mark.scenario("G09")
def test_a_replica_that_votes_twice_counts_once() -> None:
    """Certificates count distinct senders (rule 1.10)."""
    c = Cluster(7)
    c.open()
    c.primary.give(ALICE, c.request())
    [(_, _, proposal), *_] = c.take(PrePrepare)
    c.wire.clear()
    backup = c.members[1]
    backup.give(0, proposal)
    for _ in range(5):
        backup.give(2, Prepare(0, 2, proposal.digest))
    assert not backup.replica.core.log.slots[2].prepared_at
    for other in (3, 4):
        backup.give(other, Prepare(0, 2, proposal.digest))
    assert backup.replica.core.log.slots[2].prepared_at
    for _ in range(5):
        backup.give(2, Commit(0, 2, proposal.digest))
    assert len(backup.executed) == 1


def test_two_prepares_for_one_number_are_evidence() -> None:
    """The first counts, the second is kept as evidence (rule 1.10)."""
    c = Cluster()
    c.open()
    backup = c.members[1]
    backup.give(2, Prepare(0, 2, b"x" * 32))
    backup.give(2, Prepare(0, 2, b"y" * 32))
    assert [(e.culprit, e.kind) for e in backup.evidence] == [(2, "equivocation")]


def test_two_proposals_for_one_number_are_evidence() -> None:
    """A backup accepts the first PRE-PREPARE for a number and no other."""
    c = Cluster()
    c.open()
    c.primary.give(ALICE, c.request())
    [(_, _, first), *_] = c.take(PrePrepare)
    other = Cluster()
    other.open()
    other.order()
    other.primary.give(ALICE, other.request(operation=b"another"))
    [(_, _, second), *_] = other.take(PrePrepare)
    backup = c.members[1]
    backup.give(0, first)
    backup.give(0, second._replace(number=2))
    assert [(e.culprit, e.kind) for e in backup.evidence] == [(0, "equivocation")]
    assert backup.replica.core.log.slots[2].digest == first.digest


@pytest.mark.scenario("G15")
@pytest.mark.parametrize(
    ("change", "sender", "reason"),
    [
        ({"view": 1}, 0, "other-view"),
        ({"number": 0}, 0, "below-window"),
        ({"number": 9}, 0, "above-window"),
        ({}, 2, "not-primary"),
        ({"digest": b"x" * 32}, 0, "wrong-digest"),
        ({"batch": b"x" * (1 << 20) + b"y"}, 0, "too-large"),
        ({"batch": b"garbage that is no batch at all"}, 0, "malformed"),
    ],
)
def test_a_refused_pre_prepare_changes_nothing(change: dict[str, object], sender: int, reason: str) -> None:
    """Each reason to refuse is counted, and the log stays as it was."""
    c = Cluster()
    c.primary.give(ALICE, c.request())
    c.open()
    c.primary.give(ALICE, c.request())
    [(_, _, proposal), *_] = c.take(PrePrepare)
    backup = c.members[1]
    before = (backup.replica.status(), len(backup.log.records))
    backup.give(sender, proposal._replace(**change))
    assert backup.refused(sender, reason) == 1
    assert (backup.replica.status(), len(backup.log.records)) == before


def test_batches_grow_while_one_is_in_flight() -> None:
    """What waits while batches are in flight travels together, without any artificial delay."""
    c = Cluster()
    c.open()
    for _ in range(10):
        c.primary.give(ALICE, c.request())
    c.settle()
    sizes = [len(b.requests) for b in c.primary.executor.executed]
    assert sizes[:2] == [1, 1] and sum(sizes) == 11 and max(sizes) >= 5


def test_a_proposal_from_the_future_is_held_until_its_time() -> None:
    """A time beyond own clock + delta is held, not refused (rule 1.14)."""
    c = Cluster()
    c.open()
    for backup in c.backups:
        backup.host.set_time(c.now, c.wall - 5_000_000)
    c.primary.give(ALICE, c.request())
    c.settle()
    assert len(c.primary.executed) == 1
    for backup in c.backups:
        backup.host.set_time(c.now, c.wall)
        backup.host.tick()
        backup.flush()
    c.settle()
    assert [len(m.executed) for m in c.members] == [2] * 4
