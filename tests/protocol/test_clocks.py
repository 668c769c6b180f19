"""Wall clocks that jump or differ. Rule 1.14: a proposed time may lead the clock of who accepts it by a bound, and is
waited for; timers know nothing of wall clocks."""

from __future__ import annotations

import pytest
from cluster import Cluster
from signed_views import executed_once, group

_HOUR = 3600 * 1_000_000
_MINUTE = 60 * 1_000_000


def clocks(n: int = 4) -> Cluster:
    """A group in the middle of a day, which has ordered something."""
    c = group(n)
    c.wall = 12 * _HOUR
    c.wait(0.05)
    c.order(2)
    return c


def skew(c: Cluster, *ahead: int) -> None:
    """So many microseconds each is ahead from now on."""
    for m, by in zip(c.members, ahead, strict=False):
        m.skew = by
    c.wait(0.05)


def serve(c: Cluster, seconds: float = 60.0) -> None:
    """One request more, everywhere, exactly once."""
    request = c.ask()
    c.wait(seconds)
    assert executed_once(c, request)


@pytest.mark.scenario("I04")
@pytest.mark.parametrize("jump", [_HOUR, -_HOUR])
@pytest.mark.parametrize("who", [(0, 1, 2, 3), (1,), (3,)], ids=["all", "the next primary", "a backup"])
def test_clocks_that_jump_change_no_view(who: tuple[int, ...], jump: int) -> None:
    """All together, or a backup: no timer runs out, none is held up, and nothing is executed twice."""
    c = clocks()
    for there_and_back in (jump, 0):
        skew(c, *(there_and_back if i in who else 0 for i in range(4)))
        serve(c, 5)
    assert {m.view for m in c.members} == {0}


@pytest.mark.scenario("I04")
def test_a_primary_whose_clock_falls_back_stays() -> None:
    """What it proposes is behind everybody's clock, and executed at the last agreed time."""
    c = clocks()
    skew(c, -_HOUR)
    serve(c, 5)
    assert {m.view for m in c.members} == {0}


@pytest.mark.scenario("I04")
@pytest.mark.parametrize("jump", [_HOUR, -_HOUR])
def test_clocks_that_jump_in_a_view_change_do_not_hold_it_up(jump: int) -> None:
    """The dead primary is replaced by the first one whose clock the others can accept."""
    c = clocks(7)
    c.primary.crash()
    request = c.ask()
    skew(c, 0, jump)
    c.wait(60)
    assert executed_once(c, request)
    assert {m.view for m in c.up} == ({2} if jump > 0 else {1})


@pytest.mark.scenario("G25", "I05")
def test_a_primary_that_is_ahead_is_replaced_once() -> None:
    """Its times are not accepted before they have come; the next one serves on."""
    c = clocks()
    skew(c, 5 * _MINUTE)
    for _ in range(3):
        serve(c)
    assert {m.view for m in c.members} == {1}


@pytest.mark.scenario("I05")
@pytest.mark.parametrize("skews", [(0, 1, 2, 3), (3, 2, 1, 0), (5, 0, 5, 0), (0, 5, 0, 5)])
def test_clocks_that_differ_by_minutes_do_not_stop_service(skews: tuple[int, ...]) -> None:
    """The view comes to a primary that q replicas can follow, and stays there."""
    c = clocks()
    skew(c, *(minutes * _MINUTE for minutes in skews))
    serve(c)
    [view] = {m.view for m in c.members}
    for _ in range(3):
        serve(c, 5)
    assert {m.view for m in c.members} == {view} and view < 4
