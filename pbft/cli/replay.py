"""`pbft replay CLUSTER.toml LOG`: execute an exported log from a backup, or from the beginning, and compare digests."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from pbft.authentication import seal_verifies
from pbft.backup import read_backup, read_genesis
from pbft.cli.applications import application_of
from pbft.cli.new_files import must_be_new
from pbft.cli.output import counted, say_cut
from pbft.config import ConfigError, Group
from pbft.config_file import ClusterConfig
from pbft.crypto import PublicKey
from pbft.execution import Executor
from pbft.exported_log import Certified, ExportError, Head, Ordered, batch_in, read_export
from pbft.messages import Checkpoint, Stable, encode
from pbft.storage.checkpoints import write_checkpoint
from pbft.storage.files import RealDirectory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft replay`."""
    parser.add_argument("cluster", metavar="CLUSTER.toml", help="the cluster whose log it is; its application executes")
    parser.add_argument("log", type=Path, metavar="LOG", help="as `pbft log export` writes it")
    parser.add_argument(
        "--from", dest="backup", type=Path, metavar="BACKUP", help="the state to begin with (default: the beginning)"
    )
    parser.add_argument("--until", type=int, metavar="N", help="end after this number (default: the end of the log)")
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="write the last state whose certificate is in the log as a backup"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


_KEPT = 64
"""States that wait for their certificate."""


@dataclass(slots=True)
class Replayed:
    """What came of a replay."""

    began: int
    ended: int
    digest: bytes
    compared: int = 0
    """Checkpoints whose digest a quorum has signed."""
    certified: int = 0
    """The last of them."""
    differing: list[int] = field(default_factory=list)
    """Those whose state differs here."""
    written: int | None = None


def run(args: argparse.Namespace) -> int:
    """0 if all digests agree, 1 if one differs, or the log holds no certificate although it is long enough for one."""
    config = ClusterConfig.load(args.cluster)
    if args.until is not None and args.until < 1:
        raise ConfigError(f"--until {args.until}: batches are numbered from 1")
    if args.to is not None:
        must_be_new(args.to)
    executor = _beginning(config, args.backup)
    done = replay(config.group, executor, args.log, args.until, args.to)
    if args.json:
        print(json.dumps({
            "began": done.began, "ended": done.ended, "digest": done.digest.hex(), "compared": done.compared,
            "certified": done.certified, "differing": done.differing, "written": done.written,
        }))  # fmt: skip
    else:
        print("\n".join(sentences(done, args.to)))
    interval = config.group.tunables.checkpoint_interval
    unsigned = not done.compared and (args.to is not None or done.ended - done.began >= 2 * interval)
    return 1 if done.differing or unsigned else 0


def sentences(done: Replayed, to: Path | None) -> list[str]:
    """For a person."""
    batches = counted(done.ended - done.began, "batch", "batches")
    found = [f"{batches} executed above state {done.began}; state {done.ended} hashes to {done.digest.hex()[:16]}"]
    if done.differing:
        found.append(
            f"DIFFERENT: {counted(len(done.differing), 'state')} of {done.compared} that a quorum has signed, the "
            f"first is {done.differing[0]}; the application is not the one that ran, or not deterministic"
        )
    elif done.compared:
        found.append(f"{counted(done.compared, 'checkpoint')} compared: each is the state that a quorum has signed")
    proven = max(done.began, done.certified)
    if done.ended > proven:
        found.append(f"NOT CERTIFIED: batches {proven + 1} to {done.ended}, for which the log holds no certificate")
    if to is not None:
        found.append(
            f"{to}: state {done.written}" if done.written is not None else f"{to} is not written: no certificate"
        )
    return found


def _beginning(config: ClusterConfig, backup: Path | None) -> Executor:
    group, application = config.group, application_of(config)
    if backup is None:
        seed = read_genesis(group, config.genesis_path) if group.genesis else None
        executor = Executor(group, application, seed=seed)
    else:
        state = read_backup(backup, group).state
        executor = Executor.installed(
            group, application, state.spaces, state.number, state.history, expected=state.digest
        )
    executor.tell_failures(_tell)
    return executor


def _tell(text: str, error: Exception | None) -> None:
    print(f"pbft: {text}", file=sys.stderr)


def replay(group: Group, executor: Executor, log: Path, until: int | None, to: Path | None = None) -> Replayed:
    """Execute what the log holds above the executor's state. Raises ExportError and OSError."""
    done = Replayed(executor.last_executed, executor.last_executed, executor.snapshot().digest)
    snapshots = {executor.last_executed: executor.snapshot()}
    for entry in read_export(log, say_cut):
        match entry:
            case Head(cluster, epoch, after):
                if (cluster, epoch) != (group.cluster, group.epoch):
                    raise ExportError(
                        f"{log} is a log of cluster {cluster.hex()[:16]}, not of {group.cluster.hex()[:16]}; name the "
                        "cluster.toml of that one"
                    )
                if after > done.began:
                    raise ExportError(
                        f"{log} begins after batch {after}, and the state to begin with is {done.began}: name a "
                        f"backup of state {after} or later by --from, or an older log"
                    )
            case Ordered(number):
                if until is not None and number > until:
                    if number > until + group.tunables.log_window:
                        break
                    continue  # the certificate of `until` may stand here
                if number > executor.last_executed:
                    executor.execute(number, batch_in(log, entry))
                    if number % group.tunables.checkpoint_interval == 0:
                        snapshots[number] = executor.snapshot()
                        if len(snapshots) > _KEPT:
                            del snapshots[min(snapshots)]
            case Certified(checkpoints):
                number = checkpoints[0].number
                if number in snapshots and number > done.began:
                    snapshot = snapshots[number]
                    done.compared += 1
                    done.certified = number
                    if _certified(group, log, checkpoints) != snapshot.digest:
                        done.differing.append(number)
                    elif to is not None and not done.differing:
                        meta = snapshot.meta(encode(Stable(checkpoints)))
                        write_checkpoint(
                            RealDirectory(to.parent, create=False), to.name, number, meta, snapshot.chunks()
                        )
                        done.written = number
                for old in [n for n in snapshots if n <= number]:
                    del snapshots[old]
    done.ended, done.digest = executor.last_executed, executor.snapshot().digest
    return done


def _certified(group: Group, log: Path, checkpoints: tuple[Checkpoint, ...]) -> bytes:
    """The digest that q replicas have signed. Raises ExportError if they have not."""
    first = checkpoints[0]
    signers = {
        c.sender
        for c in checkpoints
        if (c.number, c.digest) == (first.number, first.digest)
        and c.sender < len(group.replicas)
        and seal_verifies(PublicKey(group.replicas[c.sender]), group.cluster, group.epoch, c)
    }
    if len(signers) < group.quorums.strong:
        raise ExportError(
            f"{log}: the certificate of state {first.number} is signed by {len(signers)} of the {group.quorums.strong} "
            "replicas that are needed; do not trust this file"
        )
    return first.digest
