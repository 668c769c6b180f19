"""`pbft log export CLUSTER.toml FILE`, `pbft log show FILE`: the ordered input of a cluster, for audit and replay."""

from __future__ import annotations

import argparse
import json
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pbft.cli.output import counted, say_cut
from pbft.cli.status import ask, number
from pbft.config import ConfigError
from pbft.config_file import ClusterConfig
from pbft.exported_log import Certified, Export, ExportError, ExportWriter, Head, Ordered, batch_in, read_export
from pbft.protocol.records import decode_record
from pbft.storage.data_directory import holder, identity_of
from pbft.storage.files import RealDirectory
from pbft.storage.following import LogFollower, LogGap
from pbft.storage.inspection import Inspection

_PAUSE = 0.5
"""Seconds between two looks at a log that is followed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft log`."""
    parser.usage = "pbft log export [options] CLUSTER.toml FILE\n       pbft log show [--json] FILE"
    parser.add_argument("what", choices=("export", "show"), help="write what a log holds to FILE; or print such a file")
    parser.add_argument("names", nargs="+", metavar="CLUSTER.toml FILE", help="for show, FILE alone")
    parser.add_argument("--replica", type=int, metavar="ID", help="the log of this replica (default: any here)")
    parser.add_argument(
        "--follow", action="store_true", help="go on while the replica writes its log, until Ctrl-C or SIGTERM"
    )
    parser.add_argument("--json", action="store_true", help="show: a JSON object for each entry")


def run(args: argparse.Namespace) -> int:
    """Export, or show."""
    if len(args.names) != (2 if args.what == "export" else 1):
        raise ConfigError("give `pbft log export CLUSTER.toml FILE` or `pbft log show FILE`")
    if args.what == "show":
        return _show(Path(args.names[0]), args.json)
    return _export(ClusterConfig.load(args.names[0]), Path(args.names[1]), args.replica, args.follow)


def _export(config: ClusterConfig, path: Path, wanted: int | None, follow: bool) -> int:
    replica = _source(config, wanted)
    folder = config.data_directory(replica)
    directory = RealDirectory(folder, create=False)
    identity = identity_of(directory)
    if identity is None:
        raise ConfigError(f"{folder} is no data directory of a replica that has run; name one by --replica")
    writer = ExportWriter(path, config.group.cluster, config.group.epoch)
    begun = writer.last
    export, follower = Export(writer), LogFollower(directory, identity)
    if follow:
        for number_ in (signal.SIGINT, signal.SIGTERM):  # a shell starts what runs behind it deaf to the first
            signal.signal(number_, signal.default_int_handler)
    try:
        while True:
            try:
                for _, record in follower.records():
                    export.record(decode_record(record))
            except LogGap:
                continue  # from where there is a log again; `Export` sees whether batches are missing
            writer.sync()
            if not follow:
                break
            time.sleep(_PAUSE)
            if not folder.is_dir():
                raise ExportError(f"{folder} is gone; when its replica runs again, this goes on if it is called again")
    except KeyboardInterrupt:
        if not follow:
            raise
    finally:
        writer.close()
    if not follow:
        _read_all(config, replica, writer)
    print(_told(writer, begun, config.group.tunables.checkpoint_interval))
    return 0


def _read_all(config: ClusterConfig, replica: int, writer: ExportWriter) -> None:
    """Raises DamagedLog or ExportError if the log ended where it is damaged, and not where it was written last."""
    folder = config.data_directory(replica)
    if holder(folder) is None:
        for _ in Inspection(RealDirectory(folder, create=False)).records():
            pass
        return
    executed = number(ask(replica, config.replicas[replica].admin, 1.0)["last_executed"])
    if (writer.last or 0) + config.group.tunables.log_window < executed:
        raise ExportError(
            f"{writer.path}: the log of replica {replica} can be read up to batch {writer.last or 0}, and it has "
            f"executed {executed}: part of it is damaged, or was cut meanwhile; export from another replica"
        )


def _told(writer: ExportWriter, begun: int | None, interval: int) -> str:
    if writer.last is None:
        return f"{writer.path}: the log holds no batch yet"
    more = counted(writer.written, "batch", "batches")
    where = "" if not writer.written else f", {writer.last - writer.written + 1} to {writer.last}"
    hint = "; logs of other replicas may hold more certificates: export from one into the same file"
    return (
        f"{writer.path}: {more} {'more' if begun is not None else 'written'}{where}; certified up to {writer.certified}"
        + (hint if writer.certified + 2 * interval <= writer.last else "")
    )


def _source(config: ClusterConfig, wanted: int | None) -> int:
    if wanted is not None and not 0 <= wanted < len(config.replicas):
        raise ConfigError(f"{config.path}: there is no replica {wanted}; ids are 0 to {len(config.replicas) - 1}")
    here = [r.id for r in config.replicas if config.data_directory(r.id).is_dir() and wanted in (None, r.id)]
    if not here:
        raise ConfigError(f"{config.path}: there is no data of a replica here; export on the machine of one")
    return max(here, key=lambda i: (number(ask(i, config.replicas[i].admin, 1.0)["last_executed"]), -i))


def _show(path: Path, as_json: bool) -> int:
    for entry in read_export(path, say_cut):
        fields = _fields(path, entry)
        if as_json:
            print(json.dumps({"entry": type(entry).__name__.lower(), **fields}))
        else:
            print(type(entry).__name__.lower(), *(f"{name}={value}" for name, value in fields.items()))
    return 0


def _fields(path: Path, entry: Head | Ordered | Certified) -> dict[str, Any]:
    match entry:
        case Head(cluster, epoch, after):
            return {"cluster": cluster.hex(), "epoch": epoch, "after": after}
        case Certified(checkpoints):
            first = checkpoints[0]
            return {
                "number": first.number,
                "digest": first.digest.hex(),
                "signers": [c.sender for c in checkpoints if c.digest == first.digest],
            }
        case Ordered(number_):
            batch = batch_in(path, entry)
            at = datetime.fromtimestamp(batch.time / 1e6, UTC).isoformat() if batch.time < 1 << 55 else batch.time
            return {
                "number": number_,
                "digest": batch.digest.hex(),
                "time": None if batch.is_null else at,
                "requests": [
                    {
                        "client": f"{r.client:016x}",
                        "session": r.session,
                        "id": r.id,
                        "kind": r.kind.name.lower(),
                        "operations": [o.hex() for o in r.operations],
                    }
                    for r in batch.requests
                ],
            }
