"""Looks at everything that is kept, again and again: what rots is found before it is needed. Rule 1.8.

Memory: each entry of the newest state is hashed once more. Disk: the checksums of the durable checkpoint and of the
log. What is rotten in memory is made again from the disk, in a new life of this replica; what is rotten on the disk
is written again from memory. Slowly, in a thread, so that ordering goes on beside it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from itertools import islice

import trio

from pbft.config import Tunables
from pbft.durable_checkpoints import DurableCheckpoints
from pbft.execution import ExecutionSnapshot
from pbft.execution.snapshots import told_key
from pbft.executor_thread import ExecutorThread
from pbft.startup import Started
from pbft.storage.checkpoints import newest_checkpoint
from pbft.storage.errors import DamagedCheckpoint, DamagedLog
from pbft.storage.group_commit import GroupCommit

log = logging.getLogger("pbft.node")

_REST = 0.002
"""Seconds between two slices of work."""
_ENTRIES = 200
"""Entries hashed in a slice."""
_CHUNKS = 4
"""Chunks of a checkpoint, of some 64 KiB each, read in a slice."""
_RECORDS = 500
_NAMED = 16


class Scrubber:
    """Of one replica."""

    def __init__(
        self,
        me: int,
        tunables: Tunables,
        started: Started,
        executor: ExecutorThread,
        checkpoints: DurableCheckpoints,
        begin_anew: Callable[[str], None],
    ) -> None:
        """`begin_anew`: called when the memory cannot be trusted any more, with a sentence about it."""
        self._me = me
        self._interval = tunables.scrub_interval
        self._started = started
        self._executor = executor
        self._checkpoints = checkpoints
        self._begin_anew = begin_anew
        self.rounds = 0
        """How often everything was looked at."""
        self.found: list[str] = []
        """What was rotten on the disk: the newest sentences."""

    async def run(self) -> None:
        """Every interval, until cancelled; 0: never. A volatile replica has nothing to begin anew from."""
        while self._interval and self._started.store is not None:
            await trio.sleep(self._interval)
            await self.look()

    async def look(self) -> None:
        """Once at everything."""
        snapshot = self._executor.newest_snapshot()
        rotten = await trio.to_thread.run_sync(rotten_keys, snapshot) if snapshot is not None else []
        if rotten and snapshot is not None:
            self._begin_anew(
                f"memory: {len(rotten)} places of state {snapshot.number} do not hash to what they were: "
                f"{', '.join(rotten[:_NAMED])}; the state is made again from the disk"
            )
            return
        for look in (self._checkpoint, self._log):
            try:
                await trio.to_thread.run_sync(look)
            except (DamagedCheckpoint, DamagedLog) as error:
                self._report(error)
                self._checkpoints.write_again(isinstance(error, DamagedLog))
            except FileNotFoundError:
                pass  # a newer one took its place, or the log was cut meanwhile
            except OSError as error:
                log.error("replica %d: what is stored cannot be read: %s", self._me, error)
        self.rounds += 1

    def _report(self, error: DamagedCheckpoint | DamagedLog) -> None:
        said = f"disk: {error.problem}; it is written again from memory"
        log.error("replica %d: %s", self._me, said)
        self.found.append(said)
        del self.found[:-8]

    def _checkpoint(self) -> None:
        stored = newest_checkpoint(self._started.directory.directory)
        if stored is not None:
            _drain(stored.chunks(), _CHUNKS)

    def _log(self) -> None:
        if isinstance(self._started.log, GroupCommit):
            _drain(self._started.log.wal.read(1), _RECORDS)


def rotten_keys(snapshot: ExecutionSnapshot) -> list[str]:
    """Where a state does not hash to what it did. Blocks for long; rests in between."""
    found: list[str] = []
    for index, space in enumerate(snapshot.spaces):
        checked = space.check()
        while places := list(islice(checked, _ENTRIES)):
            found += [told_key(index, key) for key, is_right in places if not is_right]
            time.sleep(_REST)
    return found


def _drain(items: Iterable[object], at_once: int) -> None:
    """Read it all, with rests."""
    for count, _ in enumerate(items, 1):
        if count % at_once == 0:
            time.sleep(_REST)
