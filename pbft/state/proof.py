"""Reading nodes that came from elsewhere, and proofs that a key has a value or is absent.

Rules of this file: everything handed in is hostile until its digest matches. A node travels as exactly the
bytes that are hashed for it, so it is checked first and parsed after. Raises `ProofError` and nothing else.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from typing import NamedTuple

from pbft.codec import CodecError, array, blob, decode_row, dumps, row, uint
from pbft.crypto.digests import digest
from pbft.state.errors import ProofError
from pbft.state.nodes import (
    BUCKET,
    BUCKET_MAX,
    CHUNK,
    CHUNK_BYTES,
    CHUNKED,
    DIGEST_BYTES,
    EMPTY_DIGEST,
    INNER,
    INNER_HEAD,
    KEY_LENGTH,
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    OWN_ENTRY_BIT,
    REF,
    VALUE_LENGTH,
    entry_digest,
    lies_under,
    nibble,
)

_FORMAT = 1
_MAX_NODE_BYTES = BUCKET_MAX * (KEY_LENGTH.size + MAX_KEY_BYTES + DIGEST_BYTES)
_MAX_DEPTH = 2 * MAX_KEY_BYTES
_MAX_CHUNKS = MAX_VALUE_BYTES // CHUNK_BYTES


class InnerView(NamedTuple):
    """An inner node as its digest commits to it."""

    depth: int
    """Nibbles of the path that all its keys share."""
    path: bytes
    """That path, two nibbles to the byte."""
    total: int
    """Entries in the whole subtree."""
    entry: bytes | None
    """Digest of the entry whose key is the path itself."""
    children: tuple[tuple[int, bytes] | None, ...]
    """16 times (entries, digest) or None. A child of more than 16 entries is an inner node, else a bucket."""

    def child_path(self, slot: int) -> bytes:
        """Where child `slot` (0 to 15) is found with `Snapshot.node`: one byte per nibble."""
        return bytes([nibble(self.path, i) for i in range(self.depth)] + [slot])


class BucketView(NamedTuple):
    """A bucket as its digest commits to it: (key, entry digest), in key order."""

    entries: tuple[tuple[bytes, bytes], ...]


def parse_node(data: bytes, expected_digest: bytes) -> InnerView | BucketView:
    """The node that `data` (from `Snapshot.node`) is. Raises `ProofError` unless the digest is right."""
    if type(data) is not bytes or len(data) > _MAX_NODE_BYTES:
        raise ProofError(f"a node is a byte string of at most {_MAX_NODE_BYTES} bytes")
    if digest(INNER, data) == expected_digest:
        return _parse_inner(data)
    if digest(BUCKET, data) == expected_digest:
        return _parse_bucket(data)
    raise ProofError("a node does not have the digest that its parent names")


def _parse_inner(data: bytes) -> InnerView:
    if len(data) < INNER_HEAD.size:
        raise ProofError("an inner node is shorter than its header")
    depth, count, bitmap = INNER_HEAD.unpack_from(data)
    position = INNER_HEAD.size + (depth + 1) // 2
    path = data[INNER_HEAD.size : position]
    refs = (bitmap & 0xFFFF).bit_count()
    own = bool(bitmap & OWN_ENTRY_BIT)
    if (
        depth > _MAX_DEPTH
        or bitmap >= OWN_ENTRY_BIT * 2
        or len(data) != position + own * DIGEST_BYTES + refs * REF.size
        or (depth & 1 and path[-1] & 15)
    ):
        raise ProofError("an inner node is malformed")
    entry = data[position : position + DIGEST_BYTES] if own else None
    position += own * DIGEST_BYTES
    children: list[tuple[int, bytes] | None] = [None] * 16
    total = int(own)
    for slot in range(16):
        if bitmap >> slot & 1:
            size, child = REF.unpack_from(data, position)
            children[slot] = (size, child)
            position += REF.size
            total += size
    if total != count or count <= BUCKET_MAX or refs + own < 2:
        raise ProofError("an inner node does not hold what it counts")
    return InnerView(depth, path, count, entry, tuple(children))


def _parse_bucket(data: bytes) -> BucketView:
    entries: list[tuple[bytes, bytes]] = []
    position = 0
    while position < len(data):
        start = position + KEY_LENGTH.size
        if start > len(data):
            raise ProofError("a bucket ends inside an entry")
        (size,) = KEY_LENGTH.unpack_from(data, position)
        position = start + size + DIGEST_BYTES
        key = data[start : start + size]
        if (
            position > len(data)
            or size > MAX_KEY_BYTES
            or len(entries) == BUCKET_MAX
            or (entries and entries[-1][0] >= key)
        ):
            raise ProofError("a bucket is malformed")
        entries.append((key, data[position - DIGEST_BYTES : position]))
    if not entries:
        raise ProofError("a bucket is empty")
    return BucketView(tuple(entries))


def parse_chunk_list(data: bytes, key: bytes, expected_digest: bytes) -> tuple[int, tuple[bytes, ...]]:
    """(length in bytes, chunk digests) of the value whose entry has `expected_digest`.

    `data` is what `Snapshot.chunk_list` gave. Raises `ProofError` if it is not the list of that entry.
    """
    if type(data) is not bytes or digest(CHUNKED, data) != expected_digest:
        raise ProofError("a chunk list does not have the digest that its entry names")
    head = KEY_LENGTH.pack(len(key)) + key
    position = len(head) + VALUE_LENGTH.size
    if not data.startswith(head) or len(data) < position:
        raise ProofError("a chunk list belongs to another key")
    (size,) = VALUE_LENGTH.unpack_from(data, len(head))
    count = -(-size // CHUNK_BYTES)
    if not 1 < count <= _MAX_CHUNKS or len(data) != position + count * DIGEST_BYTES:
        raise ProofError("a chunk list does not hold what it counts")
    return size, tuple([data[i : i + DIGEST_BYTES] for i in range(position, len(data), DIGEST_BYTES)])


def verify_chunk(chunk: bytes, expected_digest: bytes) -> None:
    """Raises `ProofError` unless `chunk` is the one that a chunk list names by this digest."""
    if type(chunk) is not bytes or len(chunk) > CHUNK_BYTES or digest(CHUNK, chunk) != expected_digest:
        raise ProofError("a chunk does not have the digest that its list names")


_proof = row(
    uint(_FORMAT, _FORMAT),
    array(blob(_MAX_NODE_BYTES), _MAX_DEPTH + 2),
    array(blob(MAX_VALUE_BYTES), 1),
)


@dataclass(frozen=True, slots=True)
class Proof:
    """The nodes from the root to where a key is or would be, and its value (None: it is absent)."""

    nodes: tuple[bytes, ...]
    value: bytes | None

    def encode(self) -> bytes:
        """Canonical bytes."""
        return dumps((_FORMAT, self.nodes, () if self.value is None else (self.value,)))

    @classmethod
    def decode(cls, data: bytes) -> Proof:
        """The proof that encodes to exactly `data`. Raises `ProofError`."""
        if type(data) is not bytes:
            raise ProofError("a proof is a byte string")
        try:
            _, nodes, value = decode_row(data, _proof)
        except CodecError as error:
            raise ProofError(f"not a proof: {error}") from None
        return cls(tuple(nodes), value[0] if value else None)


def verify_proof(root_digest: bytes, key: bytes, proof: Proof | bytes) -> bytes | None:
    """The value of `key` in the state with `root_digest`, or None: it is absent there.

    Raises `ProofError` if the proof shows neither. Everything in a proof is needed: with a node more, a node
    less or a value that does not belong there it is refused.
    """
    if isinstance(proof, bytes):
        proof = Proof.decode(proof)
    found = _entry_digest(root_digest, key, proof.nodes)
    if found is None:
        if proof.value is not None:
            raise ProofError("the proof shows that the key is absent, and yet it carries a value")
        return None
    value = proof.value
    if type(value) is not bytes or len(value) > MAX_VALUE_BYTES or entry_digest(key, value) != found:
        raise ProofError("the value in the proof is not the one that the state holds for the key")
    return value


def _entry_digest(root_digest: bytes, key: bytes, nodes: tuple[bytes, ...]) -> bytes | None:
    """Follow `key` down; the digest of its entry, or None if the nodes show that it has none."""
    if type(key) is not bytes or len(key) > MAX_KEY_BYTES:
        raise ProofError(f"a key is a byte string of at most {MAX_KEY_BYTES} bytes")
    if root_digest == EMPTY_DIGEST:
        if nodes:
            raise ProofError("the proof has nodes that it does not need")
        return None
    expected, expected_count, at = root_digest, -1, 0
    for i, data in enumerate(nodes):
        node = parse_node(data, expected)
        last = i == len(nodes) - 1
        count = node.total if isinstance(node, InnerView) else len(node.entries)
        if expected_count not in (-1, count):
            raise ProofError("a node does not hold as many entries as its parent says")
        result: bytes | None = None
        child: tuple[int, bytes] | None = None
        if isinstance(node, BucketView):
            keys = [k for k, _ in node.entries]
            index = bisect_left(keys, key)
            if index < len(keys) and keys[index] == key:
                result = node.entries[index][1]
        elif node.depth < at:
            raise ProofError("a node lies above its parent")
        elif lies_under(key, node.path, node.depth):
            if len(key) * 2 == node.depth:
                result = node.entry
            else:
                child = node.children[nibble(key, node.depth)]
                at = node.depth + 1
        if child is None:
            if not last:
                raise ProofError("the proof has nodes that it does not need")
            return result
        expected_count, expected = child
    raise ProofError("the proof ends before it reaches the key")
