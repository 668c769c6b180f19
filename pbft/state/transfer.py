"""Turning states into those with other root digests, by fetching only what differs.

Rules of this file: decides what to fetch and applies what came; how it travels, from whom and when is for
others. Every piece is verified by `pieces` before anything changes. Only `Patch` writes to the states between
`aim` and the end.

The target's trie is compared with the local one from the root down. What has the same digest at the same path
is equal and is left alone; of the rest, either the whole subtree or its top node is fetched, and then what
differs below it. So an open want owns the keys under its path, or one key: these are as they were at `aim`,
while the keys that no open want owns are as in the target.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from pbft.crypto.digests import digest
from pbft.state.errors import ProofError, StateError
from pbft.state.nodes import (
    CHUNK,
    CHUNK_BYTES,
    DIGEST_BYTES,
    EMPTY_DIGEST,
    KEY_LENGTH,
    Bucket,
    Inner,
    Node,
    lies_under,
    nibble,
    root_digest,
)
from pbft.state.pieces import ALONE, PIECE_BYTES, ChunkList, Kind, Want, read_chunks, read_entry, read_node, under
from pbft.state.proof import BucketView, InnerView
from pbft.state.snapshot import Snapshot
from pbft.state.state import State
from pbft.state.walks import find_subtree, path_to, walk

_LITTLE = 2048
"""Bytes of values below a node that are asked for together, whatever of it is here."""
_ALIKE = 0.6
"""Share of other entries above which all of a subtree is asked for: each by itself costs more bytes and time."""
_REMEMBERED = 512
_STEP = 1000
"""Keys that are removed beside one piece."""
_LITTLE_SPACE = 0.01
"""What each space but the first, the application's, is taken to be of the whole."""


class Taken(Enum):
    """What became of a piece."""

    KEPT = "kept"
    LIE = "lie"
    """It is not what the target has there; nothing has changed. Whoever sent it for this target is faulty."""
    STALE = "stale"
    """Nobody waits for it: never wanted, taken already, or not wanted any more since the last `aim`."""


@dataclass(slots=True)
class _Value:
    """A large value on its way."""

    digest: bytes
    """Of its entry."""
    listed: ChunkList
    chunks: dict[int, bytes | memoryview]
    """Those that are here and verified; views where the old value had the same."""

    def missing(self) -> list[int]:
        """Where the pieces that are still needed begin."""
        firsts, end = [], 0
        for i in range(len(self.listed.digests)):
            if i >= end and i not in self.chunks:
                firsts.append(i)
                end = i + PIECE_BYTES // CHUNK_BYTES
        return firsts


class Patch:
    """Makes states what they are under given root digests, piece by piece.

    Ask a holder of the target for what `wanted` names, hand the answers to `take`, until `done`. To spread what `done`
    and a second `aim` complete, call `settle` before.
    """

    def __init__(self, states: tuple[State, ...]) -> None:
        self.taken_pieces = 0
        self.taken_bytes = 0
        self._states = states
        self._roots: tuple[bytes, ...] | None = None
        self._snapshots: list[Snapshot] = []
        """The states as they were at `aim`."""
        # Invariant: the places of open wants do not overlap, but for the wants of the chunks of one value. The
        # value is the expected digest, or for CHUNKS what they are part of.
        self._open: dict[Want, bytes | _Value] = {}
        # What is here and not in the target, below nodes that are known; it goes in steps, since it may be very much.
        # Invariant: no open want owns any of it.
        self._gone: deque[tuple[int, Iterator[bytes]]] = deque()
        # About how much of the whole an open want leads to, and the one that is taken at present; see `share`.
        self._shares: dict[Want, float] = {}
        self._share = 0.0
        # Invariant: by space and key, and only such as a NODE or ENTRY want may still lead to.
        self._set_aside: dict[tuple[int, bytes], _Value] = {}
        # Of the entries that were compared last: how many were here already, and how many were other ones.
        self._equals = 1.0
        self._others = 0.0

    def aim(self, roots: tuple[bytes, ...]) -> None:
        """Start towards these root digests, or go on towards others.

        What has been applied stays, and is not fetched again where it still holds; neither are the chunks of a
        value that is incomplete. The answers to earlier wants are of no use now: do not hand them in.
        """
        while not self.settle(_STEP):
            pass
        if len(roots) != len(self._states) or any(len(root) != DIGEST_BYTES for root in roots):
            raise StateError(f"{len(self._states)} states need as many roots of {DIGEST_BYTES} bytes each")
        self._snapshots = [state.checkpoint() for state in self._states]
        self._roots = roots
        for want, goal in self._open.items():
            if isinstance(goal, _Value):
                self._set_aside[want.space, want.place] = goal
        self._open.clear()
        self._shares.clear()
        for space in reversed(range(len(roots))):
            if roots[space] == EMPTY_DIGEST:
                self._states[space].revert(Snapshot(None))
            if roots[space] in (EMPTY_DIGEST, self._snapshots[space].digest):
                self._tidy(space, b"", ())
            else:
                self._share = _LITTLE_SPACE if space else 1 - _LITTLE_SPACE * (len(roots) - 1)
                self._want_node(space, b"", self._snapshots[space].root, roots[space])

    def settle(self, keys: int) -> bool:
        """Do some of the work that `aim` and `done` would do at once: remove what is not in the target, hash what has
        been applied. False while there is more of it."""
        if not self._remove(keys):
            return False
        return not any(state.hash_some(keys) for state in self._states)

    def _remove(self, keys: int) -> bool:
        while self._gone:
            space, doomed = self._gone[0]
            state = self._states[space]
            for key in islice(doomed, keys):
                del state[key]
                keys -= 1
            if keys <= 0:
                return False
            self._gone.popleft()
        return True

    def wanted(self) -> Iterator[Want]:
        """All open wants, in the order in which to fetch them: the last opened first, which keeps them few.

        `take` and `aim` end the iteration; begin a new one after them.
        """
        return reversed(self._open)

    @property
    def share(self) -> float:
        """About how much of the target is here, from 0 to 1, if all nodes at one place lead to equally much."""
        return max(0.0, 1 - sum(self._shares.values())) if self._roots is not None else 0.0

    def take(self, want: Want, data: bytes) -> Taken:
        """Verify the answer to an open want, apply it, and open the wants that follow from it."""
        goal = self._open.get(want)
        if goal is None:
            return Taken.STALE
        try:
            self._share = self._shares[want]
            self._read_and_apply(want, goal, data)
        except ProofError:
            return Taken.LIE
        del self._open[want], self._shares[want]
        self._remove(_STEP)
        self.taken_pieces += 1
        self.taken_bytes += len(data)
        return Taken.KEPT

    @property
    def done(self) -> bool:
        """Whether every state has its root digest, by hashing what has changed since it was last hashed.

        Raises `StateError` if one has not although nothing is wanted any more.
        """
        if self._roots is None or self._open:
            return False
        while not self._remove(_STEP):
            pass
        for space, (state, root) in enumerate(zip(self._states, self._roots, strict=True)):
            if state.checkpoint().digest != root:
                raise StateError(f"nothing is left to fetch, but state {space} does not have its root digest")
        return True

    # ---- inside

    def _read_and_apply(self, want: Want, goal: bytes | _Value, data: bytes) -> None:
        """Raises `ProofError`, before anything has changed, if the piece is not the one expected."""
        if isinstance(goal, _Value):
            self._take_chunks(want, goal, read_chunks(goal.listed, want.index, data))
        elif want.kind == Kind.ENTRY:
            self._take_entry(want, goal, read_entry(want.place, goal, data))
        else:
            found = read_node(want.place, goal, data)
            local = _at(self._snapshots[want.space].root, want.place)
            opened: Sequence[bytes] = ()
            if isinstance(found, InnerView):
                opened = self._take_inner(want.space, local, found)
            else:
                self._take_few(want.space, local, found)
            self._tidy(want.space, want.place, opened)

    def _take_inner(self, space: int, local: Node | None, view: InnerView) -> Sequence[bytes]:
        """Go from what was there, `local`, to the inner node; the paths of the children that are wanted for it."""
        self._gone.append((space, _homeless(local, view)))
        opened = []
        self._share /= sum(child is not None for child in view.children) + (view.entry is not None)
        for slot, child in reversed(list(enumerate(view.children))):
            if child is not None:
                path, expected = view.child_path(slot), child[1]
                below = _at(local, path)
                if root_digest(below) != expected:
                    self._want_node(space, path, below, expected)
                    opened.append(path)
        if view.entry is not None:
            self._want_entry(space, local, view.path, view.entry)
        return opened

    def _want_node(self, space: int, path: bytes, local: Node | None, expected: bytes) -> None:
        """The node alone where most of what is below it will turn out to be here, else all of it: what was compared
        last tells, and little is not worth two questions."""
        much = isinstance(local, Inner) or (local is not None and sum(map(len, local.values)) > _LITTLE)
        alone = much and self._others <= _ALIKE * (self._others + self._equals)
        self._want(Want(space, Kind.NODE, path, ALONE if alone else 0), expected)

    def _want(self, want: Want, goal: bytes | _Value) -> None:
        self._open[want] = goal
        self._shares[want] = self._share

    def _compared(self, equals: int, others: int) -> None:
        self._equals += equals
        self._others += others
        if self._equals + self._others > _REMEMBERED:
            self._equals /= 2
            self._others /= 2

    def _take_few(self, space: int, local: Node | None, found: BucketView | dict[bytes, bytes]) -> None:
        """Go from what was there, `local`, to these keys with their values, or with the digests of their entries."""
        state = self._states[space]
        keys = dict(found.entries) if isinstance(found, BucketView) else found
        self._gone.append((space, (key for key, _ in walk(local) if key not in keys)))
        if isinstance(found, BucketView):
            equals = sum(_has_entry(local, key, expected) for key, expected in found.entries)
            self._share /= len(found.entries)
            for key, expected in reversed(found.entries):
                self._want_entry(space, local, key, expected)
        else:
            equals = sum(state.get(key) == value for key, value in found.items())
            for key, value in found.items():
                state[key] = value
        if local is not None:
            self._compared(equals, len(keys) - equals)

    def _want_entry(self, space: int, local: Node | None, key: bytes, expected: bytes) -> None:
        if _has_entry(local, key, expected):
            return
        value = self._set_aside.get((space, key))
        if value is not None and value.digest == expected:
            self._want_chunks(space, key, value)
        else:
            self._want(Want(space, Kind.ENTRY, key, 0), expected)

    def _want_chunks(self, space: int, key: bytes, value: _Value) -> None:
        missing = value.missing()
        share, self._share = self._share, self._share / max(1, len(missing))
        for first in reversed(missing):
            self._want(Want(space, Kind.CHUNKS, key, first), value)
        self._share = share
        self._put_together(space, key, value)

    def _take_entry(self, want: Want, expected: bytes, found: bytes | ChunkList) -> None:
        space, key = want.space, want.place
        earlier = self._set_aside.pop((space, key), None)
        if isinstance(found, bytes):
            self._states[space][key] = found
        else:
            chunks = _shared(found.digests, self._states[space].get(key, b""), earlier)
            self._want_chunks(space, key, _Value(expected, found, chunks))

    def _take_chunks(self, want: Want, value: _Value, found: list[bytes]) -> None:
        value.chunks.update(enumerate(found, want.index))
        self._put_together(want.space, want.place, value)

    def _put_together(self, space: int, key: bytes, value: _Value) -> None:
        count = len(value.listed.digests)
        if len(value.chunks) == count:
            self._states[space][key] = b"".join([value.chunks[i] for i in range(count)])

    def _tidy(self, space: int, path: bytes, opened: Sequence[bytes]) -> None:
        """The node at `path` is known: of what is set aside under it, keep what the wants opened may need."""
        for at in [at for at in self._set_aside if at[0] == space and under(at[1], path)]:
            if Want(space, Kind.ENTRY, at[1], 0) not in self._open and not any(under(at[1], p) for p in opened):
                del self._set_aside[at]


def _shared(digests: tuple[bytes, ...], old: bytes, earlier: _Value | None) -> dict[int, bytes | memoryview]:
    """The chunks that the old value, or one that was never completed, has at the same index."""
    chunks: dict[int, bytes | memoryview] = {}
    whole = memoryview(old)
    for i, expected in enumerate(digests):
        chunk = whole[i * CHUNK_BYTES : (i + 1) * CHUNK_BYTES]
        if chunk and digest(CHUNK, chunk) == expected:
            chunks[i] = chunk
        elif earlier is not None and i in earlier.chunks and earlier.listed.digests[i] == expected:
            chunks[i] = earlier.chunks[i]
    return chunks


def _at(root: Node | None, path: bytes) -> Node | None:
    """The node of exactly the entries under `path`: one of the trie, or a part of a bucket as one of its own."""
    node = find_subtree(root, path)
    if not isinstance(node, Bucket):
        return node
    found = [entry for entry in zip(node.keys, node.values, node.rows, strict=True) if under(entry[0], path)]
    return Bucket(*zip(*found, strict=True)) if found else None


def _has_entry(root: Node | None, key: bytes, expected_digest: bytes) -> bool:
    row = KEY_LENGTH.pack(len(key)) + key + expected_digest
    nodes = path_to(root, key)
    match nodes[-1] if nodes else None:
        case Inner(entry=entry):
            return entry is not None and entry.row == row
        case Bucket(rows=rows):
            return row in rows
    return False


def _homeless(top: Node | None, view: InnerView) -> Iterator[bytes]:
    """The keys below `top` for which the inner node `view` has neither a child nor an own entry."""

    def has_child(path: bytes) -> bool:
        return lies_under(path, view.path, view.depth) and view.children[nibble(path, view.depth)] is not None

    def has_home(key: bytes) -> bool:
        if len(key) * 2 > view.depth:
            return has_child(key)
        return view.entry is not None and key == view.path

    stack = [top]
    while stack:
        node = stack.pop()
        if isinstance(node, Bucket):
            yield from [key for key in node.keys if not has_home(key)]
        elif node is not None and not (node.depth > view.depth and has_child(node.path)):
            if node.entry is not None and not has_home(node.entry.key):
                yield node.entry.key
            stack.extend(node.children)
