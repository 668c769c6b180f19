"""How a replica finds its past: data directory, log, durable checkpoint, executor. Rules 1.5, 1.6, 1.7.

A replica without its past, or with a damaged one, still starts: it answers `status`, follows what others committed,
and does not vote until it has recovered (rule 1.7).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pbft.application import Application
from pbft.backup import read_genesis
from pbft.codec import CodecError
from pbft.config import Group
from pbft.double_execution import Shadow
from pbft.execution import Executor
from pbft.execution.snapshots import DamagedState
from pbft.host import restore
from pbft.protocol.core import Sign, SignAs
from pbft.protocol.replica import Replica
from pbft.state import PagedBucket, State, paged_class
from pbft.state_store import StateStore
from pbft.storage.data_directory import DataDirectory, Past, keeps_past
from pbft.storage.errors import DamagedCheckpoint, DamagedLog, StorageError
from pbft.storage.group_commit import GroupCommit, RecordLog, VolatileLog
from pbft.storage.pages import PageFile
from pbft.storage.wal import discard_log
from pbft.transfer import Fetched, built
from pbft.transfer_journal import TransferJournal

log = logging.getLogger("pbft.startup")
application_log = logging.getLogger("pbft.application")

NO_PAST = "this replica has lost its past (no start token and no complete data directory)"
VOLATILE_RESTART = "a volatile replica that was restarted has no past"


@dataclass(slots=True)
class Started:
    """A replica ready to run, and the parts that its shell owns."""

    directory: DataDirectory
    log: RecordLog
    store: StateStore | None
    executor: Executor
    replica: Replica
    journal: TransferJournal | None
    """Keeps what comes of a state from others; None: nothing is kept."""
    make_executor: Callable[[Fetched], Executor]
    """The executor at a state that came from others; blocks. Raises as `pbft.state_installer.built`."""
    pages: PageFile | None = None
    """Where content of the state lies that memory shall not hold; None: it holds all."""
    paging: type[PagedBucket] | None = None
    """The same for a `State`."""
    replayed: int = 0
    """Bytes of the log above the state on disk."""
    shadow: Shadow | None = None
    """Executes everything once more; None unless that was asked for."""


def start_replica(
    group: Group,
    me: int,
    application: Callable[[State], Application],
    sign_as: SignAs,
    secret: bytes,
    *,
    data: Path,
    token: Path | None,
    volatile: bool,
    on_durable: Callable[[int], None],
    on_disk_error: Callable[[OSError], None],
    genesis: Path | None = None,
) -> Started:
    """Open everything and rebuild the replica as its log says. Blocks; run it in a thread.

    `genesis`: the backup that the cluster was made from, if its group names one. Raises `pbft.storage.StorageError` for
    a directory that is locked, another replica's, or of a newer version, `pbft.backup.BackupError` and OSError.
    """
    if volatile and keeps_past(data):
        raise StorageError(
            f"data directory {data} holds what this replica has voted, and a volatile start would make that worthless",
            "start without --volatile, or make a cluster for volatile runs by `pbft init`",
        )

    pages: PageFile | None = None
    paging: type[PagedBucket] | None = None

    def fresh() -> Executor:
        seed = read_genesis(group, genesis) if group.genesis and genesis else None
        return Executor(group, application, seed=seed, paging=paging)

    directory = DataDirectory.open(data, cluster=group.cluster, replica=me, token=token, volatile=volatile)
    sign = sign_as(0)  # until it is known which incarnation this is
    try:
        if group.tunables.state_memory:
            pages = PageFile(data, group.tunables.state_memory << 20)
            paging = paged_class(pages)
        if volatile:
            lost = "" if directory.past is Past.FRESH else VOLATILE_RESTART
            executor = fresh()
            replica = restore(group, me, sign, secret, [], directory.boot, executor.start(), lost)
            volatile_log = VolatileLog(lambda position: None)
            started = Started(directory, volatile_log, None, executor, replica, None, _maker(group, application))
        else:
            started = _from_disk(
                group, me, application, fresh, sign, secret, directory, on_durable, on_disk_error, paging
            )
            started.journal = TransferJournal(data, paging)
        started.pages, started.paging = pages, paging
        if group.tunables.double_execution:
            started.shadow = Shadow(group, application, started.executor, paging)
        started.executor.tell_failures(_tell)
        core = started.replica.core
        core.sign_as, core.sign = sign_as, sign_as(core.incarnation)
        return started
    except BaseException:
        if pages is not None:
            pages.close()
        directory.close()
        raise


def _problem(error: Exception) -> str:
    return error.problem if isinstance(error, StorageError) else str(error)


def _tell(text: str, error: Exception | None) -> None:
    application_log.error("%s", text, exc_info=error)


def _maker(group: Group, application: Callable[[State], Application]) -> Callable[[Fetched], Executor]:
    def make(fetched: Fetched) -> Executor:
        executor = built(group, application, fetched)
        executor.tell_failures(_tell)
        return executor

    return make


def _from_disk(
    group: Group,
    me: int,
    application: Callable[[State], Application],
    fresh: Callable[[], Executor],
    sign: Sign,
    secret: bytes,
    directory: DataDirectory,
    on_durable: Callable[[int], None],
    on_disk_error: Callable[[OSError], None],
    paging: type[PagedBucket] | None,
) -> Started:
    lost = "" if directory.past is not Past.LOST else NO_PAST
    store = directory.open_checkpoints()
    try:
        stored = store.load()
        for name in store.incomplete:
            log.warning("replica %d: %s was never completed: it is removed, and an older one is used", me, name)
        executor = (
            fresh() if stored is None else Executor.restore(group, application, stored.meta, stored.chunks(), paging)
        )
        wal, replay = directory.open_log()
        records = list(replay)
        if (torn := replay.torn_tail) is not None:
            text = "replica %d: %s ended in the middle of a write at byte %d (%s): cut off"
            log.warning(text, me, torn.file, torn.offset, torn.reason)
        replica = restore(group, me, sign, secret, records, directory.boot, executor.start(), lost)
    except (DamagedLog, DamagedCheckpoint, DamagedState, CodecError) as error:
        # Some synced record of a vote is gone: whatever it said, this replica may have promised more (rule 1.7).
        log.error("replica %d: %s", me, error)
        directory.declare_lost()
        store.discard()
        discard_log(directory.directory)
        executor = fresh()
        records = []
        wal, replay = directory.open_log()
        replay.finish()
        replica = restore(group, me, sign, secret, [], directory.boot, executor.start(), _problem(error))
        stored = None
    log_port = GroupCommit(wal, on_durable, on_disk_error)
    states = StateStore(store, None if stored is None else executor.snapshot())
    replayed = sum(len(record) for _, record in records)
    return Started(directory, log_port, states, executor, replica, None, _maker(group, application), replayed=replayed)
