"""`pbft data verify DIR` and `pbft data show DIR`: read a data directory offline, without changing it."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pbft.authentication import seal_verifies
from pbft.cli.output import counted
from pbft.codec import CodecError
from pbft.config import Group
from pbft.config_file import ClusterConfig
from pbft.crypto import PublicKey
from pbft.execution.snapshots import SnapshotError, read_spaces
from pbft.protocol.records import (
    Entered,
    Left,
    OwnCheckpoint,
    PeerPosition,
    Record,
    StableCertificate,
    decode_record,
)
from pbft.protocol.replica import fold
from pbft.storage.checkpoints import StoredCheckpoint
from pbft.storage.data_directory import IDENTITY, Phase, holder
from pbft.storage.errors import DamagedCheckpoint, DamagedLog, DirectoryLocked, IdentityMismatch, StorageError
from pbft.storage.files import RealDirectory
from pbft.storage.inspection import Inspection

_PHASES = {
    Phase.STARTING: "its first start was not completed",
    Phase.STARTED: "it has not found its past to be lost",
    Phase.LOST: "its past is lost, so this replica does not vote",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft data`."""
    parser.add_argument("what", choices=("verify", "show"), help="check every byte; or print the log, a line a record")
    parser.add_argument("dir", type=Path, metavar="DIR", help="the data directory of a replica that does not run")
    parser.add_argument(
        "--cluster",
        metavar="CLUSTER.toml",
        help="verify: also hash the stored state, and verify the signatures of the certificates in the log",
    )
    parser.add_argument("--from", type=int, default=1, dest="first", metavar="N", help="show: from this record on")
    parser.add_argument("--limit", type=int, metavar="N", help="show: so many records at most")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """0 if all is as it was written, 1 if something is damaged; both are printed."""
    inspection = _open(args.dir)
    if args.what == "show":
        return _show(inspection, args)
    group = None if args.cluster is None else ClusterConfig.load(args.cluster).group
    found: dict[str, Any] = _identity(inspection, group)
    problems: list[str] = []
    log = None
    try:
        log = _verify_log(inspection, group, found)
    except (DamagedLog, IdentityMismatch) as error:
        problems.append(str(error))
    try:
        _verify_checkpoint(inspection, group, log, found)
    except (DamagedCheckpoint, SnapshotError, CodecError, StorageError) as error:
        problems.append(str(error))
    found["problems"] = problems
    print(json.dumps(found) if args.json else "\n".join(_sentences(inspection, found)))
    return 1 if problems else 0


def _open(path: Path) -> Inspection:
    if not path.is_dir():
        raise StorageError(
            f"{path} is no directory", "name the data directory of a replica, such as vote/data/replica-0"
        )
    _check_directory(path)
    pid = holder(path)
    if pid is not None:
        raise DirectoryLocked(str(path), pid or None)
    return Inspection(RealDirectory(path, create=False))


def _check_directory(path: Path) -> None:
    """Raises StorageError for a directory that is not one of a replica, and names those in it that are."""
    if not path.is_dir() or (path / IDENTITY).exists():
        return
    inside = sorted(str(found.parent) for found in path.glob(f"*/{IDENTITY}")) or sorted(
        str(found.parent) for found in path.glob(f"data/*/{IDENTITY}")
    )
    raise StorageError(
        f"{path} is no data directory of a replica: it has no file `{IDENTITY}`",
        f"did you mean {' or '.join(inside)}?" if inside else "name one, such as vote/data/replica-0; if this was one, "
        "its replica has lost its past, and recovers when it is started",
    )  # fmt: skip


def _identity(inspection: Inspection, group: Group | None) -> dict[str, Any]:
    identity = inspection.identity
    if group is not None and identity.cluster != group.cluster:
        raise IdentityMismatch("identity", f"cluster {group.cluster.hex()}", f"cluster {identity.cluster.hex()}")
    return {
        "cluster": identity.cluster.hex(),
        "replica": identity.replica,
        "boot": identity.boot,
        "phase": identity.phase.name.lower(),
    }


def _decoded(inspection: Inspection) -> Iterator[tuple[int, Record]]:
    for position, data in inspection.records():
        try:
            yield position, decode_record(data)
        except CodecError as error:
            raise DamagedLog("log", 0, position, f"a record that this version cannot read: {error}") from None


def _verify_log(inspection: Inspection, group: Group | None, found: dict[str, Any]) -> list[tuple[int, Record]]:
    records = list(_decoded(inspection))
    found["records"] = len(records)
    found["kinds"] = dict(sorted(Counter(type(record).__name__ for _, record in records).items()))
    found["segments"] = len(inspection.segments)
    found["log_bytes"] = sum(segment.bytes for segment in inspection.segments)
    torn = inspection.torn_tail
    found["torn_tail"] = None if torn is None else {"file": torn.file, "offset": torn.offset, "reason": torn.reason}
    if group is not None:
        for position, record in records:
            _verify_seals(group, position, record)
        log = fold(group, records)
        found |= {"view": log.view, "promised": log.promised, "low_watermark": log.low, "executing": log.executing}
    return records


def _verify_seals(group: Group, position: int, record: Record) -> None:
    match record:
        case StableCertificate(checkpoints):
            sealed: tuple[Any, ...] = checkpoints
            enough = len({c.sender for c in checkpoints if c.digest == checkpoints[0].digest}) >= group.quorums.strong
        case OwnCheckpoint(checkpoint):
            sealed, enough = checkpoint, True
        case Left(view_change):
            sealed, enough = view_change, True
        case PeerPosition(said):
            sealed, enough = said, True
        case _:
            return
    for message in sealed:
        known = message.sender < len(group.replicas)
        enough = enough and known and _seal_verifies(group, message)
    if not enough:
        raise DamagedLog("log", 0, position, "a record whose signatures do not verify under the keys of the cluster")


def _seal_verifies(group: Group, message: Any) -> bool:
    return seal_verifies(PublicKey(group.replicas[message.sender]), group.cluster, group.epoch, message)


def _verify_checkpoint(
    inspection: Inspection, group: Group | None, records: list[tuple[int, Record]] | None, found: dict[str, Any]
) -> None:
    stored = inspection.checkpoint()
    found["checkpoint"] = None if stored is None else stored.number
    if stored is None:
        return
    found["checkpoint_bytes"] = stored.total_size
    if group is None:
        for _ in stored.chunks():
            pass
        return
    _, _, digest, _ = read_spaces(group, stored.meta, stored.chunks())
    found["checkpoint_digest"] = digest.hex()
    found["checkpoint_certified"] = _is_certified(stored, digest, records)


def _is_certified(stored: StoredCheckpoint, digest: bytes, records: list[tuple[int, Record]] | None) -> bool:
    """Whether q replicas signed this very state; the certificate stands in the log."""
    certificates = [r.checkpoints[0] for _, r in records or () if isinstance(r, StableCertificate)]
    same = [c.digest == digest for c in certificates if c.number == stored.number]
    if same and not all(same):
        raise DamagedCheckpoint(
            stored.file, 0, "its state hashes to another digest than the certificate in the log says"
        )
    return bool(same)


def _sentences(inspection: Inspection, found: dict[str, Any]) -> Iterator[str]:
    yield (
        f"replica {found['replica']} of cluster {found['cluster'][:16]}: started {counted(found['boot'], 'time')}; "
        f"{_PHASES[inspection.identity.phase]}"
    )
    if "records" in found:
        files = counted(found["segments"], "file")
        yield f"log: {counted(found['records'], 'record')} in {files}, {found['log_bytes']:,} bytes; each verified"
    if torn := found.get("torn_tail"):
        yield (
            f"  {torn['file']} ends in the middle of a write at byte {torn['offset']} ({torn['reason']}); as far as "
            "the file tells nothing of it was ever reported durable; the next start cuts it off, and learns from the "
            "others if it is more than that"
        )
    if "view" in found:
        yield (
            f"  view {found['view']}, no vote below view {found['promised']}, stable up to {found['low_watermark']}, "
            f"executed up to {found['executing']}; the signatures in it verify"
        )
    if found.get("checkpoint") is not None:
        yield f"checkpoint: state {found['checkpoint']}, {found.get('checkpoint_bytes', 0):,} bytes" + (
            f", hashes to {found['checkpoint_digest'][:16]}, which "
            + ("a quorum has signed" if found["checkpoint_certified"] else "no certificate in the log names")
            if "checkpoint_digest" in found
            else ""
        )
    elif not found["problems"]:
        yield "checkpoint: none yet; the log begins at the beginning"
    for name in inspection.leftovers():
        yield f"{name} was being written when a crash came; the next start removes it"
    yield from (f"DAMAGED: {problem}" for problem in found["problems"])
    if not found["problems"]:
        yield "nothing is damaged"


def _show(inspection: Inspection, args: argparse.Namespace) -> int:
    shown = 0
    for position, record in _decoded(inspection):
        if position < args.first:
            continue
        if args.limit is not None and shown >= args.limit:
            break
        shown += 1
        fields = _fields(record)
        if args.json:
            print(json.dumps({"position": position, "record": type(record).__name__, **fields}))
        else:
            print(position, type(record).__name__, *(f"{name}={value}" for name, value in fields.items()))
    return 0


def _fields(record: Record) -> dict[str, Any]:
    """What a person wants to know of a record; bytes as hex, long ones as their length."""
    match record:
        case StableCertificate(checkpoints):
            first = checkpoints[0]
            senders = [c.sender for c in checkpoints]
            return {"number": first.number, "digest": first.digest.hex()[:16], "senders": senders}
        case OwnCheckpoint((checkpoint,)):
            return {"number": checkpoint.number, "digest": checkpoint.digest.hex()[:16]}
        case Left((message,)):
            return {"view": message.view, "low": message.low, "p": len(message.prepared), "q": len(message.preprepared)}
        case Entered(new_view):
            return {"bytes": len(new_view)}
        case PeerPosition((said,)):
            return {"sender": said.sender, "incarnation": said.incarnation, "boot": said.boot, "at": said.position}
        case _:
            return {name: _short(value) for name, value in record._asdict().items() if name != "key"}


def _short(value: Any) -> Any:
    if not isinstance(value, bytes):
        return value
    return value.hex()[:16] if len(value) == 32 else f"{len(value)} bytes"
