"""Group commit: whatever was appended while one sync ran goes into the next. Rule 1.5.

Three logs with one interface (`RecordLog`): `GroupCommit` has a writer thread, `SynchronousLog` is flushed by
its caller (the simulator), `VolatileLog` forgets (`--volatile`). The first two share all but the thread.

After an I/O error nothing more is written or reported durable, ever: after a failed sync the kernel may have
dropped the pages, so a later sync that succeeds proves nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from pbft.storage.errors import LogFailed, RecordTooLarge
from pbft.storage.segments import MAX_RECORD
from pbft.storage.wal import Wal

PENDING_BYTES_MAX = 64 * 2**20
"""With this many bytes not yet durable a log calls itself saturated."""


class RecordLog(Protocol):
    """What a replica's shell needs of a log. `append` belongs to one thread."""

    def append(self, record: bytes) -> int:
        """Take a record; returns its position. Never blocks. Raises RecordTooLarge.

        After an error, records are given positions and dropped: `durable_position` stays, so nothing that
        rests on them is ever said.
        """
        ...

    def cut(self, below_position: int) -> None:
        """Ask for the removal of segments all of whose records lie below; done before the next flush."""
        ...

    @property
    def durable_position(self) -> int:
        """Every record up to here is durable. Never decreases."""
        ...

    @property
    def pending_bytes(self) -> int:
        """Bytes appended and not yet durable."""
        ...

    @property
    def saturated(self) -> bool:
        """The caller is to take no new work until this is false again. For ever true after an error."""
        ...

    @property
    def failure(self) -> Exception | None:
        """What ended this log."""
        ...

    def close(self, timeout: float) -> bool:
        """Flush and close within `timeout` seconds; whether every record appended is durable."""
        ...


class _QueuedLog:
    """What the two logs that keep records share: the queue, its bounds, and one flush."""

    def __init__(
        self,
        wal: Wal,
        on_durable: Callable[[int], None],
        on_error: Callable[[OSError], None],
        *,
        pending_bytes_max: int = PENDING_BYTES_MAX,
    ) -> None:
        """`on_durable(position)`: everything up to there is durable. `on_error` is called at most once."""
        self.wal = wal
        self._on_durable = on_durable
        self._on_error = on_error
        self._pending_bytes_max = pending_bytes_max
        self._pending: list[bytes] = []
        self._last = self._durable = wal.last_position
        # Two counters with one writer each instead of one shared: no lock.
        self._appended_bytes = 0
        self._settled_bytes = 0
        self._cut_below = self._cut_done = wal.first_position
        self._failure: Exception | None = None

    def append(self, record: bytes) -> int:
        """See `RecordLog.append`."""
        size = len(record)
        if size > MAX_RECORD:
            raise RecordTooLarge(size, MAX_RECORD)
        if self._failure is None:
            self._appended_bytes += size
            self._pending.append(record)
        self._last = position = self._last + 1
        return position

    def cut(self, below_position: int) -> None:
        """See `RecordLog.cut`."""
        if below_position > self._cut_below:
            self._cut_below = below_position

    @property
    def last_position(self) -> int:
        """The newest record appended, durable or not."""
        return self._last

    @property
    def durable_position(self) -> int:
        """See `RecordLog.durable_position`."""
        return self._durable

    @property
    def pending_bytes(self) -> int:
        """See `RecordLog.pending_bytes`."""
        return self._appended_bytes - self._settled_bytes

    @property
    def saturated(self) -> bool:
        """See `RecordLog.saturated`."""
        return self._failure is not None or self.pending_bytes >= self._pending_bytes_max

    @property
    def failure(self) -> Exception | None:
        """See `RecordLog.failure`."""
        return self._failure

    def _flush(self) -> bool:
        """Make everything appended so far durable, carry out a cut, call back; whether there was anything to
        do.

        I/O errors go to `on_error`; an exception of a callback ends the log and is raised.
        """
        if self._failure is not None:
            return False
        pending = self._pending
        count = len(pending)
        try:
            did_cut = self._carry_out_cut()
            if not count:
                return did_cut
            # Slice and delete are atomic each, and the appending thread only adds at the end.
            records = pending[:count]
            del pending[:count]
            self._durable = position = self.wal.write_group(records)
            self._settled_bytes += sum(map(len, records))
        except (OSError, LogFailed) as error:
            self._fail(error)
            return False
        try:
            self._on_durable(position)
        except BaseException as error:
            self._end(error)
            raise
        return True

    def _carry_out_cut(self) -> bool:
        below = self._cut_below
        if below == self._cut_done:
            return False
        self._cut_done = below
        self.wal.cut(below)
        return True

    def _close_wal(self) -> bool:
        try:
            self.wal.close()
        except (OSError, LogFailed) as error:
            if self._failure is None:
                self._fail(error)
        return self._durable == self._last

    def _end(self, error: BaseException) -> None:
        self._failure = error if isinstance(error, Exception) else RuntimeError(repr(error))
        self._pending = []
        self._settled_bytes = self._appended_bytes

    def _fail(self, error: OSError | LogFailed) -> None:
        self._end(error)
        self._on_error(error.cause if isinstance(error, LogFailed) else error)


class SynchronousLog(_QueuedLog):
    """A log that becomes durable when its owner calls `flush`; callbacks run inside that call."""

    def flush(self) -> bool:
        """Make everything appended so far durable and carry out a cut; whether there was anything to do.

        I/O errors go to `on_error`; an exception of a callback ends the log and is raised.
        """
        return self._flush()

    def close(self, timeout: float = 0.0) -> bool:
        """See `RecordLog.close`; the timeout is not needed."""
        self._flush()
        return self._close_wal()


class GroupCommit(_QueuedLog):
    """A log with a writer thread. **Callbacks run in that thread**; they must be quick and thread-safe.

    `append` belongs to one thread (the event loop's) and costs well under a microsecond: it wakes the writer
    only if that is idle.
    """

    def __init__(
        self,
        wal: Wal,
        on_durable: Callable[[int], None],
        on_error: Callable[[OSError], None],
        *,
        pending_bytes_max: int = PENDING_BYTES_MAX,
    ) -> None:
        """Starts the thread. `on_durable(position)` and `on_error` as for `SynchronousLog`."""
        super().__init__(wal, on_durable, on_error, pending_bytes_max=pending_bytes_max)
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._idle = False
        self._closing = False
        self._all_durable = False
        # A daemon: a disk that no longer answers must not keep the process from ending.
        self._thread = threading.Thread(target=self._write, name="log writer", daemon=True)
        self._thread.start()

    def append(self, record: bytes) -> int:
        """See `RecordLog.append`."""
        size = len(record)
        if size > MAX_RECORD:
            raise RecordTooLarge(size, MAX_RECORD)
        if self._failure is None:
            self._appended_bytes += size
            self._pending.append(record)
            # The writer says that it is idle and then looks once more, we append and then look whether it is
            # idle: one of the two sees the other.
            if self._idle:
                self._idle = False
                self._wake.put(None)
        self._last = position = self._last + 1
        return position

    def cut(self, below_position: int) -> None:
        """See `RecordLog.cut`."""
        super().cut(below_position)
        self._wake.put(None)

    def close(self, timeout: float = 10.0) -> bool:
        """See `RecordLog.close`. False also if the disk did not answer in time; the thread is then left
        behind."""
        self._closing = True
        self._wake.put(None)
        self._thread.join(timeout)
        return not self._thread.is_alive() and self._all_durable

    def _write(self) -> None:
        try:
            while self._failure is None:
                if self._flush():
                    continue
                self._idle = True
                if not self._pending:
                    if self._closing:
                        break
                    self._wake.get()
                self._idle = False
        finally:
            self._all_durable = self._close_wal()


class VolatileLog:
    """A log that keeps nothing: each record counts as durable at once. `on_durable` is called inside
    `append`, before it returns; who reads `durable_position` instead passes a function that does nothing."""

    def __init__(self, on_durable: Callable[[int], None], *, first_position: int = 1) -> None:
        """Positions start at `first_position`."""
        self._on_durable = on_durable
        self._last = first_position - 1

    def append(self, record: bytes) -> int:
        """See `RecordLog.append`."""
        if len(record) > MAX_RECORD:
            raise RecordTooLarge(len(record), MAX_RECORD)
        self._last = position = self._last + 1
        self._on_durable(position)
        return position

    def cut(self, below_position: int) -> None:
        """Nothing is kept, nothing is cut."""

    @property
    def last_position(self) -> int:
        """The newest record appended."""
        return self._last

    @property
    def durable_position(self) -> int:
        """The newest record appended."""
        return self._last

    @property
    def pending_bytes(self) -> int:
        """Always 0."""
        return 0

    @property
    def saturated(self) -> bool:
        """Never."""
        return False

    @property
    def failure(self) -> Exception | None:
        """Never any."""
        return None

    def flush(self) -> bool:
        """There is never anything to do."""
        return False

    def close(self, timeout: float = 0.0) -> bool:
        """Nothing to flush."""
        return True
