"""Wrong, contradicting, premature and missing votes."""

from __future__ import annotations

from typing import ClassVar

from pbft.messages import Commit, Message, Prepare, PrePrepare
from pbft.misbehaviour.base import Misbehaviour, Outgoing, Sent, other_digest


class Silent(Misbehaviour):
    """Receives and executes, and says nothing."""

    name = "silent"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Nothing."""
        return []


class Withholding(Misbehaviour):
    """Never sends messages of some types."""

    withheld: ClassVar[tuple[type[Message], ...]] = ()

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Everything else."""
        return [] if isinstance(message, self.withheld) else [Sent(to, message)]


class SilentPrePrepare(Withholding):
    """Never proposes."""

    name = "silent-preprepare"
    withheld = (PrePrepare,)


class SilentPrepare(Withholding):
    """Never sends PREPARE."""

    name = "silent-prepare"
    withheld = (Prepare,)


class SilentCommit(Withholding):
    """Never sends COMMIT."""

    name = "silent-commit"
    withheld = (Commit,)


class WrongDigests(Misbehaviour):
    """Votes for digests that nobody proposed."""

    name = "wrong-digests"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """PREPARE and COMMIT name another digest."""
        if isinstance(message, (Prepare, Commit)):
            return [Sent(to, message._replace(digest=other_digest(message.digest)))]
        return [Sent(to, message)]


class EquivocatingVotes(Misbehaviour):
    """Votes for one digest to some replicas and for another one to the rest, and sometimes for both."""

    name = "equivocating-votes"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """By the parity of the receiver; now and then both."""
        if not isinstance(message, (Prepare, Commit)):
            return [Sent(to, message)]
        other = message._replace(digest=other_digest(message.digest))
        sent = Sent(to, message if to % 2 else other)
        return [sent, Sent(to, other)] if self.random.random() < 0.2 else [sent]


class HastyCommits(Misbehaviour):
    """Sends COMMIT for whatever is proposed, prepared or not."""

    name = "hasty-commits"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """A COMMIT with each PRE-PREPARE and PREPARE."""
        if isinstance(message, (PrePrepare, Prepare)):
            return [Sent(to, message), Sent(to, Commit(message.view, message.number, message.digest))]
        return [Sent(to, message)]
