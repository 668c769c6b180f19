"""Virtual time: one heap ordered by (time, number of issue), named random streams, and a trace."""

from __future__ import annotations

import hashlib
import heapq
from collections import deque
from collections.abc import Callable
from random import Random

START = 1000.0
_KEPT = 400


class Violation(Exception):
    """An oracle has seen what must not be."""

    def __init__(self, oracle: str, text: str) -> None:
        super().__init__(f"{oracle}: {text}")
        self.oracle = oracle
        self.text = text


class World:
    """Clock, schedule, randomness and trace of one run."""

    def __init__(self, seed: int, echo: Callable[[str], None] | None = None) -> None:
        self._echo = echo
        self.now = START
        self._heap: list[tuple[float, int, Callable[[], None]]] = []
        self._issued = 0
        self._digest = hashlib.blake2b(digest_size=16)
        self._tail: deque[str] = deque(maxlen=_KEPT)
        self.events = 0
        self._seed = seed
        self.network = self.stream("network")
        self.faults = self.stream("faults")
        self.workload = self.stream("workload")
        self.disks = self.stream("disks")
        self.adversary = self.stream("adversary")

    def stream(self, name: str) -> Random:
        """A random stream of its own: what one part draws does not shift what another one gets."""
        return Random(f"{self._seed}/{name}")

    def after(self, delay: float, action: Callable[[], None]) -> None:
        """Do `action` after `delay` seconds of virtual time."""
        self._issued += 1
        heapq.heappush(self._heap, (self.now + delay, self._issued, action))

    def run(self, until: float, stop: Callable[[], bool] | None = None) -> bool:
        """Run events up to a time, or until `stop` holds; whether it held."""
        heap = self._heap
        while heap and heap[0][0] <= until:
            self.now, _, action = heapq.heappop(heap)
            self.events += 1
            action()
            if stop is not None and stop():
                return True
        self.now = until
        return stop is not None and stop()

    def note(self, text: str) -> None:
        """Add to the trace: part of what two runs of one seed are compared by."""
        line = f"{self.now - START:9.4f} {text}"
        self._digest.update(line.encode())
        self._tail.append(line)
        if self._echo is not None:
            self._echo(line)

    @property
    def fingerprint(self) -> str:
        """Hash of the whole trace."""
        return self._digest.hexdigest()

    def last_steps(self, count: int = 40) -> list[str]:
        """The end of the trace."""
        return list(self._tail)[-count:]
