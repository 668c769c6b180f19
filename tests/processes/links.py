"""A TCP proxy on every link, one rule per direction: delay, loss, stop, throttle, break.

Replicas dial each other through the proxies (`--peer`); which of the two connections of a pair lives does not matter,
since each proxy knows which way its bytes go. A client dials through proxies of its own (`clients=True`).
"""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from pbft.config_file import ClusterConfig

CLIENT = -1
"""In place of a replica's number: any client."""

_CHUNK = 1 << 14
_UNDER_WAY = 1 << 23
"""Bytes of one direction that are on their way at most; then the sender waits."""

_SEGMENT = 1448
_RETRANSMISSION_MIN = 0.2
"""Seconds: TCP notices a loss no sooner than this and a round trip; what follows on the same connection waits."""

Way = tuple[int, int]


@dataclass(slots=True)
class Rule:
    """What happens to bytes in one direction."""

    delay: float = 0.0
    """Seconds on the way; bytes follow each other as fast as they were sent."""
    loss: float = 0.0
    """Probability that a segment is lost, as its receiver sees it: everything from there on comes later by a
    retransmission."""
    stopped: bool = False
    """Bytes wait; connections stay. A one-way cut."""
    bytes_per_s: float = 0.0
    """0: as fast as they come."""


class Links:
    """Proxies of a cluster on this machine."""

    def __init__(self, config: ClusterConfig, base_port: int, clients: bool = False, seed: int = 1) -> None:
        n = len(config.replicas)
        ways = [*itertools.permutations(range(n), 2), *((CLIENT, i) for i in range(n) if clients)]
        self._config = config
        self._random = random.Random(seed)
        self._ports = {way: base_port + k for k, way in enumerate(ways)}
        self.rules: dict[Way, Rule] = {}
        for a, b in ways:
            self.rules[a, b], self.rules[b, a] = Rule(), Rule()
        self.refusing = False
        """No connection is let through, and those that are made end at once."""
        self.held_back = 0
        """Chunks that a loss has delayed."""
        self._open: set[trio.SocketStream] = set()

    @property
    def peers(self) -> dict[Way, str]:
        """(who dials, whom) -> address of the proxy between them."""
        return {way: f"127.0.0.1:{port}" for way, port in self._ports.items() if way[0] != CLIENT}

    @property
    def client_addresses(self) -> dict[int, tuple[str, int]]:
        """Replica -> where a client reaches it, for `Client.connect`."""
        return {way[1]: ("127.0.0.1", port) for way, port in self._ports.items() if way[0] == CLIENT}

    def everywhere(self, delay: float, loss: float) -> None:
        """The same on all links."""
        for rule in self.rules.values():
            rule.delay, rule.loss = delay, loss

    def isolate(self, replica: int, *, outgoing: bool = True, incoming: bool = True) -> None:
        """Stop the bytes of one replica, in one direction or both."""
        for (a, b), rule in self.rules.items():
            rule.stopped |= (outgoing and a == replica) or (incoming and b == replica)

    def split(self, group: set[int]) -> None:
        """Stop the bytes between this group and the other replicas; clients reach everybody."""
        for (a, b), rule in self.rules.items():
            rule.stopped |= CLIENT not in (a, b) and (a in group) != (b in group)

    def heal(self) -> None:
        """Everything passes again."""
        self.refusing = False
        for way in self.rules:
            self.rules[way].delay = self.rules[way].loss = self.rules[way].bytes_per_s = 0.0
            self.rules[way].stopped = False

    async def break_all(self) -> None:
        """Every connection ends."""
        for stream in list(self._open):
            await trio.aclose_forcefully(stream)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            for way, port in self._ports.items():
                listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
                nursery.start_soon(self._serve, way, listeners)
            task_status.started()

    async def _serve(self, way: Way, listeners: list[trio.SocketListener]) -> None:
        async def accepted(near: trio.SocketStream) -> None:
            address = self._config.replicas[way[1]].address
            try:
                if self.refusing:
                    return
                far = await trio.open_tcp_stream(address.host, address.port)
            except OSError:
                return
            self._open |= {near, far}
            try:
                async with near, far, trio.open_nursery() as nursery:
                    for source, sink, pair in ((near, far, way), (far, near, way[::-1])):
                        pump = _Pump(self, source, sink, self.rules[pair], self._random)
                        nursery.start_soon(pump.run, nursery.cancel_scope)
            finally:
                self._open -= {near, far}

        await trio.serve_listeners(accepted, listeners)


class _Pump:
    """One direction of one connection: what is read leaves when it is due, in order."""

    def __init__(
        self, links: Links, source: trio.SocketStream, sink: trio.SocketStream, rule: Rule, rng: random.Random
    ) -> None:
        self._links, self._source, self._sink, self._rule, self._random = links, source, sink, rule, rng
        self._waiting: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._last_due = 0.0
        self._changed = trio.Event()

    async def run(self, connection: trio.CancelScope) -> None:
        """Until one side has closed; then the whole connection is over."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self._write()
            connection.cancel()

    async def _read(self) -> None:
        try:
            while data := await self._source.receive_some(_CHUNK):
                self._put(data)
                while self._bytes > _UNDER_WAY:
                    await trio.sleep(0.005)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self._put(b"")

    def _put(self, data: bytes) -> None:
        rule = self._rule
        due = trio.current_time() + rule.delay
        segments = -(-len(data) // _SEGMENT)
        if rule.loss and self._random.random() > (1 - rule.loss) ** segments:
            due += _RETRANSMISSION_MIN + 2 * rule.delay
            self._links.held_back += 1
        self._last_due = max(self._last_due, due)
        self._waiting.append((self._last_due, data))
        self._bytes += len(data)
        self._changed.set()

    async def _write(self) -> None:
        while True:
            while not self._waiting:
                self._changed = trio.Event()
                await self._changed.wait()
            due, data = self._waiting.popleft()
            await trio.sleep_until(due)
            if not data:
                return
            while self._rule.stopped:
                await trio.sleep(0.02)
            if self._rule.bytes_per_s:
                await trio.sleep(len(data) / self._rule.bytes_per_s)
            await self._sink.send_all(data)
            self._bytes -= len(data)


@asynccontextmanager
async def proxied(links: Links) -> AsyncIterator[None]:
    """The proxies serve while the block runs."""
    async with trio.open_nursery() as nursery:
        await nursery.start(links.run)
        yield
        nursery.cancel_scope.cancel()
