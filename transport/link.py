"""One authenticated TCP connection: frames in, queues out. No task of its own; the hub's sweep drives it.

Rules of this file: never raises because of a peer; a frame that is refused ends the link, for its counter is
of no use any more, and the dialing side comes back. This is the hot path: a small frame costs a few
microseconds each way.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Callable
from typing import Protocol

from pbft.crypto import MAC_SIZE, HandshakeConfig, HandshakeError, Session
from pbft.transport import framing
from pbft.transport.framing import (
    BULK,
    CONTROL,
    GOODBYE,
    HEADER_SIZE,
    LENGTH_BEYOND,
    MORE,
    PING,
    REKEY,
    Reassembly,
    unpack_header,
)
from pbft.transport.heartbeat import Heartbeat
from pbft.transport.interface import Receiver, is_client
from pbft.transport.limits import Limits
from pbft.transport.outbox import Outbox
from pbft.transport.rekeying import LinkKeys
from pbft.transport.statistics import LinkStatistics

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class LinkOwner(Protocol):
    """What a link needs of its hub."""

    limits: Limits
    receiver: Receiver
    handshake: HandshakeConfig
    selector: selectors.DefaultSelector
    now: float
    clock: Callable[[], float]
    read_buffer: memoryview
    unflushed: list[TcpLink]

    def close_link(self, link: TcpLink, reason: str) -> None:
        """Take the link out of service."""

    def refuse_link(self, link: TcpLink, kind: str, text: str = "") -> None:
        """The peer sent what it must not: count, log, close."""

    def confirm_link(self, link: TcpLink) -> None:
        """The first frame arrived on a link that this side dialed."""

    def rest_link(self, link: TcpLink, seconds: float) -> None:
        """Call `wake` of this link when so much time has passed."""

    def message_too_long(self, principal: int, size: int) -> None:
        """This side wants to send what no peer takes: count and log."""

    def link_rekeyed(self, link: TcpLink) -> None:
        """New keys are known on this link."""


class TcpLink:
    """See interface.Link. `is_up` is false before the other side confirmed the link, and after its end."""

    __slots__ = (
        "_buffer",
        "_bulk_parts",
        "_control_parts",
        "_heartbeat",
        "_keys",
        "_longest",
        "_mask",
        "_outbox",
        "_owner",
        "_progress_at",
        "_rest",
        "_sock",
        "_unflushed",
        "_unsent",
        "created_at",
        "dialed",
        "incarnation",
        "instance",
        "is_open",
        "is_reading",
        "is_up",
        "last_received",
        "principal",
        "received_bytes",
        "received_messages",
        "sent_bytes",
        "session",
    )

    def __init__(self, owner: LinkOwner, sock: socket.socket, session: Session, dialed: bool) -> None:
        limits = owner.limits
        self._owner = owner
        self._sock = sock
        self.session = session
        self.principal = session.peer
        self.instance = session.peer_instance
        self.incarnation = session.peer_incarnation
        self.dialed = dialed
        self.is_open = self.is_reading = True
        self.is_up = False
        self.created_at = self.last_received = owner.now
        self.received_bytes = self.received_messages = self.sent_bytes = 0
        client = is_client(self.principal)
        self._buffer = owner.read_buffer[: limits.client_read_max_bytes] if client else owner.read_buffer
        longest = min(limits.message_max_bytes, limits.client_message_max_bytes if client else limits.message_max_bytes)
        self._control_parts, self._bulk_parts = Reassembly(longest), Reassembly(longest)
        self._longest = framing.LONGEST_CONFIRMING if dialed else framing.LONGEST_LINKED
        self._rest = b""
        self._mask = READ
        self._unsent: memoryview | None = None
        self._progress_at = owner.now
        self._unflushed = False
        self._heartbeat = Heartbeat()
        self._keys = LinkKeys(session, owner.handshake, limits, owner.now)
        self._outbox = Outbox(session, limits, self._heartbeat, self._keys, for_client=client)

    # -- for everybody

    def send(self, body: bytes, bulk: bool = False) -> None:
        """See interface.Link."""
        if self.is_up:
            outbox = self._outbox
            if not (outbox.bulk if bulk else outbox.control).push(body):
                self._owner.message_too_long(self.principal, len(body))
                return
            self._be_flushed()

    def close(self, reason: str) -> None:
        """See interface.Link."""
        if self.is_open:
            self.say_goodbye(reason)
            self._owner.close_link(self, reason)

    def rest(self, seconds: float) -> None:
        """See interface.Link."""
        if self.is_open and self.is_reading:
            self.is_reading = False
            self._watch()
            self._owner.rest_link(self, seconds)

    def wake(self) -> None:
        """The rest is over: take what arrived in it."""
        if self.is_open:
            self.is_reading = True
            self._watch()
            self.feed(self._rest)

    def statistics(self) -> LinkStatistics:
        """See interface.Link."""
        return LinkStatistics(
            principal=self.principal,
            instance=self.instance,
            dialed=self.dialed,
            seconds_up=self._owner.now - self.created_at,
            rtt=self.rtt,
            sent_messages=self._outbox.sent_messages,
            sent_bytes=self.sent_bytes,
            received_messages=self.received_messages,
            received_bytes=self.received_bytes,
            queued_bytes=self.queued_bytes,
            dropped_control=self._outbox.control.dropped,
            dropped_bulk=self._outbox.bulk.dropped,
            key_refreshes=self._keys.refreshes,
        )

    @property
    def rtt(self) -> float | None:
        """See interface.Link."""
        return self._heartbeat.rtt

    @property
    def queued_bytes(self) -> int:
        """What waits to be sent."""
        unsent = 0 if self._unsent is None else len(self._unsent)
        return self._outbox.waiting_bytes + unsent

    @property
    def held_bytes(self) -> int:
        """Memory that this link's traffic takes: what waits to be sent, to be taken, and messages received in part."""
        return self.queued_bytes + len(self._rest) + self._control_parts.held + self._bulk_parts.held

    # -- receiving

    def on_ready(self, mask: int) -> None:
        """The selector says that the socket can be read or written."""
        if mask & WRITE and self.is_open:
            self._resume()
        if mask & READ and self.is_reading:
            self._read()

    def _read(self) -> None:
        buffer = self._buffer
        try:
            count = self._sock.recv_into(buffer)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._owner.close_link(self, f"connection lost: {error.strerror}")
            return
        if not count:
            self._owner.close_link(self, "closed by the peer")
            return
        self.last_received = self._owner.now
        self.received_bytes += count
        self.feed(self._rest + buffer[:count])

    def feed(self, data: bytes) -> None:
        """Check and deliver all complete frames at the front of `data`; the rest is kept."""
        position, end = 0, len(data)
        is_next = self.session.open
        deliver = self._owner.receiver.on_message
        parts = self._control_parts
        longest = self._longest
        while end - position >= HEADER_SIZE:
            length, kind = unpack_header(data, position)
            if not LENGTH_BEYOND <= length <= longest[kind]:
                self._refuse_header(kind)
                return
            stop = position + 4 + length
            if stop > end:
                break
            start, tag = position + HEADER_SIZE, stop - MAC_SIZE
            body = data[start:tag]
            if not is_next(data[position:start], body, data[tag:stop]):
                self._owner.refuse_link(self, "bad-mac", "a frame that is forged, altered or out of order")
                return
            position = stop
            if kind == CONTROL and not parts.held:
                self.received_messages += 1
                deliver(self, body)
            else:
                self._take_other(kind, body)
                longest = self._longest
            if not self.is_reading:
                if not self.is_open:
                    return
                break
        self._rest = data[position:]

    def _refuse_header(self, kind: int) -> None:
        if kind == framing.REFUSAL and self._longest is framing.LONGEST_CONFIRMING:
            # Without a tag, so all that follows from it is what a reset of the connection could do as well.
            self._owner.close_link(self, "the peer refused the last message of the handshake")
        elif self._longest[kind]:
            self._owner.refuse_link(self, "bad-length", "a frame of a length that its kind cannot have")
        else:
            self._owner.refuse_link(self, "bad-kind", "a frame of a kind that does not belong here")

    def _take_other(self, kind: int, body: bytes) -> None:
        if kind in (CONTROL, BULK):
            parts = self._control_parts if kind == CONTROL else self._bulk_parts
            message = parts.finish(body)
            if message is None:
                self._owner.refuse_link(self, "too-long", "a message longer than message_max_bytes")
            else:
                self.received_messages += 1
                self._owner.receiver.on_message(self, message)
        elif kind & MORE:
            parts = self._control_parts if kind == CONTROL | MORE else self._bulk_parts
            if not parts.add(body):
                self._owner.refuse_link(self, "too-long", "a message longer than message_max_bytes")
        elif kind == REKEY:
            self._take_rekey(body)
        elif kind == GOODBYE:
            text = "".join([c if " " <= c <= "~" else "?" for c in body.decode("latin-1")])
            self._owner.close_link(self, f"the peer closed it: {text}")
        elif len(body) != framing.PING_BYTES:
            self._owner.refuse_link(self, "bad-length", "a heartbeat of another length")
        elif kind == PING:
            self._heartbeat.answer = body
            self._outbox.hurry()
            self._be_flushed()
            if not self.is_up:
                self._owner.confirm_link(self)
        else:
            self._heartbeat.on_pong(body, self._owner.now)

    def come_up(self) -> None:
        """From now on messages are taken and given."""
        self.is_up = True
        self._longest = framing.LONGEST_LINKED

    # -- sending

    def flush(self) -> None:
        """Send what is queued, as far as the socket takes it; the rest goes when it is writable."""
        self._unflushed = False
        if self._unsent is None and self.is_open:
            self._pump()

    def _be_flushed(self) -> None:
        if not self._unflushed:
            self._unflushed = True
            self._owner.unflushed.append(self)

    def _pump(self) -> None:
        while data := self._outbox.gather(self._owner.clock()):
            try:
                count = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                count = 0
            except OSError as error:
                self._owner.close_link(self, f"connection lost: {error.strerror}")
                return
            self.sent_bytes += count
            if count < len(data):
                self._unsent = memoryview(data)[count:]
                self._progress_at = self._owner.now
                self._watch()
                return
            if count < self._owner.limits.write_max_bytes:
                return  # all that was queued is gone

    def _resume(self) -> None:
        """Send the rest of what was sealed, then what else waits."""
        rest = self._unsent
        if rest is None:
            return
        try:
            count = self._sock.send(rest)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._owner.close_link(self, f"connection lost: {error.strerror}")
            return
        self.sent_bytes += count
        self._progress_at = self._owner.now
        if count < len(rest):
            self._unsent = rest[count:]
            return
        self._unsent = None
        self._watch()
        self._pump()

    def _watch(self) -> None:
        """Tell the selector what is waited for now."""
        mask = (READ if self.is_reading else 0) | (WRITE if self._unsent is not None else 0)
        before, self._mask = self._mask, mask
        if mask == before:
            return
        selector = self._owner.selector
        if before:
            selector.unregister(self._sock)
        if mask:
            selector.register(self._sock, mask, self)

    # -- life

    def ping(self, nonce: bytes) -> None:
        """Send a heartbeat, unless one is on its way."""
        if self._heartbeat.begin(nonce):
            self._outbox.hurry()
            self._be_flushed()

    def ailment(self, now: float) -> str | None:
        """Why this link should be given up, None if it is well."""
        limits = self._owner.limits
        if now - self.last_received > limits.dead_after:
            return f"nothing arrived for {limits.dead_after:g} s"
        if self._unsent is not None and now - self._progress_at > limits.stalled_after:
            return f"the peer took nothing for {limits.stalled_after:g} s"
        if self._keys.is_stuck(now):
            return "a key refresh was not completed"
        if not self.is_up and now - self.created_at > limits.handshake_timeout:
            return "the peer did not confirm the link"
        return None

    def say_goodbye(self, reason: str) -> None:
        """Tell the peer why, if the socket takes it at once."""
        if self._unsent is None and self.is_open:
            text = reason.encode("ascii", "replace")[: framing.GOODBYE_MAX_BYTES]
            try:
                self._sock.send(b"".join(self._outbox.seal(GOODBYE, text)))
            except OSError:
                return  # it is being closed anyway

    def shut(self) -> None:
        """Close the socket and drop what waits. For the hub alone, who knows what else has to happen."""
        self.is_open = self.is_up = self.is_reading = False
        self._outbox.clear()
        self._unsent = None
        self._rest = b""
        self._watch()
        self._sock.close()

    def rekey_if_due(self, now: float) -> None:
        """Start a key refresh if this side dialed and the keys have been used for long enough."""
        if self.dialed and (offer := self._keys.offer_if_due(now)) is not None:
            self._outbox.put_rekey(offer, is_answer=False)
            self._be_flushed()

    def _take_rekey(self, body: bytes) -> None:
        try:
            answer = self._keys.take(body, self._owner.now)
        except HandshakeError as error:
            self._owner.refuse_link(self, f"rekey-{error.kind}", error.text)
            return
        if answer is not None:
            self._outbox.put_rekey(answer, is_answer=True)
            self._be_flushed()
            self._owner.link_rekeyed(self)
