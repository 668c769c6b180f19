"""`pbft replica CLUSTER.toml ID`: one replica in the foreground."""

from __future__ import annotations

import argparse
import logging
import logging.handlers
import os
import signal
import sys
import threading
from pathlib import Path

import trio

from pbft.config import ConfigError
from pbft.config_file import Address, ClusterConfig
from pbft.misbehaviour import MISBEHAVIOURS

LOG_BYTES = 8 << 20
"""Size at which a log file is turned over; one older one is kept."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft replica`."""
    parser.add_argument("cluster", metavar="CLUSTER.toml")
    parser.add_argument("id", type=int, metavar="ID")
    parser.add_argument("--data", type=Path, metavar="PATH", help="data directory (default: data/replica-ID)")
    parser.add_argument("--listen", metavar="H:P", help="listen here instead of at the configured address")
    parser.add_argument("--peer", action="append", default=[], metavar="ID=H:P", help="dial a peer elsewhere")
    parser.add_argument("--volatile", action="store_true", help="keep nothing on disk: a restart forgets everything")
    parser.add_argument("--adversary", choices=sorted(MISBEHAVIOURS), metavar="NAME",
                        help="misbehave on purpose: " + ", ".join(sorted(MISBEHAVIOURS)))  # fmt: skip
    parser.add_argument("--log-file", type=Path, metavar="FILE", help="log here, within a bound, and not to stderr")
    parser.add_argument("--watch-fd", type=int, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or Ctrl-C."""
    from pbft.node import run_replica

    config = ClusterConfig.load(args.cluster)
    if not 0 <= args.id < len(config.replicas):
        raise ConfigError(f"{config.path}: there is no replica {args.id}; ids are 0 to {len(config.replicas) - 1}")
    listen = _address("--listen", args.listen) if args.listen else None
    peers = dict(_peer(text, len(config.replicas)) for text in args.peer)
    _log_to(args.log_file)
    if args.watch_fd is not None:
        _stop_with_parent(args.watch_fd)
    return trio.run(
        lambda: run_replica(
            config,
            args.id,
            data=args.data,
            listen=listen,
            peers=peers,
            volatile=args.volatile,
            adversary=args.adversary,
        )
    )


def _address(option: str, text: str) -> Address:
    try:
        return Address.parse(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {error}") from None


def _peer(text: str, n: int) -> tuple[int, Address]:
    number, equals, address = text.partition("=")
    if not equals or not number.isascii() or not number.isdigit() or int(number) >= n:
        raise ConfigError(f"--peer {text!r} is not ID=HOST:PORT with an ID from 0 to {n - 1}")
    return int(number), _address("--peer", address)


def _log_to(path: Path | None) -> None:
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=LOG_BYTES, backupCount=1)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _stop_with_parent(fd: int) -> None:
    """The parent holds the other end of a pipe: when it is gone, however it went, so are we."""

    def watch() -> None:
        try:
            while os.read(fd, 1):
                pass
        except OSError:
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        threading.Event().wait(4)
        os._exit(1)

    threading.Thread(target=watch, name="parent watch", daemon=True).start()
