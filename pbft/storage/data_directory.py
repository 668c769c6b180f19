"""The data directory of one replica: who owns it, whether its past is known, how often it was started.

The one file of this module, `identity`, is replaced as a whole (old content or new, never between). It holds
the cluster, the replica, the boot counter, and a phase:

    no file -- token present --> STARTING -- token removed --> STARTED     the token has moved in: rule 1.7(c)
    no file -- no token ------------------------------------> LOST
    STARTED -- `declare_lost`, or a volatile start ---------> LOST
    LOST ---- `declare_recovered` --------------------------> STARTED

The token says what the file says before the first start, so writing STARTING is "copied, synced"; then the
token is removed and that is synced; only then the first start is reported, so nothing has been voted before.
A crash in between repeats the remaining steps. The first log segment is made before STARTED is written: from
then on a missing log is a lost one.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from struct import Struct

from pbft.storage.checkpoints import CheckpointStore
from pbft.storage.errors import (
    DamagedFile,
    DirectoryLocked,
    DirectoryUnusable,
    IdentityMismatch,
    NewerFormat,
    StorageError,
)
from pbft.storage.files import Directory, RealDirectory, replace_file
from pbft.storage.wal import SEGMENT_BYTES, Replay, Wal, discard_log, open_log

IDENTITY = "identity"
LOCK = "lock"
VERSION = 1
_IDENTITY_MAGIC = b"PBFTDIR\n"
_TOKEN_MAGIC = b"PBFTTOK\n"
_PREFIX = Struct("<8sII")
_BODY = Struct("<QQBH")
_CRC = Struct("<I")


class Past(enum.Enum):
    """What a replica knows of what it voted before; decides whether it may vote at once (rule 1.7)."""

    FRESH = "fresh"
    """The first start there ever was: it has voted nothing."""
    KNOWN = "known"
    """Everything voted is in the log."""
    LOST = "lost"
    """It may have voted what nobody here knows: it recovers before it votes."""


class Phase(enum.IntEnum):
    """How far the start token has moved in, and whether the past is whole; see above."""

    STARTING = 1
    STARTED = 2
    LOST = 3


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose a directory is, how often it was opened, and its phase."""

    cluster: bytes
    replica: int
    boot: int = 0
    phase: Phase = Phase.STARTING

    def encode(self, magic: bytes) -> bytes:
        """The bytes on disk of an identity or, by another `magic`, of a start token."""
        head = _PREFIX.pack(magic, VERSION, 0)[:-4]
        head += _CRC.pack(zlib.crc32(head))
        body = _BODY.pack(self.replica, self.boot, self.phase, len(self.cluster)) + self.cluster
        return head + body + _CRC.pack(zlib.crc32(body))


def _read_identity(directory: Directory, name: str, magic: bytes) -> Identity | None:
    """The identity in a file, None if there is no such file. Raises DamagedFile, NewerFormat, OSError."""
    try:
        data = directory.read(name, 0, 4096)
    except FileNotFoundError:
        return None
    name = _place(directory, name)
    if len(data) < _PREFIX.size:
        raise DamagedFile(name, "too short")
    found, version, crc = _PREFIX.unpack_from(data)
    if found != magic or crc != zlib.crc32(data[: _PREFIX.size - 4]):
        raise DamagedFile(name, "bad header")
    if version > VERSION:
        raise NewerFormat(name, version, VERSION)
    body = data[_PREFIX.size : -4]
    if len(body) < _BODY.size or zlib.crc32(body) != _CRC.unpack_from(data, len(data) - 4)[0]:
        raise DamagedFile(name, "bad checksum")
    replica, boot, phase, length = _BODY.unpack_from(body)
    if len(body) != _BODY.size + length:
        raise DamagedFile(name, "bad length")
    return Identity(body[_BODY.size :], replica, boot, Phase(phase))


def identity_of(directory: Directory) -> Identity | None:
    """What the file `identity` says, None without one. Changes nothing. Raises DamagedFile, NewerFormat, OSError."""
    return _read_identity(directory, IDENTITY, _IDENTITY_MAGIC)


def _place(directory: Directory, name: str) -> str:
    """Where an operator finds the file."""
    return str(directory.path / name) if isinstance(directory, RealDirectory) else name


def _check_owner(directory: Directory, name: str, found: Identity, cluster: bytes, replica: int) -> None:
    if found.cluster != cluster or found.replica != replica:
        raise IdentityMismatch(
            _place(directory, name),
            f"replica {replica} of cluster {cluster.hex()}",
            f"replica {found.replica} of cluster {found.cluster.hex()}",
        )


def write_start_token(path: Path, cluster: bytes, replica: int) -> None:
    """Write the one-time start token beside a new private key; durable on return. For `init`.

    Raises FileExistsError if there is one, and OSError.
    """
    directory = RealDirectory(path.parent)
    if path.exists():
        raise FileExistsError(f"{path} exists; a start token is written once")
    write_start_token_in(directory, path.name, cluster, replica)


def write_start_token_in(directory: Directory, name: str, cluster: bytes, replica: int) -> None:
    """Write a start token into any kind of directory. Raises OSError."""
    replace_file(directory, name, Identity(cluster, replica).encode(_TOKEN_MAGIC))


class DataDirectory:
    """An opened, locked data directory. Close it to release the lock."""

    __slots__ = ("_identity", "_lock", "directory", "past", "volatile")

    def __init__(self, directory: Directory, identity: Identity, past: Past, volatile: bool, lock: int) -> None:
        """For `open` and `open_in` only."""
        self.directory = directory
        self.past = past
        """What this start found; changed by `declare_lost` and `declare_recovered`."""
        self.volatile = volatile
        self._identity = identity
        self._lock = lock

    @classmethod
    def open(
        cls, path: Path, *, cluster: bytes, replica: int, token: Path | None, volatile: bool = False
    ) -> DataDirectory:
        """Lock the directory at `path` (made if missing), check whose it is, count the start, judge its past.

        `token` is where `init` put the start token. With `volatile` the past is FRESH once and LOST ever
        after; a crash within this very call may already cost the FRESH. Raises DirectoryUnusable,
        DirectoryLocked, IdentityMismatch, NewerFormat, DamagedFile and OSError.
        """
        try:
            directory = RealDirectory(path)
            lock = _lock(path)
        except OSError as error:
            raise DirectoryUnusable(str(path), error) from error
        try:
            keys = None
            if token is not None and token.parent.is_dir():
                keys = RealDirectory(token.parent, create=False)
            name = token.name if token is not None else ""
            opened = cls.open_in(directory, cluster=cluster, replica=replica, keys=keys, token=name, volatile=volatile)
        except BaseException:
            os.close(lock)
            raise
        opened._lock = lock
        return opened

    @classmethod
    def open_in(
        cls,
        directory: Directory,
        *,
        cluster: bytes,
        replica: int,
        keys: Directory | None,
        token: str,
        volatile: bool = False,
    ) -> DataDirectory:
        """As `open`, on any kind of directory and without the lock; `keys` holds the token named `token`."""
        identity = identity_of(directory)
        if identity is not None:
            _check_owner(directory, IDENTITY, identity, cluster, replica)
        start = _read_identity(keys, token, _TOKEN_MAGIC) if keys is not None else None
        if start is not None:
            assert keys is not None
            _check_owner(keys, token, start, cluster, replica)
        if identity is None:
            # Whatever else is here without an identity was not left by a crash, for that is written first.
            used = any(name.startswith(("log-", "checkpoint-")) for name in directory.list())
            lost = Identity(cluster, replica, phase=Phase.LOST)
            identity = start if start is not None and not used else lost
        identity = replace(identity, boot=identity.boot + 1)
        fresh = identity.phase is Phase.STARTING and start is not None
        past = Past.FRESH if fresh else Past.LOST if identity.phase is Phase.LOST else Past.KNOWN
        if volatile:
            # From here on votes are cast that no log has, now or before: a durable past ends too.
            past = Past.FRESH if fresh else Past.LOST
            identity = replace(identity, phase=Phase.LOST)
        opened = cls(directory, identity, past, volatile, -1)
        opened._save()
        if identity.phase is Phase.STARTING:
            wal, replay = open_log(directory, cluster, replica)
            replay.finish()
            wal.close()
        if keys is not None and start is not None:
            keys.remove(token)
            keys.sync_directory()
        if identity.phase is Phase.STARTING:
            opened._identity = replace(identity, phase=Phase.STARTED)
            opened._save()
        return opened

    @property
    def boot(self) -> int:
        """How often this directory was opened, this time included; durable."""
        return self._identity.boot

    def open_log(self, *, segment_bytes: int = SEGMENT_BYTES, from_position: int = 1) -> tuple[Wal, Replay]:
        """See `wal.open_log`. A missing log is DamagedLog unless the past is lost anyway."""
        return open_log(
            self.directory,
            self._identity.cluster,
            self._identity.replica,
            segment_bytes=segment_bytes,
            from_position=from_position,
            create=self.past is Past.LOST,
        )

    def open_checkpoints(self) -> CheckpointStore:
        """The durable checkpoints kept here. Raises OSError."""
        return CheckpointStore(self.directory)

    def declare_lost(self) -> None:
        """Note durably that the past is lost (a DamagedLog, an old copy), then remove log and checkpoints.

        Close the log first. A crash in between leaves LOST with some files, which the next call removes.
        Raises OSError.
        """
        self._identity = replace(self._identity, phase=Phase.LOST)
        self.past = Past.LOST
        self._save()
        discard_log(self.directory)
        self.open_checkpoints().discard()

    def declare_recovered(self) -> None:
        """Note durably that the log now holds all that binds the present incarnation: the next start is
        KNOWN.

        Call it once RECOVER has executed and that is durable in the log (rule 1.7a), before the first vote.
        Raises StorageError for a volatile replica, and OSError.
        """
        if self.volatile:
            raise StorageError("a volatile replica keeps no past", "start it without --volatile")
        self._identity = replace(self._identity, phase=Phase.STARTED)
        self._save()
        self.past = Past.KNOWN

    def close(self) -> None:
        """Release the lock."""
        if self._lock >= 0:
            lock, self._lock = self._lock, -1
            os.close(lock)

    def __enter__(self) -> DataDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _save(self) -> None:
        replace_file(self.directory, IDENTITY, self._identity.encode(_IDENTITY_MAGIC))


def keeps_past(path: Path) -> bool:
    """Whether a replica has started here that keeps what it votes. Raises DamagedFile, NewerFormat, OSError."""
    if not path.is_dir():
        return False
    identity = identity_of(RealDirectory(path, create=False))
    return identity is not None and identity.phase is Phase.STARTED


def holder(path: Path) -> int | None:
    """The process that works on this data directory, as far as the lock tells: None if nobody does, 0 if it does not
    say who it is."""
    try:
        fd = os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with contextlib.suppress(ValueError):
            return int(os.pread(fd, 32, 0))
        return 0
    finally:
        os.close(fd)
    return None


def _lock(path: Path) -> int:
    """Take the lock, which the kernel releases when this process ends. Raises DirectoryLocked, OSError."""
    fd = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder: int | None = None
            with contextlib.suppress(ValueError):
                holder = int(os.pread(fd, 32, 0))
            raise DirectoryLocked(str(path), holder) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    except BaseException:
        os.close(fd)
        raise
    return fd
