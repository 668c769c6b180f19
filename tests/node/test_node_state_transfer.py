"""A real replica that was away for longer than the others retain what it missed. Rule 2.9, scenarios C01, C03."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from node_cluster import NodeCluster, running

from pbft.apps.kv import put
from pbft.client import Client

pytestmark = pytest.mark.slow

LITTLE = {"checkpoint_interval": 4, "log_window": 8, "retained_log_bytes": 1 << 12, "durable_checkpoint_bytes": 1 << 16}
VALUE = bytes(3000)


async def write(client: Client, first: int, count: int) -> None:
    for number in range(first, first + count):
        await client.invoke(put(b"key %d" % (number % 200), VALUE + b"%d" % number))


async def level(cluster: NodeCluster, replicas: tuple[int, ...]) -> None:
    """Until these have executed the same, and vote."""

    def same() -> bool:
        rows = [cluster.status(i) for i in replicas]
        return len({r["last_executed"] for r in rows}) == 1 and not any(r["recovering"] for r in rows)

    await cluster.until(same)


@pytest.mark.scenario("D09")
async def test_who_was_away_too_long_fetches_the_state_and_votes_again(tmp_path: Path) -> None:
    """On an idle cluster; its vote counts afterwards, and a restart finds what it fetched."""
    async with running(tmp_path, LITTLE) as cluster, Client.connect(cluster.config, name="alice") as client:
        await write(client, 0, 20)
        await level(cluster, (0, 1, 2, 3))
        await cluster.halt(3)
        await write(client, 20, 200)
        assert int(str(cluster.status(0)["retained_from"])) > 25
        await cluster.restart(3)
        await level(cluster, (0, 1, 2, 3))
        await cluster.halt(2)
        await write(client, 220, 10)  # only with its vote
        await level(cluster, (0, 1, 3))
        await cluster.halt(3)
        await cluster.restart(3)
        await level(cluster, (0, 1, 3))
        app = cluster.nodes[3].node
        assert (
            app.host.replica.checkpoints.stable_digest == cluster.nodes[0].node.host.replica.checkpoints.stable_digest
        )


async def test_a_state_is_fetched_while_the_others_go_on(tmp_path: Path) -> None:
    """Under load the state moves on before all of it is here; it arrives all the same."""
    async with running(tmp_path, LITTLE) as cluster, Client.connect(cluster.config, name="alice") as client:
        await cluster.halt(3)
        await write(client, 0, 150)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, client, 150, 10_000)
            await cluster.restart(3)
            await cluster.until(lambda: int(str(cluster.status(3)["last_executed"])) > 150)
            await cluster.until(lambda: not cluster.status(3)["recovering"])
            nursery.cancel_scope.cancel()
        await level(cluster, (0, 1, 2, 3))
