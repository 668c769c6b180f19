"""A data directory as it lies there, read without changing it: for `pbft data`, while no replica runs on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pbft.storage.checkpoints import StoredCheckpoint, newest_checkpoint
from pbft.storage.data_directory import IDENTITY, Identity, identity_of
from pbft.storage.errors import DamagedFile, DamagedLog
from pbft.storage.files import TEMPORARY, Directory
from pbft.storage.segments import SegmentReader, read_header, segment_name, segment_names
from pbft.storage.wal import TornTail, torn_tail


@dataclass(frozen=True, slots=True)
class Segment:
    """One file of the log."""

    name: str
    first: int
    """Position of its first record."""
    last: int
    """Position of its last record; `first - 1` if it has none."""
    bytes: int
    """Length of the file, with space made ahead."""


class Inspection:
    """What stands in one data directory. Nothing is cut, removed or counted."""

    def __init__(self, directory: Directory) -> None:
        """Raises DamagedFile without a readable identity, NewerFormat and OSError."""
        identity = identity_of(directory)
        if identity is None:
            raise DamagedFile(IDENTITY, "there is none, so this is no data directory, or what it held is lost")
        self._directory = directory
        self.identity: Identity = identity
        self.segments: list[Segment] = []
        """Those that `records` has read."""
        self.torn_tail: TornTail | None = None
        """What the next start will cut off; known once `records` has ended."""

    def records(self) -> Iterator[tuple[int, bytes]]:
        """(position, record) of the whole log, each verified.

        Raises DamagedLog where records that were durable are unreadable, IdentityMismatch, NewerFormat and OSError.
        """
        self.segments.clear()
        names = segment_names(self._directory)
        if not names:
            raise DamagedLog(segment_name(1), 0, 1, "the log is missing")
        headers = [read_header(self._directory, n, self.identity.cluster, self.identity.replica) for n in names]
        for index, (name, header) in enumerate(zip(names, headers, strict=True)):
            reader = SegmentReader(self._directory, name, header)
            for first, records in reader.groups():
                yield from enumerate(records, first)
            if index + 1 == len(names):
                self.torn_tail = torn_tail(reader)
            elif reader.position != headers[index + 1].first_position:
                raise DamagedLog(name, reader.offset, reader.position, reader.problem or "records missing")
            self.segments.append(Segment(name, header.first_position, reader.position - 1, reader.size))

    def checkpoint(self) -> StoredCheckpoint | None:
        """The durable checkpoint. Raises DamagedCheckpoint, NewerFormat and OSError."""
        return newest_checkpoint(self._directory)

    def leftovers(self) -> list[str]:
        """Files that a crash left half written; the next start removes them."""
        return [name for name in self._directory.list() if name.endswith(TEMPORARY)]
