"""`pbft replica CLUSTER.toml ID`: one replica in the foreground."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import logging
import logging.handlers
import os
import signal
import sys
import threading
from pathlib import Path

import trio

from pbft.cli.main import first_known
from pbft.cli.output import CLUSTER_HELP, VOLATILE_HELP
from pbft.config import ConfigError
from pbft.config_file import Address, ClusterConfig
from pbft.misbehaviour import MISBEHAVIOURS

log = logging.getLogger("pbft.cli")

LOG_BYTES = 8 << 20
"""Size that a log file never exceeds; one older file of that size is kept."""

_RECORD_BYTES = 64 << 10
_M_ARENA_MAX = -8
"""Of <malloc.h>."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft replica`."""
    parser.add_argument("cluster", metavar="CLUSTER.toml", help=CLUSTER_HELP)
    parser.add_argument("id", type=int, metavar="ID", help="which replica of the file: 0, 1, 2, ...")
    parser.add_argument("--data", type=Path, metavar="PATH", help="data directory (default: data/replica-ID)")
    parser.add_argument("--listen", metavar="H:P", help="listen at host H, port P instead of at the configured address")
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="ID=H:P",
        help="dial replica ID at H:P instead of where the file says; may be given several times",
    )
    parser.add_argument(
        "--volatile",
        action="store_true",
        help=VOLATILE_HELP,
    )
    text = "misbehave on purpose, several ways joined by +: " + ", ".join(sorted(MISBEHAVIOURS))
    parser.add_argument("--adversary", metavar="NAME", help=text)
    parser.add_argument("--log-file", type=Path, metavar="FILE", help="log here, within a bound, and not to stderr")
    parser.add_argument("--watch-fd", type=int, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or Ctrl-C."""
    from pbft.running import run_replica

    config = ClusterConfig.load(args.cluster)
    if not 0 <= args.id < len(config.replicas):
        raise ConfigError(f"{config.path}: there is no replica {args.id}; ids are 0 to {len(config.replicas) - 1}")
    listen = _address("--listen", args.listen) if args.listen else None
    peers = dict(_peer(text, len(config.replicas)) for text in args.peer)
    _log_to(args.log_file)
    _allocate_in_one_arena()
    if args.watch_fd is not None:
        _stop_with_parent(args.watch_fd)
    try:
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
    except BaseException as error:
        if args.log_file is not None:
            _log_end(args.id, error)
        raise


def _allocate_in_one_arena() -> None:
    """One thread makes what the state consists of and another lets it go: with an arena for each, glibc would keep half
    as much again as is in use. Where there is another libc, nothing happens."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


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


class BoundedLog(logging.handlers.RotatingFileHandler):
    """Two files of at most LOG_BYTES each, whatever is logged. The size is reckoned in characters, so only ASCII ones
    are written; a record that is too long loses its middle, for a traceback says most at its ends."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        super().__init__(path, maxBytes=LOG_BYTES, backupCount=1, encoding="ascii")

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, bounded."""
        text = super().format(record).encode("ascii", "backslashreplace").decode("ascii")
        half = _RECORD_BYTES // 2
        return text if len(text) <= _RECORD_BYTES else f"{text[:half]}\n[...]\n{text[-half:]}"


def _log_end(replica: int, error: BaseException) -> None:
    """What ended this replica, into the log too: who reads that later has no terminal to look at."""
    if (known := first_known(error)) is not None:
        log.critical("replica %d ended: %s", replica, known)
    elif not isinstance(error, KeyboardInterrupt):
        log.critical("replica %d crashed", replica, exc_info=error)


def _log_to(path: Path | None) -> None:
    try:
        handler = logging.StreamHandler(sys.stderr) if path is None else BoundedLog(path)
    except OSError as error:
        raise ConfigError(f"--log-file {path} cannot be written ({error.strerror}); choose another file") from None
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
