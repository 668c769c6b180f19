"""Heartbeats of one link: they show that both directions work, and measure the round trip."""

from __future__ import annotations

_RTT_WEIGHT = 1 / 8
"""Of a new round trip in the smoothed one. [RFC 6298]"""


class Heartbeat:
    """One ping at a time, and the peer's last one to answer. `rtt`: the smoothed round trip in seconds, if known."""

    __slots__ = ("_nonce", "_sent_at", "answer", "rtt")

    def __init__(self) -> None:
        self.rtt: float | None = None
        self.answer: bytes | None = None
        """What the next pong must carry."""
        self._nonce: bytes | None = None
        self._sent_at: float | None = None

    def begin(self, nonce: bytes) -> bool:
        """A ping is to be sent; false while one is on its way. The nonce is unpredictable, or it could be answered
        early."""
        if self._nonce is not None:
            return False
        self._nonce = nonce
        return True

    def take_ping(self, now: float) -> bytes | None:
        """The ping to send now, if one waits."""
        if self._nonce is None or self._sent_at is not None:
            return None
        self._sent_at = now
        return self._nonce

    def take_answer(self) -> bytes | None:
        """The pong to send now, if one waits."""
        answer, self.answer = self.answer, None
        return answer

    def on_pong(self, body: bytes, now: float) -> None:
        """Any but the one that is awaited says nothing."""
        if self._sent_at is None or body != self._nonce:
            return
        sample = max(0.0, now - self._sent_at)
        self.rtt = sample if self.rtt is None else self.rtt + _RTT_WEIGHT * (sample - self.rtt)
        self._nonce = self._sent_at = None
