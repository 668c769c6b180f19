"""Links without sockets, for tests: same interface, deterministic order, faults on request, virtual time.

The order of everything is fixed by (due time, order of sending) for the whole network, whichever task of a hub
happens to run first. Links carry sessions from real handshakes; messages are not sealed, so single ones may be
lost, which TCP does not do.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterable, Mapping

import trio

from pbft.crypto import HandshakeConfig, HandshakeError, Initiator, Responder
from pbft.transport.errors import ListenError
from pbft.transport.interface import Address, Receiver, is_client
from pbft.transport.limits import Limits
from pbft.transport.memory_hub import MemoryHub, MemoryLink


class MemoryNetwork:
    """The net between hubs of one test. `clock`: with trio's MockClock, time is virtual.

    `latency(sender, receiver)`: seconds; `lose(sender, receiver, body)`: True loses that message. Both may be
    replaced at any time. Nothing is random.
    """

    def __init__(self, clock: Callable[[], float] = trio.current_time) -> None:
        self.now = clock
        self.latency: Callable[[int, int], float] = lambda sender, receiver: 0.0
        self.lose: Callable[[int, int, bytes], bool] = lambda sender, receiver, body: False
        self._cut: set[tuple[int, int]] = set()
        self._hubs: list[MemoryHub] = []
        self._addresses: dict[Address, MemoryHub] = {}
        self._order = 0
        self._due: list[tuple[float, int, MemoryLink, bytes | None]] = []
        self._changed = trio.Event()

    def hub(
        self,
        handshake: HandshakeConfig,
        receiver: Receiver,
        *,
        listen: Address | None = None,
        peers: Mapping[int, Address] | None = None,
        limits: Limits | None = None,
        rng: random.Random | None = None,
    ) -> MemoryHub:
        """A hub on this network, with the parameters of `Hub`; `rng` is not needed here."""
        return MemoryHub(self, handshake, receiver, listen, peers or {}, limits or Limits())

    def cut(self, sender: int, receiver: int, both_ways: bool = True) -> None:
        """From now on nothing of `sender` reaches `receiver`. Links end when nothing arrived for `dead_after`."""
        self._cut.add((sender, receiver))
        if both_ways:
            self._cut.add((receiver, sender))
        for hub in self._hubs:
            for link in hub.registry.all():
                link.last_received = self.now()
        self.wake()

    def partition(self, *groups: Iterable[int]) -> None:
        """Cut every connection between members of different groups."""
        sides = [tuple(group) for group in groups]
        for number, side in enumerate(sides):
            for other in sides[number + 1 :]:
                for first in side:
                    for second in other:
                        self.cut(first, second)

    def heal(self) -> None:
        """End all cuts."""
        self._cut.clear()
        for hub in self._hubs:
            for link in hub.registry.all():
                link.last_received = self.now()
        self.wake()

    # -- for hubs

    def bind(self, address: Address, hub: MemoryHub) -> Address:
        """Give `hub` an address; port 0 means any. ListenError if it is taken."""
        host, port = address
        while not port or (host, port) in self._addresses:
            if port:
                if address[1]:
                    raise ListenError(f"cannot listen on {host}:{port}: another hub does")
                port += 1
            else:
                port = 1
        self._addresses[host, port] = hub
        return host, port

    def enter(self, hub: MemoryHub) -> None:
        """`hub` runs from now on."""
        self._hubs.append(hub)
        self.wake()

    def leave(self, hub: MemoryHub) -> None:
        """`hub` is gone; its addresses are free again."""
        self._hubs.remove(hub)
        self._addresses = {where: other for where, other in self._addresses.items() if other is not hub}
        self.wake()

    def wake(self) -> None:
        """Something happened that waiting hubs should look at."""
        self._changed.set()

    def carry(self, sender: int, receiver: int, to: MemoryLink, body: bytes | None) -> None:
        """Bring a message, or None for the end of the link, to the end `to`."""
        if (sender, receiver) in self._cut or (body is not None and self.lose(sender, receiver, body)):
            return
        self._order += 1
        # A link keeps the order, also while its latency changes.
        to.last_due = max(to.last_due, self.now() + self.latency(sender, receiver))
        heapq.heappush(self._due, (to.last_due, self._order, to, body))
        self.wake()

    async def turn(self) -> None:
        """One round for all hubs, then wait for the next. Any hub's task does it for the others too."""
        if self._changed.is_set():
            self._changed = trio.Event()
        next_time = self._round()
        with trio.move_on_at(next_time):
            await self._changed.wait()

    def _round(self) -> float:
        """Deliver what is due now; dial; end dead links. Returns when there is something to do next."""
        now = self.now()
        touched: dict[MemoryHub, None] = {}
        for hub in self._hubs:
            if hub.unflushed or hub.fallen:
                touched[hub] = None
        last = self._order
        later = []
        while self._due and self._due[0][0] <= now:
            entry = heapq.heappop(self._due)
            # What is sent in this round belongs to the next, or hubs that answer each other never end it.
            if entry[1] > last:
                later.append(entry)
                continue
            _, order, link, body = entry
            if link.rests_until > now:
                later.append((link.rests_until, order, link, body))
            elif link.is_up:
                self._deliver(link, body, touched)
        for entry in later:
            heapq.heappush(self._due, entry)
        next_time = min(self._dial_all(now, touched), self._end_dead(now, touched))
        for hub in touched:
            hub.counts["sweeps"] += 1
            hub.tell_fallen()
            hub.receiver.on_sweep_end()
            hub.flush()
        return min(next_time, self._due[0][0] if self._due else math.inf)

    def _deliver(self, link: MemoryLink, body: bytes | None, touched: dict[MemoryHub, None]) -> None:
        hub = link.hub
        touched[hub] = None
        if body is None:
            hub.close_link(link, "closed by the peer")
            return
        if is_client(link.principal) and len(body) > hub.limits.client_message_max_bytes:
            hub.tally.refuse(link.principal, "too-long")
            hub.close_link(link, "too-long")
            return
        link.received_messages += 1
        link.received_bytes += len(body)
        hub.receiver.on_message(link, body)

    def _dial_all(self, now: float, touched: dict[MemoryHub, None]) -> float:
        next_time = math.inf
        for hub in list(self._hubs):
            for principal, at in hub.dials_at.items():
                if hub.registry.get(principal) is not None:
                    continue
                if at <= now and not self._dial(hub, principal, now, touched):
                    at = hub.dials_at[principal] = now + hub.limits.dial_backoff_max
                if hub.registry.get(principal) is None:
                    next_time = min(next_time, at)
        return next_time

    def _dial(self, hub: MemoryHub, principal: int, now: float, touched: dict[MemoryHub, None]) -> bool:
        """Open a link with whoever listens at the address of `principal`."""
        hub.counts["dialed"] += 1
        peer = self._addresses.get(hub.peers[principal])
        own = hub.principal
        if peer is None or not peer.accepting:
            hub.tally.refuse(principal, "dial-failed")
            return False
        if {(own, peer.principal), (peer.principal, own)} & self._cut:
            hub.tally.refuse(principal, "dial-failed")
            return False
        peer.counts["accepted"] += 1
        initiator, responder = Initiator(hub.handshake, principal), Responder(peer.handshake)
        try:
            third, session = initiator.receive(responder.receive_hello(initiator.hello()))
            sessions = session, responder.finish(third)
        except HandshakeError as error:
            hub.tally.refuse(principal, f"handshake-{error.kind}")
            peer.tally.refuse(None, f"handshake-{error.kind}")
            return False
        near = MemoryLink(hub, sessions[0], True, now)
        far = MemoryLink(peer, sessions[1], False, now)
        near.other, far.other = far, near
        for side, link in ((peer, far), (hub, near)):
            verdict = side.registry.admit(link)
            if isinstance(verdict, str):
                side.tally.refuse(link.principal, f"link-{verdict}")
                return False
            for old in verdict:
                side.close_link(old, "replaced by a newer link")
        for side, link in ((peer, far), (hub, near)):
            touched[side] = None
            side.open_link(link)
        return True

    def _end_dead(self, now: float, touched: dict[MemoryHub, None]) -> float:
        """End links on which, with heartbeats, nothing would have arrived for too long."""
        next_time = math.inf
        if not self._cut:
            return next_time
        for hub in self._hubs:
            for link in hub.registry.all():
                if (link.principal, hub.principal) in self._cut:
                    end = link.last_received + hub.limits.dead_after
                    if end <= now:
                        touched[hub] = None
                        hub.close_link(link, f"nothing arrived for {hub.limits.dead_after:g} s")
                    else:
                        next_time = min(next_time, end)
        return next_time
