"""Incarnations and recovery points of the replicas, as replicated state. Rule 1.7 a.

They stand in the system space: `incarnation/i`, a number, and, once replica i has recovered, `recovery/i`: the recovery
point, the nonce of the RECOVER that set it, and up to when its recoveries are spent.
"""

from __future__ import annotations

from pbft.batch import ClientRequest
from pbft.codec import CodecError
from pbft.config import Group
from pbft.execution.results import RECOVERY_PACE, Recovered
from pbft.state import State


class Members:
    """Of one executor; writes through to the system space."""

    def __init__(self, group: Group, system: State) -> None:
        """As `system` says; a fresh one is filled. Raises CodecError if it cannot be read."""
        self._system = system
        self._interval = group.tunables.checkpoint_interval
        self._window = group.tunables.log_window
        self._all = [self._read(i) for i in range(len(group.replicas))]

    def _read(self, replica: int) -> Recovered:
        raw = self._system.get(b"incarnation/%d" % replica)
        if raw is None:
            raw = self._system[b"incarnation/%d" % replica] = bytes(8)
        recovery = self._system.get(b"recovery/%d" % replica, bytes(24))
        if len(raw) != 8 or len(recovery) != 24:
            raise CodecError("shape", f"incarnation or recovery point of replica {replica} has another length")
        return Recovered(
            replica,
            int.from_bytes(raw, "big"),
            int.from_bytes(recovery[:8], "big"),
            int.from_bytes(recovery[8:16], "big"),
            int.from_bytes(recovery[16:], "big"),
        )

    def incarnation(self, replica: int) -> int:
        """The present incarnation; 0 for one that is no member."""
        return self._all[replica].incarnation if replica < len(self._all) else 0

    def recover(self, number: int, time: int, request: ClientRequest) -> Recovered | None:
        """RECOVER(i, k), executed at `number`: it executes iff k is the incarnation of i, `number` lies above i's
        previous recovery point, and i has not recovered too often. What i voted before lies in windows below the new
        point. `time`: the agreed one."""
        replica = request.client
        if replica >= len(self._all):
            return None
        old = self._all[replica]
        if old.incarnation != request.floor or number <= old.point or not old.may_recover(time):
            return None
        point = number // self._interval * self._interval + self._window
        new = self._all[replica] = Recovered(
            replica, old.incarnation + 1, point, request.id, max(old.due, time) + RECOVERY_PACE
        )
        self._system[b"incarnation/%d" % replica] = new.incarnation.to_bytes(8, "big")
        self._system[b"recovery/%d" % replica] = b"".join(
            value.to_bytes(8, "big") for value in (point, new.nonce, new.due)
        )
        return new

    def recovered(self) -> tuple[Recovered, ...]:
        """The last recovery of each replica that ever recovered."""
        return tuple(entry for entry in self._all if entry.incarnation)
