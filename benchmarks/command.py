"""`pbft bench normal|checkpoints|attacks`: arguments and output."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from pbft.benchmarks import attack_table, attacks, checkpoints, normal, report
from pbft.config import ConfigError

_SECONDS = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft bench`."""
    text = (
        "normal: against an unreplicated server; checkpoints: their cost on a large state; attacks: what is served "
        "while replicas or clients attack"
    )
    parser.add_argument("what", choices=("normal", "checkpoints", "attacks"), help=text)
    parser.add_argument("--replicas", type=int, default=4, metavar="N", help="size of the group (default 4)")
    parser.add_argument("--callers", default="1,16,64,256", help="callers in a closed loop, comma-separated")
    parser.add_argument("--seconds", type=float, help="measured seconds for each row (attacks: 6, others: 2)")
    parser.add_argument("--small", action="store_true", help="one size, one proxy: much quicker")
    parser.add_argument("--rounds", type=int, default=3, help="normal: slices of each case, in turn (default 3)")
    parser.add_argument("--base-port", type=int, default=7800, help="first of the ports to use (default 7800)")
    parser.add_argument("--keys", type=int, default=100_000, help="checkpoints: keys in the state")
    parser.add_argument("--hot", type=int, default=100, help="checkpoints: keys that are written")
    parser.add_argument("--pairs", type=int, default=5, help="checkpoints: slices with and without")
    parser.add_argument("--only", metavar="NAMES", help="attacks: some of them, comma-separated; `list` names all")
    parser.add_argument("--profile", choices=("mac", "signed"), help="attacks: one profile instead of both")
    parser.add_argument("--rate", type=float, help="attacks: operations a second instead of half the peak")
    parser.add_argument("--warm-up", type=float, metavar="S", help="attacks: seconds until the window (6)")
    parser.add_argument("--json", action="store_true", help="print the rows as a JSON list")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the rows to FILE, too")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="PNG; needs the `bench` extra")


def run(args: argparse.Namespace) -> int:
    """Measure, print, write."""

    def progress(text: str) -> None:
        print(
            f"\r\x1b[K{text}" if sys.stderr.isatty() else text, end="" if sys.stderr.isatty() else "\n", file=sys.stderr
        )

    if args.what == "attacks":
        if args.only == "list":
            print("\n".join(attack.name for attack in attacks.ATTACKS))
            return 0
        rows = attacks.measure(_attack_plan(args), progress)
        table, lines = attack_table.table(rows), attack_table.summary(rows)
    elif args.what == "checkpoints":
        seconds = args.seconds or _SECONDS
        rows = checkpoints.measure(args.keys, args.hot, 64, args.pairs, seconds, args.base_port, progress)
        table, lines = report.table(rows), checkpoints.summary(rows)
    else:
        rows = normal.measure(_normal_plan(args), progress)
        table, lines = report.table(rows), normal.summary(rows)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print(table)
        print("\n" + "\n".join(lines))
    if args.csv:
        report.write_csv(rows, args.csv)
    if args.plot:
        write_plot = attack_table.write_plot if args.what == "attacks" else report.write_plot
        write_plot(rows, args.plot)
    return 0


def _normal_plan(args: argparse.Namespace) -> normal.Plan:
    return normal.Plan(
        n=args.replicas,
        callers=tuple(int(c) for c in args.callers.split(",")),
        sizes=((0, 0),) if args.small else normal.Plan().sizes,
        seconds=args.seconds or _SECONDS,
        rounds=max(1, args.rounds),
        separate=not args.small,
        base_port=args.base_port,
    )


def _attack_plan(args: argparse.Namespace) -> attacks.Plan:
    """Raises ConfigError for an attack that does not exist."""
    only = tuple(args.only.split(",")) if args.only else attacks.SMALL if args.small else ()
    unknown = set(only) - {attack.name for attack in attacks.ATTACKS}
    if unknown:
        raise ConfigError(f"no such attack: {', '.join(sorted(unknown))}; `pbft bench attacks --only list` names all")
    base = attacks.Plan(clients=4, callers=32, seconds=1.0, warm_up=2.0, attempts=1) if args.small else attacks.Plan()
    profiles = base.profiles[:1] if args.small else base.profiles
    return replace(
        base,
        n=args.replicas,
        seconds=args.seconds or base.seconds,
        warm_up=base.warm_up if args.warm_up is None else args.warm_up,
        profiles=(args.profile,) if args.profile else profiles,
        only=only,
        rate=args.rate,
        base_port=args.base_port,
    )
