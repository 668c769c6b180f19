"""Durable checkpoints: one file each, complete or absent. Rule 1.6.

    file    = header | meta | crc | chunk* | trailer
    header  = magic, version, crc | number, base, meta length
    chunk   = length, crc of index and content | content
    trailer = end mark, chunks, file length, crc

A file holds the whole of a state, or what makes that of number `base` this one (0: the whole): then it is used with
the file of its base, and that with its own, down to a whole one; this is a chain.

A checkpoint is written under a temporary name, synced, renamed, and the directory synced; only then those that it
does not rest on are removed. So a crash at any instant leaves the old one or the new one, and a file under a final
name was complete: if it is damaged the disk did it (`DamagedCheckpoint`).
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from struct import Struct

from pbft.storage.errors import DamagedCheckpoint, NewerFormat, RecordTooLarge
from pbft.storage.files import TEMPORARY, AppendFile, Directory, remove_temporaries

MAGIC = b"PBFTCKP\n"
VERSION = 2
"""1: no base, always the whole."""
MAX_CHUNK = 64 * 2**20
"""Largest chunk, and largest meta, in bytes."""
WRITE_BYTES = 2**20

CHAIN_MAX = 64
"""Files that a state may rest on."""
_CHANGES_BYTES = 64 << 10
"""Changes of so many bytes are kept apart beside however small a state."""

_NAME_PREFIX = "checkpoint-"
_NAME_LENGTH = len(_NAME_PREFIX) + 20
_END = 0xFFFFFFFF
_VERSION = Struct("<8sI")
_HEADER = Struct("<QQI")
_HEADER_1 = Struct("<QI")
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
    """In this file."""
    size: int
    """Length of this file in bytes."""
    base_number: int
    """The checkpoint that this one rests on; 0 if it is whole."""
    base: StoredCheckpoint | None
    _directory: Directory
    _start: int

    @property
    def chain(self) -> tuple[StoredCheckpoint, ...]:
        """From the whole one up to this."""
        found = [self]
        while (base := found[-1].base) is not None:
            found.append(base)
        return tuple(reversed(found))

    @property
    def total_size(self) -> int:
        """Bytes of all files that are needed."""
        return sum(part.size for part in self.chain)

    def chunks(self) -> Iterator[bytes]:
        """The chunks of the whole chain in order, each verified before it is given out. Raises DamagedCheckpoint and
        OSError."""
        for part in self.chain:
            yield from part.own_chunks()

    def own_chunks(self) -> Iterator[bytes]:
        """Those of this file."""
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
    """The durable checkpoints in a directory: one chain, besides what is being written."""

    __slots__ = ("_chain", "_directory", "incomplete")

    def __init__(self, directory: Directory) -> None:
        """Removes what a crash left half written. Raises OSError."""
        self._directory = directory
        self.incomplete: list[str] = []
        """Files that `load` removed."""
        self._chain: list[tuple[int, int]] = []
        """(number, bytes) from the whole one up; known once something was loaded or written."""
        remove_temporaries(directory, _NAME_PREFIX)

    def takes_changes(self, base: int) -> bool:
        """Whether the next checkpoint had better hold what changed since that of `base` alone: as long as that is
        less than to write and to read the whole."""
        if not self._chain or self._chain[-1][0] != base:
            return False
        changes = sum(size for _, size in self._chain[1:])
        return len(self._chain) < CHAIN_MAX and changes < max(self._chain[0][1], _CHANGES_BYTES)

    def write(self, number: int, meta: bytes, chunks: Iterable[bytes], base: int = 0) -> None:
        """Make a checkpoint durable, then remove what it does not rest on. Blocks; streams `chunks`. `base`: the newest
        one, if the chunks are what changed since then.

        Raises OSError (the older one still stands), ValueError if a newer one exists, RecordTooLarge.
        """
        newest = self._numbers()[-1:]
        if newest and newest[0] > number:
            raise ValueError(f"checkpoint {number} is older than the durable one of {newest[0]}")
        if base and (not self._chain or self._chain[-1][0] != base or base >= number):
            raise ValueError(f"checkpoint {number} cannot rest on {base}, which is not the newest one")
        name = checkpoint_name(number)
        write_checkpoint(self._directory, name, number, meta, chunks, base)
        self._chain = [*(self._chain if base else ()), (number, self._directory.size(name))]
        self._remove_others()

    def load(self) -> StoredCheckpoint | None:
        """The newest checkpoint, None if none was ever completed. Removes what a crash left behind, and files whose
        head or end is unreadable where there is an older one: hardly one of these was ever completed. If it was, a part
        of what this replica has executed is gone, and nothing of what it has voted, which the log holds: it gets that
        part from the others.

        Raises DamagedCheckpoint if there is no older one, or one of a chain is damaged (chunks are verified while they
        are read), NewerFormat and OSError.
        """
        numbers = self._numbers()
        while numbers:
            name = checkpoint_name(numbers[-1])
            try:
                alone = open_checkpoint(self._directory, name, numbers[-1])
            except DamagedCheckpoint:
                if len(numbers) == 1:
                    raise
                self._directory.remove(name)
                self._directory.sync_directory()
                self.incomplete.append(name)
                del numbers[-1]
                continue
            checkpoint = _with_bases(self._directory, alone)
            self._chain = [(part.number, part.size) for part in checkpoint.chain]
            self._remove_others()
            return checkpoint
        return None

    def discard(self) -> None:
        """Remove all checkpoints, newest last; the caller has durably noted that the past is lost. Raises
        OSError."""
        self._chain = []
        for number in self._numbers():
            self._directory.remove(checkpoint_name(number))
        self._directory.sync_directory()

    @property
    def retained_bytes(self) -> int:
        """Bytes on disk."""
        return sum(self._directory.size(checkpoint_name(number)) for number in self._numbers())

    def _numbers(self) -> list[int]:
        return _numbers(self._directory)

    def _remove_others(self) -> None:
        """Newest first: a chain that is not wanted any more never lacks its beginning."""
        kept = {number for number, _ in self._chain}
        others = [other for other in reversed(self._numbers()) if other not in kept]
        for other in others:
            self._directory.remove(checkpoint_name(other))
        if others:
            self._directory.sync_directory()


def newest_checkpoint(directory: Directory) -> StoredCheckpoint | None:
    """The newest checkpoint in a directory, None without one. Changes nothing; raises as `CheckpointStore.load`.

    A replica may work there: what goes because a newer one is there is no damage.
    """
    while numbers := _numbers(directory):
        try:
            return _with_bases(directory, open_checkpoint(directory, checkpoint_name(numbers[-1]), numbers[-1]))
        except (DamagedCheckpoint, FileNotFoundError):
            if _numbers(directory)[-1:] == numbers[-1:]:
                raise
    return None


def _with_bases(directory: Directory, newest: StoredCheckpoint) -> StoredCheckpoint:
    """The same with all that it rests on. Raises DamagedCheckpoint, NewerFormat and OSError."""
    parts = [newest]
    while number := parts[-1].base_number:
        name = checkpoint_name(number)
        if number >= parts[-1].number or len(parts) > 2 * CHAIN_MAX:
            raise DamagedCheckpoint(parts[-1].file, 0, f"it rests on {number}, which is no earlier one")
        try:
            parts.append(open_checkpoint(directory, name, number))
        except FileNotFoundError:
            raise DamagedCheckpoint(name, 0, f"it is missing, and {parts[-1].file} rests on it") from None
    found = parts.pop()
    while parts:
        found = replace(parts.pop(), base=found)
    return found


def write_checkpoint(
    directory: Directory, name: str, number: int, meta: bytes, chunks: Iterable[bytes], base: int = 0
) -> None:
    """Write a checkpoint under this name, complete or not at all. Raises OSError, RecordTooLarge."""
    if len(meta) > MAX_CHUNK:
        raise RecordTooLarge(len(meta), MAX_CHUNK)
    temporary = name + TEMPORARY
    with contextlib.suppress(FileNotFoundError):
        directory.remove(temporary)
    try:
        file = directory.open_append(temporary)
        try:
            _write_content(file, number, base, meta, chunks)
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
    """The checkpoint in a file, without what it rests on; it must be that of `number` if one is given. Its head and
    its end are looked at here, its chunks while they are read. Raises DamagedCheckpoint, NewerFormat and OSError."""
    size = directory.size(name)
    head = directory.read(name, 0, _HEADER_BYTES)
    if len(head) < _HEADER_BYTES or size < _HEADER_BYTES + _TRAILER_BYTES - _HEADER.size + _HEADER_1.size:
        raise DamagedCheckpoint(name, 0, "short file")
    magic, version = _VERSION.unpack_from(head)
    if magic != MAGIC or _CRC.unpack_from(head, _VERSION.size)[0] != zlib.crc32(head[: _VERSION.size]):
        raise DamagedCheckpoint(name, 0, "bad header")
    if version > VERSION:
        raise NewerFormat(name, version, VERSION)
    at = _VERSION.size + _CRC.size
    if version == 1:
        head = head[: at + _HEADER_1.size]
        found_number, meta_length = _HEADER_1.unpack_from(head, at)
        base = 0
    else:
        found_number, base, meta_length = _HEADER.unpack_from(head, at)
    start = len(head) + meta_length + _CRC.size
    if start + _TRAILER_BYTES > size:
        raise DamagedCheckpoint(name, _VERSION.size, "bad header")
    rest = directory.read(name, len(head), meta_length + _CRC.size)
    meta = rest[:meta_length]
    if _CRC.unpack_from(rest, meta_length)[0] != zlib.crc32(meta, zlib.crc32(head)):
        raise DamagedCheckpoint(name, len(head), "bad checksum of header and meta")
    if number is not None and found_number != number:
        raise DamagedCheckpoint(name, 0, f"a header of number {found_number}")
    offset = size - _TRAILER_BYTES
    trailer = directory.read(name, offset, _TRAILER_BYTES)
    end, chunk_count, length = _TRAILER.unpack_from(trailer)
    crc = _CRC.unpack_from(trailer, _TRAILER.size)[0]
    if end != _END or length != size or crc != zlib.crc32(trailer[: _TRAILER.size]):
        raise DamagedCheckpoint(name, offset, "bad trailer")
    return StoredCheckpoint(found_number, meta, name, chunk_count, size, base, None, directory, start)


def _write_content(file: AppendFile, number: int, base: int, meta: bytes, chunks: Iterable[bytes]) -> None:
    version = _VERSION.pack(MAGIC, VERSION)
    head = version + _CRC.pack(zlib.crc32(version)) + _HEADER.pack(number, base, len(meta))
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
