"""What waits for a socket: bounded queues by class, and their order on the wire. Scenarios E14, F17, F20, G18.

Bodies are kept unsealed, because seals number the frames: only what is certain to be sent next is sealed. So a
message may still be dropped, or overtaken by one of a higher class, without a gap in the counter.
"""

from __future__ import annotations

from collections import deque

from pbft.transport.framing import FRAGMENT_MAX_BYTES


class SendQueue:
    """Messages of one class for one link, oldest first. When full, the oldest goes: the newest is worth most.

    Invariant: `bytes` is the sum over the waiting messages, at most `max_bytes`; a message of which a part
    was sealed (`partial`: the rest) does not count any more, it must be sent to its end.
    """

    __slots__ = ("_max_bytes", "_max_messages", "_message_max_bytes", "bytes", "dropped", "messages", "partial")

    def __init__(self, max_bytes: int, max_messages: int, message_max_bytes: int) -> None:
        self._message_max_bytes = message_max_bytes
        self._max_bytes = max_bytes
        self._max_messages = max_messages
        self.messages: deque[bytes] = deque()
        self.partial: memoryview | None = None
        self.bytes = 0
        self.dropped = 0

    def push(self, body: bytes) -> bool:
        """Add a message, dropping the oldest ones if need be; False if it is itself too long to be sent."""
        messages = self.messages
        size = len(body)
        if size > self._message_max_bytes:
            self.dropped += 1
            return False
        size += self.bytes
        if size > self._max_bytes or len(messages) >= self._max_messages:
            while messages and (size > self._max_bytes or len(messages) >= self._max_messages):
                size -= len(messages.popleft())
                self.dropped += 1
        messages.append(body)
        self.bytes = size
        return True

    def take(self) -> tuple[bytes | memoryview, bool]:
        """The next piece of at most one fragment, and whether its message goes on. Only if not empty."""
        rest = self.partial
        if rest is None:
            body = self.messages.popleft()
            self.bytes -= len(body)
            if len(body) <= FRAGMENT_MAX_BYTES:
                return body, False
            rest = memoryview(body)
        piece, rest = rest[:FRAGMENT_MAX_BYTES], rest[FRAGMENT_MAX_BYTES:]
        self.partial = rest if len(rest) else None
        return piece, len(rest) > 0

    def clear(self) -> None:
        """Drop everything: the link went down, and a backlog would be stale when it is back."""
        self.dropped += len(self.messages) + (self.partial is not None)
        self.messages.clear()
        self.partial = None
        self.bytes = 0
