"""Runs an application's operations in several interpreters and compares results and state digests after each one.

What differs between interpreters here (hash seed, memory addresses, time) differs between replicas in earnest.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from pbft.application import Application, OperationError
from pbft.batch import Outcome
from pbft.cli.applications import full_name, load_application
from pbft.config import ConfigError
from pbft.execution.operations import Operations
from pbft.state import State

SEEDS = ("0", "1", "31337")
_RESULT_MAX = 256 << 10


def operations_of(application: type[Application], file: Path | None, seed: int) -> list[bytes]:
    """From a file of command lines, or the application's own `samples(seed)`. Raises ConfigError."""
    if file is not None:
        found = []
        for number, line in enumerate(file.read_text().splitlines(), 1):
            try:
                found.append(application.parse(shlex.split(line)))
            except (OperationError, ValueError) as error:
                raise ConfigError(f"{file}, line {number}: {error}") from None
        return found
    samples = getattr(application, "samples", None)
    if samples is None:
        raise ConfigError(
            f"{application.__name__} has no `samples(seed)`; give operations by --operations FILE, one a line"
        )
    return list(samples(seed))


def trace(application: type[Application], operations: list[bytes]) -> Iterator[tuple[str, str]]:
    """(result, state digest) after each operation, in a world that is the same every time."""
    state = State()
    instance = application(state)
    instance.load()
    runner = Operations(instance, state, _RESULT_MAX)
    runner.tell = _tell
    for number, operation in enumerate(operations, 1):
        [(outcome, result)] = runner.execute([operation], number, 0, 1 << 63, 1_000_000 * number, b"s" * 16)
        instance.save()
        yield f"{int(outcome)}:{result.hex()}", state.checkpoint().digest.hex()


def _tell(text: str, error: Exception | None) -> None:
    print(text, file=sys.stderr)
    if error is not None:
        traceback.print_exception(error)


def check(name: str, file: Path | None, seed: int) -> int:
    """Run it under every seed; 0 if all agree, 1 and the first operation that differs if not."""
    application = load_application(name, Path.cwd())
    operations = operations_of(application, file, seed)
    if not operations:
        raise ConfigError(f"{name}: there is no operation to check; give some by --operations FILE, one a line")
    full = full_name(name, Path.cwd())
    feed = json.dumps({"app": full, "operations": [o.hex() for o in operations]}).encode()
    runs = [
        subprocess.run(
            [sys.executable, "-m", "pbft.cli.check_application"],
            input=feed,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
        )
        for hash_seed in SEEDS
    ]
    for done in runs:
        if done.returncode:
            raise ConfigError(f"{name} does not run by itself: {done.stderr.decode(errors='replace').strip()[-500:]}")
    traces = [json.loads(done.stdout) for done in runs]
    for number, (operation, steps) in enumerate(zip(operations, zip(*traces, strict=True), strict=True), 1):
        if any(step != steps[0] for step in steps):
            what = "result" if any(step[0] != steps[0][0] for step in steps) else "state"
            print(f"{name}: operation {number} of {len(operations)} gives another {what} under another hash seed: "
                  f"{operation[:80]!r}")  # fmt: skip
            print("look for set or dict order, hash(), id(), random, time, or float arithmetic in it")
            return 1
    outcomes = [int(result.partition(":")[0]) for result, _ in traces[0]]
    refused = outcomes.count(Outcome.REFUSED)
    failed = [number for number, outcome in enumerate(outcomes, 1) if outcome not in (Outcome.OK, Outcome.REFUSED)]
    told = f"{len(operations)} operations ({refused} of them refused by the application), {len(SEEDS)} interpreters"
    print(f"{name}: {told}, the same results and digests")
    if failed:
        print(f"{name}: {len(failed)} operations fail, everywhere alike, the first is number {failed[0]}: "
              f"{operations[failed[0] - 1][:80]!r}")  # fmt: skip
        print(runs[0].stderr.decode(errors="replace").strip()[-2000:])
        return 1
    return 0


def _child() -> None:
    feed = json.load(sys.stdin)
    application = load_application(feed["app"], Path.cwd())
    json.dump(list(trace(application, [bytes.fromhex(o) for o in feed["operations"]])), sys.stdout)


if __name__ == "__main__":
    _child()
