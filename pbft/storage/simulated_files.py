"""A directory in memory that forgets on a crash what was not synced, and fails where it is told to.

For the simulator and for tests. It is stricter than most file systems: a name is durable only after
`sync_directory`, and unsynced bytes survive a crash in any combination of sectors.
"""

from __future__ import annotations

import errno
import os
from random import Random

SECTOR = 512
"""Bytes that a disk writes entirely or not at all."""


class SimulatedCrash(BaseException):
    """The machine stops here. A BaseException, so that no error handling of the code under test runs on."""


class Faults:
    """Numbers the operations of one or several directories (1, 2, ...) and disturbs chosen ones."""

    __slots__ = ("_errors", "_space", "crash_at", "operations")

    def __init__(self) -> None:
        self.operations = 0
        self.crash_at: int | None = None
        """From this operation on each one raises SimulatedCrash without effect, until the crash is carried
        out."""
        self._errors: dict[int, int] = {}
        self._space: int | None = None

    def fail(self, operation: int, error: int) -> None:
        """Let one operation raise OSError with this errno: a write then has written half, a sync has lost its
        data."""
        self._errors[operation] = error

    def limit_space(self, size: int | None) -> None:
        """From now on writing beyond `size` further bytes raises ENOSPC; None lifts the limit."""
        self._space = size

    def clear(self) -> None:
        """Forget all faults that were asked for and count from 0 again."""
        self.operations = 0
        self.crash_at = None
        self._errors.clear()
        self._space = None

    def next_operation(self) -> int:
        """Count one operation and return the errno it must fail with, 0 if none."""
        self.operations += 1
        if self.crash_at is not None and self.operations >= self.crash_at:
            raise SimulatedCrash
        return self._errors.get(self.operations, 0)

    def take_space(self, size: int) -> bool:
        """Whether `size` more bytes fit on the disk."""
        if self._space is None:
            return True
        if size > self._space:
            return False
        self._space -= size
        return True


def _error(code: int, name: str) -> OSError:
    return OSError(code, os.strerror(code), name)


class _Inode:
    __slots__ = ("data", "durable", "unsynced")

    def __init__(self) -> None:
        self.data = bytearray()
        self.durable = bytearray()
        self.unsynced: list[tuple[int, bytes]] = []

    def write(self, offset: int, data: bytes) -> None:
        _put(self.data, offset, data)
        self.unsynced.append((offset, data))

    def sync(self) -> None:
        for offset, data in self.unsynced:
            _put(self.durable, offset, data)
        self.unsynced.clear()

    def crash(self, rng: Random | None) -> None:
        if rng is not None:
            # Writes reach the disk in order up to some point, or sector by sector in any order.
            if rng.random() < 0.5:
                for offset, data in self.unsynced[: rng.randint(0, len(self.unsynced))]:
                    _put(self.durable, offset, data[: rng.choice((len(data), rng.randint(0, len(data))))])
            else:
                for offset, data in self.unsynced:
                    self._crash_scattered(offset, data, rng)
        self.unsynced.clear()
        self.data = bytearray(self.durable)

    def _crash_scattered(self, offset: int, data: bytes, rng: Random) -> None:
        if data.count(0) == len(data):
            # Only the length tells that zeros were written.
            if rng.random() < 0.5:
                _put(self.durable, offset, data)
            return
        start = 0
        while start < len(data):
            end = min(len(data), start + SECTOR - (offset + start) % SECTOR)
            if rng.random() < 0.5:
                _put(self.durable, offset + start, data[start:end])
            start = end


def _put(target: bytearray, offset: int, data: bytes) -> None:
    if len(target) < offset:
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(data)] = data


class SimulatedAppendFile:
    """An `AppendFile` of a `SimulatedDirectory`."""

    __slots__ = ("_faults", "_inode", "_name", "_offset")

    def __init__(self, name: str, inode: _Inode, faults: Faults) -> None:
        self._name = name
        self._inode = inode
        self._faults = faults
        self._offset = len(inode.data)

    def write(self, data: bytes) -> None:
        data = bytes(data)
        error = self._faults.next_operation()
        grows = self._offset + len(data) - len(self._inode.data)
        if not error and grows > 0 and not self._faults.take_space(grows):
            error = errno.ENOSPC
        if error:
            data = data[: len(data) // 2]
        if data:
            self._inode.write(self._offset, data)
        self._offset += len(data)
        if error:
            raise _error(error, self._name)

    def preallocate(self, size: int) -> None:
        missing = size - len(self._inode.data)
        if missing <= 0:
            return
        error = self._faults.next_operation()
        if not error and not self._faults.take_space(missing):
            error = errno.ENOSPC
        if error:
            raise _error(error, self._name)
        self._inode.write(len(self._inode.data), bytes(missing))

    def sync(self) -> None:
        error = self._faults.next_operation()
        if error:
            # The pages stay readable but count as clean: no later sync writes them.
            self._inode.unsynced.clear()
            raise _error(error, self._name)
        self._inode.sync()

    def close(self) -> None:
        pass


class SimulatedDirectory:
    """A `Directory` in memory. Several may share one `Faults`, so that operations are numbered across
    them."""

    __slots__ = ("_durable_names", "_name_changes", "_names", "faults")

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults if faults is not None else Faults()
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._name_changes: list[dict[str, _Inode]] = []

    def list(self) -> list[str]:
        return sorted(self._names)

    def open_append(self, name: str) -> SimulatedAppendFile:
        self._operation(name)
        inode = self._names.get(name)
        if inode is None:
            inode = self._names[name] = _Inode()
            self._name_changes.append(dict(self._names))
        return SimulatedAppendFile(name, inode, self.faults)

    def read(self, name: str, offset: int, size: int) -> bytes:
        self._operation(name)
        return bytes(self._inode(name).data[offset : offset + size])

    def size(self, name: str) -> int:
        return len(self._inode(name).data)

    def rename(self, old: str, new: str) -> None:
        self._operation(old)
        inode = self._inode(old)
        del self._names[old]
        self._names[new] = inode
        self._name_changes.append(dict(self._names))

    def remove(self, name: str) -> None:
        self._operation(name)
        self._inode(name)
        del self._names[name]
        self._name_changes.append(dict(self._names))

    def truncate(self, name: str, size: int, sure: int) -> None:
        self._operation(name)
        inode = self._inode(name)
        if sure < size:
            inode.write(sure, bytes(inode.data[sure:size]))
        inode.sync()
        for content in (inode.data, inode.durable):
            del content[size:]
            content.extend(bytes(size - len(content)))

    def sync_directory(self) -> None:
        self._operation(".")
        self._durable_names = dict(self._names)
        self._name_changes.clear()

    def crash(self, rng: Random | None = None) -> None:
        """Lose what was not synced: all of it without `rng`, else a part that it chooses. Faults asked for
        end."""
        self.faults.clear()
        if rng is not None and self._name_changes:
            survived = rng.randint(0, len(self._name_changes))
            if survived:
                self._durable_names = self._name_changes[survived - 1]
        inodes = {id(inode): inode for inode in self._durable_names.values()}
        for inode in inodes.values():
            inode.crash(rng)
        self._names = dict(self._durable_names)
        self._name_changes = []

    def copy(self) -> SimulatedDirectory:
        """What is durable, as a directory of its own with the same faults to come."""
        other = SimulatedDirectory(self.faults)
        for name, inode in self._durable_names.items():
            copied = other._names[name] = _Inode()
            copied.durable, copied.data = bytearray(inode.durable), bytearray(inode.durable)
        other._durable_names = dict(other._names)
        return other

    def flip(self, name: str, offset: int, mask: int) -> None:
        """Bit rot: change one byte of what is on the disk."""
        inode = self._inode(name)
        inode.data[offset] ^= mask
        if offset < len(inode.durable):
            inode.durable[offset] ^= mask

    def _operation(self, name: str) -> None:
        error = self.faults.next_operation()
        if error:
            raise _error(error, name)

    def _inode(self, name: str) -> _Inode:
        inode = self._names.get(name)
        if inode is None:
            raise _error(errno.ENOENT, name)
        return inode
