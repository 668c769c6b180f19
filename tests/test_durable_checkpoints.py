"""When durable checkpoints are written, beside states that come from others."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

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


async def test_a_newer_state_that_came_from_others_meanwhile_stands(tmp_path: Path) -> None:
    """The older one that was due is not written, the log may be cut all the same, and the next one is written."""
    durable: list[int] = []
    core = SimpleNamespace(diverged="", outbox=SimpleNamespace(position=1), log=SimpleNamespace(low=128))
    host: Any = SimpleNamespace(
        bytes_logged=1 << 40, replica=SimpleNamespace(core=core), certificate=lambda number: b"",
        checkpoint_durable=durable.append, flush=lambda: None,
    )  # fmt: skip
    always: Any = SimpleNamespace(durable_checkpoint_interval=0, durable_checkpoint_bytes=0)
    executor: Any = SimpleNamespace(snapshot=snapshot)
    store, writing = StateStore(CheckpointStore(RealDirectory(tmp_path)), None), trio.Lock()
    checkpoints = DurableCheckpoints(0, always, host, executor, store, writing)
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
