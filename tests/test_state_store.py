"""Durable states: a whole one, then what changed, read back as the newest, for as long as that is worth it."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.execution import ExecutionSnapshot
from pbft.execution.snapshots import read_state
from pbft.state import State
from pbft.state_store import StateStore
from pbft.storage.checkpoints import CHAIN_MAX, CheckpointStore
from pbft.storage.errors import DamagedCheckpoint
from pbft.storage.simulated_files import SimulatedCrash, SimulatedDirectory


class Life:
    """A state that changes, and its durable form."""

    def __init__(self) -> None:
        self.directory = SimulatedDirectory()
        self.spaces = (State(), State(), State())
        self.number = 0
        self.store = StateStore(CheckpointStore(self.directory), None)

    def snapshot(self) -> ExecutionSnapshot:
        """Of the next number."""
        self.number += 8
        spaces = tuple(space.checkpoint() for space in self.spaces)
        return ExecutionSnapshot(b"c" * 32, 0, self.number, b"h" * 32, spaces)  # type: ignore[arg-type]

    def files(self) -> list[int]:
        """Lengths of the files, oldest first."""
        return [self.directory.size(name) for name in self.directory.list()]

    def again(self) -> bytes:
        """The digest of what is found; the store goes on from there."""
        store = CheckpointStore(self.directory)
        found = store.load()
        assert found is not None
        read = read_state(found.meta, found.chunks())
        spaces = tuple(space.checkpoint() for space in read.spaces)
        stored = ExecutionSnapshot(read.cluster, read.epoch, read.number, read.history, spaces)  # type: ignore[arg-type]
        self.store = StateStore(store, stored)
        return read.digest


CHANGE = st.tuples(st.integers(0, 2), st.integers(0, 30), st.none() | st.integers(0, 3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.lists(CHANGE, max_size=12), st.booleans()), min_size=1, max_size=12))
def test_the_newest_state_is_read_whatever_changed(steps: list[tuple[list[tuple[int, int, int | None]], bool]]) -> None:
    """Written, changed and deleted keys of all three spaces, with restarts in between."""
    life = Life()
    for changes, restarts in steps:
        for space, key, value in changes:
            state, name = life.spaces[space], b"key %d" % key
            if value is not None:
                state[name] = b"value %d" % value * (1 + 1500 * (value == 3))
            elif name in state:
                del state[name]
        snapshot = life.snapshot()
        life.store.write(snapshot)
        if restarts:
            assert life.again() == snapshot.digest
    assert life.again() == snapshot.digest


def test_a_durable_state_costs_what_changed() -> None:
    """Also in the first write after a restart; the whole is written again once the changes are as long."""
    life = Life()
    for i in range(4000):
        life.spaces[0][b"key %06d" % i] = bytes(200)
    life.store.write(life.snapshot())
    (whole,) = life.files()
    for turn in range(3):
        life.spaces[0][b"key %06d" % turn] = b"new"
        life.store.write(life.snapshot())
        assert life.files()[0] == whole and max(life.files()[1:]) < 1000
        life.again()
    assert len(life.files()) == 4
    most = 0
    for turn in range(1, 9):
        for i in range(1000):
            life.spaces[0][b"key %06d" % i] = bytes([turn]) * 200
        life.store.write(life.snapshot())
        most = max(most, sum(life.files()))
    assert most < 2.4 * whole and len(life.files()) < 6
    assert life.again()


def test_a_chain_ends_somewhere() -> None:
    """However little changes."""
    life = Life()
    for i in range(3 * CHAIN_MAX):
        life.spaces[1][b"now"] = b"%d" % i
        life.store.write(life.snapshot())
        assert len(life.files()) <= CHAIN_MAX
    assert life.again()


def test_a_whole_one_relies_on_nothing() -> None:
    """What was there goes."""
    life = Life()
    for i in range(3):
        life.spaces[0][b"%d" % i] = b"x"
        life.store.write(life.snapshot())
    assert len(life.files()) == 3
    life.store.write(life.snapshot(), whole=True)
    assert len(life.files()) == 1


def test_after_a_crash_anywhere_the_old_or_the_new_one_is_there() -> None:
    """Changes, and a whole one over a chain."""
    for whole in (False, True):
        crash_at, returned = 0, False
        while not returned:
            crash_at += 1
            for seed in range(12):
                life = Life()
                digests = []
                for i in range(3):
                    life.spaces[0][b"%d" % i] = bytes(600)
                    snapshot = life.snapshot()
                    digests.append(snapshot.digest)
                    if i < 2:
                        life.store.write(snapshot)
                life.directory.faults.clear()
                life.directory.faults.crash_at = crash_at
                try:
                    life.store.write(snapshot, whole=whole)
                    returned = True
                except SimulatedCrash:
                    pass
                life.directory.crash(Random(seed) if seed else None)
                assert life.again() in (digests[2:] if returned else digests[1:])
                life.spaces[0][b"more"] = b"x"
                life.number += 8
                snapshot = life.snapshot()
                life.store.write(snapshot)
                assert life.again() == snapshot.digest


@pytest.mark.parametrize("victim", [0, 1])
def test_damage_in_a_chain_is_damage(victim: int) -> None:
    """A file that others rest on is missed, and its chunks are looked at."""
    for damage in ("missing", "flipped", "cut"):
        life = Life()
        for i in range(3):
            life.spaces[0][b"%d" % i] = bytes(600)
            life.store.write(life.snapshot())
        name = life.directory.list()[victim]
        if damage == "missing":
            life.directory.remove(name)
        elif damage == "cut":
            life.directory.truncate(name, life.directory.size(name) - 9, 0)
        else:
            life.directory.flip(name, life.directory.size(name) // 2, 4)
        with pytest.raises(DamagedCheckpoint, match=name):
            life.again()
