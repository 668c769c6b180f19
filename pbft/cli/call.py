"""`pbft call CLUSTER.toml WORD...`: one operation through the client proxy."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

import trio

from pbft.application import OperationError
from pbft.cli.applications import application_of
from pbft.cli.main import first_known, first_of
from pbft.cli.output import CLUSTER_HELP
from pbft.client import Client, ClientError, OperationFailed, RequestRejected, RequestTimeout
from pbft.config import ConfigError
from pbft.config_file import ClusterConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft call`."""
    parser.add_argument("--as", dest="name", metavar="NAME", help="which client (default: the first in the file)")
    parser.add_argument(
        "--timeout", type=float, default=10.0, metavar="S", help="seconds to wait for the result (default 10)"
    )
    parser.add_argument("--read-only", action="store_true", help="a query, for Application.query: it changes nothing")
    parser.add_argument("cluster", metavar="CLUSTER.toml", help=CLUSTER_HELP)
    parser.add_argument(
        "words",
        nargs="+",
        metavar="WORD",
        help="the operation, as the application spells it: `put a 1` for kv, `inc 5` for counter",
    )


def arrange(words: list[str]) -> list[str]:
    """Options first, then `--`: a word of the operation may begin with a dash, and options may follow the file name."""
    options: list[str] = []
    rest = words[1:]
    operands: list[str] = []
    while rest and not (len(operands) > 0 and not rest[0].startswith("-")):
        word = rest.pop(0)
        if not word.startswith("-"):
            operands.append(word)
        elif word == "--":
            break
        else:
            options.append(word)
            if word in ("--as", "--timeout") and rest:
                options.append(rest.pop(0))
    if not operands and rest:
        operands.append(rest.pop(0))
    return [words[0], *options, *(["--"] if operands else []), *operands, *rest]


def run(args: argparse.Namespace) -> int:
    """Print the rendered result; 1 if the operation failed, 3 if its outcome is unknown."""
    logging.getLogger("pbft").addHandler(logging.NullHandler())  # what matters is said at the end
    config = ClusterConfig.load(args.cluster)
    application = application_of(config)
    if not config.clients:
        raise ConfigError(f"{config.path}: lists no [[client]], so nobody may call")
    name = args.name or config.clients[0].name
    config.client(name)
    if not 0 < args.timeout < 1e6:
        raise ConfigError(f"--timeout {args.timeout} is not a number of seconds above 0")
    try:
        operation = application.parse(args.words)
    except OperationError as error:
        raise ConfigError(error.message.decode("utf-8", "backslashreplace")) from None
    query = args.read_only or application.read_only(operation)
    try:
        result = trio.run(_call, config, name, operation, query, args.timeout)
    except BaseException as error:
        return _explain(error, config.path)
    print(application.render(result))
    return 0


async def _call(config: ClusterConfig, name: str, operation: bytes, query: bool, timeout: float) -> bytes:
    async with Client.connect(config, name=name) as client:
        if query:
            return await client.query(operation, timeout=timeout)
        return await client.invoke(operation, timeout=timeout)


def _explain(error: BaseException, path: Path) -> int:
    found = first_of(error, (ClientError,))
    if found is None:
        raise first_known(error) or error
    hint = f"; `pbft why {path}` tells what it waits for" if isinstance(found, RequestTimeout) else ""
    print(f"pbft: {found}{hint}", file=sys.stderr)
    if isinstance(found, OperationFailed):
        return 1
    if isinstance(found, RequestTimeout):
        return 3
    return 2 if isinstance(found, RequestRejected) else 3
