"""Disks that are lost while others are asked for operations, and machines that are replaced."""

from __future__ import annotations

import random
import shutil

import trio

from campaigns.common import Load, Row, cluster, look_at, progress, settle, start, total
from campaigns.primaries import milliseconds, vote_counts
from pbft.cli.children import Children
from pbft.config_file import ClusterConfig

BACK_WITHIN = 60.0


async def recovered(config: ClusterConfig, replica: int, seconds: float = BACK_WITHIN) -> float:
    """Until a replica says that it votes; how long that took, in seconds."""
    begun = trio.current_time()
    with trio.fail_after(seconds):
        while True:
            row = await look_at(config, replica, 0.2)
            if row["reachable"] and not row["recovering"] and row["incarnation"]:
                return trio.current_time() - begun
            await trio.sleep(0.05)


def lost_disks(rounds: int, callers: int = 32, seed: int = 1, **tunables: int) -> Row:
    """One replica after the other is killed and loses its data directory, under load and idle in turn; it comes back by
    itself and its vote counts. Nothing that was acknowledged is lost."""
    rng = random.Random(seed)
    load = Load()
    back: dict[bool, list[float]] = {True: [], False: []}
    rates: list[tuple[float, float]] = []

    async def lose(children: Children, config: ClusterConfig) -> int:
        victim = rng.randrange(len(config.replicas))
        children.kill(victim)
        shutil.rmtree(config.data_directory(victim))
        children.start(victim)
        return victim

    async def play(config: ClusterConfig, children: Children) -> Row:
        for turn in range(rounds):
            idle = bool(turn % 2)
            async with load.running(config, callers, timeout=10.0):
                await progress(load, 200, 30.0)
                if not idle:
                    first, begun = load.acknowledged, trio.current_time()
                    await trio.sleep(1.0)
                    before = (load.acknowledged - first) / (trio.current_time() - begun)
                    victim = await lose(children, config)
                    first, begun = load.acknowledged, trio.current_time()
                    back[False].append(await recovered(config, victim))
                    rates.append((before, (load.acknowledged - first) / (trio.current_time() - begun)))
                await load.end(30.0)
            if idle:
                victim = await lose(children, config)
                back[True].append(await recovered(config, victim))
            await vote_counts(config, children, victim)
        rows = await settle(config)
        counted = await total(config)
        load.check(counted)
        return {
            "rounds": rounds,
            "acknowledged": load.acknowledged,
            "unknown": load.unknown,
            "counter": counted,
            "votes_again_ms": {("idle" if k else "under_load"): milliseconds(v) for k, v in back.items() if v},
            "share_served_meanwhile": [round(during / before, 2) for before, during in rates],
            "incarnations": [row["incarnation"] for row in rows],
        }

    with cluster(**tunables) as config, Children(config) as children:
        start(children)
        return trio.run(play, config, children)
