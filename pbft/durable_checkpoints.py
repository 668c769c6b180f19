"""When a stable state goes to disk: by log bytes and time, in a thread, one at a time. Rule 1.6.

A protocol checkpoint is agreed every K batches; a durable one costs a write of the state, and lets the log below it go.
"""

from __future__ import annotations

import logging
import time

import trio

from pbft.config import Tunables
from pbft.executor_thread import ExecutorThread
from pbft.host import Host
from pbft.state_store import StateStore

log = logging.getLogger("pbft.node")

_AGAIN = 5.0
"""Seconds until the next try after one that failed: the log grows meanwhile."""
_MUCH = 1 << 20
"""Bytes of a log after which a process that starts with it writes a state at the first occasion."""


class DurableCheckpoints:
    """Of one replica."""

    def __init__(
        self,
        me: int,
        tunables: Tunables,
        host: Host,
        executor: ExecutorThread,
        store: StateStore | None,
        writing: trio.Lock,
        replayed: int = 0,
    ) -> None:
        """`store`: None for a volatile replica, which writes none. `writing`: who holds it may write to the store.
        `replayed`: bytes of the log above the newest durable state, with which this process has started."""
        self._me = me
        self._tunables = tunables
        self._host = host
        self._executor = executor
        self._store = store
        self._writing = writing
        # Whoever is started often must not let its log grow for ever, nor the time that the next start takes.
        self._due = time.monotonic() + (0.0 if replayed > _MUCH else tunables.durable_checkpoint_interval)
        self._not_before = 0.0
        self._logged_before = -replayed
        self._is_writing = False
        self._is_wanted = False
        self._is_rotten = False
        """Nothing that is on the disk is to be relied on."""
        self._written = 0
        """The newest state that this process has written."""
        self._to_write: trio.MemorySendChannel[tuple[int, bytes]] | None = None

    def on_stable(self, number: int) -> None:
        """State `number` is stable: write it if it is time, and it is still kept."""
        if self._is_writing or self._to_write is None or self._host.replica.core.diverged:
            return
        logged = self._host.bytes_logged - self._logged_before
        is_time = time.monotonic() >= self._due or logged >= self._tunables.durable_checkpoint_bytes
        if (not is_time and not self._is_wanted) or time.monotonic() < self._not_before:
            return
        if self._executor.snapshot(number) is not None and self._host.replica.core.outbox.position:
            self._is_writing, self._is_wanted = True, False
            self._to_write.send_nowait((number, self._host.certificate(number)))

    def write_again(self, forget: bool) -> None:
        """What is on disk has rotted: the stable state of h is written, though it may be there. `forget`: the log is
        what has rotted; all of it that a restart from that state does not need goes then."""
        if forget:
            self._host.replica.core.log.forgets = True
        self._is_wanted = self._is_rotten = True
        self.on_stable(self._host.replica.core.log.low)

    def write_soon(self) -> None:
        """Somebody wants the newest stable state on disk: that at h if it is not there, else nothing. A write that is
        under way ends first."""
        low = self._host.replica.core.log.low
        if low > self._written:
            self._is_wanted = True
            self.on_stable(low)

    async def run(self) -> None:
        """Write what is due, until cancelled."""
        store = self._store
        if store is None:
            return
        self._to_write, numbers = trio.open_memory_channel[tuple[int, bytes]](1)
        async for number, certificate in numbers:
            snapshot = self._executor.snapshot(number)
            logged = self._host.bytes_logged
            if snapshot is not None:
                try:
                    async with self._writing:
                        if number >= store.newest:  # else a newer one has come from others meanwhile
                            await trio.to_thread.run_sync(store.write, snapshot, certificate, self._is_rotten)
                            self._written, self._is_rotten = number, False
                except OSError as error:
                    log.error("replica %d: no durable checkpoint %d: %s", self._me, number, error)
                    self._not_before = time.monotonic() + _AGAIN
                else:
                    self._logged_before = logged
                    self._due = time.monotonic() + self._tunables.durable_checkpoint_interval
                    self._host.checkpoint_durable(number)
                    self._host.flush()
            self._is_writing = False
            if self._is_wanted:
                self.on_stable(self._host.replica.core.log.low)
