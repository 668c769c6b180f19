"""Closed-loop load: callers that each wait for a result before they call again. Run as a process of its own, so that
its CPU is not a server's and a client without MACs can stand beside one with them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import trio

from pbft.apps.echo import echo
from pbft.benchmarks.norep import single_server, without_macs
from pbft.client import Client, ClientError
from pbft.config_file import ClusterConfig

WARM_UP = 0.3
"""Share of the measured seconds that runs before, unmeasured."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What one slice of load has seen."""

    operations: int
    seconds: float
    latencies_ms: tuple[float, float]
    """p50 and p99."""
    errors: int
    client_cpu_us: float
    server_cpu_s: float
    """CPU of the busiest server during the slice."""


async def server_cpu(config: ClusterConfig) -> list[float]:
    """CPU seconds used so far by every server, from its admin address."""
    used = []
    for replica in config.replicas:
        stream = await trio.open_tcp_stream(replica.admin.host, replica.admin.port)
        async with stream:
            line = b"".join([part async for part in stream])
        used.append(float(json.loads(line)["cpu_s"]))
    return used


async def measure(
    config: ClusterConfig, names: list[str], callers: int, draw: Callable[[], bytes], seconds: float
) -> Measured:
    """Spread `callers` over one client for each of `names`; measure for `seconds` after a warm-up. `draw()`: the next
    operation."""
    latencies: list[float] = []
    errors = 0
    measuring = stopping = False

    async def call(client: Client) -> None:
        nonlocal errors
        while not stopping:
            begun = time.perf_counter()
            try:
                await client.invoke(draw(), timeout=10.0)
            except ClientError:
                errors += 1
                continue
            if measuring:
                latencies.append(time.perf_counter() - begun)

    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client.connect(config, name=name)) for name in names]
        for client in clients:
            await client.wait_connected(len(config.replicas))
            await client.invoke(draw(), timeout=20.0)
        async with trio.open_nursery() as nursery:
            for i in range(callers):
                nursery.start_soon(call, clients[i % len(clients)])
            await trio.sleep(seconds * WARM_UP)
            before, cpu = await server_cpu(config), time.process_time()
            begun = time.perf_counter()
            measuring = True
            await trio.sleep(seconds)
            measuring = False
            elapsed = time.perf_counter() - begun
            after, cpu = await server_cpu(config), time.process_time() - cpu
            stopping = True
    count = len(latencies)
    if not count:
        raise SystemExit("no operation completed during the measurement")
    busiest = max(b - a for a, b in zip(before, after, strict=True))
    return Measured(count, elapsed, percentiles_ms(latencies), errors, cpu / count * 1e6, busiest)


def percentiles_ms(latencies: list[float]) -> tuple[float, float]:
    """p50 and p99 of latencies in seconds, at least one, in milliseconds."""
    ordered = sorted(latencies)
    count = len(ordered)
    return ordered[count // 2] * 1000, ordered[min(count - 1, count * 99 // 100)] * 1000


def main() -> int:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cluster", type=Path)
    parser.add_argument("--system", choices=("pbft", "norep", "norep+mac"), required=True)
    parser.add_argument("--callers", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--request-bytes", type=int, required=True)
    parser.add_argument("--reply-bytes", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args()
    config = ClusterConfig.load(args.cluster)
    if args.system != "pbft":
        config = single_server(config)
    if args.system == "norep":
        without_macs()
    names = [entry.name for entry in config.clients][: args.clients]
    nothing = args.request_bytes == args.reply_bytes == 0
    operation = echo(args.request_bytes if nothing else max(4, args.request_bytes), args.reply_bytes)
    measured = trio.run(measure, config, names, args.callers, lambda: operation, args.seconds)
    print(json.dumps(asdict(measured)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
