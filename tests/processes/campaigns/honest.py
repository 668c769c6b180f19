"""Honest primaries: under full load beside other work, without load, and without a quorum for a while."""

from __future__ import annotations

import os
import signal

import trio
from links import Links, proxied

from campaigns.busy import busy
from campaigns.common import Load, Row, cluster, free_ports, look, progress, serves, settle, start, total, views
from pbft.cli.children import Children
from pbft.config_file import ClusterConfig

LOOK_EVERY = 5.0
"""Seconds between two looks at the status of all, in the long campaigns."""


class Calm:
    """What the status said while nothing should happen."""

    def __init__(self, config: ClusterConfig) -> None:
        self._config = config
        self.views = 0
        self.suspicions = 0
        """Looks at which somebody suspected the primary or held it below the floor."""
        self.waited_ms = 0
        """Longest time that a request was seen to wait."""
        self.lag_ms = 0.0

    async def watch(self, seconds: float) -> None:
        """Look now and then for a while."""
        end = trio.current_time() + seconds
        while (left := end - trio.current_time()) > 0:
            await trio.sleep(min(left, LOOK_EVERY, max(0.2, seconds / 20)))
            rows = await look(self._config, 2.0)
            assert all(r["reachable"] for r in rows), rows
            self.views = max(self.views, views(rows))
            self.suspicions += any(r["suspects"] or r["blamed_for"] for r in rows)
            self.waited_ms = max(self.waited_ms, *(round(1000 * (r["request_waited_s"] or 0)) for r in rows))
            self.lag_ms = max(self.lag_ms, *(r["loop_lag_ms_max"] for r in rows))

    def row(self) -> Row:
        """For the report."""
        return {
            "view_changes": self.views,
            "looks_with_suspicion": self.suspicions,
            "request_waited_ms_max": self.waited_ms,
            "loop_lag_ms_max": self.lag_ms,
        }


def honest(seconds: float, cores: int = 1, callers: int = 64, **tunables: int) -> Row:
    """Full load while `cores` cores are kept busy by something else: nobody is replaced."""

    async def play(config: ClusterConfig) -> Row:
        load, calm = Load(), Calm(config)
        async with load.running(config, callers, timeout=30.0):
            await calm.watch(seconds)
            await load.end(40.0)
        load.check(await total(config))
        await settle(config, 30.0)
        return {
            "seconds": seconds,
            "busy_cores": cores,
            "acknowledged": load.acknowledged,
            "ops_per_s": round(load.acknowledged / seconds),
            "unknown": load.unknown,
            "longest_call_s": round(load.longest_call, 2),
            **calm.row(),
        }

    with cluster(**tunables) as config, Children(config) as children:
        start(children)
        with busy(cores):
            return trio.run(play, config)


def idle(seconds: float, **tunables: int) -> Row:
    """Nothing is asked: no view changes, nothing is ordered, and the next operation is served."""

    async def play(config: ClusterConfig) -> Row:
        calm = Calm(config)
        await serves(config, 10.0)
        before = max(r["last_executed"] for r in await settle(config))
        await calm.watch(seconds)
        after = max(r["last_executed"] for r in await settle(config))
        took = await serves(config, 10.0)
        cpu = [round(r["cpu_s"], 1) for r in await look(config)]
        return {
            "seconds": seconds,
            **calm.row(),
            "ordered_meanwhile": after - before,
            "next_operation_ms": round(took * 1000),
            "cpu_s": cpu,
        }

    with cluster(**tunables) as config, Children(config) as children:
        start(children)
        return trio.run(play, config)


def no_quorum(seconds: float, how: str = "stop", callers: int = 8, **tunables: int) -> Row:
    """Two of four stand still (`stop`) or are cut off from the other two (`cut`); healed: the first operation."""

    async def play(config: ClusterConfig, children: Children, links: Links) -> Row:
        load = Load()
        async with load.running(config, callers, timeout=5.0):
            await progress(load, 100, 30.0)
            _part(children, links, how, True)
            await trio.sleep(1.0)
            load.gaps.watch()
            await trio.sleep(seconds)
            meanwhile, before = load.gaps.completed, views(await look(config))
            _part(children, links, how, False)
            took = await progress(load, 1, 60.0)
            fresh = await serves(config, 60.0)
            await progress(load, 100, 60.0)
            await load.end(15.0)
        load.check(await total(config))
        rows = await settle(config, 30.0)
        assert len({r["view"] for r in rows}) == 1, rows
        return {
            "seconds": seconds,
            "how": how,
            "completed_without_quorum": meanwhile,
            "first_operation_ms": round(took * 1000),
            "operation_of_a_new_client_ms": round(fresh * 1000),
            "unknown": load.unknown,
            "longest_call_s": round(load.longest_call, 2),
            "views_when_healed": before,
            "views": views(rows),
        }

    async def run(config: ClusterConfig, links: Links) -> Row:
        async with proxied(links):
            with Children(config, peers=links.peers if how == "cut" else None) as children:
                await trio.to_thread.run_sync(start, children)
                return await play(config, children, links)

    with cluster(**tunables) as config:
        return trio.run(run, config, Links(config, free_ports(20) + 8))


def _part(children: Children, links: Links, how: str, apart: bool) -> None:
    """The third and the fourth replica leave or come back."""
    if how == "stop":
        for replica in (2, 3):
            os.kill(children.pid(replica), signal.SIGSTOP if apart else signal.SIGCONT)
    elif apart:
        links.split({2, 3})
    else:
        links.heal()
