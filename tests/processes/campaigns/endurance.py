"""Full load for long, and kills at random: what grows, and whether it stops growing."""

from __future__ import annotations

import random
import statistics
from pathlib import Path
from typing import NamedTuple

import trio

from campaigns.common import Load, Row, cluster, memory, progress, settle, start, total
from pbft.cli.children import Children
from pbft.config_file import ClusterConfig
from pbft.storage.wal import SEGMENT_BYTES


class Sample(NamedTuple):
    """What the replicas hold at one time."""

    second: float
    disk: tuple[int, ...]
    """Bytes in the data directory of each."""
    memory: tuple[int, ...]
    """Resident bytes of each; 0 while it is down."""
    acknowledged: int


def on_disk(folder: Path) -> int:
    """Bytes in a data directory; files that go meanwhile do not count."""
    found = 0
    for path in folder.iterdir():
        try:
            found += path.stat().st_size
        except OSError:
            continue
    return found


def _resident(children: Children, replica: int) -> int:
    try:
        return memory(children.pid(replica))
    except OSError:
        return 0


def endurance(
    seconds: float, callers: int = 64, seed: int = 1, plot: str = "", every: float = 10.0, **tunables: int
) -> Row:
    """Nothing acknowledged is lost, no call is executed twice, and in the last third of the time the replicas hold no
    more than in the one before, but for a quarter and a segment of the log. `every`: seconds between two kills, about.
    What is kept for others, and how much is logged between two states on disk, is little: else they would level off
    only after hours."""
    rng = random.Random(seed)
    samples: list[Sample] = []
    kills = 0

    async def play(config: ClusterConfig, children: Children) -> Row:
        nonlocal kills
        load = Load()
        folders = [config.data_directory(i) for i in range(4)]
        begun = trio.current_time()

        async def look() -> None:
            while True:
                samples.append(
                    Sample(
                        trio.current_time() - begun,
                        tuple(on_disk(folder) for folder in folders),
                        tuple(_resident(children, i) for i in range(4)),
                        load.acknowledged,
                    )
                )
                await trio.sleep(min(2.0, seconds / 60))

        async with load.running(config, callers, timeout=30.0):
            await progress(load, 100, 30)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(look)
                while trio.current_time() - begun < seconds:
                    await trio.sleep(rng.uniform(0.5, 1.5) * every)
                    victim = rng.randrange(4)
                    children.kill(victim)
                    kills += 1
                    await trio.sleep(rng.uniform(0.0, 0.1) * every)
                    children.start(victim)
                    await progress(load, 100, 60)
                nursery.cancel_scope.cancel()
            await load.end(60)
        rows = await settle(config, 60)
        counted = await total(config)
        load.check(counted)
        if plot:
            draw(samples, Path(plot))
        thirds = {name: _thirds(samples, name) for name in ("disk", "memory")}
        for name, (_, middle, last) in thirds.items():
            assert last <= 1.25 * middle + SEGMENT_BYTES, f"{name} grows: {middle >> 20} to {last >> 20} MiB"
        return {
            "seconds": round(trio.current_time() - begun),
            "kills": kills,
            "acknowledged": load.acknowledged,
            "unknown": load.unknown,
            "counter": counted,
            "ops_per_s": round(load.acknowledged / (trio.current_time() - begun)),
            "last_executed": rows[0]["last_executed"],
            "disk_mib_in_thirds": [value >> 20 for value in thirds["disk"]],
            "memory_mib_in_thirds": [value >> 20 for value in thirds["memory"]],
            "disk_mib_most": max(max(s.disk) for s in samples) >> 20,
            "memory_mib_most": max(max(s.memory) for s in samples) >> 20,
        }

    little = {"retained_log_bytes": 4 << 20, "durable_checkpoint_bytes": 4 << 20}
    with cluster(**(little | tunables)) as config, Children(config) as children:
        start(children)
        return trio.run(play, config, children)


def _thirds(samples: list[Sample], name: str) -> tuple[int, int, int]:
    """The largest median of any replica in each third of the time."""
    size = len(samples) // 3
    parts = [samples[i * size : (i + 1) * size] for i in range(3)]
    first, middle, last = (max(_median(part, name, i) for i in range(4)) for part in parts)
    return first, middle, last


def _median(part: list[Sample], name: str, replica: int) -> int:
    values = [getattr(sample, name)[replica] for sample in part]
    return int(statistics.median([value for value in values if value] or [0]))


def draw(samples: list[Sample], path: Path) -> None:
    """Disk and memory of each replica over time."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 1, sharex=True, figsize=(8, 6))
    for axis, name in zip(axes, ("disk", "memory"), strict=True):
        for replica in range(4):
            axis.plot([s.second for s in samples], [getattr(s, name)[replica] / (1 << 20) for s in samples])
        axis.set_ylabel(f"{name}, MiB")
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("seconds under load; kills at random")
    figure.savefig(path, dpi=120)
    plt.close(figure)
