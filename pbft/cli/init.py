"""`pbft init DIR`: a new cluster, ready to run."""

from __future__ import annotations

import argparse
import itertools
import shlex
from pathlib import Path

from pbft.cli.applications import full_name, load_application
from pbft.cli.output import invocation
from pbft.config import Quorums
from pbft.config_file import ClusterConfig, write_cluster


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft init`."""
    add_cluster_arguments(parser)
    parser.add_argument(
        "--app",
        default="kv",
        metavar="NAME|MODULE:CLASS|FILE.py:CLASS",
        help="the service: of `pbft apps`, of an importable module, or of a file (default kv)",
    )


def add_cluster_arguments(parser: argparse.ArgumentParser) -> None:
    """What every new cluster needs."""
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="folder to write into; it is made if needed, and never overwritten"
    )
    parser.add_argument(
        "--replicas", type=int, default=4, metavar="N", help="how many; 3f+1 tolerate f faulty ones (default 4)"
    )
    parser.add_argument("--host", default="127.0.0.1", metavar="H", help="address of all replicas (default 127.0.0.1)")
    parser.add_argument(
        "--base-port",
        type=int,
        default=7000,
        metavar="P",
        help="replica i takes port P+2i, and P+2i+1 for status (default 7000: 7000 to 7007 for 4 replicas)",
    )
    parser.add_argument(
        "--client",
        action="append",
        default=[],
        metavar="NAME",
        help="a client that gets a key; may be given several times (default: one, `client`)",
    )


def run(args: argparse.Namespace) -> int:
    """Write it and say what comes next."""
    load_application(args.app, Path.cwd())
    config = write_cluster(
        args.directory,
        replicas=args.replicas,
        app=full_name(args.app, Path.cwd()),
        host=args.host,
        base_port=args.base_port,
        clients=tuple(args.client or ["client"]),
    )
    say(args.directory, config)
    return 0


def say(directory: Path, config: ClusterConfig) -> None:
    """What was written, what it bears, and what comes next."""
    n, f = config.group.quorums.n, config.group.quorums.f
    print(f"{directory}: {n} replicas, of which {f} may be faulty; clients: "
          + ", ".join(c.name for c in config.clients))  # fmt: skip
    alike = [m for m in range(4, n) if Quorums(m).f == f]
    if alike:
        more = next(m for m in itertools.count(n) if Quorums(m).f > f)
        print(f"{n} replicas tolerate no more faults than {alike[0]} do; {more} tolerate {Quorums(more).f}")
    print(f"next: {invocation()} up {shlex.quote(str(directory / 'cluster.toml'))}")
