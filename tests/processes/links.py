"""A TCP proxy on every link between replicas, one rule per direction: delay, stop, throttle, break.

Replicas dial each other through the proxies (`--peer`); which of the two connections of a pair lives does not matter,
since each proxy knows which way its bytes go.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import trio

from pbft.config_file import ClusterConfig

_CHUNK = 1 << 14


@dataclass(slots=True)
class Rule:
    """What happens to bytes in one direction."""

    delay: float = 0.0
    stopped: bool = False
    """Bytes wait; connections stay. A one-way cut."""
    bytes_per_s: float = 0.0
    """0: as fast as they come."""


class Links:
    """Proxies of a cluster on this machine."""

    def __init__(self, config: ClusterConfig, base_port: int) -> None:
        n = len(config.replicas)
        self._config = config
        self._ports = {pair: base_port + k for k, pair in enumerate(itertools.permutations(range(n), 2))}
        self.rules = {pair: Rule() for pair in self._ports}
        self.refusing = False
        """No connection is let through, and those that are made end at once."""
        self._open: set[trio.SocketStream] = set()

    @property
    def peers(self) -> dict[tuple[int, int], str]:
        """(who dials, whom) -> address of the proxy between them."""
        return {pair: f"127.0.0.1:{port}" for pair, port in self._ports.items()}

    def isolate(self, replica: int, *, outgoing: bool = True, incoming: bool = True) -> None:
        """Stop the bytes of one replica, in one direction or both."""
        for (a, b), rule in self.rules.items():
            rule.stopped |= (outgoing and a == replica) or (incoming and b == replica)

    def heal(self) -> None:
        """Everything passes again."""
        self.refusing = False
        for pair in self.rules:
            self.rules[pair].delay, self.rules[pair].stopped, self.rules[pair].bytes_per_s = 0.0, False, 0.0

    async def break_all(self) -> None:
        """Every connection ends."""
        for stream in list(self._open):
            await trio.aclose_forcefully(stream)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            for pair, port in self._ports.items():
                listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
                nursery.start_soon(self._serve, pair, listeners)
            task_status.started()

    async def _serve(self, pair: tuple[int, int], listeners: list[trio.SocketListener]) -> None:
        async def accepted(near: trio.SocketStream) -> None:
            address = self._config.replicas[pair[1]].address
            try:
                if self.refusing:
                    return
                far = await trio.open_tcp_stream(address.host, address.port)
            except OSError:
                return
            self._open |= {near, far}
            try:
                async with near, far, trio.open_nursery() as nursery:
                    nursery.start_soon(self._pump, near, far, pair, nursery.cancel_scope)
                    nursery.start_soon(self._pump, far, near, (pair[1], pair[0]), nursery.cancel_scope)
            finally:
                self._open -= {near, far}

        await trio.serve_listeners(accepted, listeners)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, way: tuple[int, int], scope: trio.CancelScope
    ) -> None:
        rule = self.rules[way]
        try:
            while data := await source.receive_some(_CHUNK):
                while rule.stopped:
                    await trio.sleep(0.02)
                if rule.delay:
                    await trio.sleep(rule.delay)
                if rule.bytes_per_s:
                    await trio.sleep(len(data) / rule.bytes_per_s)
                await sink.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()
