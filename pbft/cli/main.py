"""`pbft COMMAND ...`. Exit codes: 0 well, 1 the operation failed, 2 usage or configuration, 3 no quorum in time."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence

from pbft import __version__
from pbft.config import ConfigError

COMMANDS = {
    "init": ("pbft.cli.init", "write a new cluster: cluster.toml, keys, start tokens"),
    "up": ("pbft.cli.up", "run all replicas of a cluster on this machine"),
    "replica": ("pbft.cli.replica", "run one replica in the foreground"),
    "call": ("pbft.cli.call", "send one operation to the service and print its result"),
    "status": ("pbft.cli.status", "show every replica of a cluster"),
    "why": ("pbft.cli.why", "say in sentences what a cluster is waiting for"),
    "apps": ("pbft.cli.apps", "list the applications that ship; check one for determinism"),
    "evidence": ("pbft.cli.evidence", "verify and explain what a replica keeps as proof against another"),
    "demo": ("pbft.cli.demo", "show it all in under a minute; leaves nothing behind"),
    "simulate": ("pbft.simulation.command", "run seeded simulations with every check on"),
    "bench": ("pbft.benchmarks.command", "measure, against a server without replication"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="pbft", description="Replicate a deterministic service on 3f+1 machines of which f may lie."
    )
    parser.add_argument("--version", action="version", version=f"pbft {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((word for word in words if not word.startswith("-")), None)
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.add_argument("--debug", action="store_true", help="show tracebacks")
        if name == wanted:
            loaded = importlib.import_module(module)
            loaded.add_arguments(sub)
            if hasattr(loaded, "arrange"):
                words = loaded.arrange(words)
    try:
        args = parser.parse_args(words)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 2
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    try:
        code: int = importlib.import_module(COMMANDS[args.command][0]).run(args)
        return code
    except KeyboardInterrupt:
        return 130
    except BaseException as error:
        known = first_known(error)
        if known is None:
            if isinstance(error, SystemExit):
                raise
            known = first_of(error, (BaseException,)) or error
        if args.debug:
            traceback.print_exc()
        elif not isinstance(known, _known_errors()):
            print(f"pbft: {type(known).__name__}: {known} (run with --debug to see where)", file=sys.stderr)
            return 2
        print(f"pbft: {_sentence(known)}", file=sys.stderr)
        return 2


def _sentence(error: BaseException) -> str:
    """An error for a person: the file comes first, the number of an OSError helps nobody."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _known_errors() -> tuple[type[BaseException], ...]:
    from pbft.crypto import CryptoError
    from pbft.execution import SnapshotError
    from pbft.storage.errors import StorageError
    from pbft.transport import TransportError

    return ConfigError, CryptoError, SnapshotError, StorageError, TransportError, OSError


def first_known(error: BaseException) -> BaseException | None:
    """The error that an operator can do something about, also inside a group of them."""
    return first_of(error, _known_errors())


def first_of(error: BaseException, kinds: tuple[type[BaseException], ...]) -> BaseException | None:
    """The first error of these kinds, also inside a group."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for inner in error.exceptions if (found := first_of(inner, kinds)) is not None), None)
    return error if isinstance(error, kinds) else None
