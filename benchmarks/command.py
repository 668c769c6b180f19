"""`pbft bench normal`: arguments and output."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pbft.benchmarks import normal, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft bench`."""
    parser.add_argument("what", choices=("normal",), help="normal: no faults, against an unreplicated server")
    parser.add_argument("--replicas", type=int, default=4, metavar="N")
    parser.add_argument("--callers", default="1,16,64,256", help="callers in a closed loop, comma-separated")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured seconds for each row")
    parser.add_argument("--small", action="store_true", help="one size, one proxy: a minute instead of several")
    parser.add_argument("--base-port", type=int, default=7800)
    parser.add_argument("--json", action="store_true", help="print the rows as a JSON list")
    parser.add_argument("--csv", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG; needs the `bench` extra")


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""
    callers = tuple(int(c) for c in args.callers.split(","))
    plan = normal.Plan(
        n=args.replicas,
        callers=callers,
        sizes=((0, 0),) if args.small else normal.Plan().sizes,
        seconds=args.seconds,
        separate=not args.small,
        base_port=args.base_port,
    )

    def progress(text: str) -> None:
        print(
            f"\r\x1b[K{text}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr
        )

    rows = normal.with_ratios(normal.measure(plan, progress))
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print(report.table(rows))
        print("\n" + "\n".join(normal.summary(rows)))
    if args.csv:
        report.write_csv(rows, args.csv)
    if args.plot:
        report.write_plot(rows, args.plot)
    return 0
