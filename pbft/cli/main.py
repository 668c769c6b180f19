"""`pbft COMMAND ...`. Exit codes: 0 well, 1 the operation failed, 2 usage or configuration, 3 no quorum in time."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
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
    "data": ("pbft.cli.data", "verify or print the data directory of a replica that does not run"),
    "backup": ("pbft.cli.backup", "copy a state that a quorum has signed out of a live cluster, or verify such a copy"),
    "restore": ("pbft.cli.restore", "make a new cluster of a backup, or give a replica a start"),
    "log": ("pbft.cli.log", "export the ordered input of a cluster, or print such an export"),
    "replay": ("pbft.cli.replay", "execute an exported log, and compare each state with what a quorum has signed"),
    "demo": ("pbft.cli.demo", "show it all in under a minute; leaves nothing behind"),
    "simulate": ("pbft.simulation.command", "run seeded simulations with every check on"),
    "bench": ("pbft.benchmarks.command", "measure, against a server without replication"),
}


USAGE = "2: wrong usage or configuration, or a file or address that cannot be used"
EXIT_CODES = {
    "init": ("0: the cluster is written", USAGE),
    "up": ("0: stopped by Ctrl-C or SIGTERM", f"{USAGE}; the replicas did not start, or all have ended by themselves"),
    "replica": ("0: stopped by SIGTERM or Ctrl-C", f"{USAGE}; the replica failed"),
    "call": (
        "0: done, the result is printed",
        "1: the application said no, and nothing was changed",
        f"{USAGE}; the replicas reject such a request",
        "3: not enough equal answers in time; the operation may still take effect",
    ),
    "status": ("0: at least one replica answers", USAGE, "3: none answers"),
    "why": ("0: it waits for nothing", "1: it waits for what is printed", USAGE),
    "apps": ("0: listed, or the same under all hash seeds", "1: it differs between hash seeds", USAGE),
    "evidence": ("0: the file proves what is printed", f"{USAGE}; the file proves nothing"),
    "data": ("0: all is as it was written", "1: something is damaged; it says what and where", USAGE),
    "backup": (
        "0: written, or verified",
        f"{USAGE}; a file that is no whole backup",
        "3: the cluster has not agreed on a newer state in time",
    ),
    "restore": ("0: done", f"{USAGE}; a file that is no whole backup"),
    "log": ("0: written, or printed", f"{USAGE}; a file that is no whole export; a log that does not follow it"),
    "replay": (
        "0: all states are as signed",
        "1: one differs, or none is signed",
        f"{USAGE}; a file that is no whole backup or export",
    ),
    "demo": ("0: all was as it should be", "1: it was not", USAGE),
    "simulate": (
        "0: no check failed (with --mutants: each bug was found)",
        USAGE,
        "10: a wrong result or state (with --mutants: a bug was missed)",
        "11: stuck",
        "12: crashed",
    ),
    "bench": ("0: measured", USAGE),
}
"""What each command's exit codes mean, for its --help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="pbft",
        description="Replicate a deterministic service on 3f+1 machines of which f may lie.",
        epilog="pbft COMMAND --help explains its arguments and exit codes.",
    )
    parser.add_argument("--version", action="version", version=f"pbft {__version__}", help="print the version")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    wanted = next((word for word in words if not word.startswith("-")), None)
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text)
        if name == wanted:
            fill(sub, name)
            words = getattr(importlib.import_module(module), "arrange", list)(words)
    try:
        args = parser.parse_args(words)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 2
    return _run(args)


def fill(parser: argparse.ArgumentParser, command: str) -> None:
    """Give the parser of a command its arguments and its whole help."""
    module, text = COMMANDS[command]
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = text[0].upper() + text[1:] + "."
    parser.add_argument("--debug", action="store_true", help="show tracebacks of errors")
    importlib.import_module(module).add_arguments(parser)
    interrupted = () if command in ("up", "replica") else ("130: interrupted",)
    codes = "\n".join(f"  {line}" for line in EXIT_CODES[command] + interrupted)
    parser.epilog = "\n\n".join(filter(None, (parser.epilog, f"exit codes:\n{codes}")))


def _run(args: argparse.Namespace) -> int:
    try:
        code: int = importlib.import_module(COMMANDS[args.command][0]).run(args)
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # whoever read the output has enough, as `head` does
        return 141
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
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
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
