"""One bit of one file of a replica's data directory is wrong when it starts."""

from __future__ import annotations

import contextlib
import io
import logging
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from campaigns.common import Load, Row, cluster, progress, settle, start, total, voting
from pbft.cli.applications import application_of
from pbft.cli.children import Children
from pbft.cli.main import main
from pbft.config_file import ClusterConfig
from pbft.startup import start_replica
from pbft.storage.errors import StorageError

VICTIM = 1
_IN_A_ROW = 8
"""Recoveries of one replica that a cluster orders without making it wait."""


@dataclass(frozen=True, slots=True)
class Past:
    """What a replica knows when it starts."""

    lost: bool
    promised: int
    executed: int
    last_position: int
    prepared: dict[int, tuple[bytes, int]]
    preprepared: dict[int, dict[bytes, int]]
    state: bytes


def past(config: ClusterConfig, data: Path) -> Past:
    """Start the replica on this directory, as `pbft replica` does, and stop it at once. Raises StorageError."""
    started = start_replica(
        config.group,
        VICTIM,
        application_of(config),
        lambda incarnation: lambda body: bytes(160),
        b"secret",
        data=data,
        token=None,
        volatile=False,
        on_durable=lambda position: None,
        on_disk_error=lambda error: None,
    )
    try:
        log = started.replica.core.log
        return Past(
            bool(started.replica.core.lost),
            log.promised,
            log.executing,
            started.log.durable_position,
            dict(log.p),
            {number: dict(entries) for number, entries in log.q.items()},
            started.executor.snapshot().digest,
        )
    finally:
        started.log.close()
        started.directory.close()


def bit_flips(flips: int, seed: int = 1) -> Row:
    """A replica that was killed under load starts on its directory with one bit changed: it knows what it knew, or it
    says what is damaged and does not vote, or does not start. `pbft data verify` finds the same."""
    rng = random.Random(seed)
    small = {"durable_checkpoint_interval": 1, "durable_checkpoint_bytes": 1 << 18, "retained_log_bytes": 1 << 18}
    outcomes: dict[str, Counter[str]] = {}
    with _quiet(), cluster(**small) as config, tempfile.TemporaryDirectory(prefix="pbft-rot-") as folder:
        _live(config)
        kept, work = config.data_directory(VICTIM), Path(folder) / "data"
        whole = past(config, shutil.copytree(kept, work))
        files = [p.name for p in sorted(kept.iterdir()) if p.is_file() and p.name != "lock" and p.stat().st_size]
        for _ in range(flips):
            shutil.rmtree(work)
            shutil.copytree(kept, work)
            [name] = rng.choices(files, [4 if name.startswith(("log-", "checkpoint-")) else 1 for name in files])
            _flip(work / name, rng)
            found = _judge(config, work, whole)
            outcomes.setdefault(name.partition("-")[0], Counter())[found] += 1
        log = sum(1 for name in files if name.startswith("log-"))
    repaired, seconds = _repaired(flips // 250, rng)
    return {
        "flips": flips,
        "repaired_by_the_others": repaired,
        "votes_again_s_most": seconds,
        "segments": log,
        "executed": whole.executed,
        "outcomes": {name: dict(counts) for name, counts in sorted(outcomes.items())},
    }


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Each damage is logged; here it is counted."""
    logger = logging.getLogger("pbft")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


def _live(config: ClusterConfig) -> None:
    """Load until there is a durable checkpoint; then all are killed."""

    async def play(children: Children) -> None:
        async with Load().running(config, 32, timeout=2.0):
            with trio.fail_after(30):
                while not list(config.data_directory(VICTIM).glob("checkpoint-*[0-9]")):
                    await trio.sleep(0.1)
            await trio.sleep(0.5)
            for replica in range(4):
                children.kill(replica)

    with Children(config) as children:
        start(children)
        trio.run(play, children)


def _repaired(rounds: int, rng: random.Random) -> tuple[int, float]:
    """So often a replica that was killed under load comes back, from a log or checkpoint with one bit changed: it votes
    again, has what the others have, and nothing acknowledged is lost. Also the longest time that one took, in s."""
    most = 0.0

    async def play(config: ClusterConfig, children: Children, turns: int) -> None:
        nonlocal most
        load, data = Load(), config.data_directory(VICTIM)
        for _ in range(turns):
            async with load.running(config, 32, timeout=10.0):
                await progress(load, 2000, 30.0)
                children.kill(VICTIM)
                _flip(rng.choice([p for p in data.iterdir() if p.name.startswith(("log-", "checkpoint-"))]), rng)
                children.start(VICTIM)
                most = max(most, await voting(config, VICTIM, 60.0))
                await load.end(30.0)
        await settle(config)
        load.check(await total(config))

    for first in range(0, rounds, _IN_A_ROW):
        small = {"durable_checkpoint_interval": 1, "durable_checkpoint_bytes": 1 << 18}
        with cluster(**small) as config, Children(config) as children:
            start(children)
            trio.run(play, config, children, min(_IN_A_ROW, rounds - first))
    return rounds, round(most, 1)


def _flip(path: Path, rng: random.Random) -> None:
    """Change one bit; in a log, mostly where something was written and not in the zeros of space made ahead."""
    data = bytearray(path.read_bytes())
    written = len(data.rstrip(b"\0")) if rng.random() < 0.95 else 0
    place = rng.randrange(written or len(data))
    data[place] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _judge(config: ClusterConfig, work: Path, whole: Past) -> str:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
        verified = main(["data", "verify", str(work), "--cluster", str(config.path), "--json"])
    assert verified < 2 or " is damaged " in said.getvalue(), said.getvalue()
    try:
        found = past(config, work)
    except StorageError as error:
        assert verified, error
        return "does not start, and says which file is damaged"
    if found.lost:
        assert verified
        return "does not vote, and says what is damaged"
    if found == whole:
        return "nothing changed"
    # Only a group after which nothing was written can look like a torn tail; whoever is shown a longer log of its own
    # is found to be an old copy (rule 1.7 d).
    assert found.last_position < whole.last_position and found.promised <= whole.promised
    assert not verified
    return "the last group looks like a torn tail"
