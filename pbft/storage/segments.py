"""The bytes of a log segment: header, groups, records; writing them and reading them back.

    segment = header  group*  zeros            (zeros: space made ahead of the writing)
    header  = magic, version, crc | replica, first position, salt, length of cluster id | cluster id | crc
    group   = salt, first position, synced, body length, count, crc | body
    body    = (length, crc, record)*

`synced` is the mark: every record up to this position was durable before the group was written. The salt is
random and differs per segment, so a record whose sender composed it to look like a group is not taken for
one. A record's checksum starts from its position and the salt, so a record in another place is not valid
there. All integers are little-endian.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from struct import Struct

from pbft.storage.errors import DamagedLog, IdentityMismatch, NewerFormat, RecordTooLarge
from pbft.storage.files import Directory

MAGIC = b"PBFTWAL\n"
VERSION = 1
SALT_BYTES = 8
MAX_RECORD = 64 * 2**20
"""Largest record in bytes."""
GROUP_BODY_TARGET = 4 * 2**20
"""A group is closed before its body exceeds this, unless one record alone does; bounds what reading holds."""
MAX_GROUP_BODY = MAX_RECORD + 8
READ_CHUNK = 2**20

_PREFIX = Struct("<8sII")
_IDENTITY = Struct("<QQ8sI")
_GROUP = Struct("<8sQQQII")
_RECORD = Struct("<II")
_CRC = Struct("<I")
GROUP_BYTES = _GROUP.size
MAX_CLUSTER_BYTES = 256
_MAX_HEADER = _PREFIX.size + _IDENTITY.size + MAX_CLUSTER_BYTES + _CRC.size

_NAME_PREFIX = "log-"


def segment_name(first_position: int) -> str:
    """File name of the segment that begins with this record; names sort as positions do."""
    return f"{_NAME_PREFIX}{first_position:020d}"


def segment_names(directory: Directory) -> list[str]:
    """The segments in a directory, oldest first."""
    length = len(_NAME_PREFIX) + 20
    return [
        name
        for name in directory.list()
        if name.startswith(_NAME_PREFIX) and len(name) == length and name[len(_NAME_PREFIX) :].isdecimal()
    ]


@dataclass(frozen=True, slots=True)
class Header:
    """What stands at the head of a segment."""

    replica: int
    first_position: int
    salt: bytes
    cluster: bytes

    @property
    def size(self) -> int:
        """Its length in bytes: the offset of the first group."""
        return _PREFIX.size + _IDENTITY.size + len(self.cluster) + _CRC.size

    def encode(self) -> bytes:
        """The bytes on disk."""
        if len(self.cluster) > MAX_CLUSTER_BYTES:
            raise ValueError(f"a cluster id of {len(self.cluster)} bytes; at most {MAX_CLUSTER_BYTES}")
        start = MAGIC + _CRC.pack(VERSION)
        body = start + _CRC.pack(zlib.crc32(start))
        body += _IDENTITY.pack(self.replica, self.first_position, self.salt, len(self.cluster)) + self.cluster
        return body + _CRC.pack(zlib.crc32(body))


def read_header(directory: Directory, name: str, cluster: bytes, replica: int) -> Header:
    """Read and check a segment's header.

    Raises NewerFormat, IdentityMismatch, DamagedLog (a header is durable before its file gets its name) and
    OSError.
    """
    position = int(name[len(_NAME_PREFIX) :])
    data = directory.read(name, 0, _MAX_HEADER)
    if len(data) < _PREFIX.size:
        raise DamagedLog(name, 0, position, "no header")
    magic, version, prefix_crc = _PREFIX.unpack_from(data)
    if magic != MAGIC or prefix_crc != zlib.crc32(data[: _PREFIX.size - 4]):
        raise DamagedLog(name, 0, position, "bad header")
    if version > VERSION:
        raise NewerFormat(name, version, VERSION)
    offset = _PREFIX.size
    if len(data) < offset + _IDENTITY.size:
        raise DamagedLog(name, offset, position, "short header")
    found_replica, first_position, salt, length = _IDENTITY.unpack_from(data, offset)
    end = offset + _IDENTITY.size + length
    if length > MAX_CLUSTER_BYTES or len(data) < end + 4 or _CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
        raise DamagedLog(name, offset, position, "bad header checksum")
    found_cluster = data[end - length : end]
    if found_cluster != cluster or found_replica != replica:
        raise IdentityMismatch(
            name,
            f"replica {replica} of cluster {cluster.hex()}",
            f"replica {found_replica} of cluster {found_cluster.hex()}",
        )
    if first_position != position:
        raise DamagedLog(name, 0, position, f"a header of position {first_position}")
    return Header(found_replica, first_position, salt, found_cluster)


def encode_groups(salt: bytes, first: int, records: Sequence[bytes]) -> list[bytes]:
    """The groups that hold `records` from position `first` on; all records below `first` must be durable.

    Without records: one empty group, which only carries the mark. Raises RecordTooLarge.
    """
    synced = first - 1
    seed = int.from_bytes(salt[:4], "little")
    crc32 = zlib.crc32
    pack = _RECORD.pack
    groups: list[bytes] = []
    position = start = first
    parts: list[bytes] = []
    body = 0
    for record in records:
        size = len(record)
        if size > MAX_RECORD:
            raise RecordTooLarge(size, MAX_RECORD)
        if parts and body + size + 8 > GROUP_BODY_TARGET:
            groups.append(_group(salt, start, synced, position - start, body, parts))
            parts = []
            body = 0
            start = position
        parts.append(pack(size, crc32(record, (position + seed) & 0xFFFFFFFF)))
        parts.append(record)
        body += size + 8
        position += 1
    groups.append(_group(salt, start, synced, position - start, body, parts))
    return groups


def _group(salt: bytes, start: int, synced: int, count: int, body: int, parts: list[bytes]) -> bytes:
    head = _GROUP.pack(salt, start, synced, body, count, 0)[:-4]
    return b"".join((head, _CRC.pack(zlib.crc32(head)), *parts))


def _group_header(data: bytes, offset: int, salt: bytes) -> tuple[int, int, int, int] | None:
    """(first position, synced, body length, count) of the group header at this place; None if there is
    none."""
    if len(data) < offset + GROUP_BYTES:
        return None
    found, first, synced, body, count, crc = _GROUP.unpack_from(data, offset)
    if found != salt or crc != zlib.crc32(data[offset : offset + GROUP_BYTES - 4]) or body > MAX_GROUP_BODY:
        return None
    return first, synced, body, count


def _decode_body(salt: bytes, first: int, count: int, body: bytes) -> tuple[list[bytes], str]:
    """The valid records at the start of a group's body, and why it ends early ("" if it does not)."""
    seed = int.from_bytes(salt[:4], "little") + first
    records: list[bytes] = []
    offset = 0
    unpack = _RECORD.unpack_from
    crc32 = zlib.crc32
    size = len(body)
    for index in range(count):
        if offset + 8 > size:
            return records, "record beyond its group"
        length, crc = unpack(body, offset)
        offset += 8
        record = body[offset : offset + length]
        if len(record) != length or crc32(record, (seed + index) & 0xFFFFFFFF) != crc:
            return records, "bad record checksum"
        records.append(record)
        offset += length
    return records, "" if offset == size else "group longer than its records"


class SegmentReader:
    """Reads one segment group by group; holds one group and one read-ahead chunk at a time."""

    __slots__ = (
        "_buffer",
        "_buffer_offset",
        "directory",
        "header",
        "name",
        "offset",
        "position",
        "problem",
        "size",
        "sure",
    )

    def __init__(self, directory: Directory, name: str, header: Header) -> None:
        self.directory = directory
        self.name = name
        self.header = header
        self.size = directory.size(name)
        self.offset = header.size
        """End of the last valid group."""
        self.position = header.first_position
        """The next record to read."""
        self.problem = ""
        """Why reading ended, if not at the end of what was written."""
        self.sure = header.size
        """Up to this offset a mark that was read says that all is durable."""
        self._buffer = b""
        self._buffer_offset = 0

    def groups(self) -> Iterator[tuple[int, list[bytes]]]:
        """(first position, records) of each valid group, until the first that is not; then see `problem`."""
        salt = self.header.salt
        mark = 0
        while True:
            data = self._bytes(self.offset, GROUP_BYTES)
            head = _group_header(data, 0, salt)
            if head is None:
                self.problem = "" if not any(data) else "no valid group"
                return
            first, synced, length, count = head
            if first != self.position:
                self.problem = f"a group of position {first}"
                return
            if length > self.size - self.offset - GROUP_BYTES:
                self.problem = "group beyond the end of the file"
                return
            records, problem = _decode_body(salt, first, count, self._bytes(self.offset + GROUP_BYTES, length))
            if problem:
                self.problem = problem
                return
            if synced > mark:
                # All before this group; the groups of one write carry the same mark.
                mark, self.sure = synced, self.offset
            self.offset += GROUP_BYTES + length
            self.position += count
            yield first, records

    def look_again(self) -> None:
        """The file may have grown: forget its size, and what was read ahead. `groups` goes on where it ended."""
        self.size = self.directory.size(self.name)
        self._buffer, self._buffer_offset = b"", 0

    def later_mark(self) -> int:
        """The highest mark in any group header from `offset` on (0 if none): up to there, damage is no torn
        tail."""
        salt = self.header.salt
        highest = 0
        offset = self.offset
        while offset < self.size:
            chunk = self.directory.read(self.name, offset, READ_CHUNK + GROUP_BYTES)
            place = chunk.find(salt)
            while 0 <= place < READ_CHUNK:
                head = _group_header(chunk, place, salt)
                if head is not None:
                    highest = max(highest, head[1])
                place = chunk.find(salt, place + 1)
            offset += READ_CHUNK
        return highest

    def rest_is_zero(self) -> bool:
        """Whether nothing but space made ahead follows the last valid group."""
        for offset in range(self.offset, self.size, READ_CHUNK):
            chunk = self.directory.read(self.name, offset, READ_CHUNK)
            if chunk.count(0) != len(chunk):
                return False
        return True

    def _bytes(self, offset: int, size: int) -> bytes:
        start = offset - self._buffer_offset
        if start < 0 or start + size > len(self._buffer):
            self._buffer = self.directory.read(self.name, offset, max(size, READ_CHUNK))
            self._buffer_offset = offset
            start = 0
        return self._buffer[start : start + size]
