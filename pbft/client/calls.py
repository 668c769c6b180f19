"""Calls of the user, and the deadlines by which each of them ends.

Rules of this file: knows nothing of requests or replicas; only `Deadlines` writes `Call.due`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pbft.client.errors import ClientError

if TYPE_CHECKING:
    from pbft.client.pending import Pending

_STEP = 1 / 64
_FINE_SPAN = 256 * _STEP


class Call:
    """One operation or query on its way; the token that `ClientCore.invoke` hands out.

    `result` is set when it has `ended`: bytes, or the error. `waiter` belongs to the shell. `request` is the REQUEST
    that carries it, None while it waits.
    """

    __slots__ = ("deadline", "due", "ended", "operation", "request", "result", "started", "waiter")

    def __init__(self, operation: bytes, now: float, deadline: float) -> None:
        self.operation = operation
        self.started = now
        self.deadline = deadline
        self.due = 0.0
        self.ended = False
        self.request: Pending | None = None
        self.result: bytes | ClientError | None = None
        self.waiter: object = None


class Deadlines:
    """A coarse timer wheel: adding and removing cost one dict operation each.

    A call is found up to 1/64 s, or 1/128 of its timeout, after its deadline. Coarser slots for longer timeouts bound
    the number of slots.
    """

    __slots__ = ("_heap", "_slots")

    def __init__(self) -> None:
        self._slots: dict[float, dict[Call, None]] = {}
        self._heap: list[float] = []

    def add(self, call: Call) -> None:
        """Watch a call."""
        deadline = call.deadline
        width, span = _STEP, deadline - call.started
        while span > _FINE_SPAN:
            span /= 2
            width *= 2
        call.due = due = (int(deadline / width) + 1) * width
        slot = self._slots.get(due)
        if slot is None:
            slot = self._slots[due] = {}
            heapq.heappush(self._heap, due)
        slot[call] = None

    def remove(self, call: Call) -> None:
        """The call has ended."""
        slot = self._slots.get(call.due)
        if slot is not None:
            slot.pop(call, None)

    def expired(self, now: float) -> Iterator[Call]:
        """Calls whose deadlines have passed, earliest slot first; they are watched no longer."""
        heap = self._heap
        while heap and heap[0] <= now:
            yield from self._slots.pop(heapq.heappop(heap))

    def next(self) -> float | None:
        """When `expired` has something to do next; None if nothing is watched. Drops slots that are empty."""
        heap = self._heap
        while heap:
            if self._slots[heap[0]]:
                return heap[0]
            del self._slots[heapq.heappop(heap)]
        return None
