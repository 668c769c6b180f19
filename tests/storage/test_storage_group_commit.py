"""Group commit: many appends, few syncs, order kept, nothing reported durable that is not."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from random import Random

import pytest

from pbft.storage.errors import RecordTooLarge
from pbft.storage.files import Directory, RealDirectory
from pbft.storage.group_commit import GroupCommit, RecordLog, SynchronousLog, VolatileLog
from pbft.storage.segments import MAX_RECORD
from pbft.storage.simulated_files import SimulatedDirectory
from pbft.storage.wal import Wal, open_log

CLUSTER = b"cluster"


def opened(directory: Directory) -> Wal:
    wal, replay = open_log(directory, CLUSTER, 0, segment_bytes=1 << 20, random_bytes=Random(1).randbytes)
    replay.finish()
    return wal


def replayed(directory: Directory) -> list[bytes]:
    return [record for _, record in open_log(directory, CLUSTER, 0)[1]]


class Report:
    """What a log reported, and a way to wait for it."""

    def __init__(self) -> None:
        self.durable: list[int] = []
        self.errors: list[OSError] = []
        self.threads: set[str] = set()
        self._changed = threading.Condition()

    def on_durable(self, position: int) -> None:
        with self._changed:
            self.threads.add(threading.current_thread().name)
            self.durable.append(position)
            self._changed.notify_all()

    def on_error(self, error: OSError) -> None:
        with self._changed:
            self.errors.append(error)
            self._changed.notify_all()

    def wait_durable(self, position: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self.durable[-1:] >= [position] or bool(self.errors), 30)

    def wait_error(self) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: bool(self.errors), 30)


class Gate:
    """A directory whose syncs of one file wait until they are let through."""

    def __init__(self, wal: Wal, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entered = threading.Semaphore(0)
        self.leave = threading.Semaphore(0)
        write_group = Wal.write_group

        def gated(wal: Wal, records: list[bytes]) -> int:
            self.entered.release()
            assert self.leave.acquire(timeout=30)
            return write_group(wal, records)

        monkeypatch.setattr(Wal, "write_group", gated)


def test_appends_during_a_sync_form_the_next_group(monkeypatch: pytest.MonkeyPatch) -> None:
    """While one flush runs everything accumulates; then one flush takes it all, in order."""
    directory = SimulatedDirectory()
    wal = opened(directory)
    gate = Gate(wal, monkeypatch)
    report = Report()
    log = GroupCommit(wal, report.on_durable, report.on_error)
    assert log.append(b"0") == 1
    assert gate.entered.acquire(timeout=30)
    assert [log.append(b"%d" % i) for i in range(1, 1000)] == list(range(2, 1001))
    assert log.durable_position == 0
    gate.leave.release(3)
    report.wait_durable(1000)
    assert report.durable == [1, 1000]
    assert report.threads == {"log writer"}
    assert log.close(30)
    assert replayed(directory) == [b"%d" % i for i in range(1000)]


def test_many_appends_few_syncs(tmp_path: Path) -> None:
    """On a real disk 20,000 appends take far fewer flushes; positions rise and end at the last."""
    directory = RealDirectory(tmp_path)
    report = Report()
    log = GroupCommit(opened(directory), report.on_durable, report.on_error)
    for i in range(20_000):
        log.append(b"%d" % i)
    report.wait_durable(20_000)
    assert report.durable == sorted(set(report.durable))
    assert len(report.durable) < 2000
    assert log.pending_bytes == 0
    assert log.close(30)
    assert replayed(directory) == [b"%d" % i for i in range(20_000)]


def test_one_append_at_a_time_is_woken_for(tmp_path: Path) -> None:
    """An idle writer wakes for each single append: none is forgotten."""
    report = Report()
    log = GroupCommit(opened(RealDirectory(tmp_path)), report.on_durable, report.on_error)
    for i in range(1, 200):
        assert log.append(b"x") == i
        report.wait_durable(i)
    assert log.close(30)


def test_saturation_tells_the_caller_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the bound the log says so until the bytes are durable; append itself never blocks."""
    wal = opened(SimulatedDirectory())
    gate = Gate(wal, monkeypatch)
    report = Report()
    log = GroupCommit(wal, report.on_durable, report.on_error, pending_bytes_max=1000)
    log.append(bytes(600))
    assert not log.saturated
    log.append(bytes(600))
    assert log.saturated
    assert log.pending_bytes == 1200
    gate.leave.release(5)
    report.wait_durable(2)
    assert not log.saturated
    assert log.pending_bytes == 0
    assert log.close(30)


def test_close_flushes_what_was_appended(tmp_path: Path) -> None:
    """Closing makes everything durable first, and says so."""
    directory = RealDirectory(tmp_path)
    report = Report()
    log = GroupCommit(opened(directory), report.on_durable, report.on_error)
    for _ in range(5000):
        log.append(b"x" * 100)
    assert log.close(30)
    assert report.durable[-1] == log.durable_position == 5000
    assert len(replayed(directory)) == 5000


def test_close_returns_although_the_disk_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that hangs does not hang the close: it returns False."""
    wal = opened(SimulatedDirectory())
    gate = Gate(wal, monkeypatch)
    report = Report()
    log = GroupCommit(wal, report.on_durable, report.on_error)
    log.append(b"x")
    assert gate.entered.acquire(timeout=30)
    assert not log.close(0.01)
    gate.leave.release(5)
    assert log.close(30)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("threaded", [True, False])
def test_after_an_error_nothing_is_written_or_reported_durable(code: int, threaded: bool) -> None:
    """The error is reported once; later appends stay undurable although the disk works again."""
    directory = SimulatedDirectory()
    wal = opened(directory)
    report = Report()
    log: GroupCommit | SynchronousLog
    log = (GroupCommit if threaded else SynchronousLog)(wal, report.on_durable, report.on_error)
    log.append(b"good")
    if isinstance(log, SynchronousLog):
        log.flush()
    report.wait_durable(1)
    directory.faults.fail(directory.faults.operations + 2, code)  # write, then the sync
    log.append(b"bad")
    if isinstance(log, SynchronousLog):
        log.flush()
    report.wait_error()
    writes = directory.faults.operations
    assert log.append(b"later") == 3
    if isinstance(log, SynchronousLog):
        assert not log.flush()
    assert log.saturated
    assert log.pending_bytes == 0
    assert not log.close(30)
    assert [error.errno for error in report.errors] == [code]
    assert report.durable == [1]
    assert log.durable_position == 1
    assert isinstance(log.failure, OSError)
    assert directory.faults.operations == writes
    directory.crash()
    assert replayed(directory) == [b"good"]


def test_a_callback_that_raises_ends_the_log() -> None:
    """A fault of the caller is not swallowed, and nothing is reported after it."""

    def broken(position: int) -> None:
        raise KeyError(position)

    log = SynchronousLog(opened(SimulatedDirectory()), broken, Report().on_error)
    log.append(b"x")
    with pytest.raises(KeyError):
        log.flush()
    assert log.saturated
    assert isinstance(log.failure, KeyError)


def test_the_synchronous_log_flushes_when_told() -> None:
    """Nothing is durable before the flush; one flush makes one group of all."""
    directory = SimulatedDirectory()
    report = Report()
    log = SynchronousLog(opened(directory), report.on_durable, report.on_error)
    for _ in range(10):
        log.append(b"x")
    assert (log.durable_position, log.last_position, report.durable) == (0, 10, [])
    assert log.flush()
    assert not log.flush()
    assert report.durable == [10]
    assert log.close()
    directory.crash()
    assert len(replayed(directory)) == 10


def test_a_record_appended_while_the_writer_takes_its_group_is_not_lost() -> None:
    """However the two threads interleave, an append that comes between copying and clearing stays queued."""

    class Interleaved(list[bytes]):
        def __delitem__(self, index: object) -> None:
            if not interleaved:
                interleaved.append(log.append(b"between"))
            super().__delitem__(index)  # type: ignore[arg-type]

        def clear(self) -> None:
            del self[0:0]
            super().clear()

    interleaved: list[int] = []
    directory = SimulatedDirectory()
    report = Report()
    log = SynchronousLog(opened(directory), report.on_durable, report.on_error)
    log._pending = Interleaved()
    log.append(b"first")
    assert log.flush()
    assert (report.durable, interleaved, log.pending_bytes) == ([1], [2], len(b"between"))
    assert log.flush()
    assert report.durable == [1, 2]
    assert log.close()
    assert replayed(directory) == [b"first", b"between"]


@pytest.mark.scenario("D02")
@pytest.mark.parametrize("threaded", [True, False])
def test_a_cut_is_carried_out_by_the_writer(threaded: bool) -> None:
    """Asked to cut, the log removes segments below by itself, at the latest when it closes."""
    directory = SimulatedDirectory()
    wal = opened(directory)
    report = Report()
    log: GroupCommit | SynchronousLog
    log = (GroupCommit if threaded else SynchronousLog)(wal, report.on_durable, report.on_error)
    for _ in range(5):
        log.append(bytes(900_000))
        if isinstance(log, SynchronousLog):
            log.flush()
        else:
            report.wait_durable(log.last_position)
    assert wal.first_position == 1
    log.cut(5)
    assert log.close(30)
    assert wal.first_position == 5
    assert len(directory.list()) == 1


def test_the_volatile_log_is_durable_at_once() -> None:
    """Each append is reported before it returns; there is nothing to flush."""
    durable: list[int] = []
    log = VolatileLog(durable.append)
    assert [log.append(b"x"), log.append(b"y")] == [1, 2] == durable
    assert (log.durable_position, log.last_position, log.pending_bytes) == (2, 2, 0)
    assert not log.saturated
    assert log.failure is None
    assert not log.flush()
    log.cut(2)
    assert log.close()


def test_records_beyond_the_limit_are_refused_by_every_log() -> None:
    """The limit holds at append, and a refused record takes no position."""
    report = Report()
    logs: list[RecordLog] = [
        SynchronousLog(opened(SimulatedDirectory()), report.on_durable, report.on_error),
        GroupCommit(opened(SimulatedDirectory()), report.on_durable, report.on_error),
        VolatileLog(report.on_durable),
    ]
    huge = bytes(MAX_RECORD + 1)
    for log in logs:
        with pytest.raises(RecordTooLarge):
            log.append(huge)
        assert log.append(b"x") == 1
        assert log.close(30)


WRITER = """
import os, sys, time
from pathlib import Path
from pbft.storage.files import RealDirectory
from pbft.storage.group_commit import GroupCommit
from pbft.storage.wal import open_log
wal, replay = open_log(RealDirectory(Path(sys.argv[1])), b"cluster", 0, segment_bytes=65536)
replay.finish()
log = GroupCommit(wal, lambda p: os.write(1, b"%d\\n" % p), lambda e: os._exit(3))
while True:
    if not log.saturated and log.pending_bytes < 100000:
        position = log.last_position + 1
        log.append(b"%d:" % position + b"x" * (position % 300))
    else:
        time.sleep(0.0005)
"""


@pytest.mark.slow
def test_a_killed_writer_leaves_every_acknowledged_record(tmp_path: Path) -> None:
    """SIGKILL at any time, several times on one directory: every record acknowledged is there, and no wrong
    one."""
    for round_number in range(4):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(20 + 13 * round_number):
            process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
        # A line cut off by the kill is no acknowledgement.
        lines = process.stdout.read().split(b"\n")[:-1]
        process.stdout.close()
        assert process.wait(30) == -signal.SIGKILL
        acknowledged = int(lines[-1]) if lines else 1
        wal, replay = open_log(RealDirectory(tmp_path), CLUSTER, 0)
        count = 0
        for position, record in replay:
            assert record == b"%d:" % position + b"x" * (position % 300)
            count = position
        assert count == wal.last_position >= acknowledged
        wal.close()
