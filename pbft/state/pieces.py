"""What travels when a state is transferred: wants, the pieces that answer them, and how a piece is read.

Rules of this file: pure functions of bytes; remembers nothing. A piece is hostile until it has the digest that
is expected at its place: the readers check its size, then its digest, raise `ProofError` and nothing else.

A piece is, by the kind of the want:

- NODE: 0 and the entries of the whole subtree in key order, if they fit and the node alone was not asked for; else 1
  and the node as it is hashed.
- ENTRY: 0 and the value, if it fits; else 1 and the list of its chunks as it is hashed.
- CHUNKS: up to 16 chunks of the value one after the other, without the leading byte.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple

from pbft.codec import CodecError, array, blob, decode_row, dumps, row
from pbft.state import trie
from pbft.state.errors import ProofError
from pbft.state.nodes import (
    CHUNK_BYTES,
    DIGEST_BYTES,
    KEY_LENGTH,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    VALUE_LENGTH,
    entry_digest,
    lies_under,
    root_digest,
)
from pbft.state.proof import BucketView, InnerView, parse_chunk_list, parse_node, verify_chunk
from pbft.state.snapshot import Snapshot

PIECE_BYTES = 64 << 10
"""A piece holds at most about this much content."""
MAX_PIECE_BYTES = (
    1 + KEY_LENGTH.size + MAX_KEY_BYTES + VALUE_LENGTH.size + MAX_VALUE_BYTES // CHUNK_BYTES * DIGEST_BYTES
)
"""No piece is longer: a list of chunks, which can be verified only as a whole, takes this for a value of 16 MiB."""

_WHOLE, _PART = b"\0", b"\1"
_ENTRY_OVERHEAD = 8  # at least what the encoding adds to a key and a value
_MAX_ENTRIES_BYTES = PIECE_BYTES + 4  # with the heads of the two outer arrays
_entries = row(array(row(blob(MAX_KEY_BYTES), blob(PIECE_BYTES)), PIECE_BYTES // _ENTRY_OVERHEAD, 1))


ALONE = 1
"""Asks for a node without what is below it: who has most of that does not want it."""


class Kind(IntEnum):
    """What a want asks for."""

    NODE = 0
    ENTRY = 1
    CHUNKS = 2


class Want(NamedTuple):
    """One thing to fetch. The same want may stand for other bytes in another snapshot."""

    space: int
    """Index into the states."""
    kind: int
    place: bytes
    """NODE: path, one byte per nibble (b"" is the root); ENTRY, CHUNKS: the key."""
    index: int  # type: ignore[assignment]  # it hides a method of tuples that nobody calls
    """CHUNKS: the first chunk; NODE: `ALONE`, or 0 for the whole subtree if it fits; else 0."""


class ChunkList(NamedTuple):
    """Of what chunks a large value consists."""

    size: int
    """Bytes of the value."""
    digests: tuple[bytes, ...]


def piece(snapshots: Sequence[Snapshot], want: Want) -> bytes | None:
    """The piece that answers `want`; None if these snapshots have no such thing, or none can be."""
    space, kind, place, index = want
    most = {Kind.NODE: ALONE, Kind.CHUNKS: MAX_VALUE_BYTES // CHUNK_BYTES}.get(kind, 0)  # type: ignore[call-overload]
    if not 0 <= space < len(snapshots) or not 0 <= index <= most:
        return None
    snapshot = snapshots[space]
    if kind == Kind.NODE:
        return _node_piece(snapshot, place, index == ALONE)
    value = snapshot.get(place)
    if value is None:
        return None
    if kind == Kind.ENTRY:
        if len(value) <= PIECE_BYTES:
            return _WHOLE + value
        return _PART + (snapshot.chunk_list(place) or b"")
    start = index * CHUNK_BYTES
    return value[start : start + PIECE_BYTES] if kind == Kind.CHUNKS and start < len(value) else None


def _node_piece(snapshot: Snapshot, path: bytes, alone: bool) -> bytes | None:
    if max(path, default=0) > 15 or (node := snapshot.node(path)) is None:
        return None
    if alone:
        return _PART + node
    entries, room = [], PIECE_BYTES
    for key, value in snapshot.subtree(path):
        room -= len(key) + len(value) + _ENTRY_OVERHEAD
        if room < 0:
            return _PART + node
        entries.append((key, value))
    return _WHOLE + dumps((entries,))


def under(key: bytes, path: bytes) -> bool:
    """Whether `key` begins with `path`, which has one byte per nibble."""
    return lies_under(key, _packed(path), len(path))


def _packed(path: bytes) -> bytes:
    return bytes([high << 4 | low for high, low in zip(path[::2], path[1::2] + b"\0", strict=False)])


# ---- reading


def read_node(path: bytes, expected_digest: bytes, data: bytes) -> InnerView | BucketView | dict[bytes, bytes]:
    """What a piece says of the node at `path`: its parts, or all entries below it."""
    tag, body = _opened(data)
    if tag == _WHOLE:
        entries = _read_entries(body, expected_digest)
        _stay_under(entries, path)
        return entries
    node = parse_node(body, expected_digest)
    if isinstance(node, BucketView):
        _stay_under((key for key, _ in node.entries), path)
    elif node.depth < len(path) or (node.entry is not None and node.depth & 1):
        raise ProofError("an inner node cannot be where its parent has it")
    else:
        _stay_under((node.path,), path)
    return node


def _read_entries(body: bytes, expected_digest: bytes) -> dict[bytes, bytes]:
    if len(body) > _MAX_ENTRIES_BYTES:
        raise ProofError("a subtree that is too large to travel in one piece")
    try:
        (found,) = decode_row(body, _entries)
    except CodecError as error:
        raise ProofError(f"not the entries of a subtree: {error}") from None
    keys = [key for key, _ in found]
    if any(a >= b for a, b in pairwise(keys)):
        raise ProofError("the entries of a subtree are not in order")
    if root_digest(trie.update(None, keys, [value for _, value in found])) != expected_digest:
        raise ProofError("the entries of a subtree do not have the digest that its parent names")
    return dict(found)


def _stay_under(keys: Iterable[bytes], path: bytes) -> None:
    packed = _packed(path)
    if not all(lies_under(key, packed, len(path)) for key in keys):
        raise ProofError("a node holds what does not belong at its place")


def read_entry(key: bytes, expected_digest: bytes, data: bytes) -> bytes | ChunkList:
    """The value of `key` that a piece holds, or the list of its chunks."""
    tag, body = _opened(data)
    if tag == _PART:
        return ChunkList(*parse_chunk_list(body, key, expected_digest))
    if len(body) > PIECE_BYTES or entry_digest(key, body) != expected_digest:
        raise ProofError("a value does not have the digest that its node names")
    return body


def read_chunks(listed: ChunkList, first: int, data: bytes) -> list[bytes]:
    """The chunks from `first` on that a piece holds, each verified."""
    start = first * CHUNK_BYTES
    if type(data) is not bytes or len(data) != min(listed.size - start, PIECE_BYTES):
        raise ProofError("a piece of a value has the wrong length")
    chunks = [data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES)]
    for i, chunk in enumerate(chunks, first):
        verify_chunk(chunk, listed.digests[i])
    return chunks


def _opened(data: bytes) -> tuple[bytes, bytes]:
    """The leading byte of a piece, and the rest."""
    if type(data) is not bytes or len(data) > MAX_PIECE_BYTES or data[:1] not in (_WHOLE, _PART):
        raise ProofError(f"not a piece of at most {MAX_PIECE_BYTES} bytes")
    return data[:1], data[1:]
