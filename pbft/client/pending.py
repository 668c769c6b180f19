"""One REQUEST that is outstanding: what it carries, who has answered, when it is sent again.

Rules of this file: knows neither session state nor other requests; never decides what to send.
"""

from __future__ import annotations

from pbft.client.calls import Call
from pbft.client.collector import Collector
from pbft.config import Quorums
from pbft.crypto import digest

FINAL_REASONS = frozenset({"too-large", "malformed", "unknown-client"})
"""Refusals that f+1 replicas can end a call with before its deadline: no retry would change them."""


class Pending:
    """A REQUEST or OPEN between its first transmission and its end. `id`: for OPEN the nonce."""

    __slots__ = (
        "backed_off",
        "body",
        "busy",
        "calls",
        "collector",
        "digest",
        "first_sent",
        "hurried",
        "id",
        "interval",
        "is_query",
        "live",
        "refusals",
        "replier",
        "retransmit_at",
        "signed",
    )

    def __init__(
        self,
        request_id: int,
        body: bytes,
        calls: list[Call],
        quorums: Quorums,
        result_max: int,
        replier: int | None = None,
        is_query: bool = False,
    ) -> None:
        """`result_max`: bytes of the largest full result; `replier`: who was designated to send it."""
        self.is_query = is_query
        self.id = request_id
        self.replier = replier
        self.body = body
        self.digest = request_digest(body)
        self.calls = calls
        self.live = len(calls)
        """Calls in it that have not ended; at 0 nobody waits for it any more."""
        self.collector = Collector(quorums, result_max)
        self.signed: bytes | None = None
        """The message with a signature, once it has gone to everybody."""
        self.first_sent = 0.0
        self.interval = 0.0
        self.retransmit_at = 0.0
        self.busy = 0
        """Bit i: the last word of replica i on this request was `busy`."""
        self.backed_off = False
        self.hurried = False
        """Whether the next transmission was brought forward, since only the full result is missing."""
        self.refusals: dict[int, str] = {}
        """Replica -> final reason; bounded by the number of replicas and the known reasons."""

    def refused_by(self, reason: str) -> int:
        """How many replicas gave this final reason."""
        return sum(1 for given in self.refusals.values() if given == reason)


def request_digest(body: bytes) -> bytes:
    """The digest by which replicas know a request, as `pbft.batch.ClientRequest` has it: equal bodies have equal
    digests, however authenticated. Made without parsing what was encoded just now."""
    return digest(b"request", body)
