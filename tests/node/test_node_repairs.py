"""A replica whose state went another way than the others': found at a checkpoint, mended with what differs alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from node_cluster import NodeCluster, running

from pbft.apps.kv import put
from pbft.client import Client
from pbft.transfer import Fetched

pytestmark = pytest.mark.slow

LITTLE = {"checkpoint_interval": 4, "log_window": 8}


async def write(client: Client, first: int, count: int) -> None:
    for number in range(first, first + count):
        await client.invoke(put(b"key %d" % number, bytes(2000) + b"%d" % number))


def flip(cluster: NodeCluster, replica: int, key: bytes, value: bytes | None) -> None:
    """Something changes in the memory of a replica that no operation has changed."""
    state = cluster.nodes[replica].node._executor._executor._app_state
    if value is None:
        del state[key]
    else:
        state[key] = value


async def level(cluster: NodeCluster, replicas: tuple[int, ...] = (0, 1, 2, 3)) -> None:
    """Until these have executed the same, and vote."""

    def same() -> bool:
        rows = [cluster.status(i) for i in replicas]
        return len({r["last_executed"] for r in rows}) == 1 and not any(r["recovering"] for r in rows)

    await cluster.until(same)


async def begin_anew(cluster: NodeCluster, replica: int) -> str:
    """What its process does when the node says so; the sentence about what was mended."""
    node = cluster.nodes[replica].node
    with trio.fail_after(20):
        await node.again.wait()
    [said] = node.status()["repairs"]  # type: ignore[misc]
    await cluster.halt(replica)
    await cluster.restart(replica)
    return str(said)


@pytest.mark.scenario("C17")
async def test_a_key_that_changed_in_memory_is_mended_and_named(tmp_path: Path) -> None:
    """The others go on meanwhile; afterwards its vote counts, and its state is theirs."""
    async with running(tmp_path, LITTLE) as cluster, Client.connect(cluster.config, name="alice") as client:
        await write(client, 0, 200)
        await level(cluster)
        flip(cluster, 3, b"key 77", b"another")
        flip(cluster, 3, b"key 78", None)
        flip(cluster, 3, b"odd", b"new")
        await write(client, 300, 4)  # one checkpoint: a repair by a later state names more
        said = await begin_anew(cluster, 3)
        assert "3 keys differed" in said
        for name in ("b'key 77' (another value)", "b'key 78' (missing)", "b'odd' (not theirs)"):
            assert name in said
        await level(cluster)
        await cluster.halt(2)
        await write(client, 400, 9)  # only with its vote
        await level(cluster, (0, 1, 3))
        digests = {cluster.status(i)["stable_digest"] for i in (0, 1, 3)}
        assert len(digests) == 1 and not cluster.status(3)["halted"]


async def test_it_is_named_too_when_the_others_keep_only_a_later_state(tmp_path: Path) -> None:
    """Beside what has changed since, and it is said that this is so."""
    async with running(tmp_path, LITTLE) as cluster, Client.connect(cluster.config, name="alice") as client:
        await write(client, 0, 20)
        await level(cluster)
        flip(cluster, 3, b"key 7", b"another")
        transfer = cluster.nodes[3].node.host.transfer
        asks, transfer.on_tick = transfer.on_tick, lambda *args: None  # type: ignore[method-assign]
        await write(client, 30, 4)
        await cluster.until(lambda: bool(cluster.nodes[3].node.host.replica.core.diverged))
        wrong = int(str(cluster.status(3)["last_executed"])) // 4 * 4
        await write(client, 40, 16)
        transfer.on_tick = asks  # type: ignore[method-assign]
        said = await begin_anew(cluster, 3)
        assert f"state {wrong} was not the one that a quorum signed" in said and "b'key 7' (another value)" in said
        assert "since they changed in between" in said and "b'key 40' (missing)" in said
        await level(cluster)


async def test_only_what_differs_is_fetched(tmp_path: Path) -> None:
    """One key of four hundred thousand bytes."""
    async with running(tmp_path, LITTLE) as cluster, Client.connect(cluster.config, name="alice") as client:
        await write(client, 0, 200)
        await level(cluster)
        flip(cluster, 1, b"key 5", b"another")
        node = cluster.nodes[1].node
        fetched: list[int] = []
        install = node._installer.install

        def look(state: Fetched) -> None:
            assert node.host.transfer.progress is not None
            fetched.append(node.host.transfer.progress.bytes)
            install(state)

        node._installer.install = look  # type: ignore[method-assign]
        await write(client, 300, 5)
        assert "1 key differed" in await begin_anew(cluster, 1)
        await level(cluster)
        assert len(fetched) == 1 and 0 < fetched[0] < 60_000


async def test_it_votes_for_nothing_while_its_state_is_wrong(tmp_path: Path) -> None:
    """Nor does it give its state to others, or put it on its disk."""
    async with running(tmp_path, LITTLE) as cluster, Client.connect(cluster.config, name="alice") as client:
        await write(client, 0, 20)
        await level(cluster)
        flip(cluster, 3, b"key 7", b"another")
        node = cluster.nodes[3].node
        node._installer.install = lambda fetched: None  # type: ignore[method-assign]
        await write(client, 30, 12)
        await cluster.until(lambda: bool(node.host.replica.core.diverged))
        executed = cluster.status(3)["last_executed"]
        await write(client, 50, 12)
        assert cluster.status(3)["last_executed"] == executed and cluster.status(3)["recovering"]
        assert "differs from the one that a quorum signed" in str(cluster.status(3)["halted"])
        assert node.host._kept(int(str(executed)) // 4 * 4) is None
        node._checkpoints.write_soon()
        await trio.sleep(0.1)
        assert not list(cluster.config.data_directory(3).glob("checkpoint-*"))
        await cluster.halt(3)
        await cluster.restart(3)
        await level(cluster)
        assert not cluster.status(3)["halted"]
