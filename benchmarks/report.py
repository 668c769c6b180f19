"""Rows as a table, JSON, CSV or a plot."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

Row = dict[str, Any]

_COLUMNS = (
    ("system", "system"), ("durable", "durable"), ("clients", "proxies"), ("callers", "callers"),
    ("request_bytes", "request"), ("reply_bytes", "reply"), ("ops_per_s", "ops/s"), ("p50_ms", "p50 ms"),
    ("p99_ms", "p99 ms"), ("server_cpu_us_per_op", "server us/op"), ("client_cpu_us_per_op", "client us/op"),
    ("cpu_ratio", "CPU x"), ("latency_ratio", "latency x"),
)  # fmt: skip


def table(rows: list[Row]) -> str:
    """A table for people; ratios are to NO-REP with MACs in the same case."""
    return render(rows, _COLUMNS)


def render(rows: list[Row], columns: tuple[tuple[str, str], ...]) -> str:
    """A table with these columns: (field, title)."""
    names = [title for _, title in columns]
    cells = [[_cell(row.get(key)) for key, _ in columns] for row in rows]
    widths = [max(len(line[i]) for line in [names, *cells]) for i in range(len(names))]
    lines = ["  ".join(text.rjust(w) for text, w in zip(line, widths, strict=True)) for line in [names, *cells]]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def write_csv(rows: list[Row], path: Path) -> None:
    """All fields of all rows."""
    keys = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, keys)
        writer.writeheader()
        writer.writerows(rows)


def write_plot(rows: list[Row], path: Path) -> None:
    """Throughput over callers, one line per system. Raises ImportError without the `bench` extra."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 5))
    zero = [r for r in rows if not r["request_bytes"] and not r["reply_bytes"]]
    kinds = dict.fromkeys((r["system"], r["durable"], r["clients"] > 1) for r in zero)
    for system, durable, separate in kinds:
        line = [r for r in zero if (r["system"], r["durable"], r["clients"] > 1) == (system, durable, separate)]
        label = f"{system}{', durable' if durable else ''}{', a proxy per caller' if separate else ''}"
        axes.plot([r["callers"] for r in line], [r["ops_per_s"] for r in line], marker="o", label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("callers in a closed loop")
    axes.set_ylabel("operations a second")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
