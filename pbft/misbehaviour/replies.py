"""Lies to clients."""

from __future__ import annotations

from pbft.batch import result_digest
from pbft.messages import Message, Reply
from pbft.misbehaviour.base import Misbehaviour, Outgoing, Sent


class LyingReplies(Misbehaviour):
    """Tells clients a wrong result, consistently and with a matching digest."""

    name = "lying-replies"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Every result gets a byte that is not its own."""
        if not isinstance(message, Reply):
            return [Sent(to, message)]
        rows = []
        for request_id, tentative, digest, result in message.rows:
            if not result:
                rows.append((request_id, tentative, result_digest(digest), b""))
                continue
            lie = _bent(result)
            rows.append((request_id, tentative, result_digest(lie), lie))
        return [Sent(to, message._replace(rows=tuple(rows)))]


class MismatchedResults(Misbehaviour):
    """Tells clients the right digest with a wrong result behind it."""

    name = "mismatched-results"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Every full result gets a byte that is not its own; the digest stays."""
        if not isinstance(message, Reply):
            return [Sent(to, message)]
        rows = [(i, t, d, _bent(r) if r else b"") for i, t, d, r in message.rows]
        return [Sent(to, message._replace(rows=tuple(rows)))]


class EarlyReplies(Misbehaviour):
    """Tells clients wrong results for requests that nothing was decided about, and wrong views."""

    name = "early-replies"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Each reply is preceded by one for the ids to come, from a view far away."""
        if not isinstance(message, Reply):
            return [Sent(to, message)]
        lies = []
        for request_id, tentative, _, result in message.rows:
            lie = _bent(result) if result else b"\x82\x00\x80"
            lies.append((request_id + 1, tentative, result_digest(lie), lie))
        far = self.random.choice((0, message.view + 1, message.view + 1000, 1 << 60))
        return [Sent(to, Reply(far, message.session, tuple(lies))), Sent(to, message)]


def _bent(result: bytes) -> bytes:
    return result[:-1] + bytes([result[-1] ^ 1])
