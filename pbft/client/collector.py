"""What a client believes: the certificate of one request. Rule 1.16, [CL99 §4.1, §5.1].

Rules of this file: decides from the replies of distinct replicas alone; knows nothing of time, sessions or calls.

f+1 matching committed replies prove a result, for one of them is a correct replica's. Tentative ones prove it only as q
matching of one view, among which committed ones may count. A replica has at most one committed and one tentative vote
at a time. A later vote of the same replica replaces its earlier one: a correct replica may answer "done" first and, on
a retransmission, that it has forgotten the result; counting only its first word could leave three answers with too few
votes each. It still counts once, and each vote counted was truly that replica's word.
"""

from __future__ import annotations

from pbft.batch import result_digest
from pbft.config import Quorums

_DONE_PREFIX = b"\x82\x00"
"""How the encoding of [DONE, rows] begins; all other answers are the replicated table's."""


class Collector:
    """Replies to one request. `accepted` is (digest, full result) once a certificate and the result are here."""

    __slots__ = (
        "_committed",
        "_excused",
        "_full",
        "_has_tentative",
        "_limit",
        "_quorums",
        "_tentative",
        "accepted",
    )

    def __init__(self, quorums: Quorums, result_max: int) -> None:
        """`result_max`: full results of more bytes are not kept."""
        self._quorums = quorums
        self._limit = result_max
        self._committed: list[bytes | None] = [None] * quorums.n
        """By replica: digest of the result that it committed."""
        self._tentative: list[tuple[int, bytes] | None] = [None] * quorums.n
        self._has_tentative = False
        self._full: dict[int, tuple[bytes, bytes]] = {}
        """By replica, so that a liar can only push out its own: digest and full result, one entry per digest."""
        self._excused = 0
        self.accepted: tuple[bytes, bytes] | None = None

    def add(self, replica: int, view: int, tentative: bool, digest: bytes, result: bytes) -> bool:
        """Count a reply. False if the full result is not what its own digest says, which no correct replica sends; the
        reply then counts for nothing."""
        if result:
            if result_digest(result) != digest:
                return False
            if len(result) <= self._limit and not any(known == digest for known, _ in self._full.values()):
                self._full[replica] = (digest, result)
        if tentative:
            known = self._tentative[replica]
            if known is not None and known[0] > view:
                return True
            self._tentative[replica] = (view, digest)
            self._has_tentative = True
        else:
            self._committed[replica] = digest
            bit = 1 << replica
            self._excused = self._excused & ~bit if is_blamable(result) else self._excused | bit
        if self.is_certified(digest):
            for full_digest, full in self._full.values():
                if full_digest == digest:
                    self.accepted = digest, full
        return True

    def is_certified(self, digest: bytes) -> bool:
        """Whether enough distinct replicas vouch for the result with this digest."""
        if self._committed.count(digest) >= self._quorums.weak:
            return True
        if not self._has_tentative:
            return False
        views = {vote[0] for vote in self._tentative if vote is not None and vote[1] == digest}
        return any(self._matching(digest, (view, digest)) >= self._quorums.strong for view in views)

    def _matching(self, digest: bytes, vote: tuple[int, bytes]) -> int:
        return sum(
            committed == digest or tentative == vote
            for committed, tentative in zip(self._committed, self._tentative, strict=True)
        )

    def _digests(self) -> dict[bytes, None]:
        votes = [*self._committed, *(vote[1] for vote in self._tentative if vote is not None)]
        return dict.fromkeys(vote for vote in votes if vote is not None)

    @property
    def lacks_result(self) -> bool:
        """Whether some result is certified by its digest, but nobody has sent it in full."""
        return self.accepted is None and any(map(self.is_certified, self._digests()))

    @property
    def replied(self) -> tuple[int, ...]:
        """Who has answered."""
        votes = zip(self._committed, self._tentative, strict=True)
        return tuple(i for i, (committed, tentative) in enumerate(votes) if committed or tentative)

    @property
    def disagreed(self) -> bool:
        """Whether different results were named."""
        return len(self._digests()) > 1

    def dissenters(self) -> list[int]:
        """Who committed another result than the accepted one and has no excuse."""
        if self.accepted is None:
            return []
        right = self.accepted[0]
        votes = enumerate(self._committed)
        return [i for i, vote in votes if vote is not None and vote != right and not self._excused >> i & 1]


def is_blamable(result: bytes) -> bool:
    """Whether a correct replica cannot have sent this beside another, accepted result of an executed request. One may
    say "forgotten" or "too old", always in full, where another one still knows the result."""
    return not result or result.startswith(_DONE_PREFIX)
