"""The write-ahead log: what was durable is there after a restart, and damage is never taken for a shorter
log."""

from __future__ import annotations

import contextlib
import errno
import zlib
from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.storage.errors import DamagedLog, IdentityMismatch, LogFailed, NewerFormat, RecordTooLarge
from pbft.storage.segments import MAX_RECORD, segment_names
from pbft.storage.simulated_files import SimulatedCrash, SimulatedDirectory
from pbft.storage.wal import Replay, Wal, discard_log, open_log

CLUSTER = b"cluster"
SEGMENT = 4096


def open_small(directory: SimulatedDirectory, seed: int = 0) -> tuple[Wal, Replay]:
    return open_log(directory, CLUSTER, 1, segment_bytes=SEGMENT, random_bytes=Random(seed).randbytes)


def recover(directory: SimulatedDirectory) -> tuple[Wal, list[bytes], Replay]:
    wal, replay = open_small(directory, seed=99)
    pairs = list(replay)
    assert [position for position, _ in pairs] == list(range(wal.first_position, wal.last_position + 1))
    return wal, [record for _, record in pairs], replay


def written(groups: Sequence[Sequence[bytes]]) -> SimulatedDirectory:
    directory = SimulatedDirectory()
    wal, replay = open_small(directory)
    replay.finish()
    for group in groups:
        wal.write_group(group)
    return directory


records = st.binary(max_size=60) | st.integers(500, 3000).map(lambda size: b"r" * size)
groups_of_records = st.lists(st.lists(records, min_size=1, max_size=6), max_size=12)


@pytest.mark.slow
@settings(deadline=None)
@given(groups_of_records, st.integers(0, 200), st.integers(0, 2**32), st.booleans())
def test_after_a_crash_the_log_is_a_prefix_with_all_that_was_durable(
    groups: list[list[bytes]], crash_after: int, seed: int, lose_all: bool
) -> None:
    """Whatever the crash leaves: everything reported durable is there, in order, and nothing that was not
    written; and the log goes on from there, through a second crash too."""
    directory = SimulatedDirectory()
    everything = [record for group in groups for record in group]
    durable = 0
    directory.faults.crash_at = crash_after
    try:
        wal, replay = open_small(directory)
        replay.finish()
        for group in groups:
            durable = wal.write_group(group)
    except SimulatedCrash:
        pass
    directory.crash(None if lose_all else Random(seed))
    wal, found, _ = recover(directory)
    assert len(found) >= durable
    assert found == everything[: len(found)]
    assert wal.write_group([b"after"]) == len(found) + 1
    directory.crash(Random(seed + 1))
    assert recover(directory)[1] == [*found, b"after"]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=4), min_size=1, max_size=6),
    st.booleans(),
    st.integers(1, 255),
)
def test_a_flipped_byte_anywhere_is_found(groups: list[list[bytes]], closed: bool, mask: int) -> None:
    """With any one byte changed the log is refused as damaged, or is cut within the last group that no mark
    follows; no wrong record comes out. A closed log ends in a mark: no record of it is ever cut."""
    directory = SimulatedDirectory()
    wal, replay = open_small(directory)
    replay.finish()
    for group in groups:
        wal.write_group(group)
    if closed:
        wal.close()
    everything = [record for group in groups for record in group]
    unprotected = 0 if closed else len(groups[-1])
    (name,) = directory.list()
    # Only what was written: a byte in the space made ahead is found too, but as a torn tail that costs
    # nothing.
    used = len(directory.read(name, 0, SEGMENT).rstrip(b"\0"))
    for offset in range(used):
        directory.flip(name, offset, mask)
        before = directory.read(name, 0, SEGMENT)
        try:
            _, found, replay = recover(directory)
        except DamagedLog:
            pass
        else:
            assert found == everything[: len(found)]
            assert len(found) >= len(everything) - unprotected
            assert replay.torn_tail is not None
        # The cut is undone, then the flip.
        directory.remove(name)
        file = directory.open_append(name)
        file.write(before)
        file.sync()
        directory.flip(name, offset, mask)
    assert recover(directory)[1] == everything


def test_damage_below_a_mark_names_file_offset_and_position() -> None:
    """A durable record that is unreadable is not a torn tail."""
    directory = written([[b"one"], [b"two"], [b"three"]])
    (name,) = directory.list()
    place = directory.read(name, 0, SEGMENT).index(b"two")
    directory.flip(name, place, 1)
    with pytest.raises(DamagedLog) as raised:
        recover(directory)
    assert raised.value.file == name
    assert raised.value.position == 2
    assert place - 100 < raised.value.offset < place


def test_a_damaged_last_group_is_cut_and_reported() -> None:
    """The tail that no mark covers is cut, durably, and said so; the next start finds nothing to cut."""
    directory = written([[b"one"], [b"two", b"three"]])
    (name,) = directory.list()
    directory.flip(name, directory.read(name, 0, SEGMENT).index(b"three"), 1)
    _, found, replay = recover(directory)
    assert found == [b"one"]
    assert replay.torn_tail is not None
    assert (replay.torn_tail.file, replay.torn_tail.position) == (name, 2)
    assert replay.torn_tail.removed_bytes > 0
    directory.crash()
    _, found, replay = recover(directory)
    assert found == [b"one"]
    assert replay.torn_tail is None


def test_a_whole_group_of_zeros_below_a_mark_is_damage() -> None:
    """Lost pages read as zeros look like unused space, yet the groups that follow tell."""
    directory = written([[b"one"], [b"x" * 600], [b"three"]])
    (name,) = directory.list()
    content = directory.read(name, 0, SEGMENT)
    start = content.index(b"one") + 3
    for offset in range(start, content.index(b"x" * 600) + 600):
        if content[offset]:
            directory.flip(name, offset, content[offset])
    with pytest.raises(DamagedLog) as raised:
        recover(directory)
    assert raised.value.position == 2


def test_a_record_that_looks_like_a_group_does_not_make_a_torn_tail_look_like_damage() -> None:
    """Bytes of one log, put as a record into another, carry the other's salt and are no mark there."""
    first = written([[b"one"], [b"two"], [b"three"]])
    forged = first.read(first.list()[0], 0, SEGMENT).rstrip(b"\0")
    directory = SimulatedDirectory()
    wal, replay = open_small(directory, seed=5)
    replay.finish()
    wal.write_group([forged])
    (name,) = directory.list()
    directory.flip(name, directory.read(name, 0, SEGMENT).index(forged), 1)
    _, found, replay = recover(directory)
    assert found == []
    assert replay.torn_tail is not None


def test_a_group_of_many_megabytes_is_read_back() -> None:
    """A flush larger than one group's bound becomes several groups with one mark; torn, it is cut, not
    damage."""
    directory = SimulatedDirectory()
    wal, replay = open_log(directory, CLUSTER, 1)
    replay.finish()
    big = [bytes([i]) * (3 * 2**20) for i in range(1, 4)]
    wal.write_group(big)
    _, replay = open_log(directory, CLUSTER, 1)
    assert [record for _, record in replay] == big
    directory.flip(directory.list()[0], 2**20, 1)
    _, replay = open_log(directory, CLUSTER, 1)
    assert list(replay) == []
    assert replay.torn_tail is not None


def test_segments_roll_over_and_are_contiguous() -> None:
    """Records go on in a new file when one is full; a record larger than a segment has one to itself."""
    payloads = [[bytes([i]) * 1500] for i in range(10)]
    payloads.insert(4, [b"L" * 3 * SEGMENT])
    directory = written(payloads)
    assert len(segment_names(directory)) > 3
    assert recover(directory)[1] == [group[0] for group in payloads]


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_damage_in_any_earlier_segment_is_damage(victim: int) -> None:
    """A segment that another follows was durable to its end: a flip there, or its absence, is never cut
    off."""
    directory = written([[bytes([i]) * 1500] for i in range(10)])
    name = segment_names(directory)[victim]
    last_record = directory.read(name, 0, 2 * SEGMENT).rstrip(b"\0")
    directory.flip(name, len(last_record) - 1, 1)
    with pytest.raises(DamagedLog):
        recover(directory)
    if victim:
        directory.remove(name)
        with pytest.raises(DamagedLog):
            recover(directory)


def test_cut_removes_whole_segments_below() -> None:
    """Only files all of whose records are below go; positions and the rest of the log stay."""
    directory = written([])
    wal, _, _ = recover(directory)
    for i in range(20):
        wal.write_group([bytes([i]) * 1000])
    before = wal.retained_bytes
    starts = [int(name[-20:]) for name in segment_names(directory)]
    assert wal.cut(starts[2] - 1) == 1
    assert wal.first_position == starts[1]
    assert wal.cut(starts[2]) == 1
    assert wal.cut(10**9) == len(starts) - 3
    assert wal.first_position == starts[-1]
    assert wal.retained_bytes < before
    wal.write_group([b"more"])
    directory.crash()
    wal, found, _ = recover(directory)
    assert wal.first_position == starts[-1]
    assert found[-1] == b"more"
    assert wal.last_position == 21


@pytest.mark.scenario("D02")
def test_disk_use_is_bounded_when_the_log_is_cut() -> None:
    """However much is written, the log on disk stays below the retained span plus two segments."""
    directory = written([])
    wal, _, _ = recover(directory)
    for _ in range(400):
        position = wal.write_group([b"x" * 700])
        wal.cut(position - 10)
        on_disk = sum(directory.size(name) for name in directory.list())
        assert on_disk == wal.retained_bytes <= 10 * 750 + 2 * SEGMENT


def test_a_crash_while_cutting_leaves_no_hole() -> None:
    """At whichever operation of a cut the machine stops, the log opens and reaches its end."""
    for crash_at in range(1, 12):
        directory = written([[bytes([i]) * 1500] for i in range(10)])
        wal, _, _ = recover(directory)
        directory.faults.clear()
        directory.faults.crash_at = crash_at
        with contextlib.suppress(SimulatedCrash):
            wal.cut(10)
        directory.crash(Random(crash_at))
        assert recover(directory)[1][-1] == bytes([9]) * 1500


def test_what_a_killed_process_left_unsynced_is_synced_before_it_is_given_out() -> None:
    """Killed between write and sync, the kernel has the group and the disk not: once recovered, it survives a
    power loss."""
    directory = written([[b"one"]])
    wal, _, _ = recover(directory)
    directory.faults.clear()
    directory.faults.crash_at = 3  # write, space made ahead, then the sync
    with pytest.raises(SimulatedCrash):
        wal.write_group([b"two"])
    directory.faults.clear()
    assert recover(directory)[1] == [b"one", b"two"]
    directory.crash()
    assert recover(directory)[1] == [b"one", b"two"]


@pytest.mark.parametrize("records", [[b"two"], [b"x" * 3000, b"y" * 3000], [bytes([i]) * 2500 for i in range(4)]])
def test_what_a_failed_sync_left_readable_is_written_again_before_it_is_given_out(records: list[bytes]) -> None:
    """The kernel calls its pages clean, and no later sync writes them: what a restart reads of them is not lost by the
    power loss after it."""
    failing = 0
    for operation in range(1, 9):
        directory = written([[b"one"]])
        wal, _, _ = recover(directory)
        directory.faults.clear()
        directory.faults.fail(operation, errno.EIO)
        try:
            wal.write_group(records)
        except OSError:
            failing += 1
        directory.faults.clear()
        first = recover(directory)[1]
        assert first[0] == b"one"
        directory.crash()
        assert recover(directory)[1] == first
    assert failing > 1


def test_a_crash_during_recovery_changes_nothing() -> None:
    """At whichever operation of opening a torn log the machine stops again, the next start finds the same."""
    for crash_at in range(1, 12):
        directory = written([[b"one"], [b"two"]])
        (name,) = directory.list()
        directory.flip(name, directory.read(name, 0, SEGMENT).index(b"two"), 1)
        directory.faults.clear()
        directory.faults.crash_at = crash_at
        with contextlib.suppress(SimulatedCrash):
            open_small(directory)[1].finish()
        directory.crash(Random(crash_at))
        assert recover(directory)[1] == [b"one"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_at_any_operation_ends_the_log_and_loses_nothing_durable(code: int) -> None:
    """Whichever operation fails, it is raised once, nothing is accepted after it, and what was durable
    survives."""
    operation = 0
    failed = True
    while failed:
        operation += 1
        directory = SimulatedDirectory()
        wal, replay = open_small(directory)
        replay.finish()
        directory.faults.clear()
        directory.faults.fail(operation, code)
        durable = 0
        failed = False
        for i in range(8):
            try:
                durable = wal.write_group([bytes([i]) * 1000])
            except OSError as error:
                assert error.errno == code
                failed = True
                break
        if failed:
            with pytest.raises(LogFailed):
                wal.write_group([b"again"])
            assert wal.failure is not None
            wal.close()
        directory.crash(Random(operation))
        found = recover(directory)[1]
        assert len(found) >= durable
        assert found == [bytes([i]) * 1000 for i in range(len(found))]
    assert operation > 20


def test_a_log_of_another_owner_or_a_newer_version_is_refused() -> None:
    """Cluster and replica are checked, and a newer format is refused with both versions named."""
    directory = written([[b"x"]])
    with pytest.raises(IdentityMismatch, match="replica 2"):
        open_log(directory, CLUSTER, 2)
    with pytest.raises(IdentityMismatch, match=b"other".hex()):
        open_log(directory, b"other", 1)
    (name,) = directory.list()
    content = bytearray(directory.read(name, 0, SEGMENT))
    content[8] = 7
    content[12:16] = zlib.crc32(content[:12]).to_bytes(4, "little")
    directory.remove(name)
    directory.open_append(name).write(bytes(content))
    with pytest.raises(NewerFormat) as raised:
        open_small(directory)
    assert (raised.value.found, raised.value.supported) == (7, 1)


def test_a_record_beyond_the_limit_is_refused_and_nothing_is_written() -> None:
    """The limit is checked before the file is touched; the log goes on."""

    class Huge(bytes):
        def __len__(self) -> int:
            return MAX_RECORD + 1

    directory = written([])
    wal, _, _ = recover(directory)
    before = directory.faults.operations
    with pytest.raises(RecordTooLarge):
        wal.write_group([b"ok", Huge()])
    assert directory.faults.operations == before
    assert wal.write_group([b"fine"]) == 1


def test_writing_waits_for_the_replay() -> None:
    """A log that has not been read to its end is not written."""
    directory = written([[b"x"]])
    wal, replay = open_small(directory)
    with pytest.raises(RuntimeError, match="replay"):
        wal.write_group([b"y"])
    replay.finish()
    assert wal.write_group([b"y"]) == 2


def test_reading_starts_where_asked() -> None:
    """Replay and later reads begin at a position, and read up to what is durable."""
    directory = written([[b"%d" % i, b"x" * 700] for i in range(20)])
    wal, replay = open_log(directory, CLUSTER, 1, segment_bytes=SEGMENT, from_position=31)
    assert next(iter(replay)) == (31, b"15")
    replay.finish()
    wal.write_group([b"new"])
    assert [position for position, _ in wal.read(39)] == [39, 40, 41]
    assert len(list(wal.read(0))) == 41
    directory.flip(segment_names(directory)[0], 200, 1)
    with pytest.raises(DamagedLog):
        list(wal.read(1))
    assert len(list(wal.read(30))) == 12


def test_a_missing_log_is_damage_where_one_must_be() -> None:
    """With create=False an empty directory is a lost log; a discarded log may start anew at another
    position."""
    directory = SimulatedDirectory()
    with pytest.raises(DamagedLog):
        open_log(directory, CLUSTER, 1, create=False)
    directory = written([[b"x"], [b"y"]])
    discard_log(directory)
    wal, replay = open_log(directory, CLUSTER, 1, first_position=100)
    assert list(replay) == []
    assert wal.write_group([b"z"]) == 100


@settings(max_examples=200)
@given(st.binary(max_size=300), st.integers(0, 2))
def test_rubbish_after_the_log_is_cut(rubbish: bytes, groups: int) -> None:
    """Any bytes after the last group end the log there; none of them becomes a record."""
    directory = written([[b"record"]] * groups)
    (name,) = directory.list()
    content = directory.read(name, 0, SEGMENT).rstrip(b"\0")
    if groups:
        content = content[: content.rindex(b"record") + 6]
    directory.remove(name)
    file = directory.open_append(name)
    file.write(content + (rubbish if groups else b""))
    file.sync()
    _, found, replay = recover(directory)
    assert found == [b"record"] * groups
    assert (replay.torn_tail is not None) == (groups > 0 and any(rubbish))
