"""What has come of a state from others, kept in a file, so that a replica that is killed does not fetch it again.

    file  = frame*
    frame = length, crc of the content | content: one canonical row of `journal`

The pieces are kept as they came, after the base that they were applied to. Whoever reads them applies them once more,
and each is verified once more; so nothing in the file is believed, it may be cut anywhere, and it is never synced.
"""

from __future__ import annotations

import contextlib
import logging
import zlib
from collections.abc import Iterator
from pathlib import Path
from struct import Struct
from typing import BinaryIO

from pbft.codec import CodecError
from pbft.execution import ExecutionSnapshot
from pbft.state import PagedBucket, StateError
from pbft.transfer import Entry, Prepared, base_of, journal, prepared

log = logging.getLogger("pbft.node")

NAME = "transfer"
_FRAME = Struct("<II")
_MOST = 1 << 20


class TransferJournal:
    """Of one replica. Used by one thread at a time."""

    def __init__(self, folder: Path, paging: type[PagedBucket] | None = None) -> None:
        """`paging`: what becomes of content that memory shall not hold."""
        self._path = folder / NAME
        self._paging = paging
        self._file: BinaryIO | None = None

    def begin(self, base: ExecutionSnapshot | None) -> Prepared:
        """States to fetch into: the base, and all that has come on top of it before. The file goes on after that.
        Blocks. A file that does not follow from the base is begun anew."""
        self.close()
        expected = base_of(base)
        kept: Prepared | None = None
        end = 0
        with contextlib.suppress(OSError, StateError):
            frames = _frames(self._path)
            first = next(frames, None)
            if first is not None and first[1] == expected:
                ends = [first[0]]
                kept = prepared(base, _noting(frames, ends), self._paging)
                end = ends[kept.applied]
        try:
            self._file = self._path.open("r+b" if end else "w+b")
            self._file.truncate(end)
            self._file.seek(end)
        except OSError as error:
            log.warning("replica: what comes from others is not kept in %s: %s", self._path, error)
        if not end:
            self.append([expected])
        return kept or prepared(base, [], self._paging)

    def append(self, entries: list[Entry]) -> None:
        """Keep these. Blocks. Where that fails the file goes: it would have to be whole up to each entry."""
        if self._file is None:
            return
        try:
            for entry in entries:
                content = journal.encode(entry)
                self._file.write(_FRAME.pack(len(content), zlib.crc32(content)) + content)
            self._file.flush()
        except OSError as error:
            log.warning("replica: what comes from others is not kept any more: %s", error)
            self.remove()

    def remove(self) -> None:
        """It is installed, or not wanted any more."""
        self.close()
        with contextlib.suppress(OSError):
            self._path.unlink()

    def close(self) -> None:
        """Leave the file as it is."""
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                file.close()


def _noting(frames: Iterator[tuple[int, Entry]], ends: list[int]) -> Iterator[Entry]:
    """The entries; where each ends goes into that list."""
    for end, entry in frames:
        ends.append(end)
        yield entry


def _frames(path: Path) -> Iterator[tuple[int, Entry]]:
    """(where it ends, entry), up to the first that is not whole."""
    end = 0
    with path.open("rb") as file:
        while len(head := file.read(_FRAME.size)) == _FRAME.size:
            length, crc = _FRAME.unpack(head)
            content = file.read(length) if length <= _MOST else b""
            if len(content) < length or zlib.crc32(content) != crc:
                return
            try:
                entry: Entry = journal.decode(content)
            except CodecError:
                return
            end += _FRAME.size + length
            yield end, entry
