"""STATUS, COMMITTED, bodies, restarts: rules 1.5, 1.6, 1.13, 2.7."""

from __future__ import annotations

import pytest
from cluster import ALICE, Cluster

from pbft.messages import Body, Commit, Committed, Fetch, Message, Prepare, PrePrepare, Status
from pbft.protocol.records import Accepted, Executing, decode_record


def behind(n: int = 4, batches: int = 5, **tunables: int) -> Cluster:
    """A group whose last replica missed everything after the first batch."""
    c = Cluster(n, **tunables)
    c.open()
    c.members[-1].down = True
    c.order(batches)
    c.members[-1].down = False
    return c


@pytest.mark.scenario("C07")
def test_who_was_away_learns_what_was_committed() -> None:
    """f+1 COMMITTED and a body let a replica execute without having prepared, without client traffic."""
    c = behind(batches=30)
    for _ in range(6):
        c.tick_all()
    assert c.members[-1].executed == c.primary.executed
    assert c.members[-1].replica.status().stable_checkpoint == c.primary.replica.status().stable_checkpoint


def test_who_claims_everything_first_and_sends_nothing_delays_little() -> None:
    """The liar is asked once in a while; what it did not send is asked of others, and the rest of them first."""
    c = behind(batches=600)
    late, liar = c.members[-1], c.members[1]
    first: list[int] = []

    def dropped(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Fetch) and sender == late.me:
            first.append(to)
            return to == liar.me
        return False

    c.dropped = dropped
    rounds = 0
    while late.executed != c.primary.executed:
        for digest in [b.digest for b in liar.executor.executed[len(late.executed) :][:1]]:
            late.give(liar.me, Committed(len(late.executed) + 1, (digest,)))
        c.tick_all()
        rounds += 1
        assert rounds <= 3
    assert liar.me in first


def test_who_caught_up_votes_again() -> None:
    """After catching up with another backup silent, the group still makes progress."""
    c = behind(batches=30)
    for _ in range(6):
        c.tick_all()
    c.members[1].down = True
    c.order(5)
    assert len(c.members[-1].executed) == 36


def test_one_committed_is_not_believed() -> None:
    """COMMITTED counts from f+1 distinct senders; one may be a liar (rule 1.13)."""
    c = behind()
    laggard = c.members[-1]
    for _ in range(5):
        laggard.give(1, Committed(2, (c.primary.executed[1],)))
    assert not c.take(Fetch)
    laggard.give(2, Committed(2, (c.primary.executed[1],)))
    assert c.take(Fetch)


def test_f_plus_1_commits_are_not_committed() -> None:
    """A COMMIT says "prepared here", and f+1 of them can be overturned (rule 1.13)."""
    c = Cluster()
    c.open()
    c.primary.give(ALICE, c.request())
    [(_, _, proposal), *_] = c.take(PrePrepare)
    c.wire.clear()
    backup = c.members[1]
    backup.give(0, proposal)
    backup.give(2, Commit(0, 2, proposal.digest))
    backup.give(0, Commit(0, 2, proposal.digest))
    assert len(backup.executed) == 1
    backup.give(2, Prepare(0, 2, proposal.digest))
    assert len(backup.executed) == 2


def test_a_body_with_another_digest_is_refused() -> None:
    """A body is believed because it hashes to the digest that f+1 vouch for."""
    c = behind()
    laggard = c.members[-1]
    digest = c.primary.executed[1]
    for sender in (1, 2):
        laggard.give(sender, Committed(2, (digest,)))
    wrong = c.primary.executor.executed[2].encoded
    laggard.give(1, Body(2, digest, wrong))
    assert laggard.refused(1, "wrong-digest") == 1
    assert len(laggard.executed) == 1
    laggard.give(2, Body(2, digest, c.primary.executor.executed[1].encoded))
    assert len(laggard.executed) == 2


def test_a_body_that_nobody_asked_for_is_refused() -> None:
    """Unreferenced bodies are not stored (4 #25)."""
    c = behind()
    c.members[-1].give(1, Body(3, c.primary.executed[2], c.primary.executor.executed[2].encoded))
    assert c.members[-1].refused(1, "not-wanted") == 1


def test_a_learned_batch_is_in_the_log() -> None:
    """A replay executes what was learned, from the log alone (rule 1.6)."""
    c = behind()
    for _ in range(3):
        c.tick_all()
    laggard = c.members[-1]
    learned = [r for r in map(decode_record, laggard.log.records) if isinstance(r, Executing) and r.batch]
    assert len(learned) >= 3  # the rest came inside its window, as PRE-PREPAREs
    laggard.boot()
    assert laggard.executed == c.primary.executed


def test_lost_votes_are_sent_again() -> None:
    """Retransmission: a group that lost every PREPARE and COMMIT once goes on after a STATUS."""
    c = Cluster()
    c.open()
    c.dropped = lambda s, t, m: isinstance(m, (Prepare, Commit))
    c.order()
    assert {len(m.executed) for m in c.members} == {1}
    c.dropped = lambda s, t, m: False
    c.tick_all()
    c.tick_all()
    assert {len(m.executed) for m in c.members} == {2}


def test_a_lost_proposal_is_sent_again() -> None:
    """The primary resends a PRE-PREPARE to who lacks it."""
    c = Cluster()
    c.open()
    c.dropped = lambda s, t, m: isinstance(m, PrePrepare)
    c.order()
    c.dropped = lambda s, t, m: False
    c.tick_all()
    assert {len(m.executed) for m in c.members} == {2}


@pytest.mark.scenario("B13")
def test_f_plus_1_down_then_back() -> None:
    """Below q nothing executes; when they return everything does, without a new request."""
    c = Cluster()
    c.open()
    c.members[2].down = c.members[3].down = True
    c.order(3)
    assert {len(m.executed) for m in c.members} == {1}
    c.members[2].down = c.members[3].down = False
    for _ in range(4):
        c.tick_all()
    assert {len(m.executed) for m in c.members} == {4 - sum(len(b.requests) - 1 for b in c.primary.executor.executed)}
    assert c.primary.replica.requests.queue.count == 0


@pytest.mark.scenario("B18")
def test_thirty_crashes_and_restarts() -> None:
    """A replica that crashes after every batch, losing what is not synced, never contradicts itself."""
    c = Cluster()
    c.open()
    for i in range(30):
        victim = c.members[i % 4]
        c.primary.give(ALICE, c.request())
        victim.auto_sync = i % 3 != 0
        c.settle()
        victim.boot()
        victim.auto_sync = True
        for _ in range(2):
            c.tick_all()
    for _ in range(3):
        c.tick_all()
    assert len({tuple(m.executed) for m in c.members}) == 1
    assert not [e for m in c.members for e in m.evidence]


def test_all_crash_with_everything_prepared_and_go_on() -> None:
    """COMMITs that only memory held are made again from the durable PREPAREs."""
    c = Cluster()
    c.open()
    c.dropped = lambda s, t, m: isinstance(m, Commit)
    c.order()
    for m in c.members:
        m.boot()
    c.dropped = lambda s, t, m: False
    c.tick_all()
    c.tick_all()
    assert {len(m.executed) for m in c.members} == {2}


@pytest.mark.scenario("D01")
def test_a_proposal_above_my_window_is_asked_for_again() -> None:
    """When the others' checkpoint is stable before mine, what lies above my window is not lost (4 #14)."""
    c = Cluster()
    c.open()
    late = c.members[3]
    late.give(0, PrePrepare(0, 9, b"x" * 32, b""))
    assert late.refused(0, "above-window") == 1
    c.wire.clear()
    late.tick(0.15)
    assert c.take(Status, 3), "it asks at once, not at the next interval"


@pytest.mark.scenario("D05", "G21")
def test_what_lies_far_outside_the_window_is_not_stored() -> None:
    """Absurd numbers and views are counted and leave nothing behind."""
    c = Cluster()
    c.open()
    m = c.members[1]
    far = (1 << 64) - 1
    for number in (far, 1 << 40, 10_000):
        m.give(2, Prepare(0, number, b"x" * 32))
        m.give(2, Commit(0, number, b"x" * 32))
        m.give(2, Prepare(far, 3, b"x" * 32))
        m.give(2, Committed(number, (b"x" * 32,)))
        m.give(2, Fetch(((number, b"x" * 32),)))
        m.give(2, Status(far, far, number, number, number, b"\xff" * 64, b"\xff" * 64, b"\xff" * 64))
    assert not [n for n in m.replica.core.log.slots if n > 8]
    assert not m.replica.delivery._claims
    c.wire.clear()


def test_what_a_peer_can_make_a_replica_send_is_bounded() -> None:
    """A flood of FETCH is answered up to a budget per interval (4 #27)."""
    c = Cluster()
    c.open()
    c.order(4)
    m = c.members[1]
    digest = m.executed[1]
    entries = tuple((2, digest) for _ in range(256))
    m.replica.retransmission._served[2] = (4 << 20) - 100
    m.give(2, Fetch(entries))
    assert 1 <= len(c.take(Body)) <= 2
    assert m.refused(2, "too-often") == 1
    c.wire.clear()
    m.tick(1.0)
    c.wire.clear()
    m.give(2, Fetch(((2, digest),)))
    assert len(c.take(Body)) == 1


def test_who_is_further_behind_than_the_retained_logs_does_not_vote() -> None:
    """It says so in its status, and votes again when somebody has what it lacks."""
    c = behind(batches=30)
    laggard = c.members[-1]
    for m in c.members[:3]:
        while next(iter(m.replica.core.log.tail)) < 10:
            m.replica.core.log.tail.pop(next(iter(m.replica.core.log.tail)))
    c.tick_all()
    c.tick_all()
    assert laggard.replica.status().behind and len(laggard.executed) == 1
    records = len(laggard.log.records)
    c.order(3)
    assert not [r for r in laggard.log.records[records:] if isinstance(decode_record(r), Accepted)]


def test_votes_under_ended_keys_are_dropped_and_asked_for_again() -> None:
    """Incomplete certificates lose the peer's votes; a STATUS brings them back (rule 1.18)."""
    c = Cluster()
    c.open()
    c.dropped = lambda s, t, m: isinstance(m, Commit) and s != 2
    c.order()
    m = c.members[1]
    assert m.replica.core.log.slots[2].commits.of(2) is not None
    m.replica.on_keys_ended(2)
    assert m.replica.core.log.slots[2].commits.of(2) is None
    c.dropped = lambda s, t, m: False
    c.tick_all()
    c.tick_all()
    assert len(m.executed) == 2


def test_a_flood_that_makes_a_replica_ask_early_does_not_stop_it_from_answering() -> None:
    """Votes above the window from one liar cause early STATUS; the others' budgets are filled again all the same."""
    c = Cluster()
    m = c.members[1]
    c.open()
    c.order(3)
    behind = Status(0, 0, 0, 0, 1, b"", b"", b"")
    c.wire.clear()
    for _ in range(100):
        m.give(3, Prepare(0, 1000, b"x" * 32))
        m.give(2, behind)
        m.tick(0.11)  # just above half a STATUS interval
    assert m.refused(3, "above-window") == 100
    assert m.refused(2, "too-often") == 0
    assert len(c.take(Committed, 1)) == 100


@pytest.mark.scenario("B16")
def test_what_two_took_while_two_were_down_is_executed_when_these_are_back() -> None:
    """Nobody asks again: who holds the requests proposes them, or passes them on."""
    c = Cluster(view_timeout=600)
    c.open()
    for m in c.members[:2]:
        m.crash()
    requests = [c.ask() for _ in range(10)]
    c.wait(3)
    for m in c.members[:2]:
        m.restart()
    c.wait(6)
    assert all(m.times(r) == 1 for m in c.members for r in requests)
    assert len({tuple(m.executed) for m in c.members}) == 1


@pytest.mark.scenario("B12")
def test_three_rolling_restarts_under_load_lose_nothing_and_double_nothing() -> None:
    """Each replica in turn, primaries included; in between everybody is level again."""
    c = Cluster(7, view_timeout=600)
    c.open()
    requests = []
    for _ in range(3):
        for m in reversed(c.members):
            m.crash()
            for _ in range(4):
                requests.append(c.ask())
                c.wait(0.5)
            m.restart()
            c.wait(1)
            assert len(m.executed) == max(len(other.executed) for other in c.members)
    assert all(m.times(r) == 1 for m in c.members for r in requests)
    assert len({tuple(m.executed) for m in c.members}) == 1
