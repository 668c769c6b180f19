"""Primaries that are killed: under load, two in a row, and everybody inside a view change."""

from __future__ import annotations

import os
import random
import signal
import statistics

import trio

from campaigns.common import Load, Row, calm, cluster, look, progress, serves, settle, start, total, views, voting
from pbft.cli.children import Children
from pbft.config_file import ClusterConfig

BACK_WITHIN = 30.0
"""Seconds after which a replica that was started again and does not vote, or a group that is not live, has failed. The
aim is 10; the figures say what it took."""

_CALL_ENDS = 15.0
"""Seconds within which each call must end; they are made with a shorter timeout."""


def milliseconds(seconds: list[float]) -> Row:
    """Median and worst."""
    return {"median": round(statistics.median(seconds) * 1000), "max": round(max(seconds) * 1000)}


async def vote_counts(config: ClusterConfig, children: Children, replica: int) -> None:
    """With another backup standing still nothing is ordered without the vote of `replica`: one operation proves it."""
    primary, _ = await calm(config)
    other = next(i for i in range(len(config.replicas)) if i not in (primary, replica))
    os.kill(children.pid(other), signal.SIGSTOP)
    try:
        await serves(config, BACK_WITHIN)
    finally:
        os.kill(children.pid(other), signal.SIGCONT)


async def _wait_for(load: Load, seconds: float) -> None:
    """The service has gone on for a while, so that the longest gap is over."""
    await progress(load, 100, 30.0)
    with trio.move_on_after(seconds):
        await progress(load, 1000, 30.0)


class KillPrimary:
    """Rounds of one campaign on one cluster."""

    def __init__(self, config: ClusterConfig, children: Children, callers: int, seed: int) -> None:
        self._config, self._children, self._callers = config, children, callers
        self._random = random.Random(seed)
        self.load = Load()
        self.gaps: list[float] = []
        self.views: list[int] = []
        """In which view the primary was killed: a step of two shows that the next view failed, too."""
        self.back: dict[str, list[float]] = {"under_load": [], "idle": []}

    async def round(self, idle: bool) -> None:
        """Load, SIGKILL, the gap; the dead one comes back under load or without any, and votes."""
        load = self.load
        async with load.running(self._config, self._callers, timeout=5.0):
            await progress(load, 100, 30.0)
            await trio.sleep(self._random.uniform(0.3, 1.0))
            victim, view = await calm(self._config)
            self.views.append(view)
            load.gaps.watch()
            os.kill(self._children.pid(victim), signal.SIGKILL)
            await _wait_for(load, 1.5)
            self.gaps.append(load.gaps.longest)
            await trio.to_thread.run_sync(self._children.kill, victim)  # reaps it
            if not idle:
                await self._back(victim, "under_load")
            await load.end(_CALL_ENDS)
        if idle:
            await self._back(victim, "idle")

    async def _back(self, victim: int, how: str) -> None:
        self._children.start(victim)
        self.back[how].append(await voting(self._config, victim, BACK_WITHIN))
        await vote_counts(self._config, self._children, victim)


def kill_primary(rounds: int, callers: int = 64, seed: int = 1, **tunables: int) -> Row:
    """SIGKILL of the primary under load, again and again: every call ends, exactly once; how long service is gone."""

    async def play(config: ClusterConfig, children: Children) -> Row:
        game = KillPrimary(config, children, callers, seed)
        for turn in range(rounds):
            await game.round(idle=turn % 2 == 1)
        counted = await total(config)
        game.load.check(counted)
        rows = await settle(config, 20.0)
        return {
            "rounds": rounds,
            "acknowledged": game.load.acknowledged,
            "unknown": game.load.unknown,
            "counter": counted,
            "request_timer_ms": config.group.tunables.view_timeout,
            "gap_ms": milliseconds(game.gaps),
            "gaps_ms": [round(gap * 1000) for gap in game.gaps],
            "longest_call_s": round(game.load.longest_call, 2),
            "votes_again_ms": {how: milliseconds(took) for how, took in game.back.items() if took},
            "killed_in_views": game.views,
            "views": views(rows),
        }

    with cluster(**tunables) as config, Children(config) as children:
        start(children)
        return trio.run(play, config, children)


def two_primaries(rounds: int = 2, callers: int = 16, seed: int = 1, **tunables: int) -> Row:
    """n = 7: SIGKILL of the primary and of the next one, in turn at the same moment and as soon as somebody has left
    the first one's view; both come back."""
    rng = random.Random(seed)

    async def play(config: ClusterConfig, children: Children) -> Row:
        load, gaps, back = Load(), [], []
        for turn in range(rounds):
            async with load.running(config, callers, timeout=10.0):
                await progress(load, 100, 30.0)
                await trio.sleep(rng.uniform(0.2, 0.6))
                first, view = await calm(config)
                second = (first + 1) % 7
                load.gaps.watch()
                await trio.to_thread.run_sync(children.kill, first)
                if turn % 2:
                    await _left(config, view)
                await trio.to_thread.run_sync(children.kill, second)
                await _wait_for(load, 1.0)
                gaps.append(load.gaps.longest)
                for victim in (first, second):
                    children.start(victim)
                back += [await voting(config, victim, BACK_WITHIN) for victim in (first, second)]
                await load.end(_CALL_ENDS)
        load.check(await total(config))
        return {
            "rounds": rounds,
            "acknowledged": load.acknowledged,
            "unknown": load.unknown,
            "request_timer_ms": config.group.tunables.view_timeout,
            "gaps_ms": [round(gap * 1000) for gap in gaps],
            "votes_again_ms": milliseconds(back),
            "views": views(await settle(config, 20.0)),
        }

    with cluster(7, **tunables) as config, Children(config) as children:
        start(children)
        return trio.run(play, config, children)


async def _left(config: ClusterConfig, view: int, seconds: float = 20.0) -> bool:
    """Until somebody has left a view; whether the view change is still under way there."""
    with trio.fail_after(seconds):
        while True:
            rows = [r for r in await look(config, 0.1) if r["reachable"]]
            if views(rows) > view:
                return all(r["view"] == view for r in rows)
            await trio.sleep(0.001)


def all_in_view_change(rounds: int, callers: int = 16, **tunables: int) -> Row:
    """All killed inside a view change, started again, and live. In every other round the next primary stands still, so
    that the view change surely is under way; in the others it goes as fast as it does."""

    async def begin_and_kill(config: ClusterConfig, children: Children, load: Load, hold: bool) -> bool:
        async with load.running(config, callers, timeout=5.0):
            await progress(load, 100, 30.0)
            first, view = await calm(config)
            if hold:
                os.kill(children.pid((first + 1) % 4), signal.SIGSTOP)
            os.kill(children.pid(first), signal.SIGKILL)
            inside = await _left(config, view)
            for replica in range(4):
                os.kill(children.pid(replica), signal.SIGKILL)
            await trio.sleep(0.05)
        return inside

    caught, live = 0, []
    load = Load()
    with cluster(**tunables) as config:
        for turn in range(rounds):
            with Children(config) as children:
                start(children)
                caught += trio.run(begin_and_kill, config, children, load, turn % 2 == 0)
            with Children(config) as children:
                children.start_all()
                live.append(trio.run(serves, config, BACK_WITHIN))
        with Children(config) as children:
            start(children)
            load.check(trio.run(total, config))
            rows = trio.run(settle, config)
    return {
        "rounds": rounds,
        "caught_inside": caught,
        "acknowledged": load.acknowledged,
        "unknown": load.unknown,
        "live_after_ms": milliseconds(live),
        "views": views(rows),
    }
