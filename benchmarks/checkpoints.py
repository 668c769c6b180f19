"""`pbft bench checkpoints`: what a checkpoint of a large state costs when little of it changed. DESIGN "State".

Two clusters side by side hold the same keys; one computes a checkpoint every K batches, the other practically never.
They are loaded in turn, slice by slice, with writes to a few hot keys.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from pbft.application import Context
from pbft.apps import kv
from pbft.benchmarks.load import measure as measure_load
from pbft.benchmarks.systems import System, running, start_cluster
from pbft.cli.status import ask_all
from pbft.client import BlockingClient

APP = "pbft.benchmarks.checkpoints:FilledStore"
NEVER = 32768
_WARM_UP = 12.0
"""Seconds: longer than a replica remembers how long its event loop was held."""

_FILL = b"\xfffill "

Row = dict[str, Any]


class FilledStore(kv.KeyValue):
    """The key-value store with one more operation, which fills it: sending 100,000 puts would take a minute."""

    def execute(self, operation: bytes, context: Context) -> bytes:
        """`\\xfffill N`, or what the store does."""
        if not operation.startswith(_FILL):
            return super().execute(operation, context)
        for number in range(int(operation.removeprefix(_FILL))):
            self.state[_key(number)] = b"%064d" % number
        return b""


def _key(number: int) -> bytes:
    return b"key %08d" % number


def measure(
    keys: int, hot: int, callers: int, pairs: int, seconds: float, base_port: int, progress: Callable[[str], None]
) -> list[Row]:
    """One row a slice, alternately with and without checkpoints."""
    draw = random.Random(1)
    with tempfile.TemporaryDirectory(prefix="pbft-bench-") as folder:
        base = Path(folder)
        on = start_cluster(base / "on", n=4, base_port=base_port, clients=1, durable=False, app=APP)
        off = start_cluster(
            base / "off", n=4, base_port=base_port + 40, clients=1, durable=False, app=APP,
            checkpoint_interval=NEVER, log_window=2 * NEVER,
        )  # fmt: skip
        rows: list[Row] = []
        with running([on, off]):
            for system in (on, off):
                progress(f"filling a store with {keys} keys")
                with BlockingClient(system.config) as client:
                    client.invoke(_FILL + b"%d" % keys, timeout=60.0)

            def write() -> bytes:
                return kv.put(_key(draw.randrange(hot) * (keys // hot)), b"%064d" % draw.randrange(10**9))

            for system in (on, off):  # the first checkpoint hashes everything; it is not what is measured here
                progress("warming up")
                trio.run(measure_load, system.config, ["client-0"], callers, write, _WARM_UP)
            for number in range(pairs):
                for system in (on, off):
                    progress(f"pair {number + 1} of {pairs}, checkpoints {'on' if system is on else 'off'}")
                    rows.append(_row(system, system is on, keys, hot, callers, seconds, write))
    return rows


def _row(
    system: System, checkpoints: bool, keys: int, hot: int, callers: int, seconds: float, write: Callable[[], bytes]
) -> Row:
    before = _number(ask_all(system.config, 2.0)[0]["stable_checkpoint"])
    load = trio.run(measure_load, system.config, ["client-0"], callers, write, seconds)
    rows = ask_all(system.config, 2.0)
    interval = system.config.group.tunables.checkpoint_interval
    return {
        "bench": "checkpoints",
        "system": "pbft",
        "n": system.n,
        "clients": 1,
        "callers": callers,
        "keys": keys,
        "hot_keys": hot,
        "checkpoints": (_number(rows[0]["stable_checkpoint"]) - before) // interval if checkpoints else 0,
        "operations": load.operations,
        "seconds": round(load.seconds, 3),
        "ops_per_s": round(load.operations / load.seconds, 1),
        "p50_ms": round(load.latencies_ms[0], 3),
        "p99_ms": round(load.latencies_ms[1], 3),
        "server_cpu_us_per_op": round(load.server_cpu_s / load.operations * 1e6, 2),
        "loop_lag_ms_max": max(_number(r["loop_lag_ms_max"]) for r in rows),
        "durable": False,
        "profile": "mac",
        "errors": load.errors,
    }


def _number(value: object) -> Any:
    return value if isinstance(value, (int, float)) else 0


def summary(rows: list[Row]) -> list[str]:
    """The ratio of the medians, and how long the event loop was held at most."""
    on = [r for r in rows if r["checkpoints"]]
    off = [r for r in rows if not r["checkpoints"]]
    if not on or not off:
        return ["no checkpoint was taken: longer slices are needed"]
    with_, without = (statistics.median(r["ops_per_s"] for r in side) for side in (on, off))
    lines = [
        f"throughput with checkpoints: {with_ / without:.3f} of that without ({with_:,.0f} and {without:,.0f} ops/s)"
    ]
    lines.append(f"checkpoints taken in a slice: {statistics.median(r['checkpoints'] for r in on):.0f}")
    held, baseline = (max(r["loop_lag_ms_max"] for r in side) for side in (on, off))
    lines.append(f"the event loop was held for {held:.0f} ms at most, {baseline:.0f} ms without checkpoints")
    return lines
