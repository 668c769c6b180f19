"""The shared library of misbehaviours: a correct replica whose outgoing messages are bent. Pure.

Used by `pbft replica --adversary NAME`, by the demonstration, and by the simulator. Each class does one thing that a
machine which was taken over might do; what it receives, and its own state, stay those of a correct replica.
"""

from __future__ import annotations

from collections import deque
from random import Random

from pbft.batch import result_digest
from pbft.config import Group, is_client
from pbft.messages import (
    Body,
    Checkpoint,
    Commit,
    Committed,
    Fetch,
    Message,
    Nack,
    Prepare,
    Reply,
    Status,
)

Outgoing = list[tuple[int, Message]]


class Misbehaviour:
    """Bends what a correct replica sends."""

    name = "correct"

    def __init__(self, me: int, group: Group, random: Random) -> None:
        self.me = me
        self.group = group
        self.random = random

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """What leaves instead of `message` for `to`; messages to others may be added."""
        return [(to, message)]


class LyingReplies(Misbehaviour):
    """Tells clients a wrong result, consistently and with a matching digest."""

    name = "lying-replies"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Every result gets a byte that is not its own."""
        if not isinstance(message, Reply):
            return [(to, message)]
        rows = []
        for request_id, tentative, digest, result in message.rows:
            if not result:
                rows.append((request_id, tentative, result_digest(digest), b""))
                continue
            lie = result[:-1] + bytes([result[-1] ^ 1])
            rows.append((request_id, tentative, result_digest(lie), lie))
        return [(to, message._replace(rows=tuple(rows)))]


class MismatchedResults(Misbehaviour):
    """Tells clients the right digest with a wrong result behind it."""

    name = "mismatched-results"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Every full result gets a byte that is not its own; the digest stays."""
        if not isinstance(message, Reply):
            return [(to, message)]
        rows = [(i, t, d, r[:-1] + bytes([r[-1] ^ 1]) if r else b"") for i, t, d, r in message.rows]
        return [(to, message._replace(rows=tuple(rows)))]


class WrongDigests(Misbehaviour):
    """Votes for digests that nobody proposed."""

    name = "wrong-digests"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """PREPARE and COMMIT name another digest."""
        if isinstance(message, (Prepare, Commit)):
            return [(to, message._replace(digest=_other(message.digest)))]
        return [(to, message)]


class EquivocatingVotes(Misbehaviour):
    """Votes for one digest to some replicas and for another one to the rest, and sometimes for both."""

    name = "equivocating-votes"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """By the parity of the receiver; now and then both."""
        if not isinstance(message, (Prepare, Commit)):
            return [(to, message)]
        other = message._replace(digest=_other(message.digest))
        sent: Message = message if to % 2 else other
        return [(to, sent), (to, other)] if self.random.random() < 0.2 else [(to, sent)]


class FalseCheckpoints(Misbehaviour):
    """Sends CHECKPOINTs with a wrong digest under its own, now worthless, seal, or with another sender's name."""

    name = "false-checkpoints"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """A wrong digest, or a stolen name."""
        if not isinstance(message, Checkpoint):
            return [(to, message)]
        if self.random.random() < 0.5:
            return [(to, message._replace(digest=_other(message.digest)))]
        return [(to, message._replace(sender=(self.me + 1) % len(self.group.replicas)))]


class LyingStatus(Misbehaviour):
    """Lies about what it has executed and what it needs; answers fetches with wrong bodies."""

    name = "lying-status"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Wrong STATUS, COMMITTED and BODY."""
        if isinstance(message, Status):
            far = self.random.choice((0, message.last_executed + 1000, (1 << 64) - 1))
            return [(to, message._replace(last_executed=far, first_retained=0)), (to, message)]
        if isinstance(message, Committed):
            return [(to, message._replace(digests=tuple(_other(d) for d in message.digests)))]
        if isinstance(message, Body):
            return [(to, message._replace(batch=message.batch[:-1]))]
        return [(to, message)]


class Replaying(Misbehaviour):
    """Sends recorded messages of its own again and again, to everybody."""

    name = "replaying"

    def __init__(self, me: int, group: Group, random: Random) -> None:
        super().__init__(me, group, random)
        self._recorded: deque[Message] = deque(maxlen=256)

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Each message is followed by three old ones."""
        if is_client(to):
            return [(to, message)]
        self._recorded.append(message)
        return [(to, message), *((to, self.random.choice(self._recorded)) for _ in range(3))]


class Flooding(Misbehaviour):
    """Sends useless but valid messages in masses: requests for bodies, STATUS, votes outside the window, NACKs."""

    name = "flooding"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Each message to a replica is followed by fifty others."""
        if is_client(to):
            return [(to, message)]
        random = self.random
        junk = bytes(random.getrandbits(8) for _ in range(32))
        far = random.getrandbits(60)
        client = min(self.group.clients, default=1 << 63)
        masses: list[Message] = [
            Fetch(tuple((n, junk) for n in range(1, 33))),
            Status(0, 0, 0, 0, 0, b"", b"", b""),
            Prepare(0, far, junk),
            Commit(far, 1, junk),
            Committed(far, (junk,)),
            Nack(1, client, junk),
        ]
        return [(to, message), *((to, random.choice(masses)) for _ in range(50))]


class Silent(Misbehaviour):
    """Receives and executes, and says nothing."""

    name = "silent"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Nothing."""
        return []


def _other(digest: bytes) -> bytes:
    return bytes([digest[0] ^ 1]) + digest[1:]


MISBEHAVIOURS: dict[str, type[Misbehaviour]] = {
    kind.name: kind
    for kind in (
        LyingReplies,
        MismatchedResults,
        WrongDigests,
        EquivocatingVotes,
        FalseCheckpoints,
        LyingStatus,
        Replaying,
        Flooding,
        Silent,
    )
}
