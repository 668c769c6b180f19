"""When a request is sent again: from measured round trips, within bounds, with jitter. Rule 1.16, 2.3.

Rules of this file: numbers only; the jitter comes from the object handed in.
"""

from __future__ import annotations

from typing import Protocol

FIRST_MIN = 0.15
"""Seconds before the first retransmission, at least; and at most:"""
FIRST_MAX = 1.0
BRIEF_MIN = 0.02
"""Seconds to wait for a full result whose digest is certified, at least."""
INTERVAL_MAX = 2.0
"""Seconds between two retransmissions of one request, at most, before jitter of a quarter more or less."""


class Jitter(Protocol):
    """`random.Random` is one."""

    def random(self) -> float:
        """A number from 0 up to but excluding 1."""


class Pacing:
    """Smoothed round trips, first transmission to accepted result, with their deviation. [RFC 6298 §2]"""

    __slots__ = ("_deviation", "_jitter", "_smoothed")

    def __init__(self, jitter: Jitter) -> None:
        self._jitter = jitter
        self._smoothed: float | None = None
        self._deviation = 0.0

    def measured(self, seconds: float) -> None:
        """A request took so long. Those sent more than once count too, as upper bounds: else a cluster slower than the
        first guess would be asked everything twice for ever."""
        if self._smoothed is None:
            self._smoothed, self._deviation = seconds, seconds / 2
            return
        self._deviation += (abs(seconds - self._smoothed) - self._deviation) / 4
        self._smoothed += (seconds - self._smoothed) / 8

    def first(self) -> float:
        """Seconds to wait for the answer to a first transmission, without jitter."""
        if self._smoothed is None:
            return 2 * FIRST_MIN
        return min(FIRST_MAX, max(FIRST_MIN, self._smoothed + 4 * self._deviation))

    def brief(self) -> float:
        """Seconds to wait for one more reply where most of them are here."""
        return self.first() / 2 if self._smoothed is None else min(self.first(), max(BRIEF_MIN, self._smoothed))

    def longer(self, interval: float) -> float:
        """The interval after this one."""
        return min(INTERVAL_MAX, 2 * interval)

    def jittered(self, interval: float) -> float:
        """The interval, a quarter more or less, so that many clients do not speak at once."""
        return interval * (0.75 + self._jitter.random() / 2)
