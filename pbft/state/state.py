"""The replicated state as applications and the executor use it: a mapping in memory, hashed only at
checkpoints.

Rules of this file: `State` alone writes its fields. Head (dict) answers reads and takes writes; `_undo`
remembers what one operation overwrote; `_dirty` names the keys that the trie does not have as the head has
them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import TracebackType
from typing import overload

from pbft.state import trie, walks
from pbft.state.errors import ReadOnlyError, StateBoundError, StateError, StateTypeError
from pbft.state.index import KeyIndex
from pbft.state.nodes import CHUNK_BYTES, MAX_KEY_BYTES, MAX_VALUE_BYTES, Node
from pbft.state.paging import NoIndex, PagedBucket, PagedHead, adopt, is_adopted
from pbft.state.snapshot import Snapshot

RELIEVE_BYTES = 2 << 20
"""Where memory is limited, this much that was written is hashed before a checkpoint asks for it."""


class State:
    """A Merkle-hashed ordered mapping from bytes to bytes.

    Keys are 0 to 1024 bytes, values 0 to 16 MiB, both exactly `bytes`: a bytearray, memoryview, str or None
    is refused with `StateTypeError`, so nothing that was stored can change afterwards. What is too long
    raises `StateBoundError`.

    Scans go in the order of the keys as bytes. A scan visits the keys that were present when it began, leaves
    out those that have been deleted meanwhile, and gives each value as it is at that step; so deleting or
    inserting while scanning is safe, ends, and does the same on every replica. Do not keep an unfinished scan
    from one operation to the next.
    """

    __slots__ = (
        "_adopted",
        "_ahead",
        "_dirty",
        "_frozen",
        "_head",
        "_index",
        "_paging",
        "_read_only",
        "_root",
        "_undo",
        "group",
    )

    def __init__(self, group: int = 0, paging: type[PagedBucket] | None = None) -> None:
        """`paging`: as `paged_class` makes it, where content goes that memory shall not hold; None keeps all of it
        there."""
        self.group = group
        """The agreement group whose batches change this state."""
        self._head: dict[bytes, bytes] | PagedHead = {}
        self._undo: dict[bytes, bytes | None] | None = None
        self._read_only = 0
        # A dict as an ordered set: nothing here may depend on the process's hash seed.
        self._dirty: dict[bytes, None] = {}
        self._index: KeyIndex | NoIndex = KeyIndex(self._head)
        self._paging = paging
        # Invariant: head == root, then the frozen changes in order, then the dirty keys.
        self._root: Node | None = None
        self._frozen: deque[Pending] = deque()
        self._ahead: list[bytes] = []  # keys that were dirty, descending; taken from the end
        self._adopted: Node | None = None  # the newest root all of whose buckets have pages
        if paging is not None:
            self._head = PagedHead()
            self._index = NoIndex(self._head)

    # ---- reading

    @overload
    def get(self, key: bytes) -> bytes | None: ...
    @overload
    def get(self, key: bytes, default: bytes) -> bytes: ...
    @overload
    def get(self, key: bytes, default: None) -> bytes | None: ...
    def get(self, key: bytes, default: bytes | None = None) -> bytes | None:
        """The value of `key`, `default` if it is absent."""
        if type(key) is not bytes:
            raise _not_bytes("key", key)
        return self._head.get(key, default)

    def __getitem__(self, key: bytes) -> bytes:
        if type(key) is not bytes:
            raise _not_bytes("key", key)
        return self._head[key]

    def __contains__(self, key: object) -> bool:
        if type(key) is not bytes:
            raise _not_bytes("key", key)
        return key in self._head

    def __len__(self) -> int:
        return len(self._head)

    def __iter__(self) -> Iterator[bytes]:
        return self.keys()

    def keys(self, prefix: bytes = b"", start: bytes | None = None, limit: int | None = None) -> Iterator[bytes]:
        """At most `limit` keys that begin with `prefix`, in byte order, from `start` (itself included) on."""
        for name, argument in (("prefix", prefix), ("start", b"" if start is None else start)):
            if type(argument) is not bytes:
                raise _not_bytes(name, argument)
        if limit is not None and (type(limit) is not int or limit < 0):
            raise StateBoundError(f"limit is a whole number of at least 0, not {limit!r}")
        return self._index.scan(prefix, start or b"", -1 if limit is None else limit)

    def items(
        self, prefix: bytes = b"", start: bytes | None = None, limit: int | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """`keys(...)` with their values."""
        head = self._head
        return ((key, head[key]) for key in self.keys(prefix, start, limit))

    # ---- writing

    def __setitem__(self, key: bytes, value: bytes) -> None:
        if type(key) is not bytes:
            raise _not_bytes("key", key)
        if type(value) is not bytes:
            raise _not_bytes("value", value)
        if len(key) > MAX_KEY_BYTES:
            raise StateBoundError(f"a key of {len(key)} bytes is longer than {MAX_KEY_BYTES}")
        if len(value) > MAX_VALUE_BYTES:
            raise StateBoundError(f"a value of {len(value)} bytes is longer than {MAX_VALUE_BYTES}")
        if self._read_only:
            raise ReadOnlyError(f"a query tried to write key {key[:40]!r}")
        old = self._head.get(key)
        if old is None:
            self._index.toggle(key)
        elif old == value:
            return
        undo = self._undo
        if undo is not None and key not in undo:
            undo[key] = old
        self._head[key] = value
        self._dirty[key] = None

    def __delitem__(self, key: bytes) -> None:
        if type(key) is not bytes:
            raise _not_bytes("key", key)
        if self._read_only:
            raise ReadOnlyError(f"a query tried to delete key {key[:40]!r}")
        old = self._head.pop(key)
        self._index.toggle(key)
        undo = self._undo
        if undo is not None and key not in undo:
            undo[key] = old
        self._dirty[key] = None

    def read_only(self) -> _ReadOnly:
        """`with state.read_only():` every write inside raises `ReadOnlyError`. May be nested."""
        return _ReadOnly(self)

    def load(self, items: Iterable[tuple[bytes, bytes]]) -> None:
        """Add entries in bulk, from a stored checkpoint. May be called again with more of them.

        Fast if they come in key order. Raises `StateError` for a key that is there already, and as `[]=`
        does; what came before the offending entry stays. Cannot be undone by `rollback`, so it is refused
        inside an operation.
        """
        self._outside_operation("load")
        if self._read_only:
            raise ReadOnlyError("the state is read-only, nothing can be loaded into it")
        head, added = self._head, []
        try:
            for key, value in items:
                if type(key) is not bytes or type(value) is not bytes:
                    raise _not_bytes("key or value", key if type(key) is not bytes else value)
                if len(key) > MAX_KEY_BYTES or len(value) > MAX_VALUE_BYTES:
                    raise StateBoundError(f"entry {key[:40]!r} is longer than {MAX_KEY_BYTES} or {MAX_VALUE_BYTES}")
                if key in head:
                    raise StateError(f"key {key[:40]!r} is in the state already; load each key once")
                head[key] = value
                added.append(key)
                if isinstance(head, PagedHead) and head.bytes >= RELIEVE_BYTES:
                    self._dirty.update(dict.fromkeys(added))
                    added = []
                    self.relieve()
        finally:
            self._dirty.update(dict.fromkeys(added))
            self._index.refresh(added)

    # ---- operations

    def begin(self) -> None:
        """Start an operation, whose writes `rollback` undoes. One at a time: a second raises `StateError`."""
        if self._undo is not None:
            raise StateError("an operation is open already; commit it or roll it back first")
        self._undo = {}

    def commit(self) -> None:
        """End the operation and keep its writes."""
        if self._undo is None:
            raise StateError("no operation is open")
        self._undo = None

    def rollback(self) -> None:
        """End the operation and undo its writes."""
        undo = self._undo
        if undo is None:
            raise StateError("no operation is open")
        self._undo = None
        for key, old in undo.items():
            self._put_back(key, old)

    def revert(self, snapshot: Snapshot) -> None:
        """Make the state what it is in `snapshot` (of this or another state); costs what differs."""
        self._outside_operation("revert")
        if self._paging is not None:
            self._finish(None)
            self._dirty.clear()
            self._root = snapshot.root
            if is_adopted(self._paging, snapshot.root):
                self._adopted = snapshot.root
            self._settle()
            return
        self._finish(None)
        for key in self._dirty:
            self._put_back(key, walks.lookup(self._root, key), dirty=False)
        self._dirty.clear()
        for key, _, old in walks.differences(self._root, snapshot.root):
            self._put_back(key, old, dirty=False)
        self._root = snapshot.root

    # ---- hashing

    @property
    def dirty_count(self) -> int:
        """Keys that are still to be hashed, a measure of what `checkpoint` would cost now."""
        return len(self._dirty) + sum([pending.remaining for pending in self._frozen])

    @property
    def dirty_keys(self) -> Iterable[bytes]:
        """The keys written since they were last hashed; a view, in no useful order."""
        return self._dirty.keys()

    def checkpoint(self) -> Snapshot:
        """The state of this moment, hashed. Cost goes with the keys written since the last time."""
        return self.freeze().finish()

    def freeze(self) -> Pending:
        """The state of this moment, to be hashed later in slices while writes go on. See `Pending`."""
        self._outside_operation("freeze")
        keys = sorted(self._dirty)
        get = self._head.get
        pending = Pending(self, keys, [get(key) for key in keys])
        self._dirty.clear()
        self._ahead = []
        self._frozen.append(pending)
        return pending

    def hash_some(self, budget_keys: int) -> bool:
        """Hash about `budget_keys` of what the next checkpoint needs; True while there is more.

        A key that is written again afterwards will be hashed again. 4 KiB of a value count as one key.
        """
        self._outside_operation("hash_some")
        budget = self._hash_frozen(budget_keys, None)
        if budget > 0 and self._dirty:
            if not self._ahead:
                self._ahead = sorted(self._dirty, reverse=True)
            keys: list[bytes] = []
            values: list[bytes | None] = []
            while budget > 0 and self._ahead:
                key = self._ahead.pop()
                if key in self._dirty:
                    del self._dirty[key]
                    value = self._head.get(key)
                    keys.append(key)
                    values.append(value)
                    budget -= _cost(value)
            self._root = trie.update(self._root, keys, values)
        self._settle()
        return bool(self._frozen or self._dirty)

    def relieve(self) -> None:
        """Where memory is limited: hash what was written if that is much, so that it need not stay there."""
        if isinstance(self._head, PagedHead) and self._head.bytes >= RELIEVE_BYTES:
            self.hash_some(1 << 62)

    # ---- inside

    def _settle(self) -> None:
        """Where memory is limited and everything is hashed: it may go to pages."""
        head = self._head
        if self._paging is None or self._dirty or self._frozen or not isinstance(head, PagedHead):
            return
        if head.root is not self._root or head.bytes:
            head.settle(self._root)
        if self._adopted is not self._root:
            with suppress(OSError):  # it stays in memory then, and is tried again at the next checkpoint
                adopt(self._paging, self._adopted, self._root)
                self._adopted = self._root

    def _finish(self, last: Pending | None) -> None:
        """Hash the frozen changes up to `last` (None: all)."""
        while self._frozen and (last is None or last.snapshot is None):
            self._hash_frozen(1 << 62, last)

    def _hash_frozen(self, budget: int, last: Pending | None) -> int:
        """Hash frozen changes in their order, up to `last`, within the budget; what is left of the budget."""
        while self._frozen and budget > 0 and (last is None or last.snapshot is None):
            pending = self._frozen[0]
            keys, values, used = pending.take(budget)
            self._root = trie.update(self._root, keys, values)
            budget -= used
            if not pending.remaining:
                self._frozen.popleft()
                pending.snapshot = Snapshot(self._root)
        self._settle()
        return budget

    def _put_back(self, key: bytes, old: bytes | None, dirty: bool = True) -> None:
        if (old is None) is (key in self._head):
            self._index.toggle(key)
        if old is None:
            self._head.pop(key, None)
        else:
            self._head[key] = old
        if dirty:
            self._dirty[key] = None

    def _outside_operation(self, what: str) -> None:
        if self._undo is not None:
            raise StateError(f"{what} inside an operation; commit it or roll it back first")


class Pending:
    """A frozen state, hashed in slices: nobody is held for long, and later writes do not reach it."""

    __slots__ = ("_keys", "_position", "_state", "_values", "snapshot")

    def __init__(self, state: State, keys: list[bytes], values: list[bytes | None]) -> None:
        self._state = state
        self._keys = keys
        self._values = values
        self._position = 0
        self.snapshot: Snapshot | None = None
        """The result, once everything is hashed."""

    @property
    def remaining(self) -> int:
        """Keys of this freeze that are still to be hashed."""
        return len(self._keys) - self._position

    def advance(self, budget_keys: int) -> bool:
        """Hash about `budget_keys` keys, those of earlier freezes first; True while there is more."""
        self._state._hash_frozen(budget_keys, self)
        return self.snapshot is None

    def finish(self) -> Snapshot:
        """Hash all that is left."""
        self._state._finish(self)
        assert self.snapshot is not None
        return self.snapshot

    def take(self, budget: int) -> tuple[list[bytes], list[bytes | None], int]:
        """For `State`: the next changes to hash, and their cost."""
        start, end, used = self._position, self._position, 0
        while end < len(self._keys) and used < budget:
            used += _cost(self._values[end])
            end += 1
        self._position = end
        return self._keys[start:end], self._values[start:end], used


class _ReadOnly:
    __slots__ = ("_state",)

    def __init__(self, state: State) -> None:
        self._state = state

    def __enter__(self) -> None:
        self._state._read_only += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._state._read_only -= 1


def _cost(value: bytes | None) -> int:
    return 1 if value is None else 1 + len(value) // CHUNK_BYTES


def _not_bytes(what: str, found: object) -> StateTypeError:
    return StateTypeError(
        f"{what} is {type(found).__name__}, not bytes; convert it (for example with bytes(...) or .encode())"
    )
