"""Reading the Merkle trie: one key, all entries in order, what differs between two.

Nothing here recurses, for the reason given in `trie`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence

from pbft.state.nodes import (
    NO_CHILDREN,
    Bucket,
    Entry,
    Inner,
    Node,
    bucket_ref,
    entry_row,
    inner_ref,
    lies_under,
    nibble,
)


def path_to(root: Node | None, key: bytes) -> list[Node]:
    """The nodes from the root to the one that holds `key` or, if it is absent, shows that nothing can."""
    nodes: list[Node] = []
    node = root
    while node is not None:
        nodes.append(node)
        if isinstance(node, Bucket) or len(key) * 2 <= node.depth or not lies_under(key, node.path, node.depth):
            break
        node = node.children[nibble(key, node.depth)]
    return nodes


def lookup(root: Node | None, key: bytes) -> bytes | None:
    """The value of `key`, None if absent."""
    nodes = path_to(root, key)
    if not nodes:
        return None
    node = nodes[-1]
    if isinstance(node, Inner):
        return node.entry.value if node.entry is not None and node.entry.key == key else None
    at = bisect_left(node.keys, key)
    return node.values[at] if at < len(node.keys) and node.keys[at] == key else None


def find_subtree(root: Node | None, path: Sequence[int]) -> Node | None:
    """The topmost node all of whose keys begin with the nibbles of `path`; None if there is no such node.

    A bucket is given if it lies on the way, whatever its keys are, since nothing smaller has a digest.
    """
    node, seen = root, 0
    while isinstance(node, Inner):
        upto = min(node.depth, len(path))
        if any(nibble(node.path, i) != path[i] for i in range(seen, upto)):
            return None
        if len(path) <= node.depth:
            return node
        seen = node.depth
        node = node.children[path[seen]]
    return node


def walk(root: Node | None, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
    """The entries whose keys begin with `prefix`, in key order."""
    stack: list[Node | None] = [find_subtree(root, [n for byte in prefix for n in (byte >> 4, byte & 15)])]
    while stack:
        node = stack.pop()
        if isinstance(node, Inner):
            if node.entry is not None:
                yield node.entry.key, node.entry.value
            stack.extend(reversed(node.children))
        elif node is not None:
            for key, value in zip(node.keys, node.values, strict=True):
                if key.startswith(prefix):
                    yield key, value


def check(root: Node | None) -> Iterator[tuple[bytes, bool]]:
    """Hash everything once more; see `Snapshot.check`."""
    stack: list[Node] = [root] if root is not None else []
    while stack:
        node = stack.pop()
        if isinstance(node, Inner):
            if node.entry is not None:
                yield node.entry.key, entry_row(node.entry.key, node.entry.value) == node.entry.row
            children = [child for child in node.children if child is not None]
            stack.extend(reversed(children))
            if inner_ref(node) != node.ref:
                yield node.path, False
        else:
            for key, value, row in zip(node.keys, node.values, node.rows, strict=True):
                yield key, entry_row(key, value) == row
            if bucket_ref(node.rows) != node.ref:
                yield node.keys[0], False


def differences(a: Node | None, b: Node | None) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """(key, value in a, value in b), None where absent, in key order; descends only where digests differ."""
    stack: list[tuple[Node | None, Node | None]] = [(a, b)]
    while stack:
        a, b = stack.pop()
        if a is b or (a is not None and b is not None and a.ref == b.ref):
            continue
        top = _upper(a, b)
        if top is None:
            yield from _compare(walk(a), walk(b))
            continue
        left, right = _spread(a, top), _spread(b, top)
        if left[0] != right[0]:
            yield from _compare(_own(left[0]), _own(right[0]))
        stack.extend(reversed(list(zip(left[1], right[1], strict=True))))


def _upper(a: Node | None, b: Node | None) -> Inner | None:
    """The inner node under whose path both lie, if one of the two is that."""
    if not isinstance(a, Inner) or not isinstance(b, Inner):
        return None
    upper: Inner = a if a.depth <= b.depth else b
    lower: Inner = b if upper is a else a
    if lower.depth == upper.depth:
        return upper if lower.path == upper.path else None
    return upper if lies_under(lower.path, upper.path, upper.depth) else None


def _spread(node: Node | None, top: Inner) -> tuple[Entry | None, list[Node | None]]:
    """Own entry and children of `node` as seen from the path of `top`; a deeper one is a child there."""
    assert isinstance(node, Inner)
    if node.depth == top.depth:
        return node.entry, node.children
    children = NO_CHILDREN.copy()
    children[nibble(node.path, top.depth)] = node
    return None, children


def _own(entry: Entry | None) -> Iterator[tuple[bytes, bytes]]:
    if entry is not None:
        yield entry.key, entry.value


def _compare(
    a: Iterator[tuple[bytes, bytes]], b: Iterator[tuple[bytes, bytes]]
) -> Iterator[tuple[bytes, bytes | None, bytes | None]]:
    """Merge two ascending runs of entries and give what differs."""
    left, right = next(a, None), next(b, None)
    while left is not None or right is not None:
        if right is None or (left is not None and left[0] < right[0]):
            assert left is not None
            yield left[0], left[1], None
            left = next(a, None)
        elif left is None or right[0] < left[0]:
            yield right[0], None, right[1]
            right = next(b, None)
        else:
            if left[1] != right[1]:
                yield left[0], left[1], right[1]
            left, right = next(a, None), next(b, None)
