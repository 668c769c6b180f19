"""All replicas killed under load, and a backup that goes away."""

from __future__ import annotations

import os
import random
import signal

import trio

from campaigns.common import Load, Row, cluster, progress, settle, start, total
from pbft.cli.children import Children
from pbft.config_file import ClusterConfig


def kill_all(rounds: int, callers: int = 32, seed: int = 1) -> Row:
    """SIGKILL of all replicas at random instants under load, then a restart; again and again."""
    rng = random.Random(seed)
    load = Load()
    small = {"durable_checkpoint_interval": 1, "durable_checkpoint_bytes": 1 << 20, "retained_log_bytes": 1 << 20}

    async def round_of(config: ClusterConfig, children: Children) -> None:
        async with load.running(config, callers, timeout=2.0):
            await trio.sleep(rng.uniform(0.3, 1.5))
            for replica in rng.sample(range(4), 4):
                os.kill(children.pid(replica), signal.SIGKILL)
            await trio.sleep(0.05)

    with cluster(**small) as config:
        for _ in range(rounds):
            with Children(config) as children:
                start(children)
                trio.run(round_of, config, children)
        with Children(config) as children:
            start(children)
            counted = trio.run(total, config)
            rows = trio.run(settle, config)
    load.check(counted)
    return {
        "rounds": rounds,
        "acknowledged": load.acknowledged,
        "unknown": load.unknown,
        "counter": counted,
        "last_executed": rows[0]["last_executed"],
    }


def kill_one(rounds: int, callers: int = 16, seed: int = 1) -> Row:
    """One replica is killed again and again under load, where every fifth batch makes a checkpoint and each stable one
    may go to disk: no kill is far from one. What it executes again after each start comes to the same state."""
    rng = random.Random(seed)
    small = {"checkpoint_interval": 5, "log_window": 10, "durable_checkpoint_interval": 1}
    small |= {"durable_checkpoint_bytes": 1 << 16, "retained_log_bytes": 1 << 16, "view_timeout": 2000}

    async def play(config: ClusterConfig, children: Children) -> Row:
        load = Load()
        stable = set()
        for number in range(rounds):
            victim = number % 4 if number % 5 == 4 else 2
            async with load.running(config, callers, timeout=20.0):
                await progress(load, 50, 60)
                await trio.sleep(rng.uniform(0.0, 0.3))
                children.kill(victim)
                children.start(victim)
                await progress(load, 50, 60)
                await load.end(30)
            rows = await settle(config, 30)
            stable.add(rows[victim]["stable_checkpoint"])
        load.check(await total(config))
        rows = await settle(config, 30)
        texts = [children.log_file(i).read_text() for i in range(4)]
        assert not any("Traceback" in text or "differs" in text for text in texts)
        assert {row["incarnation"] for row in rows} == {0}, "nothing was taken for lost"
        return {
            "kills": rounds,
            "acknowledged": load.acknowledged,
            "unknown": load.unknown,
            "last_executed": rows[0]["last_executed"],
            "stable_checkpoints_seen": len(stable),
        }

    with cluster(**small) as config, Children(config) as children:
        start(children)
        return trio.run(play, config, children)


def backup_gone(seconds: float, callers: int = 64, how: str = "kill") -> Row:
    """One backup is stopped (SIGSTOP) or killed under load; throughput goes on; it comes back and catches up."""

    async def play(config: ClusterConfig, children: Children) -> Row:
        load = Load()
        async with load.running(config, callers):
            await trio.sleep(1.0)
            first = load.acknowledged
            await trio.sleep(seconds / 2)
            before = (load.acknowledged - first) / (seconds / 2)
            if how == "stop":
                os.kill(children.pid(2), signal.SIGSTOP)
            else:
                children.kill(2)
            first = load.acknowledged
            await trio.sleep(seconds)
            during = (load.acknowledged - first) / seconds
        missed = (await settle(config, ids=(0, 1, 3)))[0]["last_executed"]
        begun = trio.current_time()
        if how == "stop":
            os.kill(children.pid(2), signal.SIGCONT)
        else:
            children.start(2)
        await settle(config, 20.0)
        took = trio.current_time() - begun
        load.check(await total(config))
        return {
            "ops_per_s_before": round(before),
            "ops_per_s_without_it": round(during),
            "last_executed": missed,
            "catch_up_s": round(took, 2),
        }

    with cluster() as config, Children(config) as children:
        start(children)
        return trio.run(play, config, children)
