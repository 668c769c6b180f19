"""The whole replicated state at one number, as a value: digest, and bytes to store or send it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pbft.codec import CodecError, array, blob, decode_row, dumps, row, uint
from pbft.config import Group
from pbft.crypto.digests import digest_parts
from pbft.state import MAX_KEY_BYTES, MAX_VALUE_BYTES, PagedBucket, Snapshot, State, StateError

FORMAT = 2
CHUNK_BYTES = 64 << 10

_SPACES = ("", "session ", "system ")
_SHOWN = 64
"""Bytes of a key that an operator is shown."""

_CERTIFICATE_MAX = 1 << 22
_OLD_META = row(uint(1, 1), blob(64), uint(), uint(), blob(32, 32), blob(32, 32))
_META = row(uint(FORMAT, FORMAT), blob(64), uint(), uint(), blob(32, 32), blob(32, 32), blob(_CERTIFICATE_MAX))
_ENTRIES = array(row(uint(2), blob(MAX_KEY_BYTES), blob(MAX_VALUE_BYTES)), 1 << 16)
_ROWS = row(_ENTRIES)
_CHANGES = row(_ENTRIES, array(row(uint(2), blob(MAX_KEY_BYTES)), 1 << 16))
_CHANGES_BEGIN = b"\x82"
"""A CBOR array of two items."""


class SnapshotError(Exception):
    """A stored state cannot be used; the text says why. The replica has to get it from the others."""


class DamagedState(SnapshotError):
    """Its bytes are as they were written, and are not the state that they were said to be."""


class ExecutionSnapshot:
    """The state after one batch. Immutable; may be read in another thread while execution goes on."""

    __slots__ = ("_cluster", "_epoch", "digest", "history", "number", "spaces")

    def __init__(
        self, cluster: bytes, epoch: int, number: int, history: bytes, spaces: tuple[Snapshot, Snapshot, Snapshot]
    ) -> None:
        self._cluster = cluster
        self._epoch = epoch
        self.number = number
        self.history = history
        self.spaces = spaces
        """Application, sessions, system."""
        self.digest = state_digest(cluster, epoch, number, tuple(space.digest for space in spaces), history)

    def meta(self, certificate: bytes = b"") -> bytes:
        """What belongs to the state as a whole. `certificate`: an encoded STABLE that names this very state, if there
        is one; with it the stored state proves itself to whoever has the public keys."""
        return dumps((FORMAT, self._cluster, self._epoch, self.number, self.history, self.digest, certificate))

    def chunks(self) -> Iterator[bytes]:
        """All rows in pieces of about 64 KiB; a larger value makes a larger piece."""
        entries = ((index, key, value) for index, space in enumerate(self.spaces) for key, value in space.items())
        for rows, _ in _in_pieces(entries):
            yield dumps((rows,))

    def changes(self, base: ExecutionSnapshot) -> Iterator[bytes]:
        """What makes `base` this state: rows that are new or other ones, and keys that are gone, in pieces as above.
        Cost goes with what differs."""
        pairs = enumerate(zip(self.spaces, base.spaces, strict=True))
        entries = ((index, key, value) for index, (space, old) in pairs for key, value, _ in space.diff(old))
        for rows, gone in _in_pieces(entries):
            yield dumps((rows, gone))


def _in_pieces(
    entries: Iterable[tuple[int, bytes, bytes | None]],
) -> Iterator[tuple[tuple[tuple[int, bytes, bytes], ...], tuple[tuple[int, bytes], ...]]]:
    """(rows, keys that are gone: those without a value) of each piece."""
    rows: list[tuple[int, bytes, bytes]] = []
    gone: list[tuple[int, bytes]] = []
    size = 0
    for index, key, value in entries:
        if value is None:
            gone.append((index, key))
        else:
            rows.append((index, key, value))
        size += len(key) + len(value or b"") + 16
        if size >= CHUNK_BYTES:
            yield tuple(rows), tuple(gone)
            rows, gone, size = [], [], 0
    if rows or gone:
        yield tuple(rows), tuple(gone)


def told_key(space: int, key: bytes) -> str:
    """A key as an operator reads it, with the name of its space unless that is the application's."""
    return f"{_SPACES[space]}{key[:_SHOWN]!r}"


def state_digest(cluster: bytes, epoch: int, number: int, roots: tuple[bytes, ...], history: bytes) -> bytes:
    """What a CHECKPOINT says of a state with these roots of its spaces. Rule 1.8."""
    place = (cluster, epoch.to_bytes(8, "big"), number.to_bytes(8, "big"))
    return digest_parts(b"checkpoint", *place, *roots, history)


class StoredState(NamedTuple):
    """A stored state whose content hashes to the digest that was stored with it."""

    cluster: bytes
    epoch: int
    number: int
    history: bytes
    digest: bytes
    certificate: bytes
    """An encoded STABLE, not looked at here; empty if none was stored."""
    spaces: tuple[State, State, State]
    """Application, sessions, system."""

    def snapshot(self) -> ExecutionSnapshot:
        """The same as a value, hashed."""
        app, sessions, system = self.spaces
        roots = (app.checkpoint(), sessions.checkpoint(), system.checkpoint())
        return ExecutionSnapshot(self.cluster, self.epoch, self.number, self.history, roots)


def read_state(meta: bytes, chunks: Iterable[bytes], paging: type[PagedBucket] | None = None) -> StoredState:
    """A state as it was stored, of whatever cluster. Raises SnapshotError. `paging`: of the application's space.

    The content is compared with the digest before anything reads it, so that neither the session table nor the
    application meets damaged rows.
    """
    try:
        cluster, epoch, number, history, expected, certificate = _read_meta(meta)
        spaces = (State(paging=paging), State(), State())
        for chunk in chunks:
            if chunk[:1] == _CHANGES_BEGIN:
                _apply(spaces, *decode_row(chunk, _CHANGES))
                continue
            (rows,) = decode_row(chunk, _ROWS)
            for index, space in enumerate(spaces):
                space.load((key, value) for i, key, value in rows if i == index)
    except (CodecError, StateError, KeyError) as error:
        raise DamagedState(f"the stored state cannot be read: {error}; get it from the other replicas") from error
    stored = StoredState(cluster, epoch, number, history, expected, certificate, spaces)
    if stored.snapshot().digest != expected:
        raise DamagedState(
            f"the stored state {number} does not hash to the digest stored with it; get it from the other replicas"
        )
    return stored


def _apply(
    spaces: tuple[State, State, State], rows: Iterable[tuple[int, bytes, bytes]], gone: Iterable[tuple[int, bytes]]
) -> None:
    """Raises KeyError for a key that is said to go and is not there."""
    for index, key, value in rows:
        spaces[index][key] = value
    spaces[0].relieve()
    for index, key in gone:
        del spaces[index][key]


def _read_meta(meta: bytes) -> tuple[bytes, int, int, bytes, bytes, bytes]:
    try:
        _, cluster, epoch, number, history, expected, certificate = decode_row(meta, _META)
    except CodecError:
        _, cluster, epoch, number, history, expected = decode_row(meta, _OLD_META)
        certificate = b""
    return cluster, epoch, number, history, expected, certificate


def read_spaces(
    group: Group, meta: bytes, chunks: Iterable[bytes], paging: type[PagedBucket] | None = None
) -> tuple[int, bytes, bytes, tuple[State, State, State]]:
    """(number, history, digest, spaces) of a state of this group. Raises SnapshotError."""
    stored = read_state(meta, chunks, paging)
    if (stored.cluster, stored.epoch) != (group.cluster, group.epoch):
        raise SnapshotError("the stored state belongs to another cluster or epoch")
    return stored.number, stored.history, stored.digest, stored.spaces
