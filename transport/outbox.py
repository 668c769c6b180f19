"""What one link has to send, in the order in which it must leave: heartbeats and key refreshes, control, bulk."""

from __future__ import annotations

from pbft.crypto import Session
from pbft.transport.framing import BULK, CONTROL, LENGTH_BEYOND, MORE, PING, PONG, REKEY, pack_header
from pbft.transport.heartbeat import Heartbeat
from pbft.transport.limits import Limits
from pbft.transport.queues import SendQueue
from pbft.transport.rekeying import LinkKeys


class Outbox:
    """Seals frames only when they are certain to be sent next. Hot path: see link.py."""

    __slots__ = (
        "_heartbeat",
        "_is_urgent",
        "_keys",
        "_rekey_is_answer",
        "_rekey_message",
        "_session",
        "_write_max_bytes",
        "bulk",
        "control",
        "sent_messages",
    )

    def __init__(
        self, session: Session, limits: Limits, heartbeat: Heartbeat, keys: LinkKeys, *, for_client: bool
    ) -> None:
        queue_bytes = limits.client_queue_max_bytes if for_client else limits.queue_max_bytes
        queue_messages = limits.client_queue_max_messages if for_client else limits.queue_max_messages
        self._session = session
        self._write_max_bytes = limits.write_max_bytes
        self.control = SendQueue(queue_bytes, queue_messages, limits.message_max_bytes)
        self.bulk = SendQueue(queue_bytes, queue_messages, limits.message_max_bytes)
        self.sent_messages = 0
        # Pings, pongs and key refreshes go before everything else; at most one of each waits.
        self._is_urgent = False
        self._heartbeat = heartbeat
        self._keys = keys
        self._rekey_message: bytes | None = None
        self._rekey_is_answer = False

    @property
    def waiting_bytes(self) -> int:
        """What waits here."""
        return self.control.bytes + self.bulk.bytes

    def hurry(self) -> None:
        """A heartbeat waits to be sent."""
        self._is_urgent = True

    def put_rekey(self, message: bytes, is_answer: bool) -> None:
        """The next step of a key refresh is to be sent."""
        self._rekey_message, self._rekey_is_answer = message, is_answer
        self._is_urgent = True

    def clear(self) -> None:
        """Drop everything: the link went down."""
        self.control.clear()
        self.bulk.clear()

    def seal(self, kind: int, body: bytes) -> tuple[bytes, bytes, bytes]:
        """One frame, the next on this link."""
        header = pack_header(len(body) + LENGTH_BEYOND, kind)
        return header, body, self._session.seal(header, body)

    def gather(self, now: float) -> bytes:
        """The next bytes for the socket, sealed in the order in which they must leave; about `write_max_bytes`."""
        chunks: list[bytes | memoryview] = []
        if self._is_urgent:
            self._gather_urgent(chunks, now)
        room = self._write_max_bytes
        seal = self._session.seal
        for queue, kind in ((self.control, CONTROL), (self.bulk, BULK)):
            messages = queue.messages
            while room > 0 and (messages or queue.partial is not None):
                body, goes_on = queue.take()
                size = len(body)
                if goes_on:
                    header = pack_header(size + LENGTH_BEYOND, kind | MORE)
                else:
                    header = pack_header(size + LENGTH_BEYOND, kind)
                    self.sent_messages += 1
                chunks += (header, body, seal(header, body))
                room -= size
        return b"".join(chunks)

    def _gather_urgent(self, chunks: list[bytes | memoryview], now: float) -> None:
        self._is_urgent = False
        if (ping := self._heartbeat.take_ping(now)) is not None:
            chunks += self.seal(PING, ping)
        if (pong := self._heartbeat.take_answer()) is not None:
            chunks += self.seal(PONG, pong)
        if self._rekey_message is not None:
            chunks += self.seal(REKEY, self._rekey_message)
            self._rekey_message = None
            if self._rekey_is_answer:
                self._keys.answer_sealed()
