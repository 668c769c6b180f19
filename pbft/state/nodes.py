"""The nodes of the Merkle trie: what they hold, and exactly which bytes are hashed.

Definition of the digest of a set of entries; shape and digest depend on the content alone. All integers
big-endian, all digests BLAKE2b-256 with the domain as personalisation. A key is read as a string of nibbles,
high one first.

- entry: value <= 4096 bytes: H("state-entry", u16 key length, key, value); a longer one goes by chunks of
  4096 bytes (the last may be shorter): H("state-chunked", u16 key length, key, u64 value length,
  H("state-chunk", chunk) ...).
- no entries: H("state-empty", nothing).
- 1 to 16 entries, a bucket: H("state-bucket", for each in key order: u16 key length, key, entry digest).
- more, an inner node: its path is the longest common nibble prefix of its keys. The entry whose key is the
  path itself stays in the node, the others go to 16 children by their next nibble; each child is the node of
  its own entries. H("state-inner", u16 path length in nibbles, u64 entries, u32 bitmap (bit i: child i; bit
  16: own entry), path packed two nibbles to the byte and padded with a zero nibble, [own entry's digest], for
  each child: u64 entries, digest).

Paths are absolute, so the digest of a subtree is the root digest of a state with just its entries: a piece of
a transfer is verified by building it, and a node keeps its digest when the nodes above it split or merge.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, TypeAlias

from pbft.crypto.digests import digest

MAX_KEY_BYTES = 1024
MAX_VALUE_BYTES = 16 << 20
CHUNK_BYTES = 4096
BUCKET_MAX = 16
DIGEST_BYTES = 32

ENTRY, CHUNKED, CHUNK = b"state-entry", b"state-chunked", b"state-chunk"
BUCKET, INNER = b"state-bucket", b"state-inner"
EMPTY_DIGEST = digest(b"state-empty", b"")

KEY_LENGTH = struct.Struct(">H")
VALUE_LENGTH = struct.Struct(">Q")
INNER_HEAD = struct.Struct(">HQI")
REF = struct.Struct(">Q32s")
OWN_ENTRY_BIT = 1 << 16

_pack_key_length = KEY_LENGTH.pack
_pack_ref = REF.pack
_pack_inner_head = INNER_HEAD.pack


def chunk_list(key: bytes, value: bytes) -> bytes:
    """What is hashed for a value of more than `CHUNK_BYTES`: key, length, and the digest of each chunk."""
    chunks = [digest(CHUNK, value[i : i + CHUNK_BYTES]) for i in range(0, len(value), CHUNK_BYTES)]
    return b"".join((_pack_key_length(len(key)), key, VALUE_LENGTH.pack(len(value)), *chunks))


def entry_digest(key: bytes, value: bytes) -> bytes:
    """Digest of one entry; commits to the key and the value."""
    return entry_row(key, value)[-DIGEST_BYTES:]


def entry_row(key: bytes, value: bytes) -> bytes:
    """The entry as its bucket hashes it: u16 key length, key, entry digest."""
    head = _pack_key_length(len(key)) + key
    if len(value) <= CHUNK_BYTES:
        return head + digest(ENTRY, head + value)
    return head + digest(CHUNKED, chunk_list(key, value))


class Entry(NamedTuple):
    """A key with its value and the row that its node hashes."""

    key: bytes
    value: bytes
    row: bytes


class Bucket:
    """1 to 16 entries in key order. Immutable by convention; holds the values themselves, not copies."""

    __slots__ = ("count", "keys", "page", "ref", "rows", "values")

    def __init__(self, keys: tuple[bytes, ...], values: tuple[bytes, ...], rows: tuple[bytes, ...]) -> None:
        self.keys = keys
        self.values = values
        self.rows = rows
        self.count = len(keys)
        # Invariant: u64 count, then the digest: what the parent hashes for this child.
        self.ref = bucket_ref(rows)

    page: int
    """Where its content lies outside; only a bucket that `paging` has given a page has it."""

    def preimage(self) -> bytes:
        """The bytes whose digest this node's digest is."""
        return b"".join(self.rows)


class Inner:
    """More than 16 entries with a common path of `depth` nibbles. Immutable by convention."""

    __slots__ = ("bitmap", "children", "count", "depth", "entry", "path", "ref")

    def __init__(
        self,
        depth: int,
        path: bytes,
        count: int,
        bitmap: int,
        entry: Entry | None,
        children: list[Bucket | Inner | None],
    ) -> None:
        self.depth = depth
        self.path = path
        self.count = count
        self.bitmap = bitmap  # Invariant: bit i iff there is a child i, bit 16 iff there is an own entry.
        self.entry = entry
        self.children = children
        self.ref = inner_ref(self)

    def preimage(self) -> bytes:
        """The bytes whose digest this node's digest is."""
        head = _pack_inner_head(self.depth, self.count, self.bitmap) + self.path
        if self.entry is not None:
            head += self.entry.row[-DIGEST_BYTES:]
        return head + b"".join([child.ref for child in self.children if child is not None])

    def with_child(self, slot: int, child: Bucket | Inner, more: int) -> Inner:
        """The same node but for one child, and `more` entries."""
        children = self.children.copy()
        children[slot] = child
        bitmap = self.bitmap | 1 << slot
        return Inner(self.depth, self.path, self.count + more, bitmap, self.entry, children)


def bucket_ref(rows: tuple[bytes, ...]) -> bytes:
    """What the parent of a bucket with these rows hashes for it."""
    return _pack_ref(len(rows), digest(BUCKET, b"".join(rows)))


def inner_ref(node: Inner) -> bytes:
    """What the parent of an inner node hashes for it."""
    return _pack_ref(node.count, digest(INNER, node.preimage()))


Node: TypeAlias = Bucket | Inner
NO_CHILDREN: list[Node | None] = [None] * 16


def root_digest(root: Node | None) -> bytes:
    """Digest of the entries at and below a node; None holds nothing."""
    return EMPTY_DIGEST if root is None else root.ref[-DIGEST_BYTES:]


def nibble(key: bytes, depth: int) -> int:
    """The nibble of `key` at position `depth`, which it must have."""
    return key[depth >> 1] & 15 if depth & 1 else key[depth >> 1] >> 4


def common_nibbles(a: bytes, b: bytes) -> int:
    """Length in nibbles of the longest common prefix of two keys."""
    size = min(len(a), len(b))
    differing = int.from_bytes(a[:size], "big") ^ int.from_bytes(b[:size], "big")
    return (8 * size - differing.bit_length()) >> 2


def lies_under(key: bytes, path: bytes, depth: int) -> bool:
    """Whether `key` begins with the `depth` nibbles of `path`."""
    if depth & 1:
        whole = depth >> 1
        return key.startswith(path[:whole]) and len(key) > whole and key[whole] >> 4 == path[whole] >> 4
    return key.startswith(path)


def packed_path(key: bytes, depth: int) -> bytes:
    """The first `depth` nibbles of `key`, two to the byte, padded with a zero nibble."""
    if depth & 1:
        whole = depth >> 1
        return key[:whole] + bytes((key[whole] & 0xF0,))
    return key[: depth >> 1]
