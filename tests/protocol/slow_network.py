"""A cluster whose messages take time, on virtual time: what timers do on a slow network."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from cluster import Cluster

from pbft.config import is_client
from pbft.messages import Message, decode, encode
from pbft.protocol.suspicion import Conditions

_STEP = 0.02


class Slow:
    """Messages take `latency(body)` seconds; replicas tick every 20 ms and know the round trip of heartbeats."""

    def __init__(self, cluster: Cluster, latency: Callable[[bytes], float], round_trip: float = 0.0) -> None:
        self.cluster, self._latency, self._round_trip = cluster, latency, round_trip
        self._events: list[tuple[float, int, int, int, bytes]] = []
        self.view_changes = 0
        self.keep: Callable[[int, int, bytes], bool] = lambda sender, to, body: True

    def say(self, sender: int, to: int, message: Message) -> None:
        """Somebody says something now; it arrives later."""
        body = encode(message)
        when = self.cluster.now + self._latency(body)
        heapq.heappush(self._events, (when, len(self._events), sender, to, body))

    def run(self, seconds: float, act: Callable[[int], bool]) -> int:
        """So long, in steps of 20 ms; `act(step)` at each, true to end. Returns the number of steps."""
        for step in range(round(seconds / _STEP)):
            if act(step):
                return step
            before = self.cluster.view
            self._step(self.cluster.now + _STEP)
            self.view_changes += self.cluster.view > before
        return round(seconds / _STEP)

    def _step(self, end: float) -> None:
        c = self.cluster
        self._take_wire()
        while self._events and self._events[0][0] <= end:
            when, _, sender, to, body = heapq.heappop(self._events)
            self._set_time(max(c.now, when))
            if not c.members[to].down:
                c.members[to].host.receive(sender, body)
                c.members[to].flush()
            self._take_wire()
        self._set_time(end)
        for m in c.up:
            m.host.tick(Conditions(0.0, self._round_trip))
            m.flush()

    def _set_time(self, now: float) -> None:
        c = self.cluster
        c.wall += round((now - c.now) * 1e6)
        c.now = now
        for m in c.up:
            m.host.set_time(now, c.wall)

    def _take_wire(self) -> None:
        wire, self.cluster.wire = self.cluster.wire, []
        for sender, to, body in wire:
            if is_client(to):
                self.cluster.replies.append((sender, to, decode(body)))
            elif self.keep(sender, to, body):
                when = self.cluster.now + self._latency(body)
                heapq.heappush(self._events, (when, len(self._events), sender, to, body))
