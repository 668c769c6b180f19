"""One process on a `MemoryNetwork`: its links and its hub."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import trio

from pbft.crypto import HandshakeConfig, Session
from pbft.transport.errors import TransportError
from pbft.transport.interface import Address, Link, Receiver, is_client
from pbft.transport.limits import Limits
from pbft.transport.queues import SendQueue
from pbft.transport.registry import Registry
from pbft.transport.statistics import HubStatistics, LinkStatistics, Tally

if TYPE_CHECKING:
    from pbft.transport.memory import MemoryNetwork


class MemoryLink:
    """See interface.Link. One end; `other` is the opposite end."""

    __slots__ = (
        "_bulk",
        "_control",
        "created_at",
        "dialed",
        "hub",
        "incarnation",
        "instance",
        "is_up",
        "last_due",
        "last_received",
        "other",
        "principal",
        "received_bytes",
        "received_messages",
        "rests_until",
        "sent_bytes",
        "sent_messages",
        "session",
    )

    def __init__(self, hub: MemoryHub, session: Session, dialed: bool, now: float) -> None:
        limits = hub.limits
        self.hub = hub
        self.session = session
        self.principal = session.peer
        self.instance = session.peer_instance
        self.incarnation = session.peer_incarnation
        self.dialed = dialed
        self.is_up = True
        self.created_at = self.last_received = now
        self.received_bytes = self.received_messages = self.sent_bytes = self.sent_messages = 0
        if is_client(self.principal):
            bounds = limits.client_queue_max_bytes, limits.client_queue_max_messages
        else:
            bounds = limits.queue_max_bytes, limits.queue_max_messages
        self._control = SendQueue(*bounds, limits.message_max_bytes)
        self._bulk = SendQueue(*bounds, limits.message_max_bytes)
        self.other: MemoryLink | None = None
        self.last_due = self.rests_until = now
        """When the latest message on its way to this end arrives; until when none is taken."""

    @property
    def rtt(self) -> float | None:
        """The present latency there and back, in seconds."""
        network, own = self.hub.network, self.hub.principal
        return network.latency(own, self.principal) + network.latency(self.principal, own)

    def send(self, body: bytes, bulk: bool = False) -> None:
        """See interface.Link."""
        if self.is_up:
            if not (self._bulk if bulk else self._control).push(body):
                self.hub.tally.refuse(self.principal, "send-too-long")
                return
            self.hub.unflushed[self] = None

    def rest(self, seconds: float) -> None:
        """See interface.Link."""
        self.rests_until = max(self.rests_until, self.hub.network.now() + seconds)

    def close(self, reason: str) -> None:
        """See interface.Link."""
        if self.is_up:
            self.hub.close_link(self, reason)

    def statistics(self) -> LinkStatistics:
        """See interface.Link."""
        return LinkStatistics(
            principal=self.principal,
            instance=self.instance,
            dialed=self.dialed,
            seconds_up=self.hub.network.now() - self.created_at,
            rtt=self.rtt,
            sent_messages=self.sent_messages,
            sent_bytes=self.sent_bytes,
            received_messages=self.received_messages,
            received_bytes=self.received_bytes,
            queued_bytes=self._control.bytes + self._bulk.bytes,
            dropped_control=self._control.dropped,
            dropped_bulk=self._bulk.dropped,
            key_refreshes=0,
        )

    def waiting(self) -> list[bytes]:
        """Take all that is queued, control first."""
        bodies = [*self._control.messages, *self._bulk.messages]
        for queue in (self._control, self._bulk):
            queue.messages.clear()
            queue.bytes = 0
        return bodies

    def end(self) -> None:
        """Drop what waits; for the hub alone."""
        self.is_up = False
        self._control.clear()
        self._bulk.clear()


class MemoryHub:
    """See interface.AnyHub. Made by `MemoryNetwork.hub`."""

    def __init__(
        self,
        network: MemoryNetwork,
        handshake: HandshakeConfig,
        receiver: Receiver,
        listen: Address | None,
        peers: Mapping[int, Address],
        limits: Limits,
    ) -> None:
        self.network = network
        self.handshake = handshake
        self.receiver = receiver
        self.limits = limits
        self.principal = handshake.principal
        self.unflushed: dict[MemoryLink, None] = {}
        self.addresses: tuple[Address, ...] = ()
        self.accepting = False
        self.running = False
        self.dials_at = {principal: 0.0 for principal in peers if principal != self.principal}
        self.peers = dict(peers)
        self.registry: Registry[MemoryLink] = Registry(self.principal, limits, limits.client_links_max)
        self.tally = Tally()
        self.fallen: deque[tuple[MemoryLink, str]] = deque()
        self.counts = {"accepted": 0, "dialed": 0, "sweeps": 0}
        self._listen = listen
        self._ran = False

    async def run(self, *, task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED) -> None:
        """See interface.AnyHub."""
        if self._ran:
            raise TransportError("a hub runs once; make a new one")
        self._ran = True
        if self._listen is not None:
            self.addresses = (self.network.bind(self._listen, self),)
            self.accepting = True
        self.running = True
        self.network.enter(self)
        try:
            task_status.started(self.addresses)
            while True:
                await self.network.turn()
        finally:
            for link in self.registry.all():
                self.close_link(link, "shutting down")
            self.running = self.accepting = False
            self.network.leave(self)

    def send(self, principal: int, body: bytes, bulk: bool = False) -> bool:
        """See interface.AnyHub."""
        links = self.registry.get(principal)
        for link in links or ():
            link.send(body, bulk)
        return links is not None

    def multicast(self, principals: Iterable[int], body: bytes, bulk: bool = False) -> None:
        """See interface.AnyHub."""
        for principal in principals:
            self.send(principal, body, bulk)

    def flush(self) -> None:
        """See interface.AnyHub."""
        links, self.unflushed = self.unflushed, {}
        for link in links:
            if link.is_up and link.other is not None:
                for body in link.waiting():
                    link.sent_messages += 1
                    link.sent_bytes += len(body)
                    self.network.carry(self.principal, link.principal, link.other, body)

    def links(self, principal: int) -> tuple[Link, ...]:
        """See interface.AnyHub."""
        return tuple(self.registry.get(principal) or ())

    def connected(self) -> frozenset[int]:
        """See interface.AnyHub."""
        return self.registry.principals()

    def redial(self, principal: int) -> None:
        """See interface.AnyHub."""
        if principal in self.dials_at:
            self.dials_at[principal] = 0.0
            self.network.wake()

    def stop_accepting(self) -> None:
        """See interface.AnyHub."""
        self.accepting = False

    def statistics(self) -> HubStatistics:
        """See interface.AnyHub."""
        return HubStatistics(
            peers=self.tally.peers([link.statistics() for link in self.registry.all()]),
            refusals=self.tally.refusals(),
            accepted=self.counts["accepted"],
            dialed=self.counts["dialed"],
            unauthenticated=0,
            client_links=self.registry.client_links,
            sweeps=self.counts["sweeps"],
        )

    # -- for the network

    def close_link(self, link: MemoryLink, reason: str) -> None:
        """End a link on this side, and on the other as soon as it can learn of it."""
        if not link.is_up:
            return
        link.end()
        self.registry.remove(link)
        self.tally.add_link(link.statistics())
        self.fallen.append((link, reason))
        if link.principal in self.dials_at:
            self.dials_at[link.principal] = self.network.now() + self.limits.dial_backoff_min
        if link.other is not None:
            self.network.carry(self.principal, link.principal, link.other, None)
        self.network.wake()

    def tell_fallen(self) -> None:
        """Tell the receiver of links that ended."""
        while self.fallen:
            self.receiver.on_link_down(*self.fallen.popleft())

    def open_link(self, link: MemoryLink) -> None:
        """Enter a link that was admitted."""
        self.tell_fallen()
        self.registry.add(link)
        self.receiver.on_link_up(link)
