"""A backup: one state of a cluster in a file that proves itself to whoever has the public keys of the replicas.

It is a checkpoint file (`pbft/storage/checkpoints.py`) whose meta holds the stable certificate of its state. Whoever
reads it hashes the whole content and verifies the signatures; so it does not matter where it was, or who copied it.
Without the keys of the cluster it is compared with those that the state itself names, which shows that nothing was
damaged, and not whose state it is.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from pbft.authentication import seal_verifies
from pbft.codec import CodecError
from pbft.config import ConfigError, Group, Quorums, Tunables
from pbft.crypto import CryptoError, PublicKey
from pbft.execution import SnapshotError
from pbft.execution.snapshots import StoredState, read_state
from pbft.messages import Checkpoint, Stable, decode
from pbft.state import State
from pbft.storage.checkpoints import StoredCheckpoint, open_checkpoint
from pbft.storage.errors import DamagedCheckpoint
from pbft.storage.files import RealDirectory

_NAME_MAX = 4096


class BackupError(ConfigError):
    """A file that is no backup, or not the one that is needed: one sentence that names file, place and remedy."""


class Backup(NamedTuple):
    """A backup whose content and signatures were verified."""

    state: StoredState
    application: str
    replicas: tuple[bytes, ...]
    """Identity keys, as the state names them."""
    tunables: dict[str, int]
    """Those that all replicas share, as the state names them."""
    signers: tuple[int, ...]
    """Who signed the CHECKPOINT of this state."""
    bytes: int
    """Length of the file."""

    @property
    def entries(self) -> int:
        """Keys of the application."""
        return len(self.state.spaces[0])


def read_backup(path: Path, group: Group | None = None) -> Backup:
    """Read and verify a file; `group`: it must be a state of this cluster, under these keys. Raises BackupError,
    `NewerFormat` and OSError. Blocks, and holds the whole state in memory."""
    stored = _opened(path)
    try:
        state = read_state(stored.meta, stored.chunks())
    except DamagedCheckpoint as error:
        raise _damaged(path, error) from None
    except SnapshotError as error:
        raise BackupError(f"{path} is no whole backup: {error}; use another copy of it") from None
    system = state.spaces[2]
    if group is not None and (state.cluster, state.epoch) != (group.cluster, group.epoch):
        raise BackupError(
            f"{path} is a state of cluster {state.cluster.hex()[:16]}, not of {group.cluster.hex()[:16]}; name the "
            "cluster.toml that it was made from, or make a new cluster of it: pbft restore FILE DIR"
        )
    replicas = _replicas(path, system)
    if group is not None and replicas != group.replicas:
        raise BackupError(f"{path} names other keys of the replicas than the cluster's file; do not trust it")
    signers = _signers(path, state, replicas)
    name = system.get(b"application", b"").decode("utf-8", "replace")
    application = "".join(c if c.isprintable() else "?" for c in name[:_NAME_MAX])
    return Backup(state, application, replicas, _tunables(path, system), signers, stored.size)


def read_genesis(group: Group, path: Path) -> State:
    """The application's state that a cluster begins with, which is that of the backup it was made from. Raises
    BackupError, `NewerFormat` and OSError."""
    if not path.exists():
        raise BackupError(f"{path} does not exist; this cluster was made from a backup, and needs that very file there")
    backup = read_backup(path)
    if backup.state.digest != group.genesis:
        raise BackupError(
            f"{path} is another backup than cluster.genesis names ({backup.state.digest.hex()[:16]} instead of "
            f"{group.genesis.hex()[:16]}); copy the one that `pbft restore` was given"
        )
    return backup.state.spaces[0]


def _opened(path: Path) -> StoredCheckpoint:
    if not path.is_file():
        raise BackupError(f"{path} is no file; name one that `pbft backup` has written")
    try:
        stored = open_checkpoint(RealDirectory(path.parent, create=False), path.name)
    except DamagedCheckpoint as error:
        raise _damaged(path, error) from None
    if stored.base_number:
        raise BackupError(
            f"{path} holds only what changed after state {stored.base_number}; use a file that `pbft backup` wrote"
        )
    return stored


def _damaged(path: Path, error: DamagedCheckpoint) -> BackupError:
    return BackupError(f"{path} is no whole backup: {error.reason} at byte {error.offset}; use another copy of it")


def _replicas(path: Path, system: State) -> tuple[bytes, ...]:
    found: list[bytes] = []
    while (key := system.get(b"member/%d" % len(found))) is not None:
        found.append(key)
    if len(found) < 4 or any(len(key) != 32 for key in found):
        raise BackupError(f"{path} names {len(found)} replicas, which are none of this software; use another copy")
    return tuple(found)


def _tunables(path: Path, system: State) -> dict[str, int]:
    values = {}
    for spec in fields(Tunables):
        raw = system.get(b"tunable/" + spec.name.encode())
        if raw is not None:
            if len(raw) > 8:
                raise BackupError(f"{path} holds a {spec.name} of {len(raw)} bytes; use another copy of it")
            values[spec.name] = int.from_bytes(raw, "big")
    try:
        Tunables(**values)
    except ConfigError as error:
        raise BackupError(f"{path} holds tunables that this version does not take: {error}") from None
    return values


def _signers(path: Path, state: StoredState, replicas: tuple[bytes, ...]) -> tuple[int, ...]:
    """Who signed this state. BackupError unless they are a quorum: q CHECKPOINTs with one digest, which anyone can
    verify (rule 1.4)."""
    if not state.certificate:
        raise BackupError(f"{path} holds no certificate of its state; make a backup by `pbft backup`")
    try:
        message = decode(state.certificate)
    except CodecError as error:
        raise BackupError(f"{path} holds a certificate that cannot be read ({error}); use another copy") from None
    checkpoints = message.checkpoints if isinstance(message, Stable) else ()
    found = set()
    for checkpoint in checkpoints:
        named = checkpoint.sender < len(replicas)
        same = (checkpoint.number, checkpoint.digest) == (state.number, state.digest)
        if named and same and _verifies(state, replicas[checkpoint.sender], checkpoint):
            found.add(checkpoint.sender)
    needed = Quorums(len(replicas)).strong
    if len(found) < needed:
        raise BackupError(f"{path} is signed by {len(found)} of the {needed} replicas that are needed; do not trust it")
    return tuple(sorted(found))


def _verifies(state: StoredState, key: bytes, checkpoint: Checkpoint) -> bool:
    try:
        return seal_verifies(PublicKey(key), state.cluster, state.epoch, checkpoint)
    except (CryptoError, ValueError):
        return False
