"""Four real replicas in one process: sockets, disks and threads of their own, one trio loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio
from campaign import free_ports

from pbft.authentication import signer
from pbft.cli.applications import application_of
from pbft.config_file import ClusterConfig, write_cluster
from pbft.crypto import SigningIdentity, read_private_key
from pbft.node import Node
from pbft.startup import start_replica


@dataclass
class Running:
    """A node and the scope that stops it."""

    node: Node
    scope: trio.CancelScope
    stopped: trio.Event

    async def stop(self) -> None:
        """As a process that ends: its links fall; it is closed when the cluster is."""
        self.scope.cancel()
        await self.stopped.wait()


@dataclass
class NodeCluster:
    """A written cluster and its running nodes, by id."""

    config: ClusterConfig
    nodes: dict[int, Running]
    nursery: trio.Nursery

    def begin(self, me: int) -> None:
        """Run a node."""
        found = self.nodes[me] = Running(_node(self.config, me), trio.CancelScope(), trio.Event())

        async def run() -> None:
            with found.scope:
                await found.node.run(self.config.replicas[me].admin)
            found.stopped.set()

        self.nursery.start_soon(run)

    async def halt(self, me: int) -> None:
        """Stop a node so that it can be started again."""
        await self.nodes[me].stop()
        self.nodes[me].node.close()

    async def restart(self, me: int) -> None:
        """From what its disk holds."""
        self.begin(me)
        wanted = self.config.group.quorums.strong - 1
        await self.until(lambda: int(str(self.status(me)["connected_peers"])) >= wanted)

    async def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait until `condition` holds."""
        with trio.fail_after(seconds):
            while not condition():
                await trio.sleep(0.01)

    def status(self, replica: int) -> dict[str, object]:
        """What it says of itself."""
        return self.nodes[replica].node.status()


def _node(config: ClusterConfig, me: int) -> Node:
    made: list[Node] = []
    key = read_private_key(config.replica_key_path(me))
    started = start_replica(
        config.group,
        me,
        application_of(config),
        lambda incarnation: signer(SigningIdentity(key, config.group.cluster, me, incarnation)),
        bytes([me]) * 16,
        data=config.data_directory(me),
        token=config.token_path(me),
        volatile=False,
        on_durable=lambda position: made[0].on_durable(position) if made else None,
        on_disk_error=lambda error: made[0].on_disk_error(error) if made else None,
    )
    made.append(
        Node(
            config,
            me,
            key,
            started,
            listen=config.replicas[me].address,
            peers={r.id: r.address for r in config.replicas},
            volatile=False,
            misbehaviour=None,
            token=trio.lowlevel.current_trio_token(),
        )
    )
    return made[0]


@asynccontextmanager
async def running(folder: Path, tunables: Mapping[str, int] | None = None) -> AsyncIterator[NodeCluster]:
    """Four nodes with a key-value store that have found each other; their data is in `folder`."""
    config = write_cluster(folder / "c", app="kv", base_port=free_ports(8), clients=("alice", "bob"), tunables=tunables)
    nodes: dict[int, Running] = {}
    try:
        async with trio.open_nursery() as nursery:
            cluster = NodeCluster(config, nodes, nursery)
            for me in range(4):
                cluster.begin(me)
            await cluster.until(lambda: all(cluster.status(i)["connected_peers"] == 3 for i in range(4)))
            yield cluster
            nursery.cancel_scope.cancel()
    finally:
        complete = [found.node.close() for found in nodes.values()]
    assert all(complete), "what was logged is on disk"
