"""A connection before it is a link: the handshake's frames between socket and crypto, within the sweep.

Rules of this file: whoever is at the other end is a stranger. It may hold one descriptor, some 24 KiB and the
time limit of the hub; its first wrong byte ends the conversation.
"""

from __future__ import annotations

import socket
from typing import Protocol

from pbft.crypto import HandshakeConfig, HandshakeError, Initiator, Responder, Session, refusal
from pbft.transport.framing import HANDSHAKE, REFUSAL, plain_frame, split_plain_frame

_READ_MAX_BYTES = 16 * 1024


class ConversationOwner(Protocol):
    """What a conversation needs of its hub."""

    handshake: HandshakeConfig
    handshakes_left: int
    now: float

    def conversation_failed(self, conversation: Conversation, kind: str, text: str) -> None:
        """Close it; count and log why."""

    def conversation_succeeded(self, conversation: Conversation, session: Session, rest: bytes) -> None:
        """Make a link of it; `rest` are bytes that follow the handshake."""


class Conversation:
    """The handshake on one socket. `expected`: whom we dialed, None for an accepted connection."""

    __slots__ = ("_initiator", "_owner", "_responder", "_rest", "expected", "is_open", "sock", "started_at")

    def __init__(self, owner: ConversationOwner, sock: socket.socket, expected: int | None) -> None:
        self._owner = owner
        self.sock = sock
        self.expected = expected
        self.started_at = owner.now
        self.is_open = True
        self._rest = b""
        self._initiator = None if expected is None else Initiator(owner.handshake, expected)
        self._responder: Responder | None = None

    def begin(self) -> None:
        """Send the first message, if this side dialed."""
        if self._initiator is not None:
            self._send(HANDSHAKE, self._initiator.hello())

    def on_ready(self, mask: int) -> None:
        """Read and answer, if this sweep still answers handshakes; otherwise the next sweep will."""
        if not self.is_open or self._owner.handshakes_left <= 0:
            return
        try:
            data = self.sock.recv(_READ_MAX_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail("connection-lost", f"connection lost: {error.strerror}")
            return
        if not data:
            self._fail("connection-lost", "closed by the peer")
            return
        self._rest += data
        while self.is_open and (frame := split_plain_frame(self._rest)) is not None:
            if isinstance(frame, str):
                self._fail(frame, "what was received is not a handshake; is this another program?")
                return
            kind, body, self._rest = frame
            self._owner.handshakes_left -= 1
            try:
                self._take(kind, body)
            except HandshakeError as error:
                if error.kind != "refused":
                    self._send(REFUSAL, refusal(error))
                self._fail(error.kind, error.text)

    def _take(self, kind: int, body: bytes) -> None:
        if self._initiator is not None:
            # A refusal is told from an answer by its content.
            third, session = self._initiator.receive(body)
            if self._send(HANDSHAKE, third):
                self._succeed(session)
        elif kind == REFUSAL:
            raise HandshakeError("refused", "the peer broke the handshake off")
        elif self._responder is None:
            self._responder = Responder(self._owner.handshake)
            self._send(HANDSHAKE, self._responder.receive_hello(body))
        else:
            self._succeed(self._responder.finish(body))

    def _send(self, kind: int, body: bytes) -> bool:
        frame = plain_frame(kind, body)
        try:
            count = self.sock.send(frame)
        except OSError as error:
            self._fail("connection-lost", f"connection lost: {error.strerror}")
            return False
        if count < len(frame):
            # An empty socket buffer always takes a handshake message.
            self._fail("connection-lost", "the socket took a part of a handshake message only")
            return False
        return True

    def _succeed(self, session: Session) -> None:
        self.is_open = False
        self._owner.conversation_succeeded(self, session, self._rest)

    def _fail(self, kind: str, text: str) -> None:
        if self.is_open:
            self.is_open = False
            self._owner.conversation_failed(self, kind, text)
