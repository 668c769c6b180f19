"""What clients ask of the replicated service, and what their answers must look like: one class per application.

A service draws operations, and at the end judges all that callers were told. Values are unique, so that a lost, doubled
or reordered operation shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol

from pbft.application import Application
from pbft.apps import counter, kv
from pbft.simulation.world import Violation
from pbft.state import State


@dataclass(frozen=True, slots=True)
class Asked:
    """One operation, and what it means to the service that drew it."""

    operation: bytes
    is_query: bool
    key: bytes = b""
    value: bytes | None = None


@dataclass(slots=True)
class Ended:
    """One call as its caller saw it; `result` is None where the outcome is unknown."""

    client: int
    asked: Asked
    begun: float
    ended: float
    result: bytes | None
    error: str


class Service(Protocol):
    """An application under simulation."""

    @property
    def application(self) -> Callable[[State], Application]:
        """What replicas run."""

    def draw(self, random: Random) -> Asked:
        """The next operation of a caller."""

    def check(self, calls: list[Ended], end: Application) -> None:
        """Judge what callers were told; `end` is the application at a correct replica. Raises Violation."""


class Counting:
    """Callers count up and read; every count is told once."""

    application = counter.Counter

    def draw(self, random: Random) -> Asked:
        """One in five reads."""
        reads = random.random() < 0.2
        return Asked(counter.get() if reads else counter.inc(), reads)

    def check(self, calls: list[Ended], end: Application) -> None:
        """Exactly once, and linearizable. Rule 1.15"""
        total = int(end.state.get(b"total", b"0"))
        counted = sorted(
            ((int(c.result), c) for c in calls if c.result is not None and not c.asked.is_query), key=_first
        )
        if len(dict.fromkeys(count for count, _ in counted)) != len(counted):
            raise Violation("exactly once", "two calls were given the same count")
        unknown = sum(c.result is None and not c.asked.is_query for c in calls)
        if not len(counted) <= total <= len(counted) + unknown:
            raise Violation("exactly once", f"the counter stands at {total}: {len(counted)} counted, {unknown} unknown")
        earliest_end = float("inf")
        for count, call in reversed(counted):
            if earliest_end < call.begun:
                raise Violation("linearizable", f"{count} was counted after a later count had been told")
            earliest_end = min(earliest_end, call.ended)
        for query in (c for c in calls if c.asked.is_query):
            if query.result is None:
                continue
            told = max((count for count, c in counted if c.ended < query.begun), default=0)
            begun = sum(not c.asked.is_query and c.begun < query.ended for c in calls)
            if not told <= int(query.result) <= begun:
                raise Violation("linearizable", f"a query read {int(query.result)}; {told} were told, {begun} begun")


class Storing:
    """Callers put unique values under few keys and read them: each key is a register."""

    application = kv.KeyValue

    def __init__(self) -> None:
        self._written = 0

    def draw(self, random: Random) -> Asked:
        """Half writes, half reads."""
        key = b"key %d" % random.randrange(4)
        if random.random() < 0.5:
            return Asked(kv.get(key), True, key)
        self._written += 1
        value = b"value %d" % self._written
        return Asked(kv.put(key, value), False, key, value)

    def check(self, calls: list[Ended], end: Application) -> None:
        """Every read of a register returns a value that no other write had replaced for certain before it began."""
        for key in sorted({c.asked.key for c in calls}):
            writes = [c for c in calls if c.asked.key == key and not c.asked.is_query]
            for read in (c for c in calls if c.asked.key == key and c.asked.is_query and c.result is not None):
                assert read.result is not None
                self._check_read(writes, kv.get_result(read.result), read.begun, read.ended)
            self._check_read(writes, end.state.get(key), float("inf"), float("inf"))

    @staticmethod
    def _check_read(writes: list[Ended], value: bytes | None, begun: float, ended: float) -> None:
        certain = [w for w in writes if w.result is not None]
        source = next((w for w in writes if w.asked.value == value), None)
        if value is None:
            if any(w.ended < begun for w in certain):
                raise Violation("linearizable", "a read found nothing under a key that had been written")
        elif source is None or source.begun > ended:
            raise Violation("linearizable", f"a read found {value!r}, which nobody had written yet")
        elif source.result is not None and any(w.begun > source.ended and w.ended < begun for w in certain):
            raise Violation("linearizable", f"a read found {value!r}, which had been replaced")


def _first(pair: tuple[int, Ended]) -> int:
    return pair[0]


SERVICES: dict[str, Callable[[], Service]] = {"counter": Counting, "kv": Storing}
