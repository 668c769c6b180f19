"""Large states: how long a restart takes, how much memory a replica needs, what a checkpoint of little costs."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import trio

from campaigns.common import Load, Row, cluster, look, memory, progress, settle, start, total, voting
from campaigns.transfers import APP, filled
from pbft.admin import CHECKPOINT
from pbft.cli.children import Children
from pbft.config_file import ClusterConfig


def most_memory(pid: int) -> int:
    """The most resident bytes that a process has had."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) << 10


async def restarted(config: ClusterConfig, children: Children, replica: int, how: signal.Signals) -> float:
    """Seconds from the start of a process until its replica votes."""
    os.kill(children.pid(replica), how)
    with trio.fail_after(60):
        while replica not in children.dead():
            await trio.sleep(0.02)
    begun = trio.current_time()
    children.start(replica)
    await voting(config, replica, 600)
    return trio.current_time() - begun


async def on_disk(config: ClusterConfig, replica: int, seconds: float) -> None:
    """Until the state that is stable now is durable there."""
    admin, folder = config.replicas[replica].admin, config.data_directory(replica)
    wanted = int((await look(config))[replica]["stable_checkpoint"])
    with trio.fail_after(seconds):
        while max((int(p.name[-20:]) for p in folder.glob("checkpoint-*[0-9]")), default=0) < wanted:
            async with await trio.open_tcp_stream(admin.host, admin.port) as stream:
                await stream.receive_some(1)
                await stream.send_all(CHECKPOINT)
            await trio.sleep(0.1)


def large_state(mib: int, size: int = 1000, callers: int = 16, operations: int = 2000, **tunables: int) -> Row:
    """A replica restarts with a state of so many MiB: after a crash and in order, after little history and after ten
    times as much."""

    async def play(config: ClusterConfig, children: Children) -> Row:
        load = Load()
        begun = trio.current_time()
        await filled(config, (mib << 20) // size, size)
        filling = trio.current_time() - begun
        times: dict[str, dict[str, float]] = {}
        peaks = []
        for name, more in (("short", operations), ("ten_times", 9 * operations)):
            async with load.running(config, callers, timeout=60.0):
                await progress(load, more, 600)
                await load.end(60)
            await on_disk(config, 3, 300)
            times[name] = {}
            for how in (signal.SIGTERM, signal.SIGKILL):
                peaks.append(most_memory(children.pid(3)))
                times[name][how.name] = round(await restarted(config, children, 3, how), 1)
        peaks.append(most_memory(children.pid(3)))
        rows = await settle(config, 60)
        load.check(await total(config))
        files = [p.stat().st_size for p in config.data_directory(3).glob("checkpoint-*[0-9]")]
        return {
            "state_mib": mib,
            "keys": (mib << 20) // size,
            "filling_s": round(filling, 1),
            "restart_s": times,
            "memory_most_mib": [peak >> 20 for peak in peaks],
            "memory_now_mib": [memory(children.pid(i)) >> 20 for i in range(4)],
            "checkpoint_files": len(files),
            "checkpoint_mib": sum(files) >> 20,
            "acknowledged": load.acknowledged,
            "executed": rows[0]["last_executed"],
        }

    with cluster(app=APP, **tunables) as config, Children(config) as children:
        start(children)
        return trio.run(play, config, children)


def sparse_checkpoint(keys: int, size: int = 64, seconds: float = 20.0, callers: int = 32, **tunables: int) -> Row:
    """A state of very many small keys of which hardly any change: what is served with checkpoints and without, how long
    the event loop is held, how long a durable one takes to appear."""

    async def play(config: ClusterConfig, children: Children) -> Row:
        load = Load()
        begun = trio.current_time()
        await filled(config, keys, size)
        filling = trio.current_time() - begun
        async with load.running(config, callers, timeout=600.0):
            await progress(load, 500, 900)  # the first checkpoint hashes everything
            await trio.sleep(12)  # longer than a replica remembers how long its loop was held
            before = int((await look(config))[0]["stable_checkpoint"])
            first, begun = load.acknowledged, trio.current_time()
            await trio.sleep(seconds)
            rate = (load.acknowledged - first) / (trio.current_time() - begun)
            rows = [row for row in await look(config, 10.0) if row["reachable"]]
            durable = 0.0
            if int(rows[0]["stable_checkpoint"]):
                begun = trio.current_time()
                await on_disk(config, 0, 900)
                durable = trio.current_time() - begun
                begun = trio.current_time()
                await on_disk(config, 0, 900)
            await load.end(60)
        return {
            "filling_s": round(filling, 1),
            "ops_per_s": round(rate),
            "checkpoints": (int(rows[0]["stable_checkpoint"]) - before) // config.group.tunables.checkpoint_interval,
            "loop_held_ms_most": max(row["loop_lag_ms_max"] for row in rows),
            "durable_s": round(durable, 1),
            "durable_again_s": round(trio.current_time() - begun, 1) if durable else 0.0,
            "memory_mib": [memory(children.pid(i)) >> 20 for i in range(4)],
        }

    found: Row = {"keys": keys}
    for name, interval in (("with", 128), ("without", 16384)):
        numbers = {"checkpoint_interval": interval, "log_window": 2 * interval, **tunables}
        with cluster(app=APP, **numbers) as config, Children(config) as children:
            start(children)
            found[name] = trio.run(play, config, children)
            print(name, found[name], file=sys.stderr)
    return found | {"ratio": round(found["with"]["ops_per_s"] / found["without"]["ops_per_s"], 3)}
