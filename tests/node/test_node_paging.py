"""Nodes whose state is larger than the memory that it may take."""

from __future__ import annotations

from pathlib import Path

import pytest
from node_cluster import NodeCluster, running

from pbft.apps.kv import get, put
from pbft.client import Client

pytestmark = pytest.mark.slow

LITTLE = {"checkpoint_interval": 8, "log_window": 16, "state_memory": 1, "retained_log_bytes": 1 << 14}


def used(cluster: NodeCluster) -> list[int]:
    """Bytes of content in memory, of each node."""
    return [found.node._started.pages.used for found in cluster.nodes.values()]  # type: ignore[union-attr]


async def write(client: Client, first: int, count: int) -> None:
    for number in range(first, first + count):
        await client.invoke(put(b"key %d" % number, b"%06d" % number * 2000))


@pytest.mark.scenario("C14")
async def test_it_is_served_kept_restored_and_fetched(tmp_path: Path) -> None:
    """Five times as much as may stay in memory: read, written to disk, read again after a restart, and brought to a
    replica that has missed most of it."""
    async with running(tmp_path, LITTLE) as cluster, Client.connect(cluster.config, name="alice") as client:
        await write(client, 0, 200)
        await cluster.halt(3)
        await write(client, 200, 250)
        assert max(used(cluster)[:3]) <= 1 << 20
        await cluster.restart(3)
        await cluster.until(lambda: cluster.status(3)["last_executed"] == cluster.status(0)["last_executed"])
        await cluster.halt(0)
        await write(client, 450, 20)  # only with its vote
        for number in (0, 199, 200, 449, 469):
            assert await client.query(get(b"key %d" % number)) == b"\x01" + b"%06d" % number * 2000
        await cluster.restart(0)
        await cluster.until(lambda: len({cluster.status(i)["last_executed"] for i in range(4)}) == 1)
        assert max(used(cluster)) <= 1 << 20
        assert len({cluster.status(i)["stable_digest"] for i in range(4)}) == 1
        assert not any((cluster.config.data_directory(i) / "pages").exists() for i in range(4))
