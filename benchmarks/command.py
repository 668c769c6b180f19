"""`pbft bench normal|checkpoints`: arguments and output."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from pbft.benchmarks import checkpoints, normal, report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft bench`."""
    text = "normal: against an unreplicated server; checkpoints: their cost on a large state"
    parser.add_argument("what", choices=("normal", "checkpoints"), help=text)
    parser.add_argument("--replicas", type=int, default=4, metavar="N", help="size of the group (default 4)")
    parser.add_argument("--callers", default="1,16,64,256", help="callers in a closed loop, comma-separated")
    parser.add_argument("--seconds", type=float, default=2.0, help="measured seconds for each row")
    parser.add_argument("--small", action="store_true", help="one size, one proxy: a minute instead of several")
    parser.add_argument("--base-port", type=int, default=7800, help="first of the ports to use (default 7800)")
    parser.add_argument("--keys", type=int, default=100_000, help="checkpoints: keys in the state")
    parser.add_argument("--hot", type=int, default=100, help="checkpoints: keys that are written")
    parser.add_argument("--pairs", type=int, default=5, help="checkpoints: slices with and without")
    parser.add_argument("--json", action="store_true", help="print the rows as a JSON list")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the rows to FILE, too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG; needs the `bench` extra")


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""

    def progress(text: str) -> None:
        print(
            f"\r\x1b[K{text}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr
        )

    if args.what == "checkpoints":
        rows = checkpoints.measure(args.keys, args.hot, 64, args.pairs, args.seconds, args.base_port, progress)
        lines = checkpoints.summary(rows)
    else:
        rows = normal.with_ratios(normal.measure(_normal_plan(args), progress))
        lines = normal.summary(rows)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print(report.table(rows))
        print("\n" + "\n".join(lines))
    if args.csv:
        report.write_csv(rows, args.csv)
    if args.plot:
        report.write_plot(rows, args.plot)
    return 0


def _normal_plan(args: argparse.Namespace) -> normal.Plan:
    return normal.Plan(
        n=args.replicas,
        callers=tuple(int(c) for c in args.callers.split(",")),
        sizes=((0, 0),) if args.small else normal.Plan().sizes,
        seconds=args.seconds,
        separate=not args.small,
        base_port=args.base_port,
    )
