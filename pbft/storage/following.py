"""Reads the log of a replica while that replica writes it, without changing anything.

What is read may not be durable yet, and who reads cannot tell the end of what is written from a group that is being
written: so reading ends at the first group that is not whole, and `records` goes on from there when it is called again.
It is no judge of damage; `pbft data verify` is, on a directory at rest.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from pbft.storage.data_directory import Identity
from pbft.storage.files import Directory
from pbft.storage.segments import SegmentReader, read_header, segment_names


class LogGap(Exception):
    """Records were removed before they were read. `first`: the position from which there is a log again."""

    def __init__(self, wanted: int, first: int) -> None:
        super().__init__(f"records {wanted} to {first - 1} were removed before they were read")
        self.first = first


class LogFollower:
    """Where one reader stands in one log."""

    def __init__(self, directory: Directory, identity: Identity) -> None:
        self._directory = directory
        self._identity = identity
        self._reader: SegmentReader | None = None

    def records(self) -> Iterator[tuple[int, bytes]]:
        """(position, record) of what was written since the last call, the first time all that is kept.

        Raises LogGap if the log was cut beyond what was read; the next call begins anew. Raises OSError, `NewerFormat`,
        `IdentityMismatch`, and `DamagedLog` for a header that cannot be read.
        """
        while (reader := self._reader or self._first()) is not None:
            self._reader = reader
            later = [name for name in segment_names(self._directory) if name > reader.name]
            with contextlib.suppress(FileNotFoundError):  # cut; whether it was read before, the next segment tells
                reader.look_again()
                for first, records in reader.groups():
                    yield from enumerate(records, first)
            if not later:
                return
            # A segment begins only when the one before is complete, and that one was read after this one was seen.
            following = self._open(later[0])
            if following is None:
                continue  # cut this very moment
            if following.position > reader.position:
                self._reader = None
                raise LogGap(reader.position, following.position)
            self._reader = following

    def _first(self) -> SegmentReader | None:
        names = segment_names(self._directory)
        return self._open(names[0]) if names else None

    def _open(self, name: str) -> SegmentReader | None:
        with contextlib.suppress(FileNotFoundError):
            header = read_header(self._directory, name, self._identity.cluster, self._identity.replica)
            return SegmentReader(self._directory, name, header)
        return None
