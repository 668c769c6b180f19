"""A primary that is bad without being dead is held to a floor; an honest one is not blamed. 4 #6, #7."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cluster import group_of

from pbft.protocol.core import Core
from pbft.protocol.floor import Floor
from pbft.protocol.log import Log

TICK = 0.02


class Waiting:
    """What the floor asks of requests and of suspicion."""

    def __init__(self) -> None:
        self.oldest_unproposed: bytes | None = b"r"
        self.unproposed = 4
        self.timeout = 2.0
        self.waited = 0.0
        self.reasons: list[str] = []
        self.dead = False

    def review(self, executed: int) -> None:
        if self.dead:
            self.oldest_unproposed = b"next"

    def blame(self, reason: str) -> None:
        self.reasons.append(reason)


class Play:
    """A backup's floor, driven tick by tick."""

    def __init__(self) -> None:
        group = group_of()
        self.core = Core(group, 1, lambda body: b"", Log(group.quorums, group.tunables))
        self.waiting: Any = Waiting()
        self.floor = Floor(self.core, self.waiting, self.waiting)
        self.floor.on_tick(0)

    def run(self, seconds: float, interval: float, requests: int = 1, tick: float = TICK) -> list[str]:
        """The primary proposes every `interval` seconds; what it is blamed for."""
        self.waiting.reasons.clear()
        since = 0.0
        for _ in range(round(seconds / tick)):
            self.core.now += tick
            since += tick
            if since >= interval:
                since = 0.0
                self.floor.on_accepted(requests)
            self.floor.on_tick(0)
        return list(dict.fromkeys(self.waiting.reasons))

    def enter(self, view: int) -> None:
        self.core.log.view = self.core.log.promised = view
        self.floor.on_tick(0)


GAP = "no PRE-PREPARE while requests wait"
SHARE = "less is ordered than before under the same backlog"
FAIR = "a request is passed over"


def test_an_honest_primary_is_not_blamed() -> None:
    """Steady, bursty within the gap, and idle."""
    play = Play()
    assert play.run(60, 0.05) == []
    assert play.run(60, 0.05, requests=2) == []
    play.waiting.oldest_unproposed = None
    assert play.run(60, 1e9) == []


@pytest.mark.scenario("A26")
def test_a_primary_that_proposes_just_under_the_timeout_is_blamed() -> None:
    """The largest gap between PRE-PREPAREs while requests wait."""
    assert play_reasons(lambda p: p.run(10, 1.9)) == [GAP]


def play_reasons(act: Callable[[Play], list[str]]) -> list[str]:
    return act(Play())


def test_less_than_half_of_what_an_earlier_primary_delivered_is_blamed() -> None:
    """Under the same backlog, in the next view."""
    play = Play()
    play.run(10, 0.05)
    play.enter(4)
    assert play.run(10, 0.2) == [SHARE]


@pytest.mark.scenario("A26")
def test_a_primary_that_slows_down_gradually_is_blamed() -> None:
    """Its own best counts: it cannot train the backups."""
    play = Play()
    reasons = [play.run(5, interval) for interval in (0.02, 0.06, 0.1, 0.2, 0.5)]
    assert SHARE in reasons[-1]


@pytest.mark.parametrize("size", [1, 64])
def test_another_backlog_is_not_compared(size: int) -> None:
    """Little is ordered when little waits."""
    play = Play()
    play.run(10, 0.02)
    play.waiting.unproposed = size
    assert play.run(10, 0.2) == []


def test_a_window_in_which_nothing_waited_for_a_while_is_not_judged() -> None:
    """The primary can order only what is there."""
    play = Play()
    play.run(10, 0.02)
    for _ in range(20):
        play.waiting.oldest_unproposed = None
        assert play.run(0.1, 1e9) == []
        play.waiting.oldest_unproposed = b"r"
        assert play.run(0.4, 0.3) == []


def test_an_own_loop_that_is_late_judges_nobody() -> None:
    """Own lag is never blamed on the primary."""
    play = Play()
    play.run(10, 0.02)
    assert play.run(30, 0.9, tick=0.3) == []


def test_a_request_that_is_passed_over_for_long_is_blamed() -> None:
    """Batches go by, and the same request waits: censorship."""
    play = Play()
    play.waiting.waited = 0.4
    assert play.run(5, 0.02) == []  # it has not waited long
    play.waiting.waited = 0.6
    assert FAIR in play.run(5, 0.02)
    play.waiting.oldest_unproposed = b"another"
    assert play.run(1, 0.02) == []  # 50 batches are not many


def test_a_request_that_turns_out_to_be_dead_was_not_passed_over() -> None:
    """Its client gave the primary another one with the same id: nobody can order both, and nobody is to blame."""
    play = Play()
    play.waiting.waited, play.waiting.dead = 0.6, True
    assert play.run(1.5, 0.02) == []
    play.waiting.dead = False
    assert FAIR in play.run(5, 0.02)


def test_what_a_null_batch_passes_over_is_not_counted() -> None:
    """A primary that must fill numbers with NULL cannot order requests there."""
    play = Play()
    play.waiting.waited = 0.6
    assert FAIR not in play.run(5, 0.02, requests=0)


def test_a_load_that_became_heavier_costs_a_bounded_number_of_views() -> None:
    """What was the best weighs half after each view that was ended for it."""
    play = Play()
    play.run(5, 0.02)
    views = 0
    for view in range(1, 40):
        if view % 4 == 1:
            continue  # this replica's own view
        if not play.run(8, 0.4):
            break
        views += 1
        play.enter(view)
    assert 1 <= views <= 6
