"""The ordered input of a cluster in a file: every batch in its order, and the stable certificates between them.

    file  = magic | frame*
    frame = length, crc of the content, crc of both | content: one canonical row of `exported`

For audit, and for `pbft replay`: whoever has a state of the cluster executes the batches above it and compares digests
with what a quorum has signed. The file grows at its end only. What a crash left half written there is no frame, and is
cut off by whoever goes on writing.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from struct import Struct
from typing import NamedTuple

from pbft.batch import NULL_DIGEST, Batch, decode_batch
from pbft.codec import CodecError, Family, array, blob, uint
from pbft.config import ConfigError
from pbft.messages import Checkpoint, wire
from pbft.protocol.records import Accepted, Executing, Record, StableCertificate

MAGIC = b"PBFTINP\x02"
_FRAME = Struct("<III")
_SUMMED = Struct("<II")
_CRC = Struct("<I")
_FRAME_MAX = 65 << 20

exported = Family("entry of an exported log")


class ExportError(ConfigError):
    """A file that is no whole exported log, or a log that does not follow it: one sentence that names the remedy."""


@exported.register(1, blob(32, 32), uint(), uint())
class Head(NamedTuple):
    """The first entry: whose log it is, and after which number it begins."""

    cluster: bytes
    epoch: int
    after: int


@exported.register(2, uint(), blob(64 << 20))
class Ordered(NamedTuple):
    """The batch that was executed at a number; empty: NULL."""

    number: int
    batch: bytes


@exported.register(3, array(wire.sized(Checkpoint), 1 << 12, 1), nested=(0, Checkpoint))
class Certified(NamedTuple):
    """q CHECKPOINTs for the state after a number that stands before it."""

    checkpoints: tuple[Checkpoint, ...]


Entry = Head | Ordered | Certified


def batch_in(path: Path, entry: Ordered) -> Batch:
    """The batch of an entry of a file. Raises ExportError."""
    try:
        return decode_batch(entry.batch)
    except CodecError as error:
        raise ExportError(f"{path}: batch {entry.number} cannot be read ({error}); use another copy of it") from None


def read_export(path: Path, cut: Callable[[Path, int], None] = lambda path, offset: None) -> Iterator[Entry]:
    """The entries of a file, from its Head on, each verified against its checksum, numbers without a gap. What is half
    written at the end ends it, and `cut` is told the file and where that begins. Raises ExportError and OSError."""
    last: int | None = None
    for offset, entry in _frames(path, cut):
        match entry:
            case Head():
                if last is not None:
                    raise ExportError(f"{path} is damaged at byte {offset}: a second head; use another copy of it")
                last = entry.after
            case Ordered(number):
                if last is None or number != last + 1:
                    raise ExportError(f"{path} is damaged at byte {offset}: batch {number} stands out of order")
                last = number
            case Certified(checkpoints):
                if last is None or checkpoints[0].number > last:
                    raise ExportError(f"{path} is damaged at byte {offset}: a certificate before its batches")
        yield entry
    if last is None:
        raise ExportError(f"{path} is no exported log; name one that `pbft log export` has written")


def _frames(path: Path, cut: Callable[[Path, int], None]) -> Iterator[tuple[int, Entry]]:
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise ExportError(f"{path} does not exist; name one that `pbft log export` has written") from None
    with file:
        size = os.fstat(file.fileno()).st_size
        if file.read(len(MAGIC)) != MAGIC:
            raise ExportError(f"{path} is no exported log; name one that `pbft log export` has written")
        offset = len(MAGIC)
        while True:
            head = file.read(_FRAME.size)
            if len(head) < _FRAME.size:
                if head:
                    cut(path, offset)
                return
            length, crc, head_crc = _FRAME.unpack(head)
            if head_crc != zlib.crc32(head[: _SUMMED.size]) or length > _FRAME_MAX:
                if not any(head) and not any(iter(lambda: file.read(1 << 20).strip(b"\0"), b"")):
                    cut(path, offset)  # room that was made for what then was not written
                    return
                raise ExportError(f"{path} is damaged at byte {offset}; use another copy of it")
            end = offset + _FRAME.size + length
            content = file.read(length)
            if len(content) < length or zlib.crc32(content) != crc:
                if end >= size:
                    cut(path, offset)
                    return
                raise ExportError(f"{path} is damaged at byte {offset}; use another copy of it")
            try:
                entry: Entry = exported.decode(content)
            except CodecError as error:
                raise ExportError(f"{path} cannot be read at byte {offset} ({error}); use another copy") from None
            yield offset, entry
            offset = end


class ExportWriter:
    """Appends to a file, or begins it. Not for use by two processes at once."""

    def __init__(self, path: Path, cluster: bytes, epoch: int) -> None:
        """Read what is there and go on after it. Raises ExportError if that is no export of this cluster, OSError."""
        self.path = path
        self._head = (cluster, epoch)
        self.last: int | None = None
        """The last batch in the file; None before the first entry."""
        self.certified = 0
        self.written = 0
        """Batches that this object has written."""
        end = 0
        if path.exists() and path.stat().st_size:
            end = self._read()
        self._file = path.open("r+b" if path.exists() else "x+b")
        os.fchmod(self._file.fileno(), 0o600)
        self._file.truncate(end)
        self._file.seek(end)
        if not end:
            self._file.write(MAGIC)

    def _read(self) -> int:
        end = len(MAGIC)
        for entry in read_export(self.path):
            match entry:
                case Head():
                    if (entry.cluster, entry.epoch) != self._head:
                        raise ExportError(f"{self.path} is a log of another cluster; choose another file")
                    self.last = entry.after
                case Ordered(number):
                    self.last = number
                case Certified(checkpoints):
                    self.certified = checkpoints[0].number
            end += _FRAME.size + len(exported.encode(entry))
        return end

    def begin(self, after: int) -> None:
        """The first batch will be that after this number."""
        self._write(Head(*self._head, after))
        self.last = after

    def batch(self, number: int, encoded: bytes) -> None:
        """The next batch."""
        self._write(Ordered(number, encoded))
        self.last = number
        self.written += 1

    def certificate(self, checkpoints: tuple[Checkpoint, ...]) -> None:
        """A stable certificate; ignored if the file has a later one, or has not come so far."""
        if self.last is not None and self.certified < checkpoints[0].number <= self.last:
            self._write(Certified(checkpoints))
            self.certified = checkpoints[0].number

    def _write(self, entry: Entry) -> None:
        content = exported.encode(entry)
        head = _SUMMED.pack(len(content), zlib.crc32(content))
        self._file.write(head + _CRC.pack(zlib.crc32(head)) + content)

    def sync(self) -> None:
        """Make all durable."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Make all durable, and close."""
        self.sync()
        self._file.close()


class Export:
    """From the records of a replica's log to entries. Memory: the batches that were accepted and not executed yet."""

    def __init__(self, writer: ExportWriter) -> None:
        self._writer = writer
        self._bodies: dict[tuple[int, bytes], bytes] = {}

    def record(self, record: Record) -> None:
        """Take one. Raises ExportError where the log does not follow what was written before."""
        match record:
            case Accepted(_, number, digest, batch) if batch:
                if self._writer.last is None or number > self._writer.last:
                    self._bodies[number, digest] = batch
            case Executing(number, digest, batch):
                self._executing(number, digest, batch)
            case StableCertificate(checkpoints):
                self._writer.certificate(checkpoints)
            case _:
                pass

    def _executing(self, number: int, digest: bytes, batch: bytes) -> None:
        writer = self._writer
        if writer.last is not None and number <= writer.last:
            return
        body = batch or self._bodies.get((number, digest), b"")
        if not body and digest != NULL_DIGEST:
            if writer.last is None:
                return  # its body stood in a part of the log that is gone: the export begins after it
            raise ExportError(f"the log holds no body of batch {number}; export from another replica")
        if writer.last is None:
            writer.begin(number - 1)
        elif number != writer.last + 1:
            raise ExportError(
                f"the log goes on at batch {number}, and {writer.path} ends at {writer.last}: what is between was cut, "
                "or came to this replica inside a state; export from another replica, or into a new file"
            )
        writer.batch(number, body)
        for key in [key for key in self._bodies if key[0] <= number]:
            del self._bodies[key]
