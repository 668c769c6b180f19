"""Opens the session of a client: OPEN(nonce, count), signed, to everybody. Rule 1.15.

The count is the client's number of opens so far, which only the replicated state knows: a client starts with what it
heard last, and is told the present one if that is stale. Another process with the same key may be opening too; each
round one of them wins.

Rules of this file: the only writer of the count; never repeats an operation.
"""

from __future__ import annotations

from collections.abc import Callable

from pbft.batch import Answer, decode_result, open_body
from pbft.client.pending import Pending
from pbft.client.transmission import Transmission
from pbft.codec import CodecError
from pbft.config import Quorums

_RESULT_MAX = 64


class Opening:
    """At most one OPEN in flight."""

    def __init__(
        self, principal: int, quorums: Quorums, entropy: Callable[[int], bytes], transmission: Transmission
    ) -> None:
        self._principal = principal
        self._quorums = quorums
        self._entropy = entropy
        self._transmission = transmission
        self._count = 0
        self.pending: Pending | None = None

    def start(self, now: float) -> None:
        """Send an OPEN, with a fresh nonce, unless one is in flight."""
        if self.pending is None:
            # A nonce per attempt: replies name the nonce alone, and those to another count must not be counted here.
            nonce = int.from_bytes(self._entropy(8), "big")
            body = open_body(self._principal, nonce, self._count)
            self.pending = Pending(nonce, body, [], self._quorums, _RESULT_MAX)
            self._transmission.first(self.pending, now, by_macs=False)

    def conclude(self, now: float) -> int | str:
        """The OPEN has a proven result: the session's number, 0 if another OPEN is on its way, or why there will be
        none (a reason of `RequestRejected`)."""
        pending, self.pending = self.pending, None
        if pending is None or pending.collector.accepted is None:
            return 0
        try:
            answer, value = decode_result(pending.collector.accepted[1])
        except CodecError:
            return "malformed"
        if answer is Answer.OPENED and type(value) is int:
            return value
        if answer is Answer.OPEN_STALE and type(value) is int:
            self._count = value
            self.start(now)
            return 0
        return "unknown-client"

    def abandon(self) -> None:
        """Forget the OPEN in flight."""
        self.pending = None
