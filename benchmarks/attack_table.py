"""Rows of `pbft bench attacks` for people: table, summary, bar chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pbft.benchmarks.attacks import TARGET
from pbft.benchmarks.report import render

Row = dict[str, Any]

_COLUMNS = (
    ("profile", "profile"), ("attack", "attack"), ("by", "by"), ("offered_per_s", "offered/s"),
    ("ops_per_s", "ops/s"), ("share", "share"), ("cpu_us_per_op", "us/op"), ("cpu_ratio", "CPU x"),
    ("p50_ms", "p50 ms"), ("p99_ms", "p99 ms"), ("view_changes_before", "views before"), ("view_changes", "views"),
    ("demotions", "demotions"), ("wrong", "wrong"), ("attacker_cpu", "attacker CPU"), ("other_cpu", "others' CPU"),
)  # fmt: skip


def table(rows: list[Row]) -> str:
    """One line an attack."""
    return render(rows, _COLUMNS)


def summary(rows: list[Row]) -> list[str]:
    """How many reach the target, and why the others do not."""
    attacked = [row for row in rows if row.get("by")]
    below = [row for row in attacked if row["share"] < TARGET]
    wrong = sum(row.get("wrong", 0) for row in rows)
    lines = [
        f"{len(attacked) - len(below)} of {len(attacked)} attacks leave at least {TARGET:.0%} of the load served; "
        f"wrong results: {wrong}"
    ]
    caps = dict.fromkeys(row["capped_by"] for row in attacked if row["capped_by"])
    lines += [f"CPU of attackers together is bounded by: {cap}" for cap in caps]
    for row in rows:
        if row.get("share", 1.0) < TARGET:
            lines.append(f"{row['attack']} ({row['profile']}): {row['share']:.0%}, because: {row['reason']}")
        elif row.get("counter_answered") is False:
            lines.append(f"{row['attack']} ({row['profile']}): the counter did not answer at the end")
    return lines


def write_plot(rows: list[Row], path: Path) -> None:
    """Share served and CPU per operation, one pair of bars a row. Raises ImportError without the `bench` extra."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = [row for row in rows if row["offered_per_s"] is not None]
    names = [f"{row['attack']} ({row['profile']})" for row in shown]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 1.5 + 0.3 * len(shown)), sharey=True)
    places = range(len(shown))
    left.barh(places, [row["share"] for row in shown])
    left.axvline(TARGET, linestyle="--", color="black", linewidth=1)
    left.set_xlabel("share served of half the fault-free peak")
    left.set_yticks(places, names)
    left.invert_yaxis()
    right.barh(places, [row.get("cpu_ratio") or 0.0 for row in shown], color="tab:orange")
    right.axvline(1.0, linestyle="--", color="black", linewidth=1)
    right.set_xlabel("CPU per operation of a correct replica, against no attack")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
