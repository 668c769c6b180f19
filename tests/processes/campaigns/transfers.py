"""Large states that are lost, and how much has to travel until they are back."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from pathlib import Path

import trio

from campaigns.common import Load, Row, cluster, look, look_at, progress, settle, start, total
from campaigns.filled import fill
from campaigns.losses import recovered
from pbft.apps.counter import get
from pbft.cli.children import Children
from pbft.client import Client
from pbft.config_file import ClusterConfig

APP = f"{Path(__file__).with_name('filled.py')}:Filled"
_KEYS = 1000
"""That one operation fills."""


async def filled(config: ClusterConfig, keys: int, size: int = 1000, salt: int = 0, step: int = 1) -> None:
    """Give so many keys values."""
    async with Client.connect(config, name="bob") as client:
        for first in range(0, keys, _KEYS * step):
            last = min(keys, first + _KEYS * step)
            await client.invoke(fill(first, last, size, salt, step), timeout=60.0)


class Watch:
    """What a replica fetches, over all its lives, as its status tells."""

    def __init__(self) -> None:
        self.lives: list[int] = [0]

    async def run(self, config: ClusterConfig, replica: int) -> None:
        """Look again and again, until cancelled."""
        while True:
            row = await look_at(config, replica, 0.3)
            if row["reachable"]:
                self.lives[-1] = max(self.lives[-1], row["fetched_bytes"])
            await trio.sleep(0.1)

    def new_life(self) -> None:
        """Its replica was killed."""
        self.lives.append(0)


async def read(config: ClusterConfig, load: Load) -> None:
    """Again and again, until cancelled: never less than was acknowledged before."""
    async with Client.connect(config, name="bob") as client:
        while True:
            acknowledged = load.acknowledged
            assert int(await client.query(get(), timeout=60.0)) >= acknowledged
            await trio.sleep(0.05)


async def stall(children: Children, watch: Watch, fetched: int, seconds: float) -> None:
    """One of the sources stands still when so many bytes have come."""
    while sum(watch.lives) < fetched:
        await trio.sleep(0.02)
    pid = children.pid(2)
    os.kill(pid, signal.SIGSTOP)
    try:
        await trio.sleep(seconds)
    finally:
        os.kill(pid, signal.SIGCONT)


def lost_state(
    mib: int,
    kills: int = 0,
    liar: str = "",
    stalled: float = 0.0,
    callers: int = 16,
    seed: int = 1,
    seconds: float = 5.0,
    **tunables: int,
) -> Row:
    """A replica loses its disk with a large state, under load, and comes back; it is killed so often meanwhile. `liar`:
    how one of those who have the state misbehaves. `stalled`: seconds for which another one stands still when a tenth
    has come. Nothing is lost, the others serve meanwhile, and who reads gets nothing older than what was acknowledged
    before. `seconds`: how long it is measured what is served before."""
    rng = random.Random(seed)
    victim, liars = 3, ({1: liar} if liar else {})
    size = 1000
    keys = (mib << 20) // size

    async def play(config: ClusterConfig, children: Children) -> Row:
        load, watch = Load(), Watch()
        await filled(config, keys)
        filling = max(row["last_executed"] for row in await look(config))
        async with trio.open_nursery() as nursery, load.running(config, callers, timeout=60.0):
            await progress(load, 500, 60)
            with trio.fail_after(300):
                while min(row["retained_from"] for row in await look(config) if row["reachable"]) <= filling:
                    await trio.sleep(0.1)
            nursery.start_soon(read, config, load)
            first, begun = load.acknowledged, trio.current_time()
            await trio.sleep(seconds)
            before = (load.acknowledged - first) / (trio.current_time() - begun)
            busy = [0.0 if row["id"] == victim else row["cpu_s"] for row in await look(config)]
            children.kill(victim)
            shutil.rmtree(config.data_directory(victim))
            children.start(victim)
            nursery.start_soon(watch.run, config, victim)
            if stalled:
                nursery.start_soon(stall, children, watch, keys * size // 10, stalled)
            first, begun = load.acknowledged, trio.current_time()
            for _ in range(kills):
                await trio.sleep(rng.uniform(0.5, 2.5))
                if (row := await look_at(config, victim))["reachable"] and not row["recovering"]:
                    break
                await trio.sleep(0.3)  # a look that has begun ends
                children.kill(victim)
                watch.new_life()
                children.start(victim)
            await recovered(config, victim, 600)
            took = trio.current_time() - begun
            during = (load.acknowledged - first) / took
            busy = [round(row["cpu_s"] - then, 1) for row, then in zip(await look(config), busy, strict=True)]
            await trio.sleep(1.0)
            nursery.cancel_scope.cancel()
        rows = await settle(config, 60)
        load.check(await total(config))
        fetched = sum(watch.lives)
        assert fetched > 0.9 * keys * size, "the state did not travel"
        return {
            "state_mib": mib,
            "votes_again_s": round(took, 1),
            "fetched_mib": round(fetched / (1 << 20), 1),
            "fetched_over_state": round(fetched / (keys * size), 3),
            "lives": len(watch.lives),
            "rate_before": round(before),
            "share_served_meanwhile": round(during / before, 2),
            "cpu_s_meanwhile": busy,
            "lies": liar,
            "stalled_s": stalled,
            "acknowledged": load.acknowledged,
            "incarnations": [row["incarnation"] for row in rows],
        }

    # What filled the state is small in the log: only where that is gone does a state have to travel.
    short = {"retained_log_bytes": 1 << 16, "durable_checkpoint_bytes": 1 << 18}
    with cluster(app=APP, **(short | tunables)) as config, Children(config, adversaries=liars) as children:
        start(children)
        return trio.run(play, config, children)


def difference(keys: int, size: int = 1000) -> Row:
    """How much travels for a state of which so much is another: over the bytes of the keys and values that differ, and
    compared with the whole."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from test_transfer import Play, state_at

    whole = keys * (size + 10)
    table = {}
    for share in (0.0001, 0.001, 0.01, 0.1, 1.0):
        differing = max(1, round(keys * share))
        for how in ("scattered", "together"):
            base, target = state_at(0, keys), state_at(128, keys)
            chosen = random.Random(7).sample(range(keys), differing) if how == "scattered" else range(differing)
            target = state_at(128, keys, chosen=chosen)
            play = Play(target, base=base)
            assert play.run(target, 600.0) is not None
            assert play.here.progress is not None
            travelled = play.here.progress.fetched
            table[f"{share:.2%} {how}"] = {
                "keys": differing,
                "bytes": travelled,
                "over_difference": round(travelled / (differing * (size + 10)), 2),
                "over_whole": round(travelled / whole, 4),
                "seconds": round(play.now, 1),
            }
    return {"keys": keys, "whole_bytes": whole, "table": table}
