"""`pbft bench normal`: the normal case against NO-REP, in one run, slice by slice in turn. [CL99 §7.1]

Every case is measured in several rounds, so that a moment's noise on the machine falls on one slice of many. A row
tells the median over its slices, its ratios are medians of the ratios within one round, and `ops_per_s_min` and
`ops_per_s_max` show how far the slices lie apart.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pbft.benchmarks.systems import System, running, start_cluster, start_norep

Row = dict[str, Any]

_MEASURED = (
    *("ops_per_s", "p50_ms", "p99_ms", "server_cpu_us_per_op", "client_cpu_us_per_op"),
    *("throughput_ratio", "cpu_ratio", "latency_ratio"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `separate`: also with one client proxy per caller."""

    n: int = 4
    callers: tuple[int, ...] = (1, 16, 64, 256)
    sizes: tuple[tuple[int, int], ...] = ((0, 0), (4096, 0), (0, 4096))
    seconds: float = 2.0
    rounds: int = 3
    """Slices of each case; what is told is their median."""
    separate: bool = True
    durable: bool = True
    base_port: int = 7800


def cases(plan: Plan) -> list[tuple[int, int, int, int]]:
    """(clients, callers, request bytes, reply bytes); with large bytes only one shared proxy is measured."""
    found = [(1, callers, *size) for size in plan.sizes for callers in plan.callers]
    if plan.separate:
        found += [(callers, callers, 0, 0) for callers in plan.callers if callers > 1]
    return found


def measure(plan: Plan, progress: Callable[[str], None]) -> list[Row]:
    """All rows. The systems stand side by side and are loaded one at a time, so each case is paired."""
    most = max(plan.callers) if plan.separate else 1
    with tempfile.TemporaryDirectory(prefix="pbft-bench-") as folder:
        base, port = Path(folder), plan.base_port
        systems = [
            start_norep(base / "norep", base_port=port, clients=most, macs=False),
            start_norep(base / "norep-mac", base_port=port + 10, clients=most, macs=True),
            start_cluster(base / "volatile", n=plan.n, base_port=port + 20, clients=most, durable=False),
        ]
        if plan.durable:
            systems.append(start_cluster(base / "durable", n=plan.n, base_port=port + 60, clients=most, durable=True))
        slices: list[Row] = []
        with running(systems):
            for turn, (clients, callers, request_bytes, reply_bytes) in _turns(plan):
                for system in systems:
                    progress(f"round {turn} of {plan.rounds}, {system.name}{' durable' if system.durable else ''}: "
                             f"{callers} callers, {clients} proxies, {request_bytes}/{reply_bytes} bytes")  # fmt: skip
                    row = _row(system, plan, clients, callers, request_bytes, reply_bytes)
                    slices.append(row | {"round": turn})
    return combined(with_ratios(slices))


def _turns(plan: Plan) -> list[tuple[int, tuple[int, int, int, int]]]:
    """All cases, round after round: the slices of one case lie far apart in time."""
    return [(turn, case) for turn in range(1, plan.rounds + 1) for case in cases(plan)]


def _row(system: System, plan: Plan, clients: int, callers: int, request_bytes: int, reply_bytes: int) -> Row:
    measured: Row = system.load(
        callers=callers, clients=clients, request_bytes=request_bytes, reply_bytes=reply_bytes, seconds=plan.seconds
    )
    operations = measured["operations"]
    return {
        "bench": "normal",
        "system": system.name,
        "n": system.n,
        "clients": clients,
        "callers": callers,
        "request_bytes": request_bytes,
        "reply_bytes": reply_bytes,
        "operations": operations,
        "seconds": round(measured["seconds"], 3),
        "ops_per_s": round(operations / measured["seconds"], 1),
        "p50_ms": round(measured["latencies_ms"][0], 3),
        "p99_ms": round(measured["latencies_ms"][1], 3),
        "server_cpu_us_per_op": round(measured["server_cpu_s"] / operations * 1e6, 2),
        "client_cpu_us_per_op": round(measured["client_cpu_us"], 2),
        "durable": system.durable,
        "profile": "mac",
        "errors": measured["errors"],
    }


def with_ratios(slices: list[Row]) -> list[Row]:
    """Each slice of the cluster with its ratios to `norep+mac` in the same case and round."""
    base = {(_case(s), s["round"]): s for s in slices if s["system"] == "norep+mac"}
    found = []
    for row in slices:
        other = base.get((_case(row), row["round"]))
        if other is not None and row["system"] == "pbft":
            row = row | {
                "throughput_ratio": round(row["ops_per_s"] / other["ops_per_s"], 3),
                "cpu_ratio": round(row["server_cpu_us_per_op"] / max(other["server_cpu_us_per_op"], 0.01), 2),
                "latency_ratio": round(row["p50_ms"] / other["p50_ms"], 2),
            }
        found.append(row)
    return found


def combined(slices: list[Row]) -> list[Row]:
    """One row for each system and case: sums of what was counted, medians of what was measured."""
    together: dict[tuple[object, ...], list[Row]] = {}
    for row in slices:
        together.setdefault((row["system"], row["durable"], _case(row)), []).append(row)
    return [_median(found) for found in together.values()]


def _median(slices: list[Row]) -> Row:
    row = {name: value for name, value in slices[0].items() if name != "round"}
    row |= {name: sum(s[name] for s in slices) for name in ("operations", "seconds", "errors")}
    for name in _MEASURED:
        if name in row:
            row[name] = round(statistics.median(s[name] for s in slices), 3)
    rates = [s["ops_per_s"] for s in slices]
    return row | {"rounds": len(slices), "ops_per_s_min": min(rates), "ops_per_s_max": max(rates)}


def _case(row: Row) -> tuple[int, ...]:
    return row["clients"], row["callers"], row["request_bytes"], row["reply_bytes"]


def summary(rows: list[Row]) -> list[str]:
    """The ratios that this benchmark is for, one sentence each."""

    def find(system: str, durable: bool, clients: int, callers: int) -> Row | None:
        want = {"system": system, "durable": durable, "clients": clients, "callers": callers}
        zero = [r for r in rows if r["request_bytes"] == r["reply_bytes"] == 0]
        return next((r for r in zero if all(r[k] == v for k, v in want.items())), None)

    lines = []
    most = max(r["callers"] for r in rows)
    volatile, durable = find("pbft", False, 1, most), find("pbft", True, 1, most)
    norep, sixteen = find("norep+mac", False, 1, most), find("pbft", False, 1, 16)
    if volatile and norep:
        lines.append(
            f"server CPU per operation, {most} callers on one proxy, volatile: {volatile['cpu_ratio']:.2f} x NO-REP "
            f"with MACs, the median of {volatile['rounds']} rounds"
        )
    if volatile and sixteen and most > 16:
        lines.append(f"throughput of {most} callers: {volatile['ops_per_s'] / sixteen['ops_per_s']:.2f} x that of 16")
    if volatile and durable:
        lines.append(
            f"durable throughput at {most} callers: {durable['ops_per_s'] / volatile['ops_per_s']:.0%} of volatile"
        )
    one, separate = find("pbft", False, 1, 1), find("pbft", False, most, most)
    if one:
        lines.append(f"one caller: latency {one['latency_ratio']:.2f} x NO-REP's")
    if separate:
        lines.append(
            f"{most} callers with a proxy each: {separate['ops_per_s']:,.0f} operations a second, "
            f"{separate['throughput_ratio']:.2f} x NO-REP's, server CPU {separate['cpu_ratio']:.2f} x"
        )
    return lines
