"""Replicas that agree by magic, behind real hubs of a memory network: what a client's shell is tested against."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import trio
from client_world import ALICE, CLUSTER, PRINCIPAL, done, group_of, replica_key

from pbft.batch import Answer, ClientRequest, Kind, encode_answer, result_digest
from pbft.client import Client
from pbft.crypto import HandshakeConfig, PublicKey, SigningIdentity
from pbft.messages import Reply, Request, decode, encode
from pbft.transport import Limits, Link, MemoryNetwork

QUICK = Limits(heartbeat_interval=0.05, dead_after=0.4, dial_backoff_min=0.01, dial_backoff_max=0.1)


class Replica:
    """Receives requests, has its cluster execute them, replies; `lies`: changes what it replies."""

    def __init__(self, cluster: Cluster, number: int) -> None:
        self.cluster = cluster
        self.number = number
        self.lies: Callable[[bytes], bytes] | None = None
        self.is_mute = False
        self.hub: Any = None
        self.scope: trio.CancelScope | None = None

    def on_message(self, link: Link, body: bytes) -> None:
        message = decode(body)
        assert type(message) is Request
        self.cluster.take(self, ClientRequest(message.body, message.authenticator))

    def reply(self, request: ClientRequest, result: bytes) -> None:
        if self.scope is None or self.is_mute:
            return
        if self.lies is not None:
            result = self.lies(result)
        full = result if request.is_signed or request.replier == self.number else b""
        row = (request.id, False, result_digest(result), full)
        self.hub.send(request.client, encode(Reply(0, request.session, (row,))))
        self.hub.flush()

    def on_link_up(self, link: Link) -> None:
        pass

    def on_link_down(self, link: Link, reason: str) -> None:
        pass

    def on_sweep_end(self) -> None:
        pass


@dataclass
class Cluster:
    """Four replicas on a memory network; `executed` holds every operation in order, once per execution."""

    network: MemoryNetwork
    nursery: trio.Nursery
    n: int = 4
    executed: list[bytes] = field(default_factory=list)
    requests: int = 0
    results: dict[bytes, bytes] = field(default_factory=dict)
    stalled: bool = False

    def __post_init__(self) -> None:
        self.group = group_of(self.n)
        self.replicas = [Replica(self, i) for i in range(self.n)]
        self.config: Any = SimpleNamespace(
            path=Path("cluster.toml"),
            group=self.group,
            replicas=[
                SimpleNamespace(id=i, address=SimpleNamespace(host="replica", port=7000 + i)) for i in range(self.n)
            ],
            clients=[SimpleNamespace(name="alice", key=ALICE.public, principal=PRINCIPAL)],
        )

    def take(self, replica: Replica, request: ClientRequest) -> None:
        if self.stalled:
            return
        if request.digest not in self.results:
            self.requests += 1
            self.executed += request.operations
            self.results[request.digest] = (
                encode_answer(Answer.OPENED, 1 << 16) if request.kind is Kind.OPEN else done(request)
            )
        answering = [replica] if request.is_signed else self.replicas
        for other in answering:
            other.reply(request, self.results[request.digest])

    async def start(self, number: int, incarnation: int = 0) -> None:
        """Start a replica's process."""
        keys = {i: PublicKey(raw) for i, raw in enumerate(self.group.replicas)} | {PRINCIPAL: ALICE.public}
        handshake = HandshakeConfig(
            cluster=CLUSTER,
            epoch=0,
            principal=number,
            identity=SigningIdentity(replica_key(number), CLUSTER, number, incarnation),
            instance=bytes((number, incarnation)) * 8,
            lookup=keys.get,
        )
        replica = self.replicas[number]
        replica.hub = self.network.hub(handshake, replica, listen=("replica", 7000 + number), limits=QUICK)
        replica.scope = trio.CancelScope()

        async def run(*, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
            assert replica.scope is not None
            with replica.scope:
                await replica.hub.run(task_status=task_status)

        await self.nursery.start(run)

    def stop(self, number: int) -> None:
        """Kill a replica's process; its links fall."""
        scope = self.replicas[number].scope
        assert scope is not None
        scope.cancel()
        self.replicas[number].scope = None

    def client(self, **options: Any) -> Any:
        """`Client.connect` on this network."""
        return Client.connect(self.config, key=ALICE, make_hub=self.make_hub, **options)

    def make_hub(self, handshake: HandshakeConfig, receiver: Any, **options: Any) -> Any:
        options["limits"] = QUICK
        return self.network.hub(handshake, receiver, **options)


@asynccontextmanager
async def running_cluster(up: int = 4) -> AsyncIterator[Cluster]:
    """A cluster with its first `up` replicas running."""
    async with trio.open_nursery() as nursery:
        cluster = Cluster(MemoryNetwork(), nursery)
        for number in range(up):
            await cluster.start(number)
        try:
            yield cluster
        finally:
            nursery.cancel_scope.cancel()
