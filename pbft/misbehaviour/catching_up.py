"""Lies about what has executed: STATUS, COMMITTED, bodies, CHECKPOINTs."""

from __future__ import annotations

from pbft.messages import Body, Checkpoint, Committed, Message, StatePiece, StateRoots, Status
from pbft.misbehaviour.base import Captive, Misbehaviour, Outgoing, Sent, other_digest


class LyingStatus(Misbehaviour):
    """Lies about what it has executed and what it needs; answers fetches with wrong bodies and pieces of states."""

    name = "lying-status"

    def __init__(self, captive: Captive) -> None:
        super().__init__(captive)
        self._is_steady = captive.me % 2 == 0
        """Whether it claims at all times to have what others lack, or says now this, now that."""

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Wrong STATUS, COMMITTED and BODY; of a state, wrong roots and pieces, or none."""
        if isinstance(message, Status):
            if self._is_steady:
                return [Sent(to, message._replace(last_executed=message.last_executed + 1000, first_retained=0))]
            far = self.random.choice((0, message.last_executed + 1000, (1 << 64) - 1))
            view = self.random.choice((message.view, 0, message.view + 1, (1 << 64) - 1))
            lie = message._replace(view=view, promised=max(view, message.promised), last_executed=far, first_retained=0)
            return [Sent(to, lie), Sent(to, message)]
        if isinstance(message, Committed):
            return [Sent(to, message._replace(digests=tuple(other_digest(d) for d in message.digests)))]
        if isinstance(message, Body):
            return [Sent(to, message._replace(batch=message.batch[:-1]))]
        if isinstance(message, StateRoots):
            wrong_roots = message._replace(roots=tuple(other_digest(d) for d in message.roots))
            return [Sent(to, self.random.choice((message, message, wrong_roots, message._replace(roots=()))))]
        if isinstance(message, StatePiece):
            wrong = message._replace(data=bytes(b ^ (i == len(message.data) // 2) for i, b in enumerate(message.data)))
            return self.random.choice(([Sent(to, wrong)], [], [Sent(to, message._replace(data=message.data[:-1]))]))
        return [Sent(to, message)]


class FalseCheckpoints(Misbehaviour):
    """Sends CHECKPOINTs with a wrong digest under its own, now worthless, seal, or with another sender's name."""

    name = "false-checkpoints"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """A wrong digest, or a stolen name."""
        if not isinstance(message, Checkpoint):
            return [Sent(to, message)]
        if self.random.random() < 0.5:
            return [Sent(to, message._replace(digest=other_digest(message.digest)))]
        return [Sent(to, message._replace(sender=(self.me + 1) % self.captive.quorums.n))]


class SignedFalseCheckpoints(Misbehaviour):
    """Signs two digests of one state, one for each half of the others, and states that do not exist yet."""

    name = "signed-false-checkpoints"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Every seal verifies."""
        if not isinstance(message, Checkpoint) or message.sender != self.me:
            return [Sent(to, message)]
        other = self.captive.sealed(message._replace(digest=other_digest(message.digest)))
        ahead = message.number + self.group.tunables.checkpoint_interval * self.random.choice((1, 2, 1 << 30))
        early = self.captive.sealed(message._replace(number=ahead))
        return [Sent(to, message if to % 2 else other), Sent(to, early)]
