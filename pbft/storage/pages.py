"""Pages of a state that memory shall not hold, in a database that lives as long as the process.

Nothing of it outlives a crash, and nothing of it is synced: a restart reads the durable checkpoint. The file has no
name once it is open, so it is gone whatever ends the process.
"""

from __future__ import annotations

import errno
import logging
import sqlite3
import threading
from collections import deque
from pathlib import Path

from pbft.state import PagedBucket, StateError

log = logging.getLogger("pbft.storage")

NAME = "pages"
_PRAGMAS = ("journal_mode=MEMORY", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-2048")
"""A journal in memory, for a full disk must not spoil what is there."""
_LOADED_MIN = 1 << 20
"""Bytes of content that stay in memory, however small the budget."""


class PageFile:
    """See `pbft.state.Pages`. Content stays in memory up to a budget; what was read first goes first."""

    def __init__(self, folder: Path, budget: int) -> None:
        """`budget`: bytes of content in memory, about. Raises OSError."""
        path = folder / NAME
        path.unlink(missing_ok=True)
        try:
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            for pragma in _PRAGMAS:
                self._database.execute(f"PRAGMA {pragma}").fetchall()
            self._database.execute("CREATE TABLE page (number INTEGER PRIMARY KEY, content BLOB NOT NULL)")
            path.unlink()
        except sqlite3.Error as error:
            raise OSError(errno.EIO, f"pages of the state cannot be kept ({error})", str(path)) from None
        self._lock = threading.Lock()
        self._next = 1
        self._freed: deque[int] = deque()
        self._budget = max(budget, _LOADED_MIN)
        self._loaded: deque[tuple[PagedBucket, int]] = deque()
        self._used = 0
        self._is_full = False

    @property
    def used(self) -> int:
        """Bytes of content in memory, about."""
        return self._used

    def store(self, pages: list[bytes]) -> list[int]:
        """See `Pages.store`."""
        with self._lock:
            first = self._next
            numbers = list(range(first, first + len(pages)))
            freed = [(self._freed.popleft(),) for _ in range(len(self._freed))]
            try:
                with self._database:
                    self._database.execute("BEGIN")
                    self._database.executemany("DELETE FROM page WHERE number = ?", freed)
                    self._database.executemany("INSERT INTO page VALUES (?, ?)", zip(numbers, pages, strict=True))
            except sqlite3.Error as error:
                self._freed.extend(number for (number,) in freed)
                if not self._is_full:
                    log.error("pages of the state stay in memory: %s", error)
                self._is_full = True
                raise OSError(errno.ENOSPC, f"pages of the state cannot be kept ({error})") from None
            finally:
                self._next = first + len(pages)
            self._is_full = False
        return numbers

    def load(self, page: int) -> bytes:
        """See `Pages.load`."""
        try:
            with self._lock:
                found = self._database.execute("SELECT content FROM page WHERE number = ?", (page,)).fetchone()
        except sqlite3.Error as error:
            raise StateError(f"page {page} of the state cannot be read ({error}); start this replica again") from None
        if found is None:
            raise StateError(f"page {page} of the state is gone; start this replica again")
        content: bytes = found[0]
        return content

    def free(self, page: int) -> None:
        """See `Pages.free`."""
        self._freed.append(page)

    def loaded(self, bucket: PagedBucket, size: int) -> None:
        """See `Pages.loaded`."""
        going: list[PagedBucket] = []
        with self._lock:
            self._loaded.append((bucket, size))
            self._used += size
            while self._used > self._budget and len(self._loaded) > 1:
                oldest, its_size = self._loaded.popleft()
                self._used -= its_size
                going.append(oldest)
        for oldest in going:  # outside of the lock: the last reference may go, and more with it
            oldest.evict()

    def close(self) -> None:
        """Nothing can be read any more."""
        with self._lock:
            self._database.close()
        self._loaded.clear()
