"""A small world for transport tests: keys, handshakes, recording receivers, hubs over TCP or in memory."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, ClassVar

import pytest
import trio

from pbft.crypto import HandshakeConfig, Initiator, PrivateKey, PublicKey, Session, SigningIdentity
from pbft.transport import Address, Hub, Limits, Link, MemoryNetwork, framing

CLUSTER = b"transport tests"
CLIENT = 1 << 63

QUICK = Limits(heartbeat_interval=0.05, dead_after=0.4, dial_backoff_min=0.01, dial_backoff_max=0.1)


def key_of(principal: int) -> PrivateKey:
    return PrivateKey.from_seed(hashlib.sha256(b"transport test %d" % principal).digest())


def public_key_of(principal: int) -> PublicKey | None:
    """Replicas 0 to 6 and eight clients are known."""
    known = principal < 7 or CLIENT <= principal < CLIENT + 8
    return key_of(principal).public if known else None


def handshake_of(principal: int, process: int = 0, incarnation: int = 0) -> HandshakeConfig:
    """What `principal` brings to a handshake; `process` tells its processes apart."""
    return HandshakeConfig(
        cluster=CLUSTER,
        epoch=0,
        principal=principal,
        identity=SigningIdentity(key_of(principal), CLUSTER, principal, incarnation),
        instance=hashlib.sha256(b"%d %d" % (principal, process)).digest()[:16],
        lookup=public_key_of,
    )


class Recorder:
    """A receiver that remembers, and that a test can wait on. `on_body`: called for each message."""

    def __init__(self, on_body: Callable[[Link, bytes], None] | None = None) -> None:
        self.bodies: list[bytes] = []
        self.senders: list[int] = []
        self.ups: list[Link] = []
        self.downs: list[tuple[Link, str]] = []
        self.rekeyed: list[Link] = []
        self.sweeps = 0
        self.since_sweep_end = 0
        self._on_body = on_body
        self._changed = trio.Event()

    def on_message(self, link: Link, body: bytes) -> None:
        self.bodies.append(body)
        self.senders.append(link.principal)
        self.since_sweep_end += 1
        if self._on_body is not None:
            self._on_body(link, body)

    def on_link_up(self, link: Link) -> None:
        self.ups.append(link)

    def on_link_down(self, link: Link, reason: str) -> None:
        self.downs.append((link, reason))

    def on_link_rekeyed(self, link: Link) -> None:
        self.rekeyed.append(link)

    def on_sweep_end(self) -> None:
        self.sweeps += 1
        self.since_sweep_end = 0
        self._changed.set()

    async def until(self, condition: Callable[[], bool], seconds: float = 20.0) -> None:
        """Wait until `condition` holds, looking after each sweep and, for what no sweep tells, now and then."""
        with trio.fail_after(seconds):
            while not condition():
                self._changed = trio.Event()
                with trio.move_on_after(0.02):
                    await self._changed.wait()


class RawPeer:
    """A peer that makes a proper handshake and is then free to misbehave, byte by byte."""

    opened: ClassVar[list[trio.SocketStream]] = []

    def __init__(self, stream: trio.SocketStream, session: Session) -> None:
        self.opened.append(stream)
        self.stream = stream
        self.session = session
        self._received = b""

    @classmethod
    async def connect(cls, address: Address, principal: int, expected: int, process: int = 0) -> RawPeer:
        stream = await trio.open_tcp_stream(*address)
        initiator = Initiator(handshake_of(principal, process), expected)
        await stream.send_all(framing.plain_frame(framing.HANDSHAKE, initiator.hello()))
        received = b""
        while not isinstance(frame := framing.split_plain_frame(received), tuple):
            received += await stream.receive_some()
        third, session = initiator.receive(frame[1])
        await stream.send_all(framing.plain_frame(framing.HANDSHAKE, third))
        peer = cls(stream, session)
        peer._received = frame[2]
        return peer

    def sealed(self, kind: int, body: bytes) -> bytes:
        """The bytes of the next frame."""
        header = framing.pack_header(len(body) + framing.LENGTH_BEYOND, kind)
        return header + body + self.session.seal(header, body)

    async def send(self, kind: int, body: bytes) -> None:
        await self.stream.send_all(self.sealed(kind, body))

    async def receive(self) -> tuple[int, bytes, bytes]:
        """Kind, body and all bytes of the next frame; its tag is checked. EOFError at the end."""
        while len(self._received) < 4 or len(self._received) < 4 + int.from_bytes(self._received[:4], "big"):
            data = await self.stream.receive_some()
            if not data:
                raise EOFError
            self._received += data
        end = 4 + int.from_bytes(self._received[:4], "big")
        frame, self._received = self._received[:end], self._received[end:]
        header, body, tag = frame[:5], frame[5:-16], frame[-16:]
        assert self.session.open(header, body, tag)
        return header[4], body, frame

    async def until_closed(self) -> None:
        """Read until the hub closes the connection."""
        with trio.fail_after(20):
            try:
                while await self.stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                return


class World:
    """Starts and stops hubs of one kind, "tcp" or "memory"."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.network = MemoryNetwork() if kind == "memory" else None

    def make(self, principal: int, receiver: Any, process: int = 0, incarnation: int = 0, **options: Any) -> Any:
        handshake = handshake_of(principal, process, incarnation)
        options.setdefault("limits", QUICK)
        options.setdefault("rng", random.Random(principal))
        if self.network is not None:
            return self.network.hub(handshake, receiver, **options)
        return Hub(handshake, receiver, **options)

    @asynccontextmanager
    async def hub(self, principal: int, receiver: Any, **options: Any) -> AsyncIterator[Any]:
        """A running hub."""
        hub = self.make(principal, receiver, **options)
        async with trio.open_nursery() as nursery:
            await nursery.start(hub.run)
            try:
                yield hub
            finally:
                nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def pair(
        self, left: Any, right: Any, who: tuple[int, int] = (0, 1), limits: Limits = QUICK
    ) -> AsyncIterator[tuple[Any, Any]]:
        """Two hubs with a link that is up at both ends; the first one dials."""
        async with AsyncExitStack() as stack:
            second = await stack.enter_async_context(self.hub(who[1], right, listen=("127.0.0.1", 0), limits=limits))
            peers: dict[int, Address] = {who[1]: second.addresses[0]}
            first = await stack.enter_async_context(self.hub(who[0], left, peers=peers, limits=limits))
            await left.until(lambda: who[1] in first.connected())
            await right.until(lambda: who[0] in second.connected())
            yield first, second


@pytest.fixture(params=["tcp", "memory"])
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


@pytest.fixture
def tcp() -> World:
    return World("tcp")


@pytest.fixture
def memory() -> World:
    return World("memory")


@pytest.fixture
def recorder() -> type[Recorder]:
    return Recorder


@pytest.fixture
def handshakes() -> Callable[..., HandshakeConfig]:
    return handshake_of


@pytest.fixture
def quick() -> Limits:
    return QUICK


@pytest.fixture
async def raw_peer() -> AsyncIterator[type[RawPeer]]:
    RawPeer.opened = []
    yield RawPeer
    for stream in RawPeer.opened:
        await trio.aclose_forcefully(stream)
