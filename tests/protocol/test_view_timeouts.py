"""How long the view timer runs, after failed views and good times, and whose fault it is when it runs out. Rules 1.11,
2.6 (timers)."""

from __future__ import annotations

import pytest
from cluster import ALICE, Cluster
from signed_views import new_view, proposal, push, silent, view_change
from timed import BASE, left_in, pass_time, signed, suspects, timed

from pbft.messages import Prepare, Request, Suspect, ViewChange
from pbft.protocol.suspicion import Conditions


def test_no_timer_for_a_new_view_before_q_have_left_for_it() -> None:
    """Else replicas drift apart in views: its primary cannot begin without them (2.6 timer 2, 4 #10)."""
    c = timed(7)
    m = c.members[6]
    m.give(ALICE, signed(c))
    push(m, 2)
    for sender in (0, 1, 2):
        m.give(sender, view_change(c, sender, 2))
    pass_time(m, 20)
    assert m.promised == 2 and left_in(m) is None and not suspects(m)
    m.give(3, view_change(c, 3, 3))
    assert left_in(m) == 4 * BASE, "q for its view or above"
    pass_time(m, 4 * BASE + 0.05)
    assert suspects(m) and m.promised == 2


def test_the_timeout_doubles_with_each_failed_view_up_to_a_cap() -> None:
    """Faulty primaries in a row do not cost for ever more, and slow networks are waited for (4 #9)."""
    c = timed(7, view_timeout=2000, view_timeout_max=20_000)
    m = c.members[0]  # the primary of none of these views
    timeouts = []
    for view in range(1, 7):
        push(m, 1)
        for sender in (1, 2, 3, 4):
            m.give(sender, view_change(c, sender, view))
        timeouts.append(left_in(m))
    assert timeouts == [4.0, 8.0, 16.0, 20.0, 20.0, 20.0]


def test_the_timeout_halves_with_every_k_executed_batches() -> None:
    """Failures of the past weigh less while things go well."""
    c = timed(view_timeout_max=600_000)
    for _ in range(3):
        c.suspect_all()
    timeouts = []
    for _ in range(4):
        timeouts.append({m.replica.suspicion.timeout for m in c.members})
        c.order(4)
    assert timeouts == [{16.0}, {8.0}, {4.0}, {2.0}]


def works(c: Cluster, batches: int = 16) -> None:
    """So many batches, within which nothing waits long."""
    for _ in range(batches):
        c.order(1)


def test_a_few_batches_that_nobody_had_to_wait_for_are_as_good_as_k() -> None:
    """At light load K batches take minutes, and the next primary that dies must not cost so much more."""
    c = timed(checkpoint_interval=128, log_window=256)
    c.suspect_all()
    works(c)
    assert {m.replica.suspicion.timeout for m in c.members} == {BASE}


def test_batches_that_were_waited_for_do_not_shorten_the_timeout() -> None:
    """A network for which half of the timeout would be too short keeps the whole one, until K batches are there."""
    c = timed(checkpoint_interval=128, log_window=256)
    c.suspect_all()
    m = c.members[3]
    for _ in range(40):
        c.dropped = lambda s, t, m: isinstance(m, Prepare)
        c.order(1)
        c.wait(0.3 * 2 * BASE)
        c.dropped = lambda s, t, m: False
        c.wait(0.5)
    assert len(m.executed) >= 40 and m.replica.suspicion.timeout == 2 * BASE


def test_a_primary_that_dies_after_good_work_does_not_lengthen_the_wait_for_the_next() -> None:
    """Only a view that did not work has failed: the second one in a row. [CL99 §4.5.2]"""
    c = timed(7, checkpoint_interval=128, log_window=256)
    works(c)
    timeouts = []
    for _ in range(3):
        c.suspect_all()
        timeouts.append({m.replica.suspicion.timeout for m in c.members})
    assert timeouts == [{BASE}, {2 * BASE}, {4 * BASE}]


@pytest.mark.scenario("A06")
def test_requests_during_a_view_change_do_not_inflate_its_timer() -> None:
    """The timeout doubles per failed view, never per request; the new primary serves them all."""
    c = timed()
    c.primary.crash()
    push_all = [m for m in c.up if push(m, 1) is None]
    c.wire.clear()
    asked = []
    for _ in range(60):
        asked.append(signed(c))
        for m in push_all:
            m.give(ALICE, asked[-1])
    assert {m.replica.suspicion.timeout for m in c.up} == {2 * BASE}
    c.wait(1)
    assert {m.view for m in c.up} == {1} and all(m.times(r) == 1 for m in c.up for r in asked)


def test_a_request_has_a_whole_timeout_in_the_new_view() -> None:
    """Its wait begins anew with the view; and when it ends in vain that view is suspected too."""
    c = timed()
    m = c.members[3]
    m.give(ALICE, signed(c))
    pass_time(m, BASE - 0.1)
    push(m, 1)
    m.give(1, new_view(c, 1, *silent(c, 0, 1, 2)))
    assert m.view == 1 and left_in(m) == 2 * BASE
    pass_time(m, 2 * BASE + 0.05)
    assert suspects(m)


# ---- whose fault it is


@pytest.mark.scenario("I11")
def test_an_own_pause_is_not_blamed_on_the_primary() -> None:
    """A process that stood still has not even read what came meanwhile: the pause does not count."""
    c = timed()
    m = c.members[3]
    m.give(ALICE, signed(c))
    pass_time(m, 1)
    m.tick(60)
    assert not suspects(m) and left_in(m) == 0.75
    pass_time(m, 0.8)
    assert suspects(m)


def test_who_is_always_late_suspects_later_and_not_never() -> None:
    """On a machine so loaded that every tick is a second late, all replicas together still replace a primary."""
    c = timed()
    c.primary.crash()
    c.tick_all(0.05)
    request = c.ask()
    for _ in range(8):
        assert {m.promised for m in c.up} == {0}
        c.tick_all(1)
    for _ in range(4):
        c.tick_all(1)
    assert {m.view for m in c.up} == {1} and {m.times(request) for m in c.up} == {1}


def test_own_lag_is_not_blamed_on_the_primary() -> None:
    """While what f+1 COMMITTED show is missing here, each batch that comes restarts the timer: alone a laggard harms
    nobody, but f liars wait for it to suspect."""
    c = timed()
    late = c.members[3]
    late.down = True
    c.order(20)
    late.down = False
    late.hold_execution = True
    late.give(ALICE, signed(c))
    c.dropped = lambda s, t, m: s == 3 and isinstance(m, Request)
    pass_time(late, 1)
    c.settle()
    assert late.held and left_in(late) == 1
    late.host.executed(late.executor.execute(*late.held.pop(0)))
    late.flush()
    assert left_in(late) == BASE


@pytest.mark.parametrize(("round_trip", "expected"), [(0.0, 2.0), (0.1, 2.0), (0.5, 5.0), (100.0, 60.0)])
def test_the_base_follows_the_networks_round_trip_within_bounds(round_trip: float, expected: float) -> None:
    """Measured by heartbeats to the q-th fastest replica, never by what the primary orders; capped like all else."""
    c = timed()
    m = c.members[3]
    m.host.tick(Conditions(round_trip=round_trip))
    m.give(ALICE, signed(c))
    assert left_in(m) == expected


def test_jitter_comes_from_outside() -> None:
    """So that replicas do not all time out together, and a run can be repeated exactly."""
    c = timed()
    m = c.members[3]
    m.host.tick(Conditions(jitter=0.8))
    m.give(ALICE, signed(c))
    assert left_in(m) == 2.2


def test_who_must_not_vote_suspects_nobody() -> None:
    """A halted replica runs no timer and leaves no view (1.7)."""
    c = timed()
    odd = c.members[3]
    odd.executor.lie = True
    odd.give(0, proposal(c, 6, c.request(), time=c.wall + 5_000_000))  # held until its time has come
    c.order(4)
    assert odd.replica.status().halted
    c.wire.clear()
    odd.host.set_time(c.now, c.wall + 10_000_000)
    odd.flush()
    assert not c.take(Prepare, 3)
    odd.give(ALICE, signed(c))
    pass_time(odd, 2 * BASE)
    push(odd, 1)
    assert not suspects(odd) and odd.promised == 0
    assert not [m for _, _, m in c.take(Suspect, 3) + c.take(ViewChange, 3)]
