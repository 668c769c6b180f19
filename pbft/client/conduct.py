"""Who is caught lying: replies compared with what was accepted, before and after. Scenario E08.

Rules of this file: judges, and changes nothing that a client believes; bounded, whatever replicas send.
"""

from __future__ import annotations

from collections import OrderedDict

from pbft.client.collector import Collector, is_blamable
from pbft.client.replicas import Replicas

_REMEMBERED = 128
"""Accepted results, by digest, that late replies are compared with."""


class Conduct:
    """Accepted results of the present session."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._accepted: OrderedDict[int, tuple[bytes, int]] = OrderedDict()
        """Request id -> digest of the accepted result, bits of the replicas already counted."""

    def accepted(self, request_id: int, collector: Collector) -> None:
        """A result was accepted: count who had said something else."""
        if collector.accepted is None:
            return
        counted = 0
        for replica in collector.dissenters():
            self._replicas[replica].outvoted += 1
            counted |= 1 << replica
        self._accepted[request_id] = collector.accepted[0], counted
        if len(self._accepted) > _REMEMBERED:
            self._accepted.popitem(last=False)

    def compare(self, request_id: int, replica: int, tentative: bool, digest: bytes, result: bytes) -> None:
        """A reply to a request that is over, maybe to one whose result was accepted: each replica counts once."""
        known = self._accepted.get(request_id)
        if known is None or tentative or digest == known[0] or known[1] >> replica & 1 or not is_blamable(result):
            return
        self._accepted[request_id] = known[0], known[1] | 1 << replica
        self._replicas[replica].outvoted += 1

    def forget(self) -> None:
        """Another session: ids begin anew."""
        self._accepted.clear()
