"""All TCP links of one process, moved by one task. Rules 1.9, 1.18.

A selector of our own holds all sockets; the task waits until the selector is readable and then, in one
synchronous *sweep*, reads every ready socket, checks and delivers what arrived, and sends everything that was
queued meanwhile. So a switch of tasks, tens of microseconds, is paid once per sweep and not once per message,
and whatever arrives during a sweep is the next one.

Rules of this file: callbacks of the receiver happen in a sweep or tick, never inside a call that the receiver
makes; therefore links that end are kept in `_fallen` until it is their turn.
"""

from __future__ import annotations

import logging
import random
import selectors
import socket
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import trio

from pbft.crypto import HandshakeConfig, Session, SigningIdentity
from pbft.transport.dialing import Dialer
from pbft.transport.errors import TransportError
from pbft.transport.handshaking import Conversation
from pbft.transport.interface import Address, Link, Receiver, is_client
from pbft.transport.limits import Limits
from pbft.transport.link import TcpLink
from pbft.transport.listening import Acceptor, Spare, open_listeners, prepare, shares
from pbft.transport.registry import Registry
from pbft.transport.statistics import HubStatistics, QuietLog, Tally, log

_QUIET_FAILURES = frozenset({"connection-lost", "evicted", "timeout"})
"""What a stranger's handshake may end with without a line in the log: scans, health checks, full tables."""


_SERVED = 8192


def _name(principal: int | None) -> str:
    if principal is None:
        return "a connection that was accepted"
    return f"client {principal:016x}" if is_client(principal) else f"replica {principal}"


class Hub:
    """See interface.AnyHub. `peers`: whom this side dials; `listen`: None for a side that only dials.

    `clock` is monotonic and in seconds; `rng` draws the jitter of dials and nothing else.
    """

    def __init__(
        self,
        handshake: HandshakeConfig,
        receiver: Receiver,
        *,
        listen: Address | None = None,
        peers: Mapping[int, Address] | None = None,
        limits: Limits | None = None,
        clock: Callable[[], float] = trio.current_time,
        rng: random.Random | None = None,
    ) -> None:
        self.handshake = handshake
        self.receiver = receiver
        self.limits = limits = limits or Limits()
        self.now = 0.0
        self.read_buffer = memoryview(bytearray(limits.read_max_bytes))
        self.unflushed: list[TcpLink] = []
        self.handshakes_left = 0
        self.addresses: tuple[Address, ...] = ()
        self._listen = listen
        self.clock = clock
        rng = rng or random.Random()
        self._tally = Tally()
        self._quiet = QuietLog(limits.log_interval, limits.refusal_log_burst)
        self._dialers: dict[int, Dialer] = {}
        own = handshake.principal
        for principal, address in (peers or {}).items():
            if principal != own:  # a configuration lists all replicas, this one too
                patient = not is_client(own) and own > principal
                self._dialers[principal] = Dialer(self, principal, address, limits, rng, patient)
        self._unauthenticated_max, clients_max = shares(limits, len(self._dialers))
        self._registry: Registry[TcpLink] = Registry(own, limits, clients_max)
        self._strangers: dict[Conversation, None] = {}
        self._dialed: dict[Conversation, None] = {}
        self._unconfirmed: dict[TcpLink, None] = {}
        self._resting: dict[TcpLink, float] = {}
        """Links from which nothing is taken -> until when. Invariant: none comes twice, `TcpLink.rest` sees to it."""
        self._fallen: list[tuple[TcpLink, str]] = []
        self._acceptors: list[Acceptor] = []
        self._accepting_again_at: float | None = None
        self._accepted = self._dials = self._sweeps = self._ticks = self._turn = 0
        self._served: dict[int, int] = {}
        """Client -> the turn in which a link of it was served last."""
        self._ran = False

    # -- interface

    async def run(self, *, task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED) -> None:
        """See interface.AnyHub. ListenError if the address cannot be listened on; TransportError if run twice."""
        if self._ran:
            raise TransportError("a hub runs once; make a new one")
        self._ran = True
        listeners = await open_listeners(self._listen) if self._listen is not None else []
        self.selector = selectors.DefaultSelector()
        self._spare = Spare()
        self.now = self.clock()
        self.addresses = tuple(sock.getsockname()[:2] for sock in listeners)
        for sock in listeners:
            acceptor = Acceptor(sock, self._spare, self._on_accepted, self._on_exhausted)
            self._acceptors.append(acceptor)
            self.selector.register(sock, selectors.EVENT_READ, acceptor)
        try:
            async with trio.open_nursery() as nursery:
                for dialer in self._dialers.values():
                    nursery.start_soon(dialer.run)
                nursery.start_soon(self._ticking)
                task_status.started(self.addresses)
                while True:
                    await trio.lowlevel.wait_readable(self.selector.fileno())
                    self._sweep()
        finally:
            self._shut_all()

    def send(self, principal: int, body: bytes, bulk: bool = False) -> bool:
        """See interface.AnyHub."""
        links = self._registry.get(principal)
        if links is None:
            return False
        for link in links:
            link.send(body, bulk)
        return True

    def multicast(self, principals: Iterable[int], body: bytes, bulk: bool = False) -> None:
        """See interface.AnyHub."""
        get = self._registry.get
        for principal in principals:
            for link in get(principal) or ():
                link.send(body, bulk)

    def flush(self) -> None:
        """See interface.AnyHub."""
        links, self.unflushed = self.unflushed, []
        for link in links:
            link.flush()

    def links(self, principal: int) -> tuple[Link, ...]:
        """See interface.AnyHub."""
        return tuple(self._registry.get(principal) or ())

    def connected(self) -> frozenset[int]:
        """See interface.AnyHub."""
        return self._registry.principals()

    def renew(self, identity: SigningIdentity) -> None:
        """Sign handshakes by this identity from now on; links with replicas begin anew, in its incarnation."""
        self.handshake = replace(self.handshake, identity=identity)
        for conversation in (*self._strangers, *self._dialed):
            self._abandon(conversation, "renewed")
        for link in (*self._registry.all(), *self._unconfirmed):
            if not is_client(link.principal):
                link.close("a new incarnation")

    def redial(self, principal: int) -> None:
        """See interface.AnyHub."""
        if principal in self._dialers:
            self._dialers[principal].redial()

    def stop_accepting(self) -> None:
        """See interface.AnyHub."""
        for acceptor in self._acceptors:
            if self._accepting_again_at is None:
                self.selector.unregister(acceptor.sock)
            acceptor.sock.close()
        self._acceptors.clear()
        self._accepting_again_at = None

    def statistics(self) -> HubStatistics:
        """See interface.AnyHub."""
        return HubStatistics(
            peers=self._tally.peers([link.statistics() for link in self._registry.all()]),
            refusals=self._tally.refusals(),
            accepted=self._accepted,
            dialed=self._dials,
            unauthenticated=len(self._strangers),
            client_links=self._registry.client_links,
            sweeps=self._sweeps,
        )

    # -- sweep and tick

    def _sweep(self) -> None:
        self.now = self.clock()
        self.handshakes_left = self.limits.handshakes_per_sweep
        self._sweeps += 1
        for link in [link for link, until in self._resting.items() if until <= self.now]:
            del self._resting[link]
            link.wake()
        others, clients = [], []
        for key, mask in self.selector.select(0):
            if type(key.data) is not TcpLink:
                others.append((key.data, mask))
            elif is_client(key.data.principal):
                clients.append((key.data, mask))
            else:
                key.data.on_ready(mask)
        self._serve_clients(clients)
        # Strangers last: what is authenticated does not wait for their handshakes.
        for other, mask in others:
            other.on_ready(mask)
        self._deliver_fallen()
        self.receiver.on_sweep_end()
        self.flush()
        while self._fallen:
            self._deliver_fallen()
            self.flush()

    def _serve_clients(self, ready: list[tuple[TcpLink, int]]) -> None:
        """Replicas were served before. Of clients, a link each in turn, those first that were served longest ago, until
        time is up; the others stay ready for the next sweep. So however many links they have, they hold no sweep up."""
        if len(ready) > 1:
            turns = Counter[int]()
            order: list[tuple[int, int, int, TcpLink, int]] = []
            for link, mask in ready:
                order.append((turns[link.principal], self._served.get(link.principal, 0), len(order), link, mask))
                turns[link.principal] += 1
            ready = [(link, mask) for *_, link, mask in sorted(order, key=lambda entry: entry[:3])]
        end = self.clock() + self.limits.clients_seconds
        for number, (link, mask) in enumerate(ready):
            if number and self.clock() > end:
                break
            self._turn += 1
            self._served[link.principal] = self._turn
            link.on_ready(mask)
        if len(self._served) > _SERVED:
            self._served.clear()

    async def _ticking(self) -> None:
        while True:
            await trio.sleep(self.limits.heartbeat_interval / 2)
            # What has arrived is read first: a process that was stopped for a while finds its links alive.
            self._sweep()
            self._tick()

    def _tick(self) -> None:
        now = self.now
        self._ticks += 1
        for link in (*self._registry.all(), *self._unconfirmed):
            if reason := link.ailment(now):
                link.close(reason)
            elif link.is_up:
                link.rekey_if_due(now)
                # Clients are many, and ping us.
                if self._ticks % 2 == 0 and not is_client(link.principal):
                    link.ping(self._nonce())
        self._bound_clients()
        for conversation in (*self._strangers, *self._dialed):
            if now - conversation.started_at > self.limits.handshake_timeout:
                self._abandon(conversation, "timeout")
        self._spare.refill()
        if self._accepting_again_at is not None and now >= self._accepting_again_at:
            self._accepting_again_at = None
            for acceptor in self._acceptors:
                self.selector.register(acceptor.sock, selectors.EVENT_READ, acceptor)
        self._deliver_fallen()
        self.flush()

    def _bound_clients(self) -> None:
        """Close those clients that hold most memory, while all of them hold too much. Scenario E14."""
        held = {link: link.held_bytes for link in self._registry.all() if is_client(link.principal)}
        total = sum(held.values())
        while total > self.limits.clients_total_max_bytes:
            worst = max(held, key=held.__getitem__)
            total -= held.pop(worst)
            self.refuse_link(worst, "memory", "holds more than its part of the memory for clients")

    def _deliver_fallen(self) -> None:
        fallen, self._fallen = self._fallen, []
        for link, reason in fallen:
            self.receiver.on_link_down(link, reason)

    def _nonce(self) -> bytes:
        return self.handshake.entropy(8)

    # -- connections

    def _on_accepted(self, sock: socket.socket) -> None:
        self._accepted += 1
        prepare(sock)
        if len(self._strangers) >= self._unauthenticated_max:
            self._abandon(next(iter(self._strangers)), "evicted")
        self._converse(sock, None)

    def _on_exhausted(self, text: str) -> None:
        """No descriptor is left: leave the backlog alone for a moment, and keep serving. Scenario I10."""
        self._tally.refuse(None, "no-descriptor")
        hint = "accepting no connections for a moment; raise the limit of open files (ulimit -n)"
        self._quiet.write(logging.WARNING, self.now, None, "no-descriptor", f"{text}: {hint}")
        if self._accepting_again_at is None:
            for acceptor in self._acceptors:
                self.selector.unregister(acceptor.sock)
        self._accepting_again_at = self.now + self.limits.accept_pause

    def _converse(self, sock: socket.socket, expected: int | None) -> None:
        conversation = Conversation(self, sock, expected)
        self.selector.register(sock, selectors.EVENT_READ, conversation)
        (self._strangers if expected is None else self._dialed)[conversation] = None
        conversation.begin()

    def _abandon(self, conversation: Conversation, kind: str) -> None:
        conversation.is_open = False
        self.conversation_failed(conversation, kind, "the handshake was not completed")

    def conversation_failed(self, conversation: Conversation, kind: str, text: str) -> None:
        """See handshaking.ConversationOwner."""
        self._forget(conversation)
        self.selector.unregister(conversation.sock)
        conversation.sock.close()
        peer = conversation.expected
        self._tally.refuse(peer, f"handshake-{kind}")
        if peer is not None or kind not in _QUIET_FAILURES:
            self._quiet.write(
                logging.WARNING, self.now, peer, f"handshake-{kind}", f"no link with {_name(peer)}: {text}"
            )
        if peer is not None:
            self._dialers[peer].conversation_ended()

    def conversation_succeeded(self, conversation: Conversation, session: Session, rest: bytes) -> None:
        """See handshaking.ConversationOwner."""
        self._forget(conversation)
        dialed = conversation.expected is not None
        link = TcpLink(self, conversation.sock, session, dialed)
        self.selector.modify(conversation.sock, selectors.EVENT_READ, link)
        if dialed:
            # The other side may still refuse it. It is up when the other side's first frame is here.
            self._unconfirmed[link] = None
        else:
            self._admit(link)
        if rest and link.is_open:
            link.feed(rest)

    def _forget(self, conversation: Conversation) -> None:
        self._strangers.pop(conversation, None)
        self._dialed.pop(conversation, None)

    def _admit(self, link: TcpLink) -> None:
        verdict = self._registry.admit(link)
        if isinstance(verdict, str):
            self._tally.refuse(link.principal, f"link-{verdict}")
            link.close(verdict)
            return
        for old in verdict:
            old.close("replaced by a newer link")
        self._deliver_fallen()
        link.come_up()
        self._registry.add(link)
        if not link.dialed:
            link.ping(self._nonce())  # the first frame: it tells the dialing side that the link is wanted
        self._note(link, "up", f"link with {_name(link.principal)} is up")
        self.receiver.on_link_up(link)

    def _note(self, link: TcpLink, kind: str, text: str) -> None:
        if is_client(link.principal):
            log.debug(text)
        else:
            self._quiet.write(logging.INFO, self.now, link.principal, kind, text)

    # -- for links: see link.LinkOwner

    def confirm_link(self, link: TcpLink) -> None:
        """See link.LinkOwner."""
        del self._unconfirmed[link]
        self._admit(link)
        self._dialers[link.principal].conversation_ended()

    def refuse_link(self, link: TcpLink, kind: str, text: str = "") -> None:
        """See link.LinkOwner."""
        self._tally.refuse(link.principal, kind)
        self._quiet.write(logging.WARNING, self.now, link.principal, kind, f"closing {_name(link.principal)}: {text}")
        self.close_link(link, kind)

    def close_link(self, link: TcpLink, reason: str) -> None:
        """See link.LinkOwner."""
        if not link.is_open:
            return
        link.shut()
        self._resting.pop(link, None)
        dialer = self._dialers.get(link.principal)
        if self._registry.remove(link):
            record = link.statistics()
            self._tally.add_link(record)
            self._fallen.append((link, reason))
            self._note(link, "down", f"link with {_name(link.principal)} is down: {reason}")
            if dialer is not None:
                dialer.link_lost(record.seconds_up)
        elif link in self._unconfirmed:
            del self._unconfirmed[link]
            self._note(link, "unconfirmed", f"no link with {_name(link.principal)}: {reason}")
            if dialer is not None:
                dialer.conversation_ended()

    def rest_link(self, link: TcpLink, seconds: float) -> None:
        """See link.LinkOwner."""
        self._resting[link] = self.now + seconds

    def message_too_long(self, principal: int, size: int) -> None:
        """See link.LinkOwner."""
        self._tally.refuse(principal, "send-too-long")
        text = f"a message of {size} bytes for {_name(principal)} was dropped: longer than message_max_bytes"
        self._quiet.write(logging.ERROR, self.now, principal, "send-too-long", text)

    def link_rekeyed(self, link: TcpLink) -> None:
        """See link.LinkOwner."""
        told = getattr(self.receiver, "on_link_rekeyed", None)
        if told is not None:
            told(link)

    # -- for dialers: see dialing.DialOwner

    def has_link(self, principal: int) -> bool:
        """See dialing.DialOwner."""
        return self._registry.get(principal) is not None

    def dialed_peer(self, sock: socket.socket, principal: int) -> None:
        """See dialing.DialOwner."""
        self._dials += 1
        prepare(sock)
        self._converse(sock, principal)

    def dial_failed(self, principal: int, text: str) -> None:
        """See dialing.DialOwner."""
        self._tally.refuse(principal, "dial-failed")
        self._quiet.write(logging.WARNING, self.clock(), principal, "dial-failed", f"{_name(principal)}: {text}")

    # -- end

    def _shut_all(self) -> None:
        """Send what fits, say goodbye, close everything. The receiver is not called any more."""
        for link in (*self._registry.all(), *self._unconfirmed):
            link.flush()
            link.close("shutting down")
        for conversation in (*self._strangers, *self._dialed):
            conversation.is_open = False
            self._forget(conversation)
            self.selector.unregister(conversation.sock)
            conversation.sock.close()
        self.stop_accepting()
        self._spare.close()
        self.selector.close()
