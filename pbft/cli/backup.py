"""`pbft backup CLUSTER.toml FILE` and `pbft backup verify FILE`.

A backup is taken on the machine of a replica, from its data directory: who may read that may have the state. Before
that, the cluster is brought to agree on a checkpoint above all that has executed, which needs a client's key.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import trio

from pbft.admin import CHECKPOINT
from pbft.backup import Backup, BackupError, read_backup
from pbft.cli.new_files import copy, must_be_new, part_of, sync_folder
from pbft.cli.output import counted, listed
from pbft.cli.status import ask, ask_all, number
from pbft.client import Client, ClientError, OperationFailed
from pbft.config import ConfigError
from pbft.config_file import ClusterConfig
from pbft.execution import SnapshotError
from pbft.execution.snapshots import read_state
from pbft.storage.checkpoints import StoredCheckpoint, newest_checkpoint, write_checkpoint
from pbft.storage.errors import DamagedCheckpoint
from pbft.storage.files import RealDirectory

_PAUSE = 0.1
"""Seconds between two looks at a replica."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft backup`."""
    parser.usage = "pbft backup [options] CLUSTER.toml FILE\n       pbft backup verify [--cluster CLUSTER.toml] FILE"
    parser.add_argument("what", metavar="CLUSTER.toml|verify", help="the cluster; or `verify`, to verify FILE offline")
    parser.add_argument("file", type=Path, metavar="FILE", help="the backup; one that exists is not overwritten")
    parser.add_argument("--replica", type=int, metavar="ID", help="from the data of this replica (default: any here)")
    parser.add_argument("--as", dest="name", metavar="NAME", help="which client asks (default: the first in the file)")
    parser.add_argument(
        "--timeout", type=float, default=90.0, metavar="S", help="seconds to wait for a newer state (default 90)"
    )
    parser.add_argument(
        "--as-is", action="store_true", help="the newest state on the disk; asks nobody, and works while nothing runs"
    )
    parser.add_argument(
        "--cluster", metavar="CLUSTER.toml", help="verify: it must be signed under the keys of this one"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Take or verify a backup, and say what is in it."""
    if args.what == "verify":
        group = None if args.cluster is None else ClusterConfig.load(args.cluster).group
        found = read_backup(args.file, group)
        print(json.dumps(described(args.file, found)) if args.json else "\n".join(sentences(args.file, found)))
        if group is None and not args.json:
            print(
                "the keys are those that the state itself names: compare the cluster id, or give --cluster CLUSTER.toml"
            )
        return 0
    config = ClusterConfig.load(args.what)
    must_be_new(args.file)
    replica = _source(config, args.replica, args.as_is)
    if not args.as_is:
        problem = _advance(config, replica, args.name, time.monotonic() + args.timeout)
        if problem:
            hint = f"`pbft why {config.path}` tells what it waits for, and --as-is takes what is on the disk"
            print(f"pbft: {problem}; {hint}", file=sys.stderr)
            return 3
    found = take(config, replica, args.file)
    print(json.dumps(described(args.file, found)) if args.json else "\n".join(sentences(args.file, found)))
    return 0


def described(path: Path, backup: Backup) -> dict[str, object]:
    """For `--json`."""
    state = backup.state
    return {
        "file": str(path),
        "cluster": state.cluster.hex(),
        "epoch": state.epoch,
        "number": state.number,
        "digest": state.digest.hex(),
        "history": state.history.hex(),
        "application": backup.application,
        "entries": backup.entries,
        "replicas": len(backup.replicas),
        "signers": list(backup.signers),
        "bytes": backup.bytes,
    }


def sentences(path: Path, backup: Backup) -> list[str]:
    """For a person."""
    state = backup.state
    return [
        f"{path}: state {state.number} of cluster {state.cluster.hex()[:16]}, application {backup.application}, "
        f"{counted(backup.entries, 'key')}, {backup.bytes:,} bytes",
        f"it hashes to {state.digest.hex()[:16]}, which replicas {listed(backup.signers)} have signed",
    ]


def _source(config: ClusterConfig, wanted: int | None, as_is: bool) -> int:
    """The replica whose data is here and that is well, or the one that is wanted."""
    if wanted is not None and not 0 <= wanted < len(config.replicas):
        raise ConfigError(f"{config.path}: there is no replica {wanted}; ids are 0 to {len(config.replicas) - 1}")
    here = [r.id for r in config.replicas if config.data_directory(r.id).is_dir() and wanted in (None, r.id)]
    if not here:
        raise ConfigError(
            f"{config.path}: there is no data of a replica here; take the backup on the machine of one, as its user"
        )
    if as_is:
        return max(here, key=lambda i: _stored_number(config, i))
    rows = {i: ask(i, config.replicas[i].admin, 1.0) for i in here}
    well = [i for i in here if rows[i]["reachable"] and not rows[i]["recovering"]]
    if not well:
        raise ConfigError(
            f"{config.path}: {'none of ' if len(here) > 1 else 'replica '}{listed(here)} runs here and votes; "
            "start it, or take what is on its disk by --as-is"
        )
    return max(well, key=lambda i: number(rows[i]["last_executed"]))


def _stored_number(config: ClusterConfig, replica: int) -> int:
    stored = _stored(config, replica)
    return -1 if stored is None else stored.number


def _stored(config: ClusterConfig, replica: int) -> StoredCheckpoint | None:
    with contextlib.suppress(FileNotFoundError):  # a newer one has taken its place
        return newest_checkpoint(RealDirectory(config.data_directory(replica), create=False))
    return None


# ---- a new checkpoint


def _advance(config: ClusterConfig, replica: int, name: str | None, deadline: float) -> str:
    """Bring the cluster to a stable state that holds all that had executed when this was called, and have it written.
    What went wrong, or nothing."""
    rows = ask_all(config, 1.0)
    reached = sorted(number(row["last_executed"]) for row in rows)[-config.group.quorums.weak]
    interval = config.group.tunables.checkpoint_interval
    target = max(interval, -(-reached // interval) * interval)
    admin = config.replicas[replica].admin

    def stable() -> int:
        return number(ask(replica, admin, 1.0)["stable_checkpoint"])

    if stable() < target:
        if not config.clients:
            raise ConfigError(f"{config.path}: lists no [[client]], so nobody may ask for a newer state; use --as-is")
        config.client(name or config.clients[0].name)
        problem = trio.run(_fill, config, name or config.clients[0].name, stable, target, deadline)
        if problem:
            return problem
    while _stored_number(config, replica) < target:
        if time.monotonic() > deadline:
            return f"replica {replica} has not written state {target} to its disk in time"
        _ask_for_checkpoint(config, replica)
        time.sleep(_PAUSE)
    return ""


async def _fill(config: ClusterConfig, name: str, stable: Callable[[], int], target: int, deadline: float) -> str:
    """Have queries ordered until the checkpoint is there: each is a batch, and changes nothing. Whatever the
    application says to an empty query, it has been ordered."""
    said = f"the cluster has not agreed on state {target} in time"
    with trio.move_on_after(max(0.0, deadline - time.monotonic())):
        async with Client.connect(config, name=name) as client:
            while await trio.to_thread.run_sync(stable) < target:
                for _ in range(16):
                    try:
                        await client.query(b"")
                    except OperationFailed:
                        pass  # as well
                    except ClientError as error:
                        said = f"the cluster does not answer: {error}"
            return ""
    return said


def _ask_for_checkpoint(config: ClusterConfig, replica: int) -> None:
    admin = config.replicas[replica].admin
    with contextlib.suppress(OSError), socket.create_connection((admin.host, admin.port), 1.0) as connection:
        connection.settimeout(1.0)
        connection.sendall(CHECKPOINT)
        while connection.recv(1 << 16):  # its status, and the end once it has read what is asked
            pass


# ---- the copy


def take(config: ClusterConfig, replica: int, path: Path) -> Backup:
    """Copy the newest state on the disk of a replica, verified before it has its name. Raises BackupError, OSError."""
    folder = config.data_directory(replica)
    part = part_of(path)
    try:
        for _ in range(10):
            stored = _stored(config, replica)
            if stored is None:
                raise BackupError(
                    f"{folder} holds no state yet: a replica writes the first some time after it has begun, at a "
                    "checkpoint; run this without --as-is while it runs, or take that of another replica by --replica"
                )
            with contextlib.suppress(FileNotFoundError):
                if stored.base is None:
                    copy(folder / stored.file, part)
                else:
                    _write_whole(stored, part)
                found = read_backup(part, config.group)
                _publish(part, path)
                return found
        raise BackupError(f"{folder} changes faster than it can be copied; try again")
    except BackupError as error:
        raise BackupError(str(error).replace(str(part), str(folder))) from None
    except (DamagedCheckpoint, SnapshotError) as error:
        raise BackupError(f"{folder}: {error}") from None
    finally:
        part.unlink(missing_ok=True)


def _write_whole(stored: StoredCheckpoint, target: Path) -> None:
    """A state that lies in several files, in one."""
    found = read_state(stored.meta, stored.chunks())
    directory = RealDirectory(target.parent, create=False)
    write_checkpoint(directory, target.name, found.number, stored.meta, found.snapshot().chunks())


def _publish(part: Path, path: Path) -> None:
    os.link(part, path)  # unlike a renaming it never replaces what has come meanwhile
    sync_folder(path.parent)
