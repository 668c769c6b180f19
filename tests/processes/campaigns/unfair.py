"""Primaries that are bad without being dead: one that ignores a client, slow ones; and honest ones beside noise."""

from __future__ import annotations

import os
import signal

import trio

from campaigns.busy import busy
from campaigns.common import Load, Row, cluster, look, progress, settle, start, total, views
from campaigns.primaries import milliseconds
from pbft.cli.children import Children
from pbft.config_file import ClusterConfig

HONEST_SECONDS = 5.0
"""Seconds for which an honest primary shows what is possible, before a slow one takes over."""


def _check(loads: list[Load], counted: int) -> None:
    """Exactly once, for callers of several clients together."""
    told = sum(load.acknowledged for load in loads)
    assert told <= counted <= told + sum(load.unknown for load in loads), counted


def fairness(rounds: int = 3, callers: int = 8, **tunables: int) -> Row:
    """Replica 0, the primary, ignores one client: how long that one's operation takes, while others are served.

    It draws its victim itself, so both clients of the cluster begin at the same moment; who is served later is it.
    """

    async def play(config: ClusterConfig) -> tuple[float, int]:
        loads = {name: Load() for name in ("alice", "bob")}
        async with (
            loads["alice"].running(config, callers, "alice", 30.0),
            loads["bob"].running(config, callers, "bob", 30.0),
        ):
            begun = trio.current_time()
            with trio.fail_after(30):
                while not all(load.acknowledged for load in loads.values()):
                    await trio.sleep(0.005)
            waited = trio.current_time() - begun
            others = max(load.acknowledged for load in loads.values())
            for load in loads.values():
                await progress(load, 100, 30.0)
            for load in loads.values():
                await load.end(40.0)
        counted = await total(config, "alice")
        _check(list(loads.values()), counted)
        await settle(config, ids=(1, 2, 3))
        return waited, others

    took, others = [], []
    for _ in range(rounds):
        with cluster(**tunables) as config, Children(config, adversaries={0: "censoring"}) as children:
            start(children)
            waited, served = trio.run(play, config)
            took.append(waited)
            others.append(served)
            view = views(trio.run(look, config))
            assert view == 1, f"one view change and no more; the view is {view}"
    return {
        "rounds": rounds,
        "request_timer_ms": config.group.tunables.view_timeout,
        "victims_operation_ms": milliseconds(took),
        "others_served_meanwhile": others,
    }


async def _evicted(config: ClusterConfig, view: int, seconds: float) -> float | None:
    """Until somebody is active in a view above this one; None if that does not come."""
    begun = trio.current_time()
    while trio.current_time() - begun < seconds:
        if any(r["reachable"] and r["view"] > view for r in await look(config, 2.0)):
            return trio.current_time() - begun
        await trio.sleep(0.05)
    return None


async def _slow_round(
    config: ClusterConfig, children: Children, seconds: float, callers: int, later: bool
) -> tuple[float | None, float]:
    """(seconds until a slow primary was replaced, operations a second while it was primary). `later`: it is the
    second one, after an honest one that resigns."""
    load = Load()
    async with load.running(config, callers, timeout=30.0):
        if later:
            await progress(load, 100, 30.0)
            await trio.sleep(HONEST_SECONDS)
            os.kill(children.pid(0), signal.SIGTERM)
            assert await _evicted(config, 0, 10.0) is not None
        load.gaps.watch()
        begun = trio.current_time()
        took = await _evicted(config, int(later), seconds)
        rate = load.gaps.completed / (trio.current_time() - begun)
        await load.end(40.0)
    load.check(await total(config))
    return took, rate


def _slow(name: str, later: bool, rounds: int, seconds: float, callers: int, tunables: dict[str, int]) -> Row:
    found = []
    for _ in range(rounds):
        adversaries = {int(later): name}
        with cluster(**tunables) as config, Children(config, adversaries=adversaries) as children:
            start(children)
            found.append(trio.run(_slow_round, config, children, seconds, callers, later))
    times = [took for took, _ in found if took is not None]
    return {
        "rounds": rounds,
        "replaced_in": len(times),
        "replaced_after_ms": milliseconds(times) if times else None,
        "ops_per_s_under_it": [round(rate) for _, rate in found],
    }


async def _honest_round(config: ClusterConfig, seconds: float, callers: int) -> tuple[int, float]:
    load = Load()
    async with load.running(config, callers, timeout=30.0):
        await trio.sleep(seconds)
        await load.end(40.0)
    load.check(await total(config))
    return views(await settle(config, 30.0)), load.acknowledged / seconds


def _noisy(rounds: int, seconds: float, callers: int, cores: int, tunables: dict[str, int]) -> Row:
    found = []
    for _ in range(rounds):
        with cluster(**tunables) as config, Children(config) as children:
            start(children)
            with busy(cores):
                found.append(trio.run(_honest_round, config, seconds, callers))
    return {
        "rounds": rounds,
        "busy_cores": cores,
        "minutes": round(rounds * seconds / 60, 2),
        "view_changes": sum(view for view, _ in found),
        "ops_per_s": [round(rate) for _, rate in found],
    }


def eviction_rates(rounds: int = 3, seconds: float = 15.0, callers: int = 32, cores: int = 1, **tunables: int) -> Row:
    """How often an honest primary on a noisy machine is replaced, and how often, and after how long, a slow one: from
    the beginning on, and after an honest one."""
    row: Row = {"seconds_per_round": seconds, "honest_beside_noise": _noisy(rounds, seconds, callers, cores, tunables)}
    for name in ("slow-primary", "delaying"):
        row[f"{name}_from_the_beginning"] = _slow(name, False, rounds, seconds, callers, tunables)
        row[f"{name}_after_an_honest_one"] = _slow(name, True, rounds, seconds, callers, tunables)
    return row
