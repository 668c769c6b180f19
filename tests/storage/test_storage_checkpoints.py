"""Durable checkpoints: the old one or the new one, complete, or a typed error."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.storage.checkpoints import MAGIC, MAX_CHUNK, CheckpointStore, checkpoint_name
from pbft.storage.errors import DamagedCheckpoint, RecordTooLarge
from pbft.storage.simulated_files import SimulatedCrash, SimulatedDirectory

OLD = (100, b"old", [b"o" * 700, b"", b"p" * 2000])
NEW = (200, b"new", [b"n" * 1500, b"m" * 600])


def contents(directory: SimulatedDirectory) -> tuple[int, bytes, list[bytes]] | None:
    checkpoint = CheckpointStore(directory).load()
    if checkpoint is None:
        return None
    return checkpoint.number, checkpoint.meta, list(checkpoint.chunks())


def with_old() -> SimulatedDirectory:
    directory = SimulatedDirectory()
    CheckpointStore(directory).write(*OLD)
    directory.faults.clear()
    return directory


@given(st.integers(0, 2**63), st.binary(max_size=200), st.lists(st.binary(max_size=300), max_size=10))
def test_what_was_written_is_read(number: int, meta: bytes, chunks: list[bytes]) -> None:
    """Number, meta and chunks come back, empty ones too, after a crash."""
    directory = SimulatedDirectory()
    CheckpointStore(directory).write(number, meta, chunks)
    directory.crash()
    assert contents(directory) == (number, meta, chunks)


def test_nothing_written_is_none() -> None:
    """An empty directory has no checkpoint."""
    assert contents(SimulatedDirectory()) is None


def test_large_chunks_are_streamed() -> None:
    """Chunks larger than the read-ahead come back; the writer holds one at a time."""
    directory = SimulatedDirectory()
    sizes = [3_000_000, 10, 1_048_576, 0, 1_048_575]
    store = CheckpointStore(directory)
    store.write(1, b"", (bytes([i]) * size for i, size in enumerate(sizes)))
    checkpoint = store.load()
    assert checkpoint is not None
    assert checkpoint.chunk_count == 5
    assert checkpoint.size == store.retained_bytes
    for i, chunk in enumerate(checkpoint.chunks()):
        assert chunk == bytes([i]) * sizes[i]


def test_a_crash_at_any_operation_leaves_the_old_or_the_new_one() -> None:
    """At each operation and with any part of the unsynced lost, one complete checkpoint is there; once the
    write has returned, it is the new one."""
    returned = False
    crash_at = 0
    while not returned:
        crash_at += 1
        for seed in range(20):
            directory = with_old()
            store = CheckpointStore(directory)
            directory.faults.crash_at = crash_at
            try:
                store.write(*NEW)
                returned = True
            except SimulatedCrash:
                pass
            directory.crash(Random(seed) if seed else None)
            found = contents(directory)
            assert found == NEW if returned else found in (OLD, NEW)
            assert len(directory.list()) == 1
    assert crash_at > 6


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_at_any_operation_leaves_the_old_or_the_new_one(code: int) -> None:
    """Whichever operation fails, the error is raised and a complete checkpoint is there, also after a crash;
    writing again succeeds."""
    operation = 0
    failed = True
    while failed:
        operation += 1
        directory = with_old()
        store = CheckpointStore(directory)
        directory.faults.fail(operation, code)
        failed = False
        try:
            store.write(*NEW)
        except OSError as error:
            assert error.errno == code
            failed = True
        directory.faults.clear()
        assert contents(directory) in (OLD, NEW)
        directory.crash(Random(operation))
        assert contents(directory) in (OLD, NEW)
        CheckpointStore(directory).write(*NEW)
        directory.crash()
        assert contents(directory) == NEW
    assert operation > 6


def test_a_full_disk_is_not_left_full() -> None:
    """When space runs out in the middle, the half of the new checkpoint is removed and the old one stands."""
    directory = with_old()
    store = CheckpointStore(directory)
    directory.faults.limit_space(1_500_000)
    with pytest.raises(OSError) as raised:
        store.write(300, b"", [bytes(1_000_000)] * 3)
    assert raised.value.errno == errno.ENOSPC
    assert len(directory.list()) == 1
    assert contents(directory) == OLD


def test_a_source_of_chunks_that_fails_leaves_the_old_one() -> None:
    """An exception of the chunk iterator is passed on, and nothing is left behind."""

    def chunks() -> Iterator[bytes]:
        yield b"one"
        raise KeyError("gone")

    directory = with_old()
    with pytest.raises(KeyError):
        CheckpointStore(directory).write(300, b"", chunks())
    with pytest.raises(RecordTooLarge):
        CheckpointStore(directory).write(300, b"", [bytes(MAX_CHUNK + 1)])
    assert len(directory.list()) == 1
    assert contents(directory) == OLD


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 255))
def test_a_flipped_byte_anywhere_is_found(mask: int) -> None:
    """Any one changed byte in the file is a typed error, before the chunk with it is given out; never an
    older checkpoint."""
    directory = SimulatedDirectory()
    original = (7, b"meta", [b"first", b"", b"second"])
    CheckpointStore(directory).write(*original)
    (name,) = directory.list()
    for offset in range(directory.size(name)):
        directory.flip(name, offset, mask)
        checkpoint = None
        with pytest.raises(DamagedCheckpoint) as raised:
            checkpoint = CheckpointStore(directory).load()
            assert checkpoint is not None
            for chunk in checkpoint.chunks():
                assert chunk in original[2]
        assert raised.value.file == name
        directory.flip(name, offset, mask)
    assert contents(directory) == original


@pytest.mark.parametrize("keep", [0, 10, 40, -1])
def test_a_shortened_file_is_damage(keep: int) -> None:
    """Beside an older one it was never completed, for that one goes afterwards: it is passed over. Alone it is
    refused."""
    directory = with_old()
    older = SimulatedDirectory()
    CheckpointStore(older).write(*NEW)
    (name,) = older.list()
    content = older.read(name, 0, 10**6)
    file = directory.open_append(name)
    file.write(content[: len(content) + keep if keep < 0 else keep])
    file.sync()
    alone = SimulatedDirectory()
    file = alone.open_append(name)
    file.write(directory.read(name, 0, 10**6))
    file.sync()
    store = CheckpointStore(directory)
    found = store.load()
    assert found is not None and found.number == OLD[0] and store.incomplete == [name]
    assert name not in directory.list()
    with pytest.raises(DamagedCheckpoint, match=name):
        CheckpointStore(alone).load()


def test_a_file_of_the_first_version_is_read() -> None:
    """It names no base."""
    head = MAGIC + (1).to_bytes(4, "little")
    head += zlib.crc32(head).to_bytes(4, "little") + (7).to_bytes(8, "little") + (4).to_bytes(4, "little")
    content = head + b"meta" + zlib.crc32(b"meta", zlib.crc32(head)).to_bytes(4, "little")
    content += (5).to_bytes(4, "little") + zlib.crc32(b"chunk", 0).to_bytes(4, "little") + b"chunk"
    end = b"\xff" * 4 + (1).to_bytes(8, "little") + (len(content) + 24).to_bytes(8, "little")
    directory = SimulatedDirectory()
    file = directory.open_append(checkpoint_name(7))
    file.write(content + end + zlib.crc32(end).to_bytes(4, "little"))
    assert contents(directory) == (7, b"meta", [b"chunk"])


def test_changes_of_something_else_than_the_newest_are_refused() -> None:
    """Nothing is written then."""
    directory = with_old()
    store = CheckpointStore(directory)
    with pytest.raises(ValueError, match="not the newest"):
        store.write(200, b"", [], 100)  # it has not looked yet
    store.load()
    for number, base in ((200, 99), (100, 100)):
        with pytest.raises(ValueError, match="not the newest"):
            store.write(number, b"", [], base)
    assert len(directory.list()) == 1


def test_an_older_number_is_refused() -> None:
    """Checkpoints only go forward; the same number may be written again."""
    directory = with_old()
    store = CheckpointStore(directory)
    with pytest.raises(ValueError, match="older"):
        store.write(99, b"", [])
    store.write(100, b"again", [])
    assert contents(directory) == (100, b"again", [])
    store.discard()
    assert contents(directory) is None


@pytest.mark.scenario("D02")
def test_only_one_checkpoint_stays_on_disk() -> None:
    """After each write one file is left, and during a write at most two."""
    directory = SimulatedDirectory()
    store = CheckpointStore(directory)

    def chunks() -> Iterator[bytes]:
        assert len(directory.list()) <= 2
        yield bytes(5000)

    for number in range(1, 50):
        store.write(number, b"", chunks())
        assert len(directory.list()) == 1
    assert store.retained_bytes < 6000
