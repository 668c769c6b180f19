"""Changes to the Merkle trie. Functions over immutable nodes; nothing here is remembered.

No function recurses: clients choose the keys, and keys that are prefixes of each other make a trie up to 2048
levels deep, beyond Python's recursion limit. Such a chain costs its author as many stored keys, and each of
its nodes is rehashed at most once a checkpoint.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from pbft.state.nodes import (
    BUCKET_MAX,
    NO_CHILDREN,
    OWN_ENTRY_BIT,
    Bucket,
    Entry,
    Inner,
    Node,
    common_nibbles,
    entry_row,
    lies_under,
    nibble,
    packed_path,
)


class _Changes:
    """Sorted distinct keys with their new values (None: delete) and, where already hashed, their rows."""

    __slots__ = ("keys", "rows", "values")

    def __init__(self, keys: Sequence[bytes], values: Sequence[bytes | None], rows: Sequence[bytes | None]) -> None:
        self.keys = keys
        self.values = values
        self.rows = rows

    def row(self, i: int, value: bytes) -> bytes:
        return self.rows[i] or entry_row(self.keys[i], value)


class _Frame:
    """An inner node being rebuilt: its children so far, and the changes not yet applied to them."""

    __slots__ = (
        "bitmap",
        "changed",
        "changes",
        "children",
        "count",
        "depth",
        "entry",
        "groups",
        "path",
        "slot",
        "source",
    )

    def __init__(self, source: Inner | None, depth: int, path: bytes, changes: _Changes) -> None:
        self.source = source
        self.depth = depth
        self.path = path
        self.changes = changes
        self.changed = source is None
        self.groups: list[tuple[int, int, int]] = []  # (nibble, lo, hi), the next one last
        self.slot = 0
        if source is None:
            self.count = self.bitmap = 0
            self.entry: Entry | None = None
            self.children = NO_CHILDREN.copy()
        else:
            self.count = source.count
            self.bitmap = source.bitmap
            self.entry = source.entry
            self.children = source.children.copy()

    def take(self, lo: int, hi: int) -> None:
        """Apply the change to the node's own entry, if there is one, and group the others by child."""
        changes, depth = self.changes, self.depth
        keys = changes.keys
        if len(keys[lo]) * 2 == depth:
            self._set_entry(lo)
            lo += 1
        while lo < hi:
            slot = nibble(keys[lo], depth)
            end = hi
            if hi - lo > 1 and slot < 15:
                end = bisect_left(keys, self._first_key_of(slot + 1), lo + 1, hi)
            self.groups.append((slot, lo, end))
            lo = end
        self.groups.reverse()

    def _first_key_of(self, slot: int) -> bytes:
        if self.depth & 1:
            return self.path[:-1] + bytes((self.path[-1] | slot,))
        return self.path + bytes((slot << 4,))

    def _set_entry(self, i: int) -> None:
        key, value = self.changes.keys[i], self.changes.values[i]
        old = self.entry
        if value is None:
            if old is not None:
                self.entry = None
                self.bitmap &= ~OWN_ENTRY_BIT
                self.count -= 1
                self.changed = True
        elif old is None or old.value != value:
            self.entry = Entry(key, value, self.changes.row(i, value))
            self.bitmap |= OWN_ENTRY_BIT
            self.count += old is None
            self.changed = True

    def set_child(self, slot: int, child: Node | None) -> None:
        old = self.children[slot]
        if child is old:
            return
        self.children[slot] = child
        self.changed = True
        if old is not None:
            self.count -= old.count
        if child is None:
            self.bitmap &= ~(1 << slot)
        else:
            self.bitmap |= 1 << slot
            self.count += child.count

    def close(self) -> Node | None:
        """What the content now calls for: the old node, an inner one, a bucket, an only child, or none."""
        if not self.changed:
            return self.source
        entry, bitmap = self.entry, self.bitmap
        if entry is None and not bitmap & (bitmap - 1):
            return self.children[bitmap.bit_length() - 1] if bitmap else None
        if self.count > BUCKET_MAX:
            return Inner(self.depth, self.path, self.count, bitmap, entry, self.children)
        keys: tuple[bytes, ...] = ()
        values: tuple[bytes, ...] = ()
        rows: tuple[bytes, ...] = ()
        if entry is not None:
            keys, values, rows = (entry.key,), (entry.value,), (entry.row,)
        for child in self.children:
            if child is None:
                continue
            # An inner child would hold more than 16 entries by itself.
            assert isinstance(child, Bucket)
            keys += child.keys
            values += child.values
            rows += child.rows
        return Bucket(keys, values, rows)


def update(root: Node | None, keys: Sequence[bytes], values: Sequence[bytes | None]) -> Node | None:
    """The trie after `keys[i]` got `values[i]` (None: deleted). `keys` sorted and distinct.

    One descent; each touched node is rebuilt once, and a node whose content stays is the same object
    afterwards.
    """
    if not keys:
        return root
    stack: list[_Frame] = []
    node, at = root, 0
    changes, lo, hi = _Changes(keys, values, [None] * len(keys)), 0, len(keys)
    while True:
        frame: _Frame | None = None
        if isinstance(node, Inner):
            if hi - lo == 1 and (single := _update_one(node, at, changes, lo)) is not None:
                node = single
            else:
                frame = _open(node, at, changes, lo, hi)
        else:
            merged = _merge(node, changes, lo, hi)
            if isinstance(merged, _Changes):
                frame = _open_empty(merged)
            else:
                node = merged
        while True:
            if frame is not None:
                if frame.groups:
                    break
                node = frame.close()
            if not stack:
                return node
            frame = stack.pop()
            frame.set_child(frame.slot, node)
        stack.append(frame)
        frame.slot, lo, hi = frame.groups.pop()
        node, at, changes = frame.children[frame.slot], frame.depth + 1, frame.changes


def _update_one(root: Inner, at: int, changes: _Changes, i: int) -> Node | None:
    """`update` for the most frequent case: one change below `root`, and only a bucket changes its shape.

    None: this is another case.
    """
    key, value = changes.keys[i], changes.values[i]
    trail: list[tuple[Inner, int]] = []
    node: Node | None = root
    while isinstance(node, Inner):
        depth = node.depth
        if len(key) * 2 <= depth or (depth != at and not lies_under(key, node.path, depth)):
            return None
        slot = nibble(key, depth)
        trail.append((node, slot))
        node = node.children[slot]
        at = depth + 1
    changed: Bucket | _Changes | Inner | None
    if node is None:
        if value is None:
            return root
        changed, more = Bucket((key,), (value,), (changes.row(i, value),)), 1
    else:
        changed = _merge_one(node, changes, i)
        if changed is node:
            return root
        if not isinstance(changed, Bucket):
            return None
        more = changed.count - node.count
    if trail[-1][0].count + more <= BUCKET_MAX:
        return None
    for parent, slot in reversed(trail):
        changed = parent.with_child(slot, changed, more)
    return changed


def _open(node: Inner, at: int, changes: _Changes, lo: int, hi: int) -> _Frame:
    """Begin to apply changes at `node`, under a new and shorter path if some of them lie beside it.

    `at` is the number of nibbles that all the changes share with the node by the way they came.
    """
    depth, path = node.depth, node.path
    first, last = changes.keys[lo], changes.keys[hi - 1]
    if depth == at or (lies_under(first, path, depth) and lies_under(last, path, depth)):
        frame = _Frame(node, depth, path, changes)
    else:
        # Sorted keys: the one that shares least with the path is the first or the last.
        shared = min(common_nibbles(first, path), common_nibbles(last, path), depth - 1)
        frame = _Frame(None, shared, packed_path(path, shared), changes)
        frame.set_child(nibble(path, shared), node)
    frame.take(lo, hi)
    return frame


def _open_empty(changes: _Changes) -> _Frame:
    """Begin an inner node for entries that are too many for a bucket."""
    first = changes.keys[0]
    depth = common_nibbles(first, changes.keys[-1])
    frame = _Frame(None, depth, packed_path(first, depth), changes)
    frame.take(0, len(changes.keys))
    return frame


def _merge(bucket: Bucket | None, changes: _Changes, lo: int, hi: int) -> Bucket | _Changes | None:
    """A bucket after its changes; if it would hold too many, all its entries as changes to nothing."""
    if bucket is not None and hi - lo == 1:
        return _merge_one(bucket, changes, lo)
    entries: dict[bytes, tuple[bytes, bytes | None]] = {}
    changed = False
    if bucket is not None:
        entries = dict(zip(bucket.keys, zip(bucket.values, bucket.rows, strict=True), strict=True))
    for i in range(lo, hi):
        key, value = changes.keys[i], changes.values[i]
        old = entries.get(key)
        if value is None:
            if old is not None:
                del entries[key]
                changed = True
        elif old is None or old[0] != value:
            entries[key] = (value, changes.rows[i])
            changed = True
    if not changed:
        return bucket
    if not entries:
        return None
    keys = sorted(entries) if bucket is not None else list(entries)
    found = [entries[key] for key in keys]
    if len(keys) > BUCKET_MAX:
        return _Changes(keys, [value for value, _ in found], [row for _, row in found])
    return Bucket(
        tuple(keys),
        tuple([value for value, _ in found]),
        tuple([row or entry_row(key, value) for key, (value, row) in zip(keys, found, strict=True)]),
    )


def _merge_one(bucket: Bucket, changes: _Changes, i: int) -> Bucket | _Changes | None:
    """`_merge` for the most frequent case, one changed key."""
    key, value = changes.keys[i], changes.values[i]
    keys, values, rows = bucket.keys, bucket.values, bucket.rows
    at = bisect_left(keys, key)
    if at < len(keys) and keys[at] == key:
        if value is None:
            if len(keys) == 1:
                return None
            return Bucket(keys[:at] + keys[at + 1 :], values[:at] + values[at + 1 :], rows[:at] + rows[at + 1 :])
        if values[at] == value:
            return bucket
        row = changes.row(i, value)
        return Bucket(keys, (*values[:at], value, *values[at + 1 :]), (*rows[:at], row, *rows[at + 1 :]))
    if value is None:
        return bucket
    keys = (*keys[:at], key, *keys[at:])
    values = (*values[:at], value, *values[at:])
    rows = (*rows[:at], changes.row(i, value), *rows[at:])
    return Bucket(keys, values, rows) if len(keys) <= BUCKET_MAX else _Changes(keys, values, rows)
