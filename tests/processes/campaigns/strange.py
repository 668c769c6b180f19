"""Replicas that misbehave, and strangers that connect."""

from __future__ import annotations

import random

import trio

from campaigns.common import Load, Row, cluster, memory, settle, start, total, views
from pbft.cli.children import Children
from pbft.config_file import ClusterConfig


def adversary(name: str, seconds: float, callers: int = 32, liar: int = 3) -> Row:
    """One replica misbehaves for a while under load; results stay right, the others' memory flat. Replica 0 is the
    first primary."""
    others = tuple(i for i in range(4) if i != liar)

    async def play(config: ClusterConfig, children: Children) -> Row:
        load = Load()
        samples: list[list[int]] = []
        async with load.running(config, callers):
            end = trio.current_time() + seconds
            await trio.sleep(min(2.0, seconds / 3))
            while trio.current_time() < end:
                samples.append([memory(children.pid(i)) for i in others])
                await trio.sleep(max(0.2, seconds / 20))
        rows = await settle(config, ids=others)
        load.check(await total(config))
        refused: dict[str, int] = {}
        for row in rows:
            for kind, count in row["counters"].items():
                if kind.startswith(f"{liar}:") and not kind.endswith("below-window"):
                    refused[kind] = refused.get(kind, 0) + count
        return {
            "adversary": name,
            "seconds": seconds,
            "acknowledged": load.acknowledged,
            "outvoted": load.outvoted,
            "refused_from_it": refused,
            "memory_mib_first": [m >> 20 for m in samples[0]],
            "memory_mib_middle": [m >> 20 for m in samples[len(samples) // 2]],
            "memory_mib_last": [m >> 20 for m in samples[-1]],
            "views": views(rows),
            "loop_lag_ms_max": [row["loop_lag_ms_max"] for row in rows],
        }

    with cluster(retained_log_bytes=1 << 20) as config, Children(config, adversaries={liar: name}) as children:
        start(children)
        return trio.run(play, config, children)


def strangers(idle: int, seconds: float, callers: int = 16) -> Row:
    """A TCP client that spews garbage, and many connections that say nothing, at every replica; service goes on."""

    async def garbage(host: str, port: int) -> None:
        rng = random.Random(port)
        while True:
            try:
                stream = await trio.open_tcp_stream(host, port)
                async with stream:
                    for _ in range(20):
                        await stream.send_all(rng.randbytes(1000))
                        await trio.sleep(0.01)
            except OSError:
                await trio.sleep(0.05)
            except trio.BrokenResourceError:
                continue

    async def play(config: ClusterConfig) -> Row:
        load = Load()
        async with load.running(config, callers):
            await trio.sleep(seconds / 2)
            before = load.acknowledged
            sockets = []
            async with trio.open_nursery() as nursery:
                for replica in config.replicas:
                    nursery.start_soon(garbage, replica.address.host, replica.address.port)
                for i in range(idle):
                    address = config.replicas[i % 4].address
                    try:
                        sockets.append(await trio.open_tcp_stream(address.host, address.port))
                    except OSError:
                        await trio.sleep(0.01)
                first = load.acknowledged
                await trio.sleep(seconds)
                during = load.acknowledged - first
                for stream in sockets:
                    await stream.aclose()
                nursery.cancel_scope.cancel()
        load.check(await total(config))
        return {
            "idle_connections": len(sockets),
            "ops_per_s_before": round(before / (seconds / 2)),
            "ops_per_s_with_them": round(during / seconds),
        }

    with cluster() as config, Children(config) as children:
        start(children)
        return trio.run(play, config)
