"""What grows, and what does not, when a group runs for long, with replicas that are late, gone or stuck."""

from __future__ import annotations

import pytest
from cluster import ALICE, Cluster, Member
from footprint import footprint

from pbft.batch import ClientRequest
from pbft.messages import Checkpoint


def remembered(c: Cluster) -> list[int]:
    """Bytes that each replica which is up holds, without the log and the executor that the test gives it."""
    return [footprint(m.host.inbound) for m in c.members if not m.down]


def make_durable(c: Cluster) -> None:
    """Every replica has written its stable state to disk."""
    for m in c.members:
        if not m.down and m.replica.status().stable_checkpoint:
            m.host.checkpoint_durable(m.replica.status().stable_checkpoint)
            m.flush()


def run(c: Cluster, count: int) -> None:
    """So many requests of a kilobyte; checkpoints become durable, STATUS is sent."""
    for i in range(count):
        c.primary.give(ALICE, c.request(operation=b"x" * 1000))
        c.settle()
        if i % 20 == 19:
            make_durable(c)
            c.wait(0.25)


@pytest.mark.slow
@pytest.mark.scenario("D03")
def test_memory_is_bounded_under_load_and_idle_with_a_peer_down() -> None:
    """Twice as many requests take no more memory; an idle hour takes none at all."""
    c = Cluster(retained_log_bytes=1 << 16)
    c.open()
    c.members[3].down = True
    run(c, 300)
    warm = remembered(c)
    run(c, 600)
    assert all(after <= before * 1.05 for before, after in zip(warm, remembered(c), strict=True))
    busy = remembered(c)
    for _ in range(3600):
        c.tick_all(1.0)
        assert not c.wire
    assert all(after <= before + 1024 for before, after in zip(busy, remembered(c), strict=True))


@pytest.mark.slow
@pytest.mark.scenario("D01")
def test_late_checkpoints_stop_nothing_with_the_smallest_window() -> None:
    """K = 2, L = 4, one replica down: the primary's window moves first, backups refuse what lies above theirs, and
    all of it comes again. Nobody is accused, and the view stays."""
    c = Cluster(checkpoint_interval=2, log_window=4)
    c.open()
    c.members[3].down = True
    for i in range(400):
        c.dropped = lambda sender, to, message: isinstance(message, Checkpoint) and to != 0
        c.order()
        c.dropped = lambda sender, to, message: False
        if i % 6 == 5:
            c.wait(0.25)
    c.wait(2)
    up = c.members[:3]
    assert min(m.refused(0, "above-window") for m in up[1:]) > 30
    assert len({tuple(m.executed) for m in up}) == 1
    assert sum(len(b.requests) for b in c.primary.executor.executed) == 401
    assert {m.replica.status().view for m in up} == {0}
    assert not [e for m in up for e in m.evidence]


@pytest.mark.scenario("B13")
def test_requests_retried_while_f_plus_1_were_gone_execute_once() -> None:
    """Two of four crash; clients ask again and again; after the two have read their logs everything asked for executes
    once, after all that had executed before, without a new request."""
    c = Cluster()
    c.open()
    c.order(5)
    before = list(c.primary.executed)
    gone = c.members[2:]
    for m in gone:
        m.down = True
    asked = [c.request() for _ in range(6)]
    for _ in range(60):
        for m in c.members[:2]:
            for request in asked:
                m.give(ALICE, request._replace(authenticator=b"\x01"))
        c.wait(1)
    assert [m.executed for m in c.members[:2]] == [before] * 2
    for m in gone:
        m.down = False
        m.boot()
    c.wait(30)
    assert len({tuple(m.executed) for m in c.members}) == 1
    assert len({m.replica.status().view for m in c.members}) == 1
    assert c.primary.executed[: len(before)] == before
    new = [r.digest for b in c.primary.executor.executed[len(before) :] for r in b.requests]
    assert sorted(new) == sorted(ClientRequest(*r).digest for r in asked)
    assert c.primary.replica.requests.queue.count == 0


def let_go(m: Member) -> None:
    """The application of a replica that was stuck returns, again and again."""
    while m.held:
        m.host.executed(m.executor.execute(*m.held.pop(0)))
        m.flush()
    m.hold_execution = False


@pytest.mark.scenario("J05")
def test_an_application_that_hangs_holds_up_its_own_replica_only() -> None:
    """The others go on; the stuck one says how far it is, was handed a bounded number of batches, and catches up once
    its application returns."""
    c = Cluster()
    c.open()
    stuck = c.members[3]
    stuck.hold_execution = True
    run(c, 100)
    assert len(stuck.held) == 32
    assert [m.replica.status().last_executed for m in c.members] == [101, 101, 101, 1]
    let_go(stuck)
    for _ in range(10):
        c.wait(0.5)
        let_go(stuck)
    assert {m.replica.status().view for m in c.members} == {0}, "the slow application evicted no primary"
    assert stuck.executed == c.primary.executed


@pytest.mark.slow
@pytest.mark.scenario("J05")
def test_an_application_that_hangs_for_ever_costs_bounded_memory() -> None:
    """When the others no longer retain what it has not executed, its replica says so and takes in no more."""
    c = Cluster(retained_log_bytes=1 << 16)
    c.open()
    stuck = c.members[3]
    stuck.hold_execution = True
    run(c, 200)
    held, memory = len(stuck.held), footprint(stuck.host.inbound)
    run(c, 400)
    assert len(stuck.held) == held
    assert footprint(stuck.host.inbound) <= memory * 1.01
    assert stuck.replica.status().behind
    assert [len(m.executed) for m in c.members[:3]] == [601] * 3
