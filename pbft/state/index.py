"""The keys in byte order, kept lazily: writing costs a dict entry, and whoever scans first pays for sorting.

Rules of this file: `KeyIndex` owns the sorted keys and the scans under way; it reads the head, and never
writes it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from itertools import takewhile

from sortedcontainers import SortedSet

_MAX_STALE = 1 << 14
"""Keys not yet sorted in: bounds what the next scan must catch up on (some 30 ms)."""


class KeyIndex:
    """The keys of `head` in byte order. Its owner calls `toggle` whenever a key appears or disappears."""

    __slots__ = ("_head", "_sorted", "_stale", "_walks")

    def __init__(self, head: dict[bytes, bytes]) -> None:
        self._head = head
        self._sorted = SortedSet()
        # Invariant: exactly the keys that are in one of head and index but not in the other (a dict, since
        # nothing here may depend on the process's hash seed).
        self._stale: dict[bytes, None] = {}
        self._walks: list[weakref.ref[_Walk]] = []

    def toggle(self, key: bytes) -> None:
        """`key` appears in the head or disappears: the index is out of date about it now, or no longer."""
        stale = self._stale
        if key in stale:
            del stale[key]
        else:
            if len(stale) >= _MAX_STALE:
                self.refresh()
            stale[key] = None

    def scan(self, prefix: bytes, start: bytes, limit: int) -> Iterator[bytes]:
        """The keys from `start` on that begin with `prefix`, at most `limit` (negative: all)."""
        if self._stale:
            self.refresh()
        walk = _Walk(self._head, self._sorted.irange(max(prefix, start)), prefix, limit)
        self._walks = [ref for ref in self._walks if ref() is not None]
        self._walks.append(weakref.ref(walk))
        return walk

    def refresh(self, added: Iterable[bytes] = ()) -> None:
        """Bring the index up to date; `added` are keys in the head that were not reported with `toggle`.

        Scans under way keep to the keys as they were when they began.
        """
        for ref in self._walks:
            walk = ref()
            if walk is not None:
                walk.detach()
        self._walks.clear()
        stale, head = self._stale, self._head
        self._sorted.difference_update([key for key in stale if key not in head])
        self._sorted.update([key for key in stale if key in head])
        self._sorted.update(added)
        stale.clear()


class _Walk(Iterator[bytes]):
    """One scan over the index. See `State` for what it promises while the state changes."""

    __slots__ = ("__weakref__", "_head", "_left", "_prefix", "_rest")

    def __init__(self, head: dict[bytes, bytes], rest: Iterator[bytes], prefix: bytes, limit: int) -> None:
        self._head = head
        self._rest = rest
        self._prefix = prefix
        self._left = limit

    def __next__(self) -> bytes:
        if self._left:
            for key in self._rest:
                if not key.startswith(self._prefix):
                    break
                if key in self._head:
                    self._left -= 1
                    return key
        self._left = 0
        raise StopIteration

    def detach(self) -> None:
        """The index is about to change: remember the keys that were still to come."""
        prefix = self._prefix
        if self._left:
            self._rest = iter(list(takewhile(lambda key: key.startswith(prefix), self._rest)))
