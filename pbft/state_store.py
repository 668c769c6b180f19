"""The durable state of one replica: the whole of it once, then what changed since, so that a durable checkpoint costs
what changed. Rule 1.6.

When the changes together are as long as the whole, it is written anew: so a restart reads at most twice the state, and
the disk holds at most three times of it, the third while the whole is written.
"""

from __future__ import annotations

from pbft.execution import ExecutionSnapshot
from pbft.storage.checkpoints import CheckpointStore


class StateStore:
    """Used by one thread at a time."""

    def __init__(self, store: CheckpointStore, stored: ExecutionSnapshot | None) -> None:
        """`stored`: the state that the newest file holds, if there is one."""
        self._store = store
        self._newest = stored

    @property
    def newest(self) -> int:
        """Number of the newest state that is durable; 0 if none is."""
        return 0 if self._newest is None else self._newest.number

    def write(self, snapshot: ExecutionSnapshot, certificate: bytes = b"", whole: bool = False) -> None:
        """Make a state durable. Blocks. `certificate`: an encoded STABLE that names it. `whole`: without relying on
        what is there. Raises OSError (what was durable still is), ValueError if a newer one is."""
        number, meta, base = snapshot.number, snapshot.meta(certificate), self._newest
        if base is not None and not whole and base.number < number and self._store.takes_changes(base.number):
            self._store.write(number, meta, snapshot.changes(base), base.number)
        else:
            self._store.write(number, meta, snapshot.chunks())
        self._newest = snapshot
