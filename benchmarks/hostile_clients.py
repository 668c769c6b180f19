"""Configured clients that attack, as a process of their own: floods, garbage, partial authenticators.

Their operations only read, so that they do not change what the load is told.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
from pathlib import Path

import trio

from pbft.apps.counter import get
from pbft.batch import Answer, AuthKind, decode_result, open_body, operations_body, signature_body
from pbft.benchmarks.partial_macs import convinced, useless
from pbft.client.configuration import Identity, load_identity
from pbft.codec import CodecError
from pbft.config_file import ClusterConfig
from pbft.crypto import AuthenticatorKey, digest, make_authenticator
from pbft.messages import Reply, Request, decode, encode
from pbft.transport import Hub, Link

KINDS = ("flood", "garbage", "partial")
_BURST = 64
"""Requests that a flooding client sends before it lets others act."""
_PARTIAL_PAUSE = 0.01
"""Seconds between two partial authenticators of one client: they are to be ordered among the load, not to flood."""
_OPEN_PAUSE = 0.25
_KNOWN_IDS = 32
"""A request says that results of ids further back are no longer needed."""


class HostileClient:
    """One client with its own key. `pbft.transport.Receiver`."""

    def __init__(self, identity: Identity, kind: str) -> None:
        self._identity, self._group, self._kind = identity, identity.group, kind
        self._robust = bool(identity.group.tunables.signed_requests)
        self._views = [0] * self._group.quorums.n
        self._session = self._count = self._last_id = 0
        self._keys: dict[int, AuthenticatorKey] = {}
        self._hub = Hub(
            identity.handshake(), self, peers=identity.addresses, limits=identity.limits(), rng=random.Random()
        )
        self.sent = 0

    # ---- pbft.transport.Receiver

    def on_message(self, link: Link, body: bytes) -> None:
        """Only its session and the view are of interest."""
        try:
            message = decode(body)
            if not isinstance(message, Reply):
                return
            self._views[link.principal] = message.view
            if message.session or self._session:
                return
            for _, _, _, result in message.rows:
                answer, value = decode_result(result) if result else (Answer.DONE, 0)
                if answer is Answer.OPENED and isinstance(value, int):
                    self._session = value
                elif answer is Answer.OPEN_STALE and isinstance(value, int):
                    self._count = value
        except CodecError:
            return

    def on_link_up(self, link: Link) -> None:
        """A replica can be reached."""
        self._keys[link.principal] = link.session.authenticator_key

    def on_link_down(self, link: Link, reason: str) -> None:
        """The hub dials again."""
        self._keys.pop(link.principal, None)

    def on_sweep_end(self) -> None:
        """Nothing: it sends when it likes."""

    # ---- what it does

    async def run(self) -> None:
        """Attack until cancelled."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._hub.run)
            while not self._session:
                body = open_body(self._identity.principal, random.getrandbits(63), self._count)
                self._to_all(body, self._signed(body))
                self._hub.flush()
                await trio.sleep(_OPEN_PAUSE)
            while True:
                burst = 1 if self._kind == "partial" else _BURST
                for _ in range(burst):
                    self._attack()
                self._hub.flush()
                await trio.sleep(_PARTIAL_PAUSE if self._kind == "partial" else 0.0)

    def _attack(self) -> None:
        self._last_id += 1
        self.sent += 1
        floor = max(0, self._last_id - _KNOWN_IDS)
        body = operations_body(self._identity.principal, self._session, self._last_id, floor, 255, [get()])
        if self._kind == "garbage":
            # A MAC or a signature that does not verify, to everybody: each must look at it.
            by_macs = not self._robust and self._last_id % 2
            forged = self._macs(body, 0) if by_macs else bytes((AuthKind.SIGNATURE,)) + os.urandom(64)
            self._to_all(body, forged)
        elif self._kind == "partial":
            self._send(self._primary, body, self._macs(body, 1))
        elif self._robust:
            self._to_all(body, self._signed(body))
        else:
            self._send(self._primary, body, self._macs(body, self._group.quorums.n))

    @property
    def _primary(self) -> int:
        quorums = self._group.quorums
        return quorums.primary(sorted(self._views, reverse=True)[quorums.weak - 1])

    def _macs(self, body: bytes, count: int) -> bytes:
        quorums = self._group.quorums
        told = convinced(self._primary, count, quorums)
        keys = [self._keys.get(i) for i in range(quorums.n)]
        bent = [key if key is None or i in told else useless(key) for i, key in enumerate(keys)]
        return bytes((AuthKind.MACS,)) + make_authenticator(bent, digest(b"request", body))

    def _signed(self, body: bytes) -> bytes:
        group = self._group
        text = signature_body(group.cluster, group.epoch, digest(b"request", body))
        return bytes((AuthKind.SIGNATURE,)) + self._identity.key.sign(text)

    def _to_all(self, body: bytes, authenticator: bytes) -> None:
        for replica in range(self._group.quorums.n):
            self._send(replica, body, authenticator)

    def _send(self, replica: int, body: bytes, authenticator: bytes) -> None:
        self._hub.send(replica, encode(Request(body, authenticator)))


async def attack(config: ClusterConfig, names: list[str], kind: str) -> None:
    """All of them, until cancelled."""
    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(HostileClient(load_identity(config, name), kind).run)


def main() -> int:
    """Attack until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cluster", type=Path)
    parser.add_argument("--clients", required=True, help="names, comma-separated")
    parser.add_argument("--kind", choices=KINDS, required=True)
    args = parser.parse_args()
    trio.run(attack, ClusterConfig.load(args.cluster), args.clients.split(","), args.kind)
    return 0


if __name__ == "__main__":
    sys.exit(main())
