"""A mirror of incarnations and recovery points in the replicated state, fed by what has executed. Rule 1.7.

Agreement asks it whose votes and VIEW-CHANGEs are of an ended incarnation, and whether the view it is in is void.
"""

from __future__ import annotations

from collections.abc import Sequence

from pbft.config import Quorums
from pbft.execution.results import Recovered
from pbft.messages import Checkpoint, NewView


class Members:
    """What has executed here says of the replicas."""

    def __init__(self, quorums: Quorums) -> None:
        self._quorums = quorums
        self._now: dict[int, Recovered] = {}
        """Replica -> its last recovery."""

    def load(self, members: tuple[Recovered, ...]) -> None:
        """Begin from the executor's state."""
        self._now = {entry.replica: entry for entry in members}

    def update(self, change: Recovered) -> None:
        """A RECOVER has executed."""
        self._now[change.replica] = change

    def contents(self) -> tuple[Recovered, ...]:
        """What `load` would be given now."""
        return tuple(entry for _, entry in sorted(self._now.items()))

    def vector(self) -> tuple[int, ...]:
        """The incarnation of each replica, or nothing while all are 0."""
        return tuple(map(self.incarnation, range(self._quorums.n))) if self._now else ()

    def incarnation(self, replica: int) -> int:
        """The present incarnation of a replica."""
        found = self._now.get(replica)
        return 0 if found is None else found.incarnation

    def point(self, replica: int) -> int:
        """Its recovery point; 0 if it never recovered."""
        found = self._now.get(replica)
        return 0 if found is None else found.point

    def nonce(self, replica: int) -> int | None:
        """That of the RECOVER by which it has its present incarnation; None if it never recovered."""
        found = self._now.get(replica)
        return None if found is None else found.nonce

    def may_recover(self, replica: int, time: int) -> bool:
        """Whether it has not recovered too often to do so once more at this time."""
        found = self._now.get(replica)
        return found is None or found.may_recover(time)

    def has_ended(self, replica: int, incarnation: int) -> bool:
        """Whether what this incarnation of the replica says counts no longer."""
        return incarnation < self.incarnation(replica)

    def fills(self, low: int) -> bool:
        """Whether some recovery point is not stable yet: numbers are filled with NULLs until it is. Rule 1.7 e."""
        return any(entry.point > low for entry in self._now.values())


def certified_incarnations(quorums: Quorums, certificate: Sequence[Checkpoint]) -> tuple[int, ...]:
    """What the state of a stable certificate says of each replica. All correct signers say the same, and they are f+1
    at least; liars are f at most: so it is the (f+1)-th largest that is said."""
    said = [c.incarnations + (0,) * (quorums.n - len(c.incarnations)) for c in certificate]
    return tuple(sorted(column, reverse=True)[quorums.weak - 1] for column in zip(*said, strict=False))[: quorums.n]


def is_void(quorums: Quorums, new_view: NewView, certificate: Sequence[Checkpoint]) -> bool:
    """Whether a view is void: its NEW-VIEW names a VIEW-CHANGE of an incarnation that has ended, by the state at the
    own h. Nobody votes in it. Rule 1.7 b."""
    if not certificate:
        return False
    present = certified_incarnations(quorums, certificate)
    return any(m.incarnation < present[m.sender] for m in new_view.view_changes)
