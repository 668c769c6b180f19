"""What rots while a replica runs is found by looking, and made again: memory from the disk, the disk from memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from node_cluster import NodeCluster, running
from test_node_repairs import begin_anew, level, write

from pbft.client import Client
from pbft.node import Node
from pbft.state import State
from pbft.state.nodes import Bucket, Inner
from pbft.state.walks import path_to

pytestmark = pytest.mark.slow

LITTLE = {"checkpoint_interval": 4, "log_window": 8}


def rot(node: Node, key: bytes) -> None:
    """A bit of a value flips in memory: whatever was hashed before does not notice."""
    state: State = node._executor._executor._app_state
    snapshot = node._executor.newest_snapshot()
    assert snapshot is not None
    holder = path_to(snapshot.spaces[0].root, key)[-1]
    assert isinstance(holder, Bucket)
    at = holder.keys.index(key)
    flipped = bytes([holder.values[at][0] ^ 4]) + holder.values[at][1:]
    holder.values = (*holder.values[:at], flipped, *holder.values[at + 1 :])
    state._head[key] = flipped


async def on_disk(cluster: NodeCluster, replica: int) -> Path:
    """A durable checkpoint of the state at h."""
    node = cluster.nodes[replica].node
    node._checkpoints.write_soon()
    folder = cluster.config.data_directory(replica)
    await cluster.until(lambda: bool(list(folder.glob("checkpoint-*[0-9]"))))
    return next(folder.glob("checkpoint-*[0-9]"))


def test_every_place_that_does_not_hash_is_found() -> None:
    """A value, a row, the digest of a bucket and that of an inner node."""
    state = State()
    for i in range(500):
        state[b"key %d" % i] = b"value %d" % i
    snapshot = state.checkpoint()
    checked = list(snapshot.check())
    assert len(checked) == 500 and all(right for _, right in checked)
    root = snapshot.root
    assert isinstance(root, Inner)
    bucket = path_to(root, b"key 77")[-1]
    assert isinstance(bucket, Bucket)
    at = bucket.keys.index(b"key 77")
    for what in ("values", "rows"):
        good = getattr(bucket, what)
        setattr(bucket, what, (*good[:at], good[at] + b"x", *good[at + 1 :]))
        assert b"key 77" in [key for key, right in snapshot.check() if not right]
        setattr(bucket, what, good)
    for node in (bucket, root):
        good_ref, node.ref = node.ref, bytes(len(node.ref))
        assert not all(right for _, right in snapshot.check())
        node.ref = good_ref
    assert all(right for _, right in snapshot.check())


async def test_rotten_memory_is_made_again_from_the_disk(tmp_path: Path) -> None:
    """The key is named, the process goes on, and its state is that of the others."""
    async with running(tmp_path, LITTLE) as cluster, Client.connect(cluster.config, name="alice") as client:
        await write(client, 0, 100)
        await level(cluster)
        node = cluster.nodes[2].node
        await node._scrubber.look()
        assert node._scrubber.rounds == 1 and not node.again.is_set()
        rot(node, b"key 42")
        await node._scrubber.look()
        said = await begin_anew(cluster, 2)
        assert "1 places" in said and "b'key 42'" in said
        await level(cluster)
        state = cluster.nodes[2].node._executor._executor._app_state
        assert state[b"key 42"] == bytes(2000) + b"42"


async def test_a_rotten_checkpoint_file_is_written_again(tmp_path: Path) -> None:
    """Before a restart needs it; file and place are told."""
    async with running(tmp_path, LITTLE) as cluster, Client.connect(cluster.config, name="alice") as client:
        await write(client, 0, 50)
        await level(cluster)
        file = await on_disk(cluster, 1)
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 8
        file.write_bytes(data)
        node = cluster.nodes[1].node
        await node._scrubber.look()
        [said] = node.status()["repairs"]  # type: ignore[misc]
        assert f"checkpoint file {file.name} is damaged at byte" in said
        await cluster.until(lambda: file.read_bytes() != bytes(data) if file.exists() else True)
        await trio.sleep(0.2)
        await node._scrubber.look()
        assert len(node.status()["repairs"]) == 1  # type: ignore[arg-type]
        await cluster.halt(1)
        await cluster.restart(1)
        await level(cluster)
        assert cluster.status(1)["incarnation"] == 0, "it had lost nothing"


async def test_a_rotten_log_is_told_and_replaced_by_a_checkpoint(tmp_path: Path) -> None:
    """It votes on, for all that binds is in its memory, and is written again above the rotten part."""
    async with running(tmp_path, LITTLE) as cluster, Client.connect(cluster.config, name="alice") as client:
        await write(client, 0, 50)
        await level(cluster)
        folder = cluster.config.data_directory(1)
        [log] = folder.glob("log-*")
        with log.open("r+b") as file:
            file.seek(5000)
            byte = file.read(1)
            file.seek(5000)
            file.write(bytes([byte[0] ^ 1]))
        node = cluster.nodes[1].node
        await node._scrubber.look()
        [said] = node.status()["repairs"]  # type: ignore[misc]
        assert f"log file {log.name} is damaged at byte" in said
        await cluster.until(lambda: bool(list(folder.glob("checkpoint-*[0-9]"))))
        await write(client, 60, 5)
        await level(cluster)
        assert not cluster.status(1)["halted"]
