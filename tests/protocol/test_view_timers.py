"""When a primary is suspected: what starts the view timer, what stops it, how long it runs. Rules 1.11, 1.12, 2.6."""

from __future__ import annotations

import pytest
from cluster import ALICE, BOB
from signed_views import new_view, proposal, push, silent, view_change
from timed import BASE, left_in, pass_time, signed, suspects, timed

from pbft.messages import Body, Commit, Committed, Prepare, Request, Suspect

# ---- what starts it


@pytest.mark.slow
@pytest.mark.scenario("A02")
def test_nothing_is_timed_while_nothing_is_awaited() -> None:
    """A quarter of an hour idle with a dead primary: no SUSPECT, no timer (1.11)."""
    c = timed()
    c.primary.crash()
    for _ in range(4500):
        c.tick_all(0.2)
    assert not any(suspects(m) or left_in(m) is not None or m.promised for m in c.up)


def test_a_request_starts_the_timer_if_it_is_signed() -> None:
    """A MAC that only this replica can verify may be a client's trick; a signature holds for everybody (1.11, 1.17)."""
    c = timed()
    m = c.members[3]
    m.give(ALICE, c.request())
    assert left_in(m) is None
    m.give(ALICE, signed(c))
    assert left_in(m) == BASE
    pass_time(m, BASE - 0.1)
    assert not suspects(m)
    pass_time(m, 0.15)
    assert suspects(m) and m.promised == 0


def test_a_request_starts_the_timer_if_it_is_pre_prepared() -> None:
    """Then the primary vouches that everybody can take it: it must get it committed."""
    c = timed()
    m = c.members[3]
    m.give(0, proposal(c, 2, c.request()))
    assert left_in(m) == BASE


@pytest.mark.scenario("A22")
def test_a_request_that_has_executed_starts_nothing() -> None:
    """It reaches a backup late: the cached result is the answer, and there is nothing to wait for."""
    c = timed()
    request = c.ask()
    for m in c.members:
        m.give(ALICE, request)
    assert [left_in(m) for m in c.members] == [None] * 4
    c.wait(3 * BASE)
    assert {m.promised for m in c.members} == {0}


@pytest.mark.scenario("A27")
def test_a_single_request_causes_no_view_change() -> None:
    """It does not wait for company."""
    c = timed()
    request = c.ask()
    c.wait(3 * BASE)
    assert {(m.promised, m.times(request)) for m in c.members} == {(0, 1)}


# ---- what stops it, and what does not


def test_a_proposal_and_prepares_stop_nothing() -> None:
    """An equivocating primary could go on so for ever; only the commit of the request ends the wait (4 #5)."""
    c = timed()
    m = c.members[3]
    request = signed(c)
    m.give(ALICE, request)
    pass_time(m, 1)
    proposed = proposal(c, 2, request)
    m.give(0, proposed)
    m.give(1, Prepare(0, 2, proposed.digest))
    assert m.replica.core.log.slots[2].prepared_at and left_in(m) == BASE - 1
    pass_time(m, 1.1)
    assert suspects(m)
    for other in (1, 2):
        m.give(other, Commit(0, 2, proposed.digest))
    assert not suspects(m) and left_in(m) is None


@pytest.mark.scenario("A24")
def test_other_requests_that_execute_stop_nothing() -> None:
    """A primary that ignores one client and serves the others is replaced as if it served nobody (4 #7)."""
    c = timed()
    ignored = signed(c)
    for m in c.backups:
        m.give(ALICE, ignored)
    c.wire.clear()
    c.dropped = lambda s, t, m: isinstance(m, Request) and m.body == ignored.body
    for _ in range(10):
        c.order()
        c.wait(0.25)
    assert c.view == 1 and {m.times(ignored) for m in c.members} == {1}
    assert len(c.members[1].executed) == 12


def test_stale_and_empty_batches_stop_nothing() -> None:
    """A primary that orders what has executed already, to look alive, gains no time (4 #8)."""
    c = timed()
    old = c.ask()
    waiting = signed(c)
    for m in c.backups:
        m.give(ALICE, waiting)
    c.wire.clear()
    c.dropped = lambda s, t, m: isinstance(m, (Request, Suspect))
    for number in range(3, 8):
        for m in c.backups:
            m.give(0, proposal(c, number, old))
        c.wait(0.5)
    assert {len(m.executed) for m in c.backups} == {7} and all(suspects(m) for m in c.backups)


def test_the_next_oldest_has_a_whole_timeout() -> None:
    """The timer runs for one request, the one that has waited longest."""
    c = timed()
    m = c.members[3]
    first, second = signed(c), signed(c)
    m.give(ALICE, first)
    pass_time(m, 0.5)
    m.give(ALICE, second)
    pass_time(m, 1)
    assert left_in(m) == 0.5
    proposed = proposal(c, 2, first)
    m.give(0, proposed)
    for other in (1, 2):
        m.give(other, Prepare(0, 2, proposed.digest))
        m.give(other, Commit(0, 2, proposed.digest))
    assert left_in(m) == BASE


def test_a_commit_above_a_gap_stops_nothing() -> None:
    """Committed with every lower number committed: else a primary leaves out a number, and nothing ever executes."""
    c = timed()
    m = c.members[3]
    request = signed(c)
    m.give(ALICE, request)
    proposed = proposal(c, 3, request)
    m.give(0, proposed)
    for other in (1, 2):
        m.give(other, Prepare(0, 3, proposed.digest))
        m.give(other, Commit(0, 3, proposed.digest))
    assert m.replica.core.log.slots[3].committed and left_in(m) == BASE


@pytest.mark.scenario("J04")
def test_a_slow_application_evicts_nobody() -> None:
    """What is committed with all below it needs nobody's help to execute."""
    c = timed()
    for m in c.members:
        m.hold_execution = True
    c.ask()
    c.wait(3 * BASE)
    assert [len(m.held) for m in c.members] == [1] * 4
    assert not any(suspects(m) or m.promised for m in c.members)


# ---- SUSPECT


def test_suspect_is_repeated_while_the_cause_lasts() -> None:
    """Each period, to everybody, and no more once the request has executed (1.12)."""
    c = timed()
    m = c.members[3]
    request = signed(c)
    m.give(ALICE, request)
    c.wire.clear()
    pass_time(m, BASE + 2)
    assert 3 * 7 <= len(c.take(Suspect, 3)) <= 3 * 9
    proposed = proposal(c, 2, request)
    for sender in (1, 2):
        m.give(sender, Committed(2, (proposed.digest,)))
    m.give(1, Body(2, proposed.digest, proposed.batch))
    c.wire.clear()
    pass_time(m, 2)
    assert m.times(request) == 1 and not c.take(Suspect)


def test_the_contradiction_guard_suspects_at_once_and_until_the_view_ends() -> None:
    """A primary that wants a vote for another batch than was executed here is wrong beyond doubt: no vote, an alarm,
    SUSPECT without waiting, and no request that executes takes it back (1.7 b)."""
    c = timed()
    c.order(2)
    m = c.members[3]
    other = proposal(c, 2, signed(c), view=1)
    liars = [view_change(c, i, 1, {2: (other.digest, 0)}, {(2, other.digest): 0}) for i in (0, 1)]
    m.give(ALICE, signed(c))
    m.give(1, new_view(c, 1, *liars, *silent(c, 2)))
    pass_time(m, 0.05)
    assert m.view == 1 and suspects(m)
    assert not m.replica.core.log.slots[2].digest if 2 in m.replica.core.log.slots else True
    m.give(1, other)
    assert m.refused(1, "contradicts-executed") == 1
    assert {(e.culprit, e.kind) for e in m.evidence} >= {(1, "contradiction")}
    m.give(BOB, signed(c, ALICE))
    for number in (4, 5):
        m.give(1, proposal(c, number, signed(c), view=1))
    pass_time(m, 3)
    assert suspects(m)
    push(m, 1)
    assert m.promised == 2 and not suspects(m)
