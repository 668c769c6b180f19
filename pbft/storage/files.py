"""The file operations that storage uses, as protocols, and their implementation on a real directory.

Rules of this file: one directory, flat names, no formats. `simulated_files.py` is the other implementation;
both pass the same conformance suite. Every method may raise OSError.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol


class AppendFile(Protocol):
    """A file that grows at its end. Used by one thread at a time."""

    def write(self, data: bytes) -> None:
        """Append all of `data`; on error any part of it may have been written."""
        ...

    def preallocate(self, size: int) -> None:
        """Make the file at least `size` bytes long with zeros; the next `write` still goes where the last one
        ended."""
        ...

    def sync(self) -> None:
        """Return once everything written is on the disk. After an error, what is on the disk is unknown for
        ever: the kernel may have dropped the pages, so that a second `sync` succeeds without having written
        them."""
        ...

    def close(self) -> None:
        """Close without syncing; closing twice is allowed."""
        ...


class Directory(Protocol):
    """A flat directory. Creation, renaming and removal are durable only after `sync_directory`."""

    def list(self) -> list[str]:
        """The names of its files, sorted."""
        ...

    def open_append(self, name: str) -> AppendFile:
        """Open for appending at the end of the file, which is created if missing."""
        ...

    def read(self, name: str, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`; fewer only at the end of the file."""
        ...

    def size(self, name: str) -> int:
        """Length in bytes."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Rename, replacing `new` if it exists."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file."""
        ...

    def truncate(self, name: str, size: int, sure: int) -> None:
        """Cut the file to `size` bytes; the cut and all that is left of the file are durable on return. What lies
        from byte `sure` on is written once more: a sync of it may have failed, and after that a page that can be
        read need not be on the disk, and no later sync writes it."""
        ...

    def sync_directory(self) -> None:
        """Make every creation, renaming and removal so far durable."""
        ...


_ZEROS = bytes(1 << 20)


class RealAppendFile:
    """An `AppendFile` on a file descriptor."""

    __slots__ = ("_fd", "_offset", "_size")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = self._offset = os.fstat(fd).st_size

    def write(self, data: bytes) -> None:
        written = os.pwrite(self._fd, data, self._offset)
        self._offset += written
        if written < len(data):
            rest = memoryview(data)
            while written < len(data):
                step = os.pwrite(self._fd, rest[written:], self._offset)
                written += step
                self._offset += step
        self._size = max(self._size, self._offset)

    def preallocate(self, size: int) -> None:
        # Zeros are written, not reserved: a block that is merely reserved costs a metadata update when it is
        # first written, which is what preallocation is to keep out of the sync.
        while self._size < size:
            self._size += os.pwrite(self._fd, _ZEROS[: size - self._size], self._size)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class RealDirectory:
    """A `Directory` in the file system; files have mode 0600, the directory (if made here) 0700."""

    __slots__ = ("path",)

    def __init__(self, path: Path, *, create: bool = True) -> None:
        """Raises OSError if the directory is missing (and `create` is false) or cannot be made."""
        self.path = path
        if create and not path.is_dir():
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync_path(path.parent)
        elif not path.is_dir():
            raise FileNotFoundError(f"no such directory: {path}")

    def list(self) -> list[str]:
        with os.scandir(self.path) as entries:
            return sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))

    def open_append(self, name: str) -> RealAppendFile:
        return RealAppendFile(os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))

    def read(self, name: str, offset: int, size: int) -> bytes:
        fd = os.open(self.path / name, os.O_RDONLY)
        try:
            # Never ask for more than the file has: the kernel call allocates the whole size first.
            wanted = max(0, min(size, os.fstat(fd).st_size - offset))
            data = os.pread(fd, wanted, offset)
            while len(data) < wanted and (more := os.pread(fd, wanted - len(data), offset + len(data))):
                data += more
            return data
        finally:
            os.close(fd)

    def size(self, name: str) -> int:
        return os.stat(self.path / name).st_size

    def rename(self, old: str, new: str) -> None:
        os.rename(self.path / old, self.path / new)

    def remove(self, name: str) -> None:
        os.unlink(self.path / name)

    def truncate(self, name: str, size: int, sure: int) -> None:
        fd = os.open(self.path / name, os.O_RDWR)
        try:
            os.ftruncate(fd, size)
            while sure < size and (data := os.pread(fd, min(len(_ZEROS), size - sure), sure)):
                sure += os.pwrite(fd, data, sure)
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_directory(self) -> None:
        _sync_path(self.path)


def _sync_path(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


TEMPORARY = ".tmp"
"""Files with this suffix were being written when a crash came; nothing refers to them."""


def replace_file(directory: Directory, name: str, content: bytes) -> None:
    """Give `name` this content, durably and at once: after a crash it has the old content or the new one.

    Raises OSError; the old content then still stands, unless the renaming had begun.
    """
    temporary = name + TEMPORARY
    with contextlib.suppress(FileNotFoundError):
        directory.remove(temporary)
    file = directory.open_append(temporary)
    try:
        file.write(content)
        file.sync()
    finally:
        file.close()
    directory.rename(temporary, name)
    directory.sync_directory()


def remove_temporaries(directory: Directory, prefix: str) -> None:
    """Remove what a crash left half written under names that begin with `prefix`."""
    leftovers = [name for name in directory.list() if name.startswith(prefix) and name.endswith(TEMPORARY)]
    for name in leftovers:
        directory.remove(name)
    if leftovers:
        directory.sync_directory()
