"""Calls that wait to travel, and which of them share the next REQUEST. DESIGN 1.4, rule 1.15.

Rules of this file: knows no session and no replica; calls leave in the order in which they came, per kind.
"""

from __future__ import annotations

from collections import OrderedDict

from pbft.batch import Kind, request_overhead
from pbft.client.calls import Call
from pbft.codec import head_size
from pbft.config import Tunables

_OVERHEAD = request_overhead(())
_HEAD_MAX = 5
_FADING = 0.95


class Waiting:
    """Two queues: operations and queries never share a REQUEST."""

    def __init__(self, tunables: Tunables) -> None:
        self._tunables = tunables
        # Ordered dicts: a call that ends while it waits leaves at once, wherever it stands.
        self._operations: OrderedDict[Call, None] = OrderedDict()
        self._queries: OrderedDict[Call, None] = OrderedDict()
        self._last = Kind.QUERIES
        self._result_bytes = 0.0
        self.operation_max = tunables.operation_max_bytes - _OVERHEAD - _HEAD_MAX
        """Bytes of the largest operation that fits into a REQUEST."""

    def __len__(self) -> int:
        return len(self._operations) + len(self._queries)

    def add(self, call: Call, query: bool) -> None:
        """The call waits from now on."""
        (self._queries if query else self._operations)[call] = None

    def remove(self, call: Call) -> None:
        """The call waits no longer."""
        self._operations.pop(call, None)
        self._queries.pop(call, None)

    def clear(self) -> list[Call]:
        """Take all calls."""
        calls = [*self._operations, *self._queries]
        self._operations.clear()
        self._queries.clear()
        return calls

    def take(self) -> tuple[Kind, list[Call]]:
        """The calls of the next REQUEST, at least one; there must be some. The kinds take turns, so that neither
        starves the other."""
        if self._last is Kind.OPERATIONS:
            kind = Kind.QUERIES if self._queries else Kind.OPERATIONS
        else:
            kind = Kind.OPERATIONS if self._operations else Kind.QUERIES
        self._last = kind
        waiting = self._queries if kind is Kind.QUERIES else self._operations
        most = self._most()
        left = self._tunables.operation_max_bytes - _OVERHEAD
        calls: list[Call] = []
        while waiting and len(calls) < most:
            call = next(iter(waiting))
            size = len(call.operation)
            left -= size + head_size(size)
            if left < 0:
                break
            del waiting[call]
            calls.append(call)
        return kind, calls

    def _most(self) -> int:
        most = self._tunables.operations_per_request
        if self._result_bytes:
            # Large results: fewer of them together, so that replicas can send and remember them.
            share = self._tunables.results_together
            most = max(1, min(most, int(share / self._result_bytes)))
        return most

    def measured(self, calls: int, result_bytes: int) -> None:
        """That many calls had results of so many bytes together."""
        self._result_bytes = max(result_bytes / calls, _FADING * self._result_bytes)
