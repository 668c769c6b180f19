"""When durable checkpoints are written, beside states that come from others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing

from pbft.durable_checkpoints import DurableCheckpoints
from pbft.execution import ExecutionSnapshot
from pbft.state import State
from pbft.state_store import StateStore
from pbft.storage.checkpoints import CheckpointStore
from pbft.storage.files import RealDirectory


def snapshot(number: int) -> ExecutionSnapshot:
    """Of a state with one key."""
    app = State()
    app[b"a"] = b"%d" % number
    empty = State().checkpoint()
    return ExecutionSnapshot(bytes(32), 0, number, bytes(32), (app.checkpoint(), empty, empty))


def parts(
    store: StateStore, durable: list[int], writing: trio.Lock, interval: int, replayed: int
) -> DurableCheckpoints:
    """With a host and an executor of which no more is there than what is used."""
    core = SimpleNamespace(diverged="", outbox=SimpleNamespace(position=1), log=SimpleNamespace(low=128))
    host: Any = SimpleNamespace(
        bytes_logged=1000, replica=SimpleNamespace(core=core), certificate=lambda number: b"",
        checkpoint_durable=durable.append, flush=lambda: None,
    )  # fmt: skip
    tunables: Any = SimpleNamespace(durable_checkpoint_interval=interval, durable_checkpoint_bytes=1 << 24)
    executor: Any = SimpleNamespace(snapshot=snapshot)
    return DurableCheckpoints(0, tunables, host, executor, store, writing, replayed)


@pytest.mark.parametrize(("replayed", "is_written"), [(1000, False), (2 << 20, True), (1 << 24, True)])
async def test_who_starts_with_a_long_log_writes_a_state_soon(tmp_path: Path, replayed: int, is_written: bool) -> None:
    """Whoever is killed again and again before it is time would have to read more at each start."""
    durable: list[int] = []
    store = StateStore(CheckpointStore(RealDirectory(tmp_path)), None)
    checkpoints = parts(store, durable, trio.Lock(), 3600, replayed)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(checkpoints.run)
        await trio.testing.wait_all_tasks_blocked()
        checkpoints.on_stable(128)
        with trio.move_on_after(5 if is_written else 0.2):
            while not durable:
                await trio.sleep(0.01)
        checkpoints.on_stable(256)
        await trio.sleep(0.1)
        nursery.cancel_scope.cancel()
    assert durable == ([128] if is_written else []), "and the next one when it is time"


async def test_a_newer_state_that_came_from_others_meanwhile_stands(tmp_path: Path) -> None:
    """The older one that was due is not written, the log may be cut all the same, and the next one is written."""
    durable: list[int] = []
    store, writing = StateStore(CheckpointStore(RealDirectory(tmp_path)), None), trio.Lock()
    checkpoints = parts(store, durable, writing, 0, 0)
    async with trio.open_nursery() as nursery:
        await writing.acquire()
        nursery.start_soon(checkpoints.run)
        await trio.testing.wait_all_tasks_blocked()
        checkpoints.on_stable(128)
        await trio.testing.wait_all_tasks_blocked()
        store.write(snapshot(512))
        writing.release()
        with trio.fail_after(5):
            while len(durable) < 1:
                await trio.sleep(0.01)
        assert store.newest == 512
        checkpoints.on_stable(640)
        with trio.fail_after(5):
            while len(durable) < 2:
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    assert durable == [128, 640] and store.newest == 640
