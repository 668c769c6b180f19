"""`pbft bench normal`: what its rows and sentences tell of the slices."""

from __future__ import annotations

from typing import Any

import pytest

from pbft.benchmarks.normal import combined, summary, with_ratios


def a_slice(system: str, turn: int, **fields: Any) -> dict[str, Any]:
    """One slice; 1,000 operations in a second unless told otherwise."""
    row = {
        "bench": "normal", "system": system, "n": 4, "clients": 1, "callers": 256, "request_bytes": 0,
        "reply_bytes": 0, "operations": 1000, "seconds": 1.0, "ops_per_s": 1000.0, "p50_ms": 1.0, "p99_ms": 2.0,
        "server_cpu_us_per_op": 5.0, "client_cpu_us_per_op": 5.0, "durable": False, "profile": "mac", "errors": 0,
        "round": turn,
    }  # fmt: skip
    return row | fields


def test_a_slice_is_compared_with_that_of_its_own_round() -> None:
    """The machine is half as fast in the second round, for both."""
    slices = [
        a_slice("norep+mac", 1, server_cpu_us_per_op=4.0),
        a_slice("pbft", 1, server_cpu_us_per_op=8.0),
        a_slice("norep+mac", 2, server_cpu_us_per_op=8.0),
        a_slice("pbft", 2, server_cpu_us_per_op=16.0),
    ]
    assert [s["cpu_ratio"] for s in with_ratios(slices) if s["system"] == "pbft"] == [2.0, 2.0]


def test_one_disturbed_round_is_not_what_is_told() -> None:
    """Medians of what is measured, sums of what is counted, and the extremes."""
    slices = [a_slice("norep+mac", turn) for turn in (1, 2, 3)]
    slices += [a_slice("pbft", turn, server_cpu_us_per_op=cpu, ops_per_s=rate, errors=1)
               for turn, cpu, rate in ((1, 10.0, 900.0), (2, 40.0, 100.0), (3, 11.0, 800.0))]  # fmt: skip
    row = next(r for r in combined(with_ratios(slices)) if r["system"] == "pbft")
    assert (row["cpu_ratio"], row["ops_per_s"], row["ops_per_s_min"], row["ops_per_s_max"]) == (
        2.2,
        800.0,
        100.0,
        900.0,
    )
    assert (row["operations"], row["errors"], row["rounds"]) == (3000, 3, 3)
    assert "round" not in row


@pytest.mark.parametrize("durable", [True, False])
def test_cases_are_kept_apart(durable: bool) -> None:
    """By system, disk, callers, proxies and sizes."""
    slices = [
        a_slice("pbft", 1, durable=durable),
        a_slice("pbft", 1, durable=not durable),
        a_slice("pbft", 1, durable=durable, clients=256),
        a_slice("pbft", 1, durable=durable, callers=16),
        a_slice("pbft", 1, durable=durable, reply_bytes=4096),
    ]
    assert len(combined(slices)) == 5


def test_the_summary_tells_every_ratio() -> None:
    """CPU, growth with callers, durability, one caller, one proxy per caller."""
    slices = [
        a_slice("norep+mac", 1),
        a_slice("pbft", 1, server_cpu_us_per_op=10.0),
        a_slice("pbft", 1, durable=True, ops_per_s=700.0),
        a_slice("pbft", 1, callers=16, ops_per_s=200.0),
        a_slice("norep+mac", 1, callers=1),
        a_slice("pbft", 1, callers=1, p50_ms=6.0),
        a_slice("norep+mac", 1, clients=256),
        a_slice("pbft", 1, clients=256, ops_per_s=500.0),
    ]
    text = "\n".join(summary(combined(with_ratios(slices))))
    for fact in (
        "2.00 x NO-REP with MACs",
        "5.00 x that of 16",
        "70% of volatile",
        "6.00 x NO-REP's",
        "0.50 x NO-REP's",
    ):
        assert fact in text
