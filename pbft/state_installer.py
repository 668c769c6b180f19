"""A fetched state becomes the replica's own: checked, built, on disk, in the executor's place; in a thread. Rule 2.9.

In this order: a crash at any instant leaves the old state with the old log, or the new state, from which the log goes
on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from pbft.execution import ExecutionSnapshot, Executor
from pbft.execution.snapshots import told_key
from pbft.executor_thread import ExecutorThread
from pbft.host import Host
from pbft.state import PagedBucket
from pbft.state_store import StateStore
from pbft.transfer import Aimed, Entry, Fetched, Took, prepared
from pbft.transfer_journal import TransferJournal

log = logging.getLogger("pbft.node")

_PAUSE = 0.02
"""Seconds between two looks whether the executor has finished."""
_NAMED = 16
"""Keys that are named after a repair; how many there were is said of all."""


class StateInstaller:
    """Of one replica. One job at a time."""

    def __init__(
        self,
        me: int,
        make_executor: Callable[[Fetched], Executor],
        executor: ExecutorThread,
        store: StateStore | None,
        writing: trio.Lock,
        begin_anew: Callable[[str], None],
        journal: TransferJournal | None,
        paging: type[PagedBucket] | None = None,
    ) -> None:
        """`store`: None for a volatile replica. `writing`: who holds it may write to the store. `begin_anew`: called
        when a state is on disk that takes the place of a wrong one, with a sentence about it.
        `journal`: where pieces are kept until all are here; None keeps none. `paging`: what becomes of content that
        memory shall not hold."""
        self._me = me
        self._make_executor = make_executor
        self._executor = executor
        self._store = store
        self._writing = writing
        self._begin_anew = begin_anew
        self._journal = journal
        self._paging = paging
        self._entries: list[Entry] = []
        """For the journal, and not written yet."""
        self._is_over = False
        self._writes = trio.Lock()
        """Who holds it has the journal's file."""
        self._is_preparing = False
        self._jobs, self._todo = trio.open_memory_channel[Fetched | None](4)

    def prepare(self) -> None:
        """See `Ports.prepare`."""
        if not self._is_preparing:
            self._is_preparing = True
            self._jobs.send_nowait(None)

    def keep(self, entry: Aimed | Took | None) -> None:
        """See `Ports.keep`."""
        if entry is not None:
            self._entries.append(entry)
        else:
            self._entries.clear()
            self._is_over = True

    async def write_journal(self) -> None:
        """Keep what comes, until cancelled."""
        journal = self._journal
        while journal is not None:
            await trio.sleep(_PAUSE)
            async with self._writes:
                entries, self._entries = self._entries, []
                if self._is_over:
                    self._is_over = False
                    await trio.to_thread.run_sync(journal.remove)
                elif entries:
                    await trio.to_thread.run_sync(journal.append, entries)

    def install(self, fetched: Fetched) -> None:
        """See `Ports.install`."""
        self._jobs.send_nowait(fetched)

    async def run(self, host: Host, sweep: Callable[[], None]) -> None:
        """Do what comes, until cancelled. `sweep` carries out what it causes."""
        async for job in self._todo:
            if job is None:
                base, journal = self._executor.newest_snapshot(), self._journal
                async with self._writes:
                    self._entries, self._is_over = [], False
                    start = await trio.to_thread.run_sync(
                        lambda: prepared(base, [], self._paging) if journal is None else journal.begin(base)  # noqa: B023
                    )
                    self._is_preparing = False
                host.prepared(start)
            else:
                await self._install(host, job)
            sweep()

    async def _install(self, host: Host, fetched: Fetched) -> None:
        number = fetched.number
        try:
            executor = await trio.to_thread.run_sync(self._make_executor, fetched)
            if host.replica.core.diverged:
                await self._repair(host, executor.snapshot())
                return
            if not await self._write(host, number, executor.snapshot()):
                host.installed(None)  # it has caught up by other means, and may have a newer state on disk
                return
        except OSError as error:
            log.error("replica %d: the state %d from others does not reach the disk: %s", self._me, number, error)
            host.installed(None)
            return
        except Exception as error:  # an application that cannot load what the others' applications saved
            host.replica.core.halt(f"the state {number} that a quorum signed cannot be used here: {error}")
            host.installed(None)
            return
        while self._executor.outstanding:
            await trio.sleep(_PAUSE)
        delivery = host.replica.delivery
        if not delivery.handed == delivery.executed < number:
            host.installed(None)  # it has caught up by other means
            return
        self._executor.replace(executor)
        host.installed(executor.start())
        log.info("replica %d: stands at state %d, which came from others", self._me, number)
        if self._store is not None:
            host.checkpoint_durable(number)

    async def _repair(self, host: Host, right: ExecutionSnapshot) -> None:
        """This replica's state was another one than a quorum signed. The right one goes to disk, from where the replica
        starts anew: so all that came of the wrong one goes, and the log is executed again above the right one."""
        while self._executor.outstanding:
            await trio.sleep(_PAUSE)
        wrong, store = self._executor.snapshot(right.number) or self._executor.newest_snapshot(), self._store
        if store is None:
            host.replica.core.halt(f"{host.replica.core.diverged}; it keeps nothing on disk to begin with: stop it")
            host.installed(None)
            return
        certificate = host.certificate(right.number)
        async with self._writing:
            await trio.to_thread.run_sync(store.write, right, certificate, True)
        self._begin_anew(await trio.to_thread.run_sync(_difference, wrong, right))

    async def _write(self, host: Host, number: int, snapshot: ExecutionSnapshot) -> bool:
        store = self._store
        if store is not None:
            async with self._writing:
                if host.replica.delivery.executed >= number:
                    return False
                certificate = host.certificate(number)
                await trio.to_thread.run_sync(store.write, snapshot, certificate)
        return True


def _difference(wrong: ExecutionSnapshot | None, right: ExecutionSnapshot) -> str:
    """Which keys were repaired, for the operator."""
    if wrong is None:
        return f"its state was not the one that a quorum signed; it begins anew with theirs, state {right.number}"
    first: list[str] = []
    missing: list[str] = []
    count = 0
    for space, (mine, theirs) in enumerate(zip(wrong.spaces, right.spaces, strict=True)):
        for key, value, other in mine.diff(theirs):
            count += 1
            had = "missing" if value is None else "not theirs" if other is None else "another value"
            names = missing if value is None else first
            if len(names) < _NAMED:
                names.append(f"{told_key(space, key)} ({had})")
    keys = ", ".join((first + missing)[:_NAMED]) + (", ..." if count > _NAMED else "")
    plural = "key" if count == 1 else "keys"
    if wrong.number != right.number:  # the others did not keep the state at which this one went wrong
        return (
            f"state {wrong.number} was not the one that a quorum signed; it begins anew with theirs, state "
            f"{right.number}: {count} {plural} differ, some of them since they changed in between: {keys}"
        )
    return f"state {right.number} is repaired: {count} {plural} differed from what a quorum signed: {keys}"
