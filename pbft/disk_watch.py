"""What becomes of a replica whose disk takes nothing more. Rule 1.5: what is not durable is not said.

Its log has ended with the first write or sync that failed: it votes no more, and serves others what it has. Where only
room was missing, of bytes, inodes or descriptors, or where the disk could not be written for a time, it looks again and
again whether there is some, and then begins anew from its disk, as a process that was restarted: what the failed write
left is read there, written once more and synced, for a sync that is tried again proves nothing. Any other error means
that the disk cannot be trusted: the process ends, so that someone looks at it.

A reserve is kept on the disk and given up when room is missing, so that what is left to say can be written: evidence,
the log file, the identity of the directory.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from pathlib import Path

import trio

from pbft.storage.errors import LogFailed

log = logging.getLogger("pbft.node")

RESERVE = "reserve"
RESERVE_BYTES = 1 << 20
ROOM = 16 << 20
"""Bytes that must be free, and were written and synced for a try, before a replica begins anew."""
LOOK = 2.0
"""Seconds between two looks whether there is room."""

_TICK = 0.1
"""Seconds between two looks whether the log has ended."""

_PASSING = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EFBIG))
"""Errors that say nothing against the disk: what was synced is there."""


def is_passing(error: OSError) -> bool:
    """Whether it may go away without a repair of the disk."""
    return error.errno in _PASSING


class DiskWatch:
    """Of one replica, in one life."""

    def __init__(self, me: int, folder: Path | None, over: trio.Event) -> None:
        """`folder`: None for a volatile replica, whose disk is never missed. `over`: set when this life is to end."""
        self._me = me
        self._folder = folder
        self._over = over
        self._error: OSError | None = None

    def on_error(self, error: OSError) -> None:
        """Nothing is durable any more. Called in the log's thread; the first error counts."""
        self._error = self._error or error

    @property
    def trouble(self) -> str:
        """Why nothing is written, for the operator; "" while all is well."""
        if self._error is None:
            return ""
        if not is_passing(self._error):
            return f"the disk failed ({self._error}); repair it and start this replica again"
        where = f" in {self._folder}" if self._folder is not None else ""
        return f"nothing more can be written ({self._error}); it goes on by itself when there is room{where}"

    def end(self) -> None:
        """Called when this life is over. Raises LogFailed if it is over for a disk that is not to be trusted."""
        if self._error is not None and not is_passing(self._error):
            raise LogFailed(self._error)

    async def run(self) -> None:
        """Keep the reserve, and look after the disk until this life is over or cancelled."""
        folder = self._folder
        if folder is None:
            return
        await trio.to_thread.run_sync(reserve, folder)
        while self._error is None:
            await trio.sleep(_TICK)
        log.error("replica %d does not vote: %s", self._me, self.trouble)
        if is_passing(self._error):
            await trio.to_thread.run_sync(release, folder)
            await wait_for_room(folder)
            log.warning("replica %d: there is room again", self._me)
        self._over.set()


async def wait_for_room(folder: Path) -> None:
    """Until as much as ROOM can be written and synced there."""
    while not await trio.to_thread.run_sync(has_room, folder):
        await trio.sleep(LOOK)


def has_room(folder: Path) -> bool:
    """Whether as much as ROOM can be written there and synced. Blocks; leaves nothing behind."""
    return _write(folder / "room.tmp", ROOM, keep=False)


def reserve(folder: Path) -> None:
    """Keep RESERVE_BYTES for bad times. Blocks. Where there is no room for them, there is none to be kept."""
    path = folder / RESERVE
    with contextlib.suppress(OSError):
        if path.stat().st_size == RESERVE_BYTES:
            return
    _write(path, RESERVE_BYTES, keep=True)


def release(folder: Path) -> None:
    """Give up the reserve."""
    with contextlib.suppress(OSError):
        (folder / RESERVE).unlink()


def _write(path: Path, size: int, keep: bool) -> bool:
    """Whether a file of zeros could be written and synced; one that could not is removed."""
    piece = bytes(min(size, 1 << 20))
    kept = False
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            for _ in range(size // len(piece)):
                if os.write(descriptor, piece) != len(piece):
                    return False
            os.fsync(descriptor)
            kept = keep
        finally:
            os.close(descriptor)
    except OSError:
        return False
    finally:
        if not kept:
            with contextlib.suppress(OSError):
                path.unlink()
    return True
