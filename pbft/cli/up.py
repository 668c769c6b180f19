"""`pbft up CLUSTER.toml`: all replicas on this machine, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from pbft.cli.children import Children
from pbft.cli.occupied import refuse_if_occupied
from pbft.cli.output import CLUSTER_HELP, VOLATILE_HELP, counted, invocation, listed
from pbft.cli.status import number
from pbft.cli.why import end_of_service
from pbft.config import Quorums
from pbft.config_file import ClusterConfig

START_SECONDS = 30.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft up`."""
    parser.add_argument("cluster", metavar="CLUSTER.toml", help=CLUSTER_HELP)
    parser.add_argument(
        "--volatile",
        action="store_true",
        help=VOLATILE_HELP,
    )


def run(args: argparse.Namespace) -> int:
    """Start, report, wait, stop."""
    config = ClusterConfig.load(args.cluster)
    refuse_if_occupied(config)
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    previous = {s: signal.signal(s, on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        with Children(config, volatile=args.volatile) as children:
            children.start_all()
            return _serve(config, children, stop)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _serve(config: ClusterConfig, children: Children, stop: threading.Event) -> int:
    rows = None
    waited = 0.0
    while rows is None and not stop.is_set() and waited < START_SECONDS:
        rows = children.wait_ready(1.0)
        waited += 1.0
        if dead := children.dead():
            for replica, code in dead.items():
                print(children.end_of(replica, code), file=sys.stderr)
            return 2
    if stop.is_set():
        return 0
    if rows is None:
        print(f"the replicas did not find each other within {START_SECONDS:.0f} s; their logs are in "
              f"{children.log_file(0).parent}", file=sys.stderr)  # fmt: skip
        return 2
    n = len(config.replicas)
    print(greeting(rows, config.group.quorums), flush=True)
    for line in remarks(rows, config.path):
        print(line, flush=True)
    return _watch(children, n, stop)


def greeting(rows: Sequence[Mapping[str, object]], quorums: Quorums) -> str:
    """All run and have found each other; that is not `ready` where too few have a past to order anything again."""
    if gone := end_of_service(rows, quorums):
        return f"{quorums.n}/{quorums.n} replicas run, but this cluster cannot serve: {gone}"
    return f"ready: {quorums.n}/{quorums.n} replicas, view {max(number(row['view']) for row in rows)}"


def remarks(rows: Sequence[Mapping[str, object]], path: Path) -> list[str]:
    """What is to be said of replicas that run: not all vote, nothing is kept."""
    mute = [row["id"] for row in rows if row["recovering"]]
    said = []
    if mute:
        said.append(
            f"but {counted(len(mute), 'replica')} of them ({listed(mute)}) may not vote: "
            f"`{invocation()} why {shlex.quote(str(path))}` says why"
        )
    if any(row.get("volatile") for row in rows):
        said.append("volatile: nothing is kept on disk, and when it ends this cluster has ended for good")
    return said


def _watch(children: Children, n: int, stop: threading.Event) -> int:
    """Report who ends, until told to stop or all have ended by themselves."""
    reported: set[int] = set()
    while not stop.wait(0.2):
        dead = children.dead()
        for replica, code in dead.items():
            if replica not in reported:
                reported.add(replica)
                print(children.end_of(replica, code), flush=True)
                print(f"  to bring it back: {children.way_back(replica)}", flush=True)
        if len(dead) == n:
            print("all replicas that were started here have ended", file=sys.stderr)
            return 2
    return 0
