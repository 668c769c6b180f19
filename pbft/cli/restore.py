"""`pbft restore FILE DIR`: a new cluster that begins with the state of a backup; or a start for one replica."""

from __future__ import annotations

import argparse
from pathlib import Path

from pbft.apps import APPLICATIONS
from pbft.backup import Backup, BackupError, read_backup
from pbft.cli.applications import full_name, load_application
from pbft.cli.init import add_cluster_arguments, say
from pbft.cli.new_files import copy, part_of, sync_folder
from pbft.cli.output import counted
from pbft.config import ConfigError
from pbft.config_file import GENESIS, ClusterConfig, write_cluster
from pbft.storage.checkpoints import checkpoint_name
from pbft.storage.data_directory import keeps_past


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft restore`."""
    parser.add_argument("file", type=Path, metavar="FILE", help="a backup, as `pbft backup` writes it")
    add_cluster_arguments(parser)
    parser.add_argument(
        "--app", metavar="NAME|MODULE:CLASS|FILE.py:CLASS", help="the service (default: the backup's, if it ships)"
    )
    parser.add_argument(
        "--replica",
        type=int,
        metavar="ID",
        help="no new cluster: DIR holds the one that the backup is of, and replica ID, which has lost its data, begins "
        "with it instead of fetching all from the others",
    )


def run(args: argparse.Namespace) -> int:
    """Verify the backup first; then write."""
    if args.replica is not None:
        return _seed(args.file, ClusterConfig.load(args.directory / "cluster.toml"), args.replica)
    backup = read_backup(args.file)
    app = args.app or _named(args.file, backup)
    load_application(app, Path.cwd())
    genesis = args.directory / GENESIS
    if genesis.exists():
        raise ConfigError(f"{args.directory} holds a cluster already; choose another directory, or remove that one")
    config = write_cluster(
        args.directory,
        replicas=args.replicas,
        app=full_name(app, Path.cwd()),
        host=args.host,
        base_port=args.base_port,
        clients=tuple(args.client or ["client"]),
        tunables=backup.tunables,
        genesis=backup.state.digest,
    )
    _copy(args.file, genesis)
    print(f"state {backup.state.number} of cluster {backup.state.cluster.hex()[:16]}: {counted(backup.entries, 'key')}")
    if full_name(app, Path.cwd()) != full_name(backup.application, Path.cwd()):
        print(f"the state is one of application {backup.application}, and {app} must know what to do with it")
    print("a new cluster with new keys: its clients begin new sessions, and do not know what the old ones asked for")
    say(args.directory, config)
    return 0


def _named(file: Path, backup: Backup) -> str:
    """The application that a backup names, if it is one that ships: a file that somebody sent must not say what code is
    run here."""
    if APPLICATIONS.get(backup.application, backup.application) not in APPLICATIONS.values():
        raise ConfigError(
            f"{file} is of application {backup.application}, which is none that ships; if you trust it, name it: --app"
        )
    return backup.application


def _seed(file: Path, config: ClusterConfig, replica: int) -> int:
    if not 0 <= replica < len(config.replicas):
        raise ConfigError(f"{config.path}: there is no replica {replica}; ids are 0 to {len(config.replicas) - 1}")
    folder = config.data_directory(replica)
    if keeps_past(folder) or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty; move away what is in it, and never put an old copy of it back")
    backup: Backup = read_backup(file, config.group)
    if backup.application != config.group.app:
        raise BackupError(f"{file} is of application {backup.application}, and {config.path} names {config.group.app}")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _copy(file, folder / checkpoint_name(backup.state.number))
    text = "gets what is newer from the others, and votes once it has recovered"
    print(f"replica {replica} begins with state {backup.state.number}, {text}")
    return 0


def _copy(source: Path, target: Path) -> None:
    part = part_of(target)
    try:
        copy(source, part)
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)
    sync_folder(target.parent)
