"""A state larger than the memory that it may take: the content of its buckets lies in pages outside, and is read when
it is needed. Inner nodes, and of each bucket its digest, stay.

Rules of this file: where pages are kept, and which content stays in memory, is for whoever implements `Pages`. A page
is verified against the digest of its bucket whenever it is read. Buckets are values: what is read again is the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from heapq import merge
from struct import Struct
from typing import Any, ClassVar, Protocol

from pbft.state.errors import StateError
from pbft.state.nodes import (
    DIGEST_BYTES,
    KEY_LENGTH,
    Bucket,
    Inner,
    Node,
    bucket_ref,
    common_nibbles,
    entry_row,
    nibble,
)
from pbft.state.walks import lookup

_LENGTH = Struct(">I")
_AT_ONCE = 64
"""Pages that are stored together: bounds how long somebody waits who wants to read one."""
_OBJECTS = 160
"""Bytes that the interpreter needs for an entry besides its content, about."""


class Pages(Protocol):
    """Keeps pages, and decides whose content stays in memory. All methods may be called in any thread."""

    def store(self, pages: list[bytes]) -> list[int]:
        """Keep them; a number for each. Raises OSError; then none of them is kept."""
        ...

    def load(self, page: int) -> bytes:
        """What was stored under that number. Raises StateError if it cannot be read."""
        ...

    def free(self, page: int) -> None:
        """It is not needed any more. Never blocks, never raises: called when a bucket goes."""
        ...

    def loaded(self, bucket: PagedBucket, size: int) -> None:
        """Its content takes so many bytes of memory now; others may be told to `evict` theirs."""
        ...


class PagedBucket(Bucket):
    """A bucket with a page. What is missing of its content is read when it is asked for."""

    __slots__ = ()
    pages: ClassVar[Pages]
    """Of the class that `paged_class` makes."""

    def __getattr__(self, name: str) -> Any:
        # Called only for what is not set: for the content of an evicted bucket, or a name that does not exist.
        if name not in ("keys", "rows", "values"):
            raise AttributeError(name)
        page = self.pages.load(self.page)
        keys, values, rows = _read_page(page)
        if bucket_ref(rows) != self.ref or any(map(_differs, keys, values, rows)):
            raise StateError(f"page {self.page} of the state is not what was stored; start this replica again")
        self.keys, self.values, self.rows = keys, values, rows
        self.pages.loaded(self, len(page) + _OBJECTS * len(keys))
        return keys if name == "keys" else rows if name == "rows" else values

    def __del__(self) -> None:
        self.pages.free(self.page)

    def evict(self) -> None:
        """Forget the content; it can be read again."""
        for name in ("keys", "rows", "values"):
            try:
                delattr(self, name)
            except AttributeError:
                return  # another thread has done it


def paged_class(pages: Pages) -> type[PagedBucket]:
    """The buckets with pages there: a class, so that a bucket need not hold a reference."""
    return type("PagedBucket", (PagedBucket,), {"__slots__": (), "pages": pages})


def _differs(key: bytes, value: bytes, row: bytes) -> bool:
    return entry_row(key, value) != row


def page_of(bucket: Bucket) -> bytes:
    """The content of a bucket as one string."""
    parts: list[bytes] = []
    for row, value in zip(bucket.rows, bucket.values, strict=True):
        parts += (row, _LENGTH.pack(len(value)), value)
    return b"".join(parts)


def _read_page(page: bytes) -> tuple[tuple[bytes, ...], tuple[bytes, ...], tuple[bytes, ...]]:
    keys: list[bytes] = []
    values: list[bytes] = []
    rows: list[bytes] = []
    at = 0
    try:
        while at < len(page):
            end = at + KEY_LENGTH.size + KEY_LENGTH.unpack_from(page, at)[0]
            start = end + DIGEST_BYTES
            keys.append(page[at + KEY_LENGTH.size : end])
            rows.append(page[at:start])
            (length,) = _LENGTH.unpack_from(page, start)
            at = start + _LENGTH.size + length
            values.append(page[start + _LENGTH.size : at])
    except Exception as error:  # struct.error: what was read is no page
        raise StateError(f"a page of the state cannot be read ({error}); start this replica again") from None
    return tuple(keys), tuple(values), tuple(rows)


def adopt(kind: type[PagedBucket], old: Node | None, new: Node | None) -> None:
    """Give pages to the buckets of `new` that have none; those that `old` has too have one. Raises OSError: some have
    none then."""
    waiting: list[Bucket] = []
    for bucket in _without_page(old, new):
        waiting.append(bucket)
        if len(waiting) == _AT_ONCE:
            _store(kind, waiting)
            waiting = []
    if waiting:
        _store(kind, waiting)


def _store(kind: type[PagedBucket], buckets: list[Bucket]) -> None:
    pages = [page_of(bucket) for bucket in buckets]
    for bucket, page, number in zip(buckets, pages, kind.pages.store(pages), strict=True):
        bucket.page = number
        bucket.__class__ = kind  # the same object: parents, and whoever else refers to it, have the paged one now
        assert isinstance(bucket, PagedBucket)
        kind.pages.loaded(bucket, len(page) + _OBJECTS * bucket.count)


def _without_page(old: Node | None, new: Node | None) -> Iterator[Bucket]:
    stack: list[tuple[Node | None, Node | None]] = [(old, new)]
    while stack:
        old, new = stack.pop()
        if new is None or new is old:
            continue
        if isinstance(new, Bucket):
            if not isinstance(new, PagedBucket):
                yield new
            continue
        # Bring the old one to the depth of the new one: only what lies under the same path can be the same.
        while isinstance(old, Inner) and old.depth < new.depth:
            old = old.children[nibble(new.path, old.depth)]
        for slot, child in enumerate(new.children):
            if child is None:
                continue
            before: Node | None = None
            if isinstance(old, Inner):
                if old.depth == new.depth:
                    before = old.children[slot]
                elif nibble(old.path, new.depth) == slot:
                    before = old
            stack.append((before, child))


def is_adopted(kind: type[PagedBucket], root: Node | None) -> bool:
    """Whether the buckets of a root have pages there: all of them have, or none, so one is looked at."""
    node = root
    while isinstance(node, Inner):
        node = next(child for child in node.children if child is not None)
    return node is None or isinstance(node, kind)


class PagedHead:
    """The present content: what is under the root, but for what was written since. As a dict, as far as `State` uses
    one."""

    __slots__ = ("_overlay", "bytes", "count", "root")

    def __init__(self) -> None:
        self._overlay: dict[bytes, bytes | None] = {}
        self.root: Node | None = None
        self.count = 0
        self.bytes = 0
        """Written since, about."""

    def settle(self, root: Node | None) -> None:
        """All that was written is under this root."""
        self._overlay.clear()
        self.bytes = 0
        self.root = root
        self.count = 0 if root is None else root.count

    def get(self, key: bytes, default: bytes | None = None) -> bytes | None:
        """See `dict.get`."""
        value = self._overlay[key] if key in self._overlay else lookup(self.root, key)
        return default if value is None else value

    def __getitem__(self, key: bytes) -> bytes:
        value = self.get(key)
        if value is None:
            raise KeyError(key)
        return value

    def __contains__(self, key: object) -> bool:
        return isinstance(key, bytes) and self.get(key) is not None

    def __len__(self) -> int:
        return self.count

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.count += key not in self
        self._overlay[key] = value
        self.bytes += len(key) + len(value) + _OBJECTS

    def pop(self, key: bytes, *default: bytes | None) -> bytes | None:
        """See `dict.pop`."""
        old = self.get(key)
        if old is None:
            if not default:
                raise KeyError(key)
            return default[0]
        self.count -= 1
        self._overlay[key] = None
        self.bytes += len(key) + _OBJECTS
        return old

    def scan(self, prefix: bytes, start: bytes, limit: int) -> Iterator[bytes]:
        """See `KeyIndex.scan`."""
        lower = max(prefix, start)
        written = {k: v is not None for k, v in self._overlay.items() if k >= lower and k.startswith(prefix)}
        return self._walk(self.root, written, lower, prefix, limit)

    def _walk(
        self, root: Node | None, written: dict[bytes, bool], lower: bytes, prefix: bytes, limit: int
    ) -> Iterator[bytes]:
        last: bytes | None = None
        for key in merge(keys_from(root, lower), sorted(written)):
            if not limit or not key.startswith(prefix):
                return
            if key != last and written.get(key, True) and self._is_still_there(key, root):
                limit -= 1
                yield key
            last = key

    def _is_still_there(self, key: bytes, root: Node | None) -> bool:
        if self.root is root and key not in self._overlay:
            return True
        return key in self


def keys_from(root: Node | None, lower: bytes) -> Iterator[bytes]:
    """The keys of at least `lower`, in order; of what lies below it only the way is read."""
    stack: list[tuple[Node | None, bool]] = [(root, True)]  # (node, whether some of its keys may lie below)
    while stack:
        node, bounded = stack.pop()
        if isinstance(node, Bucket):
            yield from node.keys[bisect_left(node.keys, lower) if bounded else 0 :]
        elif node is not None:
            between = _is_between(node, lower) if bounded else False
            if between:
                first = nibble(lower, node.depth)
                stack.extend((node.children[slot], False) for slot in range(15, first, -1))
                stack.append((node.children[first], True))
            elif between is not None:
                if node.entry is not None:
                    yield node.entry.key
                stack.extend((child, False) for child in reversed(node.children))


def _is_between(node: Inner, lower: bytes) -> bool | None:
    """Whether some keys under a node may lie below `lower`, and some not; None: all lie below."""
    known = min(node.depth, 2 * len(lower))
    shared = min(common_nibbles(node.path, lower), known)
    if shared < known:
        return None if nibble(node.path, shared) < nibble(lower, shared) else False
    return node.depth < 2 * len(lower)


class NoIndex:
    """Stands for `KeyIndex` where the trie itself is in order."""

    __slots__ = ("scan",)

    def __init__(self, head: PagedHead) -> None:
        self.scan: Callable[[bytes, bytes, int], Iterator[bytes]] = head.scan

    def toggle(self, key: bytes) -> None:
        """Nothing is kept of it."""

    def refresh(self, added: object = ()) -> None:
        """Nor of these."""
