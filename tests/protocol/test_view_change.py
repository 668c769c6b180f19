"""What a view change does with requests and batches. Rules 1.3, 1.12, 1.14, 2.6; [CL99 §4.4]."""

from __future__ import annotations

import pytest
from cluster import ALICE, Cluster
from signed_views import executed_once, group, proposal

from pbft.batch import NULL_DIGEST
from pbft.messages import (
    Checkpoint,
    Commit,
    Committed,
    NewView,
    Prepare,
    PrePrepare,
    Reply,
    Request,
    Suspect,
    ViewChange,
    encode,
)


def chosen(c: Cluster, number: int) -> set[bytes | None]:
    """What those who are up have accepted at `number` in their view."""
    return {m.replica.core.log.slots[number].digest if number in m.replica.core.log.slots else None for m in c.up}


# ---- from a silent primary to the next


@pytest.mark.scenario("A01", "A02")
def test_a_silent_primary_is_replaced() -> None:
    """A signed request waits; f+1 say SUSPECT; q leave by VIEW-CHANGE; the next primary begins with NEW-VIEW, and the
    request executes once, in view 1 (1.11, 1.12). While nothing waits a dead primary moves nobody."""
    c = group()
    c.primary.crash()
    c.wait(10)
    assert c.view == 0
    seen: list[type] = []
    c.dropped = lambda s, t, m: seen.append(type(m)) is not None
    request = c.ask()
    c.wait(4)
    assert seen.index(Suspect) < seen.index(ViewChange) < seen.index(NewView) < seen.index(PrePrepare)
    assert {m.view for m in c.up} == {1} and executed_once(c, request)
    assert {m.view for _, m in c.acknowledged(Reply) if m.rows[0][0] == 1} == {1}


@pytest.mark.scenario("A01")
@pytest.mark.parametrize("moves", range(7))
def test_a_primary_that_dies_at_any_moment_of_a_request(moves: int) -> None:
    """However far the three phases have come when it dies, the request executes once and nothing that was acknowledged
    is lost."""
    c = group()
    c.order(3)
    before = list(c.primary.executed)
    request = c.request(authenticator=b"\x01")
    for m in c.members:
        m.give(ALICE, request)
    for _ in range(moves):
        c.move()
    c.primary.crash()
    c.wait(6)
    c.order()
    assert executed_once(c, request) and c.up[0].executed[:4] == before
    assert {m.view for m in c.up} <= {0, 1}


@pytest.mark.scenario("A23", "B11")
def test_a_primary_that_never_said_anything_is_replaced() -> None:
    """A view change with an empty log; who went through it starts cleanly from its log afterwards."""
    c = Cluster()
    c.members[0].crash()
    opening = c.request()
    for m in c.up:
        m.give(ALICE, Request(opening.body, b"\x01"))
    c.suspect_all(1, 2, 3)
    assert {m.view for m in c.up} == {1} and not c.primary.executed
    for m in c.members:
        m.restart()
    c.wait(1)
    assert {m.view for m in c.members} == {1}
    c.open()
    c.order()
    assert [len(m.executed) for m in c.members] == [2] * 4


@pytest.mark.scenario("A03")
def test_two_dead_primaries_in_a_row_are_passed_over() -> None:
    """Whoever waits for a NEW-VIEW in vain suspects that view as well."""
    c = group(7)
    c.members[0].crash()
    c.members[1].crash()
    request = c.ask()
    c.wait(10)
    assert {m.view for m in c.up} == {2} and executed_once(c, request)


@pytest.mark.scenario("A14")
def test_a_new_primary_that_dies_before_its_new_view_arrives() -> None:
    """q VIEW-CHANGEs start the timer for its NEW-VIEW; the request executes once in the view after."""
    c = group(7, view_timeout=2000)
    c.primary.crash()
    c.dropped = lambda s, t, m: isinstance(m, NewView) and m.view == 1
    request = c.ask()
    c.wait(3)
    assert c.members[1].view == 1 and {m.promised for m in c.up} == {1}
    c.members[1].crash()
    c.wait(8)
    assert {m.view for m in c.up} == {2} and executed_once(c, request)


# ---- what survives


def test_a_prepared_batch_survives() -> None:
    """It may have committed somewhere, so it is chosen, at its number and with its digest (2.6 A)."""
    c = group()
    c.dropped = lambda s, t, m: isinstance(m, Commit)
    request = c.ask()
    digest = c.primary.replica.core.log.slots[2].digest
    c.dropped = lambda s, t, m: False
    c.primary.crash()
    c.suspect_all(1, 2, 3)
    assert chosen(c, 2) == {digest} and executed_once(c, request)
    assert c.primary.executed[1] == digest


@pytest.mark.scenario("A20", "G26")
def test_a_batch_that_committed_at_one_replica_survives() -> None:
    """One replica executed and answered; the others agree on the same batch in the new view, and answer the same."""
    c = group()
    c.dropped = lambda s, t, m: (isinstance(m, Commit) and t != 2) or isinstance(m, Committed)
    request = c.ask()
    assert [m.times(request) for m in c.members] == [0, 0, 1, 0]
    c.primary.crash()
    c.dropped = lambda s, t, m: isinstance(m, Committed)
    c.suspect_all(1, 2, 3)
    assert executed_once(c, request)
    answers = {m.rows for _, m in c.acknowledged(Reply) if m.rows[0][0] == 1}
    assert len(answers) == 1, "the one that told its result first told the same"


@pytest.mark.parametrize("n", [4, 6, 7])
def test_a_batch_pre_prepared_by_f_is_dropped_and_its_request_proposed_again(n: int) -> None:
    """f replicas have the PRE-PREPARE and nobody prepared: B holds. The request waits again where it was in flight,
    and reaches the new primary from there, though no client asks again."""
    c = group(n)
    few = range(n - c.group.quorums.f, n)
    request = c.request()
    c.dropped = lambda s, t, m: isinstance(m, PrePrepare) and t not in few
    c.primary.give(ALICE, request)
    c.settle()
    [digest] = chosen(c, 2) - {None}
    c.dropped = lambda s, t, m: False
    c.primary.crash()
    c.suspect_all(*range(1, n))
    assert c.view == 1 and not any(m.times(request) for m in c.up)
    c.wait(1)
    assert executed_once(c, request) and digest not in c.primary.executed


def test_a_gap_is_filled_with_null_and_executes_as_nothing() -> None:
    """Number 2 reached nobody, number 3 is prepared: the new view begins with NULL and batch 3 (2.6 B)."""
    c = group()
    request = c.request()
    ahead = proposal(c, 3, request)
    for m in c.backups:
        m.give(0, ahead)
    c.settle()
    assert not any(m.times(request) for m in c.members)
    c.primary.crash()
    c.suspect_all(1, 2, 3)
    assert {tuple(m.executed[1:]) for m in c.up} == {(NULL_DIGEST, ahead.digest)}
    assert executed_once(c, request)
    c.order()
    assert [len(m.executed) for m in c.up] == [4] * 3, "fresh proposals follow above"


def test_batches_already_executed_are_agreed_again_and_not_executed_again() -> None:
    """Numbers above h go through PREPARE and COMMIT once more; nothing is handed over twice (4 #17)."""
    c = group()
    c.order(2)
    c.suspect_all()
    assert {m.view for m in c.members} == {1} and [len(m.executed) for m in c.members] == [3] * 4
    for m in c.members:
        assert [(n, bool(s.committed)) for n, s in m.replica.core.log.slots.items()] == [
            (1, True),
            (2, True),
            (3, True),
        ]
    c.order(2)
    assert [len(m.executed) for m in c.members] == [5] * 4
    assert {m.replica.status().stable_checkpoint for m in c.members} == {4}


@pytest.mark.scenario("A21")
def test_of_two_prepared_in_successive_views_the_newer_survives() -> None:
    """Replica 2 prepared one batch in view 0, replica 3 another one in view 1 that q replicas could begin without 2;
    view 2 ends it, with no cycling. Nothing had committed, so both requests execute once."""
    c = group()
    first, second = c.request(authenticator=b"\x01"), c.request(authenticator=b"\x01")
    c.dropped = lambda s, t, m: (isinstance(m, Prepare) and t != 2) or isinstance(m, Commit)
    c.primary.give(ALICE, first)
    c.settle()
    c.dropped = lambda s, t, m: 2 in (s, t) or (isinstance(m, Prepare) and t != 3) or isinstance(m, Commit)
    c.suspect_all(0, 1, 3)
    c.primary.give(ALICE, second)
    c.settle()
    p = [dict(m.replica.core.log.p).get(2) for m in c.members]
    assert p[2] is not None and p[2][1] == 0 and p[3] is not None and p[3][1] == 1 and p[2][0] != p[3][0]
    c.dropped = lambda s, t, m: False
    c.wait(1)  # 2 learns of view 1
    c.suspect_all()
    c.wait(6)
    assert c.members[0].executed[1] == p[3][0]
    assert executed_once(c, first, second)


@pytest.mark.scenario("B17")
def test_an_ex_primary_does_not_execute_its_old_proposal_twice() -> None:
    """Its PRE-PREPARE reached nobody; the request executed in view 1; when its turn comes again nothing is repeated."""
    c = group()
    c.dropped = lambda s, t, m: isinstance(m, PrePrepare) and s == 0
    request = c.ask()
    c.dropped = lambda s, t, m: False
    for _ in range(4):
        c.suspect_all()
        c.wait(0.5)
    assert c.view == 4 and c.primary.me == 0
    c.order(2)
    assert executed_once(c, request)


@pytest.mark.slow
@pytest.mark.scenario("A28", "D06")
def test_a_view_change_at_every_checkpoint() -> None:
    """Forty in a row under load, with the smallest window: every request executes once, watermarks go on."""
    c = Cluster(checkpoint_interval=2, log_window=4)
    c.open()
    asked = []
    for _ in range(40):
        asked += [c.ask(), c.ask()]
        c.suspect_all()
        c.wait(0.25)
    assert c.view == 40 and executed_once(c, *asked)
    assert len({m.replica.status().stable_checkpoint for m in c.members}) == 1
    assert not [e for m in c.members for e in m.evidence]


@pytest.mark.scenario("A08")
def test_replicas_with_different_low_watermarks_begin_a_view() -> None:
    """Only replica 3 has the certificate of checkpoint 8, the others that of 4; the base of the view is judged over
    the whole set, and the window does not jam (2.6, 4 #19)."""
    c = group(checkpoint_interval=4, log_window=12)
    c.order(4)
    c.dropped = lambda s, t, m: isinstance(m, Checkpoint) and t != 3
    c.order(4)
    assert [m.replica.status().low_watermark for m in c.members] == [4, 4, 4, 8]
    c.primary.crash()
    request = c.ask()
    c.wait(6)
    assert c.view == 1 and executed_once(c, request)
    c.dropped = lambda s, t, m: False
    c.order(12)
    assert executed_once(c, request) and {m.replica.status().low_watermark for m in c.up} == {20}


@pytest.mark.scenario("A09")
def test_a_slow_executor_enters_the_view_and_finishes_its_backlog_in_order() -> None:
    """The base of the new view lies above what it has executed; it votes, and executes what had committed first."""
    c = group()
    slow = c.members[3]
    slow.hold_execution = True
    c.order(10)
    c.suspect_all()
    assert slow.view == 1 and slow.replica.status().last_executed == 1
    c.order(2)
    while slow.held:
        slow.host.executed(slow.executor.execute(*slow.held.pop(0)))
        slow.flush()
    assert slow.executed == c.primary.executed


@pytest.mark.scenario("A25")
def test_an_honest_new_primary_with_a_backlog_stays() -> None:
    """Each request has its own wait, and the oldest one a whole timeout in the new view."""
    c = group(pending_per_client=512, session_window=512, operation_max_bytes=1 << 16)
    c.primary.crash()
    waiting = [c.request(authenticator=b"\x01", floor=0) for _ in range(400)]
    for request in waiting:
        for m in c.up:
            m.host.receive(ALICE, encode(request))
    c.wait(6)
    assert {m.view for m in c.up} == {1} and executed_once(c, *waiting)
