"""What a client knows of each replica: link, view, conduct. The believed view. Rule 1.16, 4 #41.

Rules of this file: bounded by the number of replicas, whatever they send; the only writer of the believed view.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pbft.config import Quorums
from pbft.crypto import AuthenticatorKey


@dataclass(frozen=True, slots=True)
class ReplicaStatistics:
    """One replica, seen from this client. Counters since the client was made."""

    replica: int
    connected: bool
    view: int
    """Newest view it named; 0 before its first reply."""
    replies: int
    """REPLY messages."""
    outvoted: int
    """Results of this replica that disagreed with what f+1 replicas proved, or with their own digest. A correct
    replica never counts one."""
    busy: int
    """Refusals with the reason `busy`."""
    refused: int
    """Refusals with another reason."""
    malformed: int
    """Messages that do not decode, or that replicas do not send to clients."""


@dataclass(frozen=True, slots=True)
class ClientStatistics:
    """A client at one moment. Counters since it was made."""

    view: int
    """Believed view; its primary is `view` mod n."""
    session: int
    """Number of the open session, 0 if there is none."""
    sessions: int
    """Sessions opened."""
    waiting: int
    """Calls not sent yet."""
    outstanding: int
    """REQUESTs in flight."""
    calls: int
    """Calls begun; and of those that ended:"""
    succeeded: int
    failed: int
    requests: int
    """REQUESTs sent, each once however often it was sent again."""
    retransmissions: int
    replicas: tuple[ReplicaStatistics, ...]


_PENALTY_MIN, _PENALTY_MAX = 8, 1024
"""How often a replica that failed as replier is passed over."""


class _Record:
    __slots__ = ("busy", "key", "malformed", "outvoted", "pass_over", "penalty", "refused", "replies", "view")

    def __init__(self) -> None:
        self.key: AuthenticatorKey | None = None
        self.view = self.replies = self.outvoted = self.busy = self.refused = self.malformed = 0
        self.penalty = self.pass_over = 0


class Replicas:
    """All replicas of the group, by number."""

    def __init__(self, quorums: Quorums) -> None:
        self._quorums = quorums
        self._records = [_Record() for _ in range(quorums.n)]
        self._replier = -1
        self.view = 0
        """(f+1)-th largest of the views that replicas named: some correct replica is at least there, and f liars cannot
        raise it beyond."""
        self.primary = 0

    def __getitem__(self, replica: int) -> _Record:
        return self._records[replica]

    def __contains__(self, replica: int) -> bool:
        return 0 <= replica < len(self._records)

    def name_view(self, replica: int, view: int) -> bool:
        """A replica names its view. True if the believed primary is another one now."""
        record = self._records[replica]
        if record.view == view:
            return False
        record.view = view
        self.view = sorted((r.view for r in self._records), reverse=True)[self._quorums.weak - 1]
        before, self.primary = self.primary, self._quorums.primary(self.view)
        return self.primary != before

    def connected(self) -> Iterator[int]:
        """Replicas with a link, in order."""
        return (i for i, record in enumerate(self._records) if record.key is not None)

    @property
    def missing(self) -> int:
        """How many replicas have no link now."""
        return sum(record.key is None for record in self._records)

    def keys(self) -> list[AuthenticatorKey | None]:
        """What an authenticator is made with."""
        return [record.key for record in self._records]

    def next_replier(self) -> int:
        """Who is to send the next full result: in turn, among those with a link that did not fail at it lately.
        [CL99 §5.1]"""
        n = len(self._records)
        turns = [(self._replier + step) % n for step in range(1, n + 1)]
        connected = [replica for replica in turns if self._records[replica].key is not None]
        for replica in connected:
            record = self._records[replica]
            if not record.pass_over:
                self._replier = replica
                return replica
            record.pass_over -= 1
        return connected[0] if connected else 0

    def replier_failed(self, replica: int) -> None:
        """The designated replier did not send what enough others vouch for: pass it over, each time for longer."""
        record = self._records[replica]
        record.penalty = min(_PENALTY_MAX, max(_PENALTY_MIN, 2 * record.penalty))
        record.pass_over = record.penalty

    def statistics(self) -> tuple[ReplicaStatistics, ...]:
        """A snapshot of all."""
        return tuple(
            ReplicaStatistics(i, r.key is not None, r.view, r.replies, r.outvoted, r.busy, r.refused, r.malformed)
            for i, r in enumerate(self._records)
        )
