"""Durable checkpoints: one file each, complete or absent. Rule 1.6.

    file    = header | meta | crc | chunk* | trailer
    header  = magic, version, crc | number, meta length
    chunk   = length, crc of index and content | content
    trailer = end mark, chunks, file length, crc

A checkpoint is written under a temporary name, synced, renamed, and the directory synced; only then the older
one is removed. So a crash at any instant leaves the old one or the new one, and a file under a final name was
complete: if it is damaged the disk did it (`DamagedCheckpoint`), and an older one is no substitute, for the
log was cut.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from struct import Struct

from pbft.storage.errors import DamagedCheckpoint, NewerFormat, RecordTooLarge
from pbft.storage.files import TEMPORARY, AppendFile, Directory, remove_temporaries

MAGIC = b"PBFTCKP\n"
VERSION = 1
MAX_CHUNK = 64 * 2**20
"""Largest chunk, and largest meta, in bytes."""
WRITE_BYTES = 2**20

_NAME_PREFIX = "checkpoint-"
_NAME_LENGTH = len(_NAME_PREFIX) + 20
_END = 0xFFFFFFFF
_VERSION = Struct("<8sI")
_HEADER = Struct("<QI")
_CRC = Struct("<I")
_CHUNK = Struct("<II")
_TRAILER = Struct("<IQQ")
_HEADER_BYTES = _VERSION.size + _CRC.size + _HEADER.size
_TRAILER_BYTES = _TRAILER.size + _CRC.size


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A complete checkpoint on disk."""

    number: int
    """The sequence number after which the state was taken."""
    meta: bytes
    file: str
    chunk_count: int
    size: int
    """File length in bytes."""
    _directory: Directory
    _start: int

    def chunks(self) -> Iterator[bytes]:
        """The chunks in order, each verified before it is given out. Raises DamagedCheckpoint and OSError."""
        offset = self._start
        end = self.size - _TRAILER_BYTES
        buffer = b""
        buffer_offset = offset

        def take(size: int, index: int) -> bytes:
            nonlocal offset, buffer, buffer_offset
            if offset + size > end:
                raise DamagedCheckpoint(self.file, offset, f"chunk {index} beyond the end")
            if offset + size > buffer_offset + len(buffer):
                buffer = self._directory.read(self.file, offset, max(size, WRITE_BYTES))
                buffer_offset = offset
                if len(buffer) < size:
                    raise DamagedCheckpoint(self.file, offset, f"chunk {index} is short")
            start = offset - buffer_offset
            offset += size
            return buffer[start : start + size]

        for index in range(self.chunk_count):
            length, crc = _CHUNK.unpack(take(_CHUNK.size, index))
            chunk = take(length, index)
            if zlib.crc32(chunk, index & 0xFFFFFFFF) != crc:
                raise DamagedCheckpoint(self.file, offset - length, f"bad checksum of chunk {index}")
            yield chunk
        if offset != end:
            raise DamagedCheckpoint(self.file, offset, "bytes after the last chunk")


class CheckpointStore:
    """The durable checkpoints in a directory: at most one besides the one that is being written."""

    __slots__ = ("_directory", "incomplete")

    def __init__(self, directory: Directory) -> None:
        """Removes what a crash left half written. Raises OSError."""
        self._directory = directory
        self.incomplete: list[str] = []
        """Files that `load` removed."""
        remove_temporaries(directory, _NAME_PREFIX)

    def write(self, number: int, meta: bytes, chunks: Iterable[bytes]) -> None:
        """Make a checkpoint durable, then remove the older one. Blocks; streams `chunks`.

        Raises OSError (the older one still stands), ValueError if a newer one exists, RecordTooLarge.
        """
        newest = self._numbers()[-1:]
        if newest and newest[0] > number:
            raise ValueError(f"checkpoint {number} is older than the durable one of {newest[0]}")
        write_checkpoint(self._directory, checkpoint_name(number), number, meta, chunks)
        self._remove_below(number)

    def load(self) -> StoredCheckpoint | None:
        """The newest checkpoint, None if none was ever completed. Removes older ones that a crash left
        behind. An unreadable one beside an older one was never completed, whatever its name: the older one goes, and
        the log below it, only after that. It is removed.

        Raises DamagedCheckpoint if there is no older one (chunks are verified while they are read), NewerFormat and
        OSError.
        """
        numbers = self._numbers()
        while numbers:
            name = checkpoint_name(numbers[-1])
            try:
                checkpoint = open_checkpoint(self._directory, name, numbers[-1])
            except DamagedCheckpoint:
                if len(numbers) == 1:
                    raise
                self._directory.remove(name)
                self._directory.sync_directory()
                self.incomplete.append(name)
                del numbers[-1]
                continue
            self._remove_below(numbers[-1])
            return checkpoint
        return None

    def discard(self) -> None:
        """Remove all checkpoints, newest last; the caller has durably noted that the past is lost. Raises
        OSError."""
        for number in self._numbers():
            self._directory.remove(checkpoint_name(number))
        self._directory.sync_directory()

    @property
    def retained_bytes(self) -> int:
        """Bytes on disk."""
        return sum(self._directory.size(checkpoint_name(number)) for number in self._numbers())

    def _numbers(self) -> list[int]:
        return _numbers(self._directory)

    def _remove_below(self, number: int) -> None:
        older = [other for other in self._numbers() if other < number]
        for other in older:
            self._directory.remove(checkpoint_name(other))
        if older:
            self._directory.sync_directory()


def newest_checkpoint(directory: Directory) -> StoredCheckpoint | None:
    """The newest checkpoint in a directory, None without one. Changes nothing; raises as `CheckpointStore.load`."""
    numbers = _numbers(directory)
    return open_checkpoint(directory, checkpoint_name(numbers[-1]), numbers[-1]) if numbers else None


def write_checkpoint(directory: Directory, name: str, number: int, meta: bytes, chunks: Iterable[bytes]) -> None:
    """Write a checkpoint under this name, complete or not at all. Raises OSError, RecordTooLarge."""
    if len(meta) > MAX_CHUNK:
        raise RecordTooLarge(len(meta), MAX_CHUNK)
    temporary = name + TEMPORARY
    with contextlib.suppress(FileNotFoundError):
        directory.remove(temporary)
    try:
        file = directory.open_append(temporary)
        try:
            _write_content(file, number, meta, chunks)
            file.sync()
        finally:
            file.close()
    except Exception:
        # A full disk is not to stay full because of the half of a file.
        with contextlib.suppress(OSError):
            directory.remove(temporary)
        raise
    directory.rename(temporary, name)
    directory.sync_directory()


def checkpoint_name(number: int) -> str:
    """Its file name in a data directory."""
    return f"{_NAME_PREFIX}{number:020d}"


def _numbers(directory: Directory) -> list[int]:
    return [
        int(name[len(_NAME_PREFIX) :])
        for name in directory.list()
        if name.startswith(_NAME_PREFIX) and len(name) == _NAME_LENGTH and name[len(_NAME_PREFIX) :].isdecimal()
    ]


def open_checkpoint(directory: Directory, name: str, number: int | None = None) -> StoredCheckpoint:
    """The checkpoint in a file, which must be that of `number` if one is given. Its head and its end are looked at
    here, its chunks while they are read. Raises DamagedCheckpoint, NewerFormat and OSError."""
    size = directory.size(name)
    head = directory.read(name, 0, _HEADER_BYTES)
    if len(head) < _HEADER_BYTES or size < _HEADER_BYTES + _TRAILER_BYTES:
        raise DamagedCheckpoint(name, 0, "short file")
    magic, version = _VERSION.unpack_from(head)
    if magic != MAGIC or _CRC.unpack_from(head, _VERSION.size)[0] != zlib.crc32(head[: _VERSION.size]):
        raise DamagedCheckpoint(name, 0, "bad header")
    if version > VERSION:
        raise NewerFormat(name, version, VERSION)
    found_number, meta_length = _HEADER.unpack_from(head, _VERSION.size + _CRC.size)
    start = _HEADER_BYTES + meta_length + _CRC.size
    if start + _TRAILER_BYTES > size:
        raise DamagedCheckpoint(name, _VERSION.size, "bad header")
    rest = directory.read(name, _HEADER_BYTES, meta_length + _CRC.size)
    meta = rest[:meta_length]
    if _CRC.unpack_from(rest, meta_length)[0] != zlib.crc32(meta, zlib.crc32(head)):
        raise DamagedCheckpoint(name, _HEADER_BYTES, "bad checksum of header and meta")
    if number is not None and found_number != number:
        raise DamagedCheckpoint(name, 0, f"a header of number {found_number}")
    offset = size - _TRAILER_BYTES
    trailer = directory.read(name, offset, _TRAILER_BYTES)
    end, chunk_count, length = _TRAILER.unpack_from(trailer)
    crc = _CRC.unpack_from(trailer, _TRAILER.size)[0]
    if end != _END or length != size or crc != zlib.crc32(trailer[: _TRAILER.size]):
        raise DamagedCheckpoint(name, offset, "bad trailer")
    return StoredCheckpoint(found_number, meta, name, chunk_count, size, directory, start)


def _write_content(file: AppendFile, number: int, meta: bytes, chunks: Iterable[bytes]) -> None:
    version = _VERSION.pack(MAGIC, VERSION)
    head = version + _CRC.pack(zlib.crc32(version)) + _HEADER.pack(number, len(meta))
    parts = [head, meta, _CRC.pack(zlib.crc32(meta, zlib.crc32(head)))]
    waiting = len(head) + len(meta) + _CRC.size
    total = 0
    count = 0
    for chunk in chunks:
        size = len(chunk)
        if size > MAX_CHUNK:
            raise RecordTooLarge(size, MAX_CHUNK)
        parts.append(_CHUNK.pack(size, zlib.crc32(chunk, count & 0xFFFFFFFF)))
        parts.append(chunk)
        waiting += _CHUNK.size + size
        count += 1
        if waiting >= WRITE_BYTES:
            file.write(b"".join(parts))
            total += waiting
            parts = []
            waiting = 0
    total += waiting + _TRAILER_BYTES
    trailer = _TRAILER.pack(_END, count, total)
    file.write(b"".join((*parts, trailer, _CRC.pack(zlib.crc32(trailer)))))
