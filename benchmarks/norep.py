"""NO-REP: the same application behind the same transport, codec and client proxy, on one server without agreement.

What it leaves out is what replication costs; so it also keeps no log and no sessions. [CL99 §7.1]
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import trio

from pbft.admin import serve_status
from pbft.application import Application
from pbft.authentication import KeyAuthentication
from pbft.batch import Answer, ClientRequest, Kind, encode_answer, encode_done, result_digest
from pbft.cli.applications import application_of
from pbft.codec import CodecError
from pbft.config import Group, Quorums
from pbft.config_file import ClusterConfig
from pbft.crypto import MAC_SIZE, HandshakeConfig, PublicKey, Session, SigningIdentity, read_private_key
from pbft.execution.operations import Operations
from pbft.messages import Reply, Request, decode, encode
from pbft.state import State
from pbft.transport import Hub, Link


class SingleServer(Group):
    """A group of one: a client believes the only reply there is."""

    @property
    def quorums(self) -> Quorums:
        """n = q = 1, f = 0; no such group can be configured."""
        quorums = object.__new__(Quorums)
        for name, value in {"n": 1, "f": 0, "strong": 1, "weak": 1, "vouching_prepares": 0}.items():
            object.__setattr__(quorums, name, value)
        return quorums


def single_server(config: ClusterConfig) -> ClusterConfig:
    """The configuration of NO-REP: replica 0 of a cluster, alone."""
    group = config.group
    single = SingleServer(group.cluster, group.app, group.replicas[:1], group.clients, group.tunables, group.epoch)
    return ClusterConfig(config.path, config.name, single, config.replicas[:1], config.clients)


def without_macs() -> None:
    """Make this process seal nothing and check nothing: the system `norep` of the tables. Never used by a replica."""
    empty = bytes(MAC_SIZE)
    Session.seal = lambda self, header, body: empty  # type: ignore[method-assign]
    Session.open = lambda self, header, body, tag: True  # type: ignore[method-assign]


class Server:
    """Executes what arrives, in order of arrival."""

    def __init__(self, config: ClusterConfig, application: type[Application], macs: bool) -> None:
        group = config.group
        self._macs = macs
        self._group = group
        self._authentication = KeyAuthentication(group, 0)
        state = State()
        self._operations = Operations(application(state), state, group.tunables.result_max_bytes)
        self._number = 0
        key = read_private_key(config.replica_key_path(0))
        clients = {principal: PublicKey(raw) for principal, raw in group.clients.items()}
        handshake = HandshakeConfig(
            cluster=group.cluster,
            epoch=group.epoch,
            principal=0,
            identity=SigningIdentity(key, group.cluster, 0, 0),
            instance=os.urandom(16),
            lookup=clients.get,
        )
        address = config.replicas[0].address
        self.hub = Hub(handshake, self, listen=(address.host, address.port), peers={})

    def on_message(self, link: Link, body: bytes) -> None:
        """One REQUEST; its reply leaves at the end of the sweep."""
        try:
            message = decode(body)
            if not isinstance(message, Request):
                return
            request = ClientRequest(message.body, message.authenticator)
        except CodecError:
            return
        if self._macs and not self._authentication.request_is_authentic(request):
            return
        self._number += 1
        if request.kind is Kind.OPEN:
            result = encode_answer(Answer.OPENED, self._number << 16)
        else:
            run = self._operations.query if request.kind is Kind.QUERIES else self._operations.execute
            now = time.time_ns() // 1000
            result = encode_done(run(request.operations, self._number, 0, request.client, now, b""))
        row = (request.id, False, result_digest(result), result)
        link.send(encode(Reply(0, request.session, (row,))))

    def on_link_up(self, link: Link) -> None:
        """Take the client's key."""
        self._authentication.now = time.monotonic()
        self._authentication.add_key(link.principal, link.session.newest_authenticator_key)

    def on_link_down(self, link: Link, reason: str) -> None:
        """Nothing is kept."""

    def on_sweep_end(self) -> None:
        """Nothing is left to do: replies are queued already."""

    def status(self) -> Mapping[str, object]:
        """As much of a replica's status as the benchmark asks for."""
        return {"id": 0, "reachable": True, "connected_peers": 0, "cpu_s": round(time.process_time(), 4)}


async def serve(config: ClusterConfig, macs: bool) -> None:
    """Run until SIGTERM."""
    application = application_of(config)
    server = Server(config, application, macs)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.hub.run)
            admin = config.replicas[0].admin
            await nursery.start(serve_status, admin.host, admin.port, server.status)
            async for _ in signals:
                nursery.cancel_scope.cancel()


def main() -> int:
    """`python -m pbft.benchmarks.norep CLUSTER.toml [--no-macs]`"""
    parser = argparse.ArgumentParser()
    parser.add_argument("cluster", type=Path)
    parser.add_argument("--no-macs", action="store_true")
    args = parser.parse_args()
    if args.no_macs:
        without_macs()
    trio.run(serve, single_server(ClusterConfig.load(args.cluster)), not args.no_macs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
