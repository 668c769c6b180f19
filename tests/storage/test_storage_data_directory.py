"""The data directory: one owner, one process, one first start, and no forgotten past."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import zlib
from pathlib import Path
from random import Random

import pytest

from pbft.storage.data_directory import (
    IDENTITY,
    DataDirectory,
    Past,
    write_start_token,
    write_start_token_in,
)
from pbft.storage.errors import (
    DamagedFile,
    DamagedLog,
    DirectoryLocked,
    IdentityMismatch,
    NewerFormat,
    StorageError,
)
from pbft.storage.simulated_files import Faults, SimulatedCrash, SimulatedDirectory

CLUSTER = b"cluster-id"
TOKEN = "replica-0.start"


class Machine:
    """A simulated data directory and the directory of the keys, which stop together."""

    def __init__(self, *, token: bool = True) -> None:
        self.faults = Faults()
        self.data = SimulatedDirectory(self.faults)
        self.keys = SimulatedDirectory(self.faults)
        if token:
            write_start_token_in(self.keys, TOKEN, CLUSTER, 0)
        self.faults.clear()

    def open(self, *, volatile: bool = False, replica: int = 0, cluster: bytes = CLUSTER) -> DataDirectory:
        return DataDirectory.open_in(
            self.data, cluster=cluster, replica=replica, keys=self.keys, token=TOKEN, volatile=volatile
        )

    def crash(self, rng: Random | None = None) -> None:
        self.data.crash(rng)
        self.keys.crash(rng)


def append(directory: DataDirectory, record: bytes) -> None:
    wal, replay = directory.open_log()
    replay.finish()
    wal.write_group([record])
    wal.close()


def test_first_start_is_fresh_then_the_past_is_known() -> None:
    """The token makes one start FRESH and is gone; every start is counted."""
    machine = Machine()
    first = machine.open()
    assert (first.past, first.boot) == (Past.FRESH, 1)
    assert machine.keys.list() == []
    for boot in range(2, 5):
        machine.crash()
        again = machine.open()
        assert (again.past, again.boot) == (Past.KNOWN, boot)


def test_without_token_an_empty_directory_is_a_lost_past() -> None:
    """A replica whose disk was replaced is not taken for a new one, however often it starts."""
    machine = Machine(token=False)
    assert machine.open().past is Past.LOST
    machine.crash()
    assert machine.open().past is Past.LOST


def test_a_lost_disk_is_told_from_a_first_start() -> None:
    """After the first start an emptied data directory is LOST: the removal of the token was durable."""
    machine = Machine()
    machine.open()
    machine.crash()
    machine.data = SimulatedDirectory(machine.faults)
    assert machine.open().past is Past.LOST


@pytest.mark.slow
def test_a_crash_at_any_step_of_the_first_start_is_never_lost_and_fresh_only_once() -> None:
    """Stop at every operation, lose any part of what was unsynced: the next start is FRESH or KNOWN; once an
    open has returned and something was voted, never FRESH again."""
    returned = False
    crash_at = 0
    while not returned:
        crash_at += 1
        for seed in range(12):
            machine = Machine()
            machine.faults.crash_at = crash_at
            try:
                assert machine.open().past is Past.FRESH
                returned = True
            except SimulatedCrash:
                pass
            machine.crash(Random(seed) if seed else None)
            second = machine.open()
            assert second.past is (Past.KNOWN if returned else second.past)
            assert second.past in (Past.FRESH, Past.KNOWN)
            append(second, b"vote")
            machine.crash(Random(seed))
            third = machine.open()
            assert third.past is Past.KNOWN
            assert third.boot > second.boot
            assert [record for _, record in third.open_log()[1]] == [b"vote"]
    assert crash_at > 15


def test_a_second_crash_during_the_repeated_first_start_is_no_loss_either() -> None:
    """Crashes at any two steps in a row end in FRESH or KNOWN."""
    for first in range(1, 26):
        for second in range(1, 26, 2):
            machine = Machine()
            for crash_at in (first, second):
                machine.faults.crash_at = crash_at
                with contextlib.suppress(SimulatedCrash):
                    machine.open()
                machine.crash(Random(first * 100 + second))
            assert machine.open().past in (Past.FRESH, Past.KNOWN)


def test_the_boot_counter_never_repeats_across_crashes() -> None:
    """A boot number that an open returned is lower than every later one, whatever crashes between."""
    machine = Machine()
    highest = 0
    for crash_at in range(1, 40):
        machine.faults.crash_at = crash_at % 9 + 1
        with contextlib.suppress(SimulatedCrash):
            highest = machine.open().boot
        machine.crash(Random(crash_at))
        boot = machine.open().boot
        assert boot > highest
        highest = boot


def test_a_token_brought_back_does_not_make_a_used_directory_fresh() -> None:
    """Restoring the keys from a copy that still has the token changes nothing; the token is removed."""
    machine = Machine()
    append(machine.open(), b"vote")
    write_start_token_in(machine.keys, TOKEN, CLUSTER, 0)
    assert machine.open().past is Past.KNOWN
    assert machine.keys.list() == []


def test_a_log_without_an_identity_is_a_lost_past() -> None:
    """A directory that has records but not whose they are is no first start, token or not."""
    machine = Machine()
    append(machine.open(), b"vote")
    machine.data.remove(IDENTITY)
    write_start_token_in(machine.keys, TOKEN, CLUSTER, 0)
    assert machine.open().past is Past.LOST
    assert machine.keys.list() == []


def test_a_log_removed_from_a_known_directory_is_damage() -> None:
    """A known past without its log does not start an empty one."""
    machine = Machine()
    append(machine.open(), b"vote")
    for name in machine.data.list():
        if name.startswith("log-"):
            machine.data.remove(name)
    again = machine.open()
    assert again.past is Past.KNOWN
    with pytest.raises(DamagedLog):
        again.open_log()


def test_a_declared_loss_lasts_until_recovery() -> None:
    """A damaged log once declared lost stays so across starts, with an empty log, until recovery is
    declared."""
    machine = Machine()
    directory = machine.open()
    append(directory, b"vote")
    directory.open_checkpoints().write(1, b"", [b"x"])
    directory.declare_lost()
    assert directory.past is Past.LOST
    assert machine.data.list() == [IDENTITY]
    machine.crash()
    directory = machine.open()
    assert directory.past is Past.LOST
    append(directory, b"recovered")
    directory.declare_recovered()
    machine.crash()
    directory = machine.open()
    assert (directory.past, directory.boot) == (Past.KNOWN, 3)
    assert [record for _, record in directory.open_log()[1]] == [b"recovered"]


def test_a_crash_while_declaring_a_loss_never_gives_a_shorter_known_past() -> None:
    """At every step: either all of the old log is there and known, or the past is lost."""
    for crash_at in range(1, 16):
        for seed in range(5):
            machine = Machine()
            directory = machine.open()
            append(directory, b"vote")
            machine.faults.clear()
            machine.faults.crash_at = crash_at
            with contextlib.suppress(SimulatedCrash):
                directory.declare_lost()
            machine.crash(Random(seed))
            again = machine.open()
            if again.past is Past.KNOWN:
                assert [record for _, record in again.open_log()[1]] == [b"vote"]
            else:
                assert again.past is Past.LOST


def test_a_volatile_replica_is_fresh_once() -> None:
    """Its token goes at the first start; afterwards, volatile or not, its past is lost."""
    machine = Machine()
    first = machine.open(volatile=True)
    assert first.past is Past.FRESH
    assert machine.keys.list() == []
    with pytest.raises(StorageError, match="volatile"):
        first.declare_recovered()
    machine.crash()
    assert machine.open(volatile=True).past is Past.LOST
    assert machine.open().past is Past.LOST


def test_a_volatile_start_ends_a_durable_past() -> None:
    """Votes of a volatile run are in no log: the durable log from before no longer tells all."""
    machine = Machine()
    append(machine.open(), b"vote")
    assert machine.open(volatile=True).past is Past.LOST
    machine.crash()
    assert machine.open().past is Past.LOST


def test_a_volatile_start_is_fresh_at_most_once_whatever_crashes() -> None:
    """At every step of a crash there is no second FRESH once one was returned, and the token never survives
    one."""
    for crash_at in range(1, 15):
        for seed in range(10):
            machine = Machine()
            machine.faults.crash_at = crash_at
            try:
                fresh = machine.open(volatile=True).past is Past.FRESH
            except SimulatedCrash:
                fresh = False
            machine.crash(Random(seed))
            if fresh:
                assert machine.open(volatile=True).past is Past.LOST
            else:
                assert machine.open(volatile=True).past in (Past.FRESH, Past.LOST)


def test_another_owner_is_refused() -> None:
    """Directory and token name their cluster and replica; a mismatch changes nothing."""
    machine = Machine()
    with pytest.raises(IdentityMismatch, match="start"):
        machine.open(replica=1)
    assert machine.data.list() == []
    machine.open()
    with pytest.raises(IdentityMismatch, match="replica 1"):
        machine.open(replica=1)
    with pytest.raises(IdentityMismatch, match=b"other".hex()):
        machine.open(cluster=b"other")
    assert machine.open().boot == 2


def test_a_damaged_identity_is_refused() -> None:
    """Any one flipped byte is found; it is an error, not a new directory."""
    machine = Machine()
    machine.open()
    for offset in range(machine.data.size(IDENTITY)):
        machine.data.flip(IDENTITY, offset, 0x10)
        with pytest.raises(DamagedFile, match=IDENTITY):
            machine.open()
        machine.data.flip(IDENTITY, offset, 0x10)
    machine.data.truncate(IDENTITY, 3, 3)
    with pytest.raises(DamagedFile):
        machine.open()


def test_a_newer_directory_is_refused_with_both_versions() -> None:
    """An older release does not touch what a newer one wrote."""
    machine = Machine()
    machine.open()
    content = bytearray(machine.data.read(IDENTITY, 0, 4096))
    content[8] = 9
    content[12:16] = zlib.crc32(content[:12]).to_bytes(4, "little")
    machine.data.remove(IDENTITY)
    machine.data.open_append(IDENTITY).write(bytes(content))
    with pytest.raises(NewerFormat, match=r"version 9.*version 1"):
        machine.open()


def test_real_directories(tmp_path: Path) -> None:
    """The same on a real file system: token private and written once, consumed by the first start."""
    token = tmp_path / "keys" / TOKEN
    write_start_token(token, CLUSTER, 0)
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    with pytest.raises(FileExistsError):
        write_start_token(token, CLUSTER, 0)
    data = tmp_path / "data"
    with DataDirectory.open(data, cluster=CLUSTER, replica=0, token=token) as directory:
        assert (directory.past, directory.boot) == (Past.FRESH, 1)
    assert not token.exists()
    with DataDirectory.open(data, cluster=CLUSTER, replica=0, token=token) as directory:
        assert (directory.past, directory.boot) == (Past.KNOWN, 2)
    with DataDirectory.open(tmp_path / "new", cluster=CLUSTER, replica=0, token=None) as directory:
        assert directory.past is Past.LOST


HOLDER = """
import sys
from pathlib import Path
from pbft.storage.data_directory import DataDirectory
directory = DataDirectory.open(Path(sys.argv[1]), cluster=b"cluster-id", replica=0, token=None)
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.scenario("B20")
def test_a_second_process_on_a_data_directory_is_refused(tmp_path: Path) -> None:
    """It gets one sentence with the holder's process id and changes nothing; once the holder is killed the
    directory opens."""
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout is not None and holder.stdin is not None
    try:
        assert holder.stdout.readline() == b"open\n"
        before = (tmp_path / IDENTITY).read_bytes()
        with pytest.raises(DirectoryLocked, match=f"in use by process {holder.pid};") as raised:
            DataDirectory.open(tmp_path, cluster=CLUSTER, replica=0, token=None)
        assert raised.value.pid == holder.pid
        assert (tmp_path / IDENTITY).read_bytes() == before
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait(30)
        holder.stdin.close()
        holder.stdout.close()
    with DataDirectory.open(tmp_path, cluster=CLUSTER, replica=0, token=None) as directory:
        assert directory.boot == 2


def test_the_lock_is_released_when_opening_fails(tmp_path: Path) -> None:
    """A refused owner does not keep the directory locked."""
    DataDirectory.open(tmp_path, cluster=CLUSTER, replica=0, token=None).close()
    with pytest.raises(IdentityMismatch):
        DataDirectory.open(tmp_path, cluster=CLUSTER, replica=1, token=None)
    DataDirectory.open(tmp_path, cluster=CLUSTER, replica=0, token=None).close()
