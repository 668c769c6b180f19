"""Reading a log while it is written and cut."""

from __future__ import annotations

import random

import pytest

from pbft.storage.data_directory import Identity, Phase
from pbft.storage.following import LogFollower, LogGap
from pbft.storage.simulated_files import SimulatedDirectory
from pbft.storage.wal import open_log

CLUSTER = bytes(32)
IDENTITY = Identity(CLUSTER, 0, phase=Phase.STARTED)


@pytest.mark.parametrize("seed", range(20))
def test_every_record_is_read_once_in_its_order(seed: int) -> None:
    """Whatever is written between two calls, across segments and cuts of what was read."""
    chance = random.Random(seed)
    directory = SimulatedDirectory()
    wal, replay = open_log(directory, CLUSTER, 0, segment_bytes=4096)
    replay.finish()
    follower = LogFollower(directory, IDENTITY)
    read: list[tuple[int, bytes]] = []
    written: list[tuple[int, bytes]] = []
    for _ in range(60):
        for _ in range(chance.randrange(4)):
            group = [chance.randbytes(chance.randrange(900)) for _ in range(chance.randrange(1, 4))]
            last = wal.write_group(group)
            written += zip(range(last - len(group) + 1, last + 1), group, strict=True)
        read += follower.records()
        assert read == written
        if chance.random() < 0.2:
            wal.cut(chance.randrange(1, len(written) + 2))
    assert wal.first_position > 1


def test_what_was_cut_before_it_was_read_is_told() -> None:
    """And the next call goes on from where there is a log again."""
    directory = SimulatedDirectory()
    wal, replay = open_log(directory, CLUSTER, 0, segment_bytes=4096)
    replay.finish()
    follower = LogFollower(directory, IDENTITY)
    wal.write_group([bytes(1000)])
    assert [position for position, _ in follower.records()] == [1]
    for _ in range(20):
        wal.write_group([bytes(1000)])
    wal.cut(15)
    with pytest.raises(LogGap):
        list(follower.records())
    rest = [position for position, _ in follower.records()]
    assert rest == list(range(wal.first_position, 22)) and wal.first_position > 2


def test_a_group_that_is_being_written_is_read_later() -> None:
    """Half of it on the disk is no damage to a reader."""
    directory = SimulatedDirectory()
    wal, replay = open_log(directory, CLUSTER, 0)
    replay.finish()
    wal.write_group([b"one"])
    follower = LogFollower(directory, IDENTITY)
    assert [record for _, record in follower.records()] == [b"one"]
    [name] = directory.list()
    before = directory.size(name)
    data = directory.read(name, 0, before)
    end = len(data.rstrip(b"\0"))
    wal.write_group([b"two" * 100])
    whole = directory.read(name, 0, directory.size(name))
    directory.truncate(name, end + 60, end + 60)
    assert list(follower.records()) == []
    file = directory.open_append(name)
    file.write(whole[end + 60 :])
    assert [record for _, record in follower.records()] == [b"two" * 100]
