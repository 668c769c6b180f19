"""What all parts of agreement share: who I am, the present view and time, and the two ways to have an effect.

Rules of this file: decides nothing of the protocol. `record` is the only way into the log and `send` the only way out,
so that "durable before said" (rule 1.5) holds whatever a handler does.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from pbft.batch import Batch
from pbft.config import Group
from pbft.messages import Message
from pbft.protocol.effects import Effects, Evidence, Outbox, Send, invariant, rests_on_nothing
from pbft.protocol.log import Log
from pbft.protocol.members import Members, is_void
from pbft.protocol.records import PeerPosition, Record

Sign = Callable[[bytes], bytes]
SignAs = Callable[[int], Sign]
"""What signs as this replica in a given incarnation."""


class Refused(StrEnum):
    """Why a message changed nothing. Counted per sender; never an exception."""

    NOT_PRIMARY = "not-primary"
    FROM_PRIMARY = "from-primary"
    OTHER_VIEW = "other-view"
    BELOW_WINDOW = "below-window"
    ABOVE_WINDOW = "above-window"
    WRONG_DIGEST = "wrong-digest"
    TOO_LARGE = "too-large"
    EQUIVOCATION = "equivocation"
    NOT_WANTED = "not-wanted"
    NOT_A_CHECKPOINT = "not-a-checkpoint-number"
    NOT_CERTIFIED = "not-certified"
    BAD_SEAL = "bad-seal"
    UNAUTHENTIC = "unauthentic-request"
    NOT_VOTING = "not-voting"
    WRONG_ROLE = "wrong-role"
    MALFORMED = "malformed"
    TOO_OFTEN = "too-often"
    LEFT_VIEW = "left-view"
    NOT_CHOSEN = "not-chosen"
    STALE_VIEW = "stale-view"
    INCONSISTENT = "inconsistent"
    INVALID_NEW_VIEW = "invalid-new-view"
    CONTRADICTS = "contradicts-executed"
    ENDED = "ended-incarnation"
    VOID_VIEW = "void-view"


class Core:
    """Shared by ordering, checkpoints, retransmission and requests of one replica."""

    __slots__ = (
        "_void",
        "behind",
        "boot",
        "bound",
        "diverged",
        "effects",
        "group",
        "halted",
        "incarnation",
        "is_old_copy",
        "log",
        "lost",
        "me",
        "members",
        "now",
        "outbox",
        "quorums",
        "refused",
        "sign",
        "sign_as",
        "tunables",
        "unheard",
        "wall",
    )

    def __init__(self, group: Group, me: int, sign: Sign, log: Log) -> None:
        self.group = group
        self.me = me
        self.sign = sign
        """Signs in `incarnation`."""
        self.sign_as: SignAs = lambda incarnation: sign
        self.log = log
        self.quorums = group.quorums
        self.tunables = group.tunables
        self.effects = Effects()
        self.outbox = Outbox()
        self.members = Members(group.quorums)
        self._void = (0, 0, False)
        """(view, h, whether nobody may vote there): judged once."""
        self.incarnation = log.incarnation
        self.boot = 0
        self.now = 0.0
        """Seconds of a clock that never goes back; handed in with each event."""
        self.wall = 0
        """Microseconds since the epoch, by this machine's clock."""
        self.halted = ""
        """Why this replica does not vote until an operator has done something; empty while it does."""
        self.diverged = ""
        """How its state differs from one that a quorum signed: it gets what differs from others, and begins anew with
        that; it neither votes nor executes until then. Else empty."""
        self.lost = ""
        """How this replica has lost its past: it recovers, and does not vote until then (rule 1.7); else empty."""
        self.unheard = False
        """Since its start too few others have said how much of it they have seen (rule 1.7 d)."""
        self.is_old_copy = False
        """Others have seen more of it than it remembers. Until it begins to recover."""
        self.bound = 0
        """Log position of the last record that is its own word, and not what it keeps for others."""
        self.behind = False
        """Further behind than what the others still retain: it cannot know what it would vote on."""
        self.refused: dict[tuple[int, str], int] = {}
        """(sender, reason) -> messages refused. Invariant: senders are members, so it stays small."""

    @property
    def view(self) -> int:
        """The view in which this replica votes."""
        return self.log.view

    @property
    def is_active(self) -> bool:
        """Whether this replica votes in its view; not between its VIEW-CHANGE and the NEW-VIEW."""
        return self.log.is_active

    @property
    def primary(self) -> int:
        """primary(v) = v mod n. [CL99 §4]"""
        return self.quorums.primary(self.log.view)

    @property
    def is_primary(self) -> bool:
        """Whether this replica is the primary of its view."""
        return self.primary == self.me

    @property
    def is_mute(self) -> bool:
        """Whether this replica must not vote, in no view (rule 1.7)."""
        return bool(self.halted) or bool(self.lost) or bool(self.diverged) or self.behind or self.unheard

    @property
    def is_void(self) -> bool:
        """Whether nobody may vote in the present view. Rule 1.7 b."""
        log = self.log
        if log.new_view is None:
            return False
        view, low, verdict = self._void
        if (view, low) != (log.view, log.low):
            verdict = is_void(self.quorums, log.new_view, log.certificate)
            self._void = (log.view, log.low, verdict)
        return verdict

    @property
    def may_vote(self) -> bool:
        """Whether this replica may send PRE-PREPARE, PREPARE and COMMIT in its view."""
        return self.is_active and not self.is_mute and not self.is_void

    def record(self, record: Record, batch: Batch | None = None) -> int:
        """Append to the log and fold it in; returns its position. `batch`: the parsed form of the record's batch."""
        self.outbox.position += 1
        if type(record) is not PeerPosition:
            self.bound = self.outbox.position
        self.effects.records.append(record)
        self.log.apply(record, self.outbox.position, batch)
        return self.outbox.position

    def send(self, to: int, message: Message, position: int | None = None) -> None:
        """Send once what the message rests on is durable: everything recorded so far, unless `position` says less."""
        invariant(to != self.me, "a replica does not send to itself", message=type(message).__name__)
        if rests_on_nothing(message):
            position = 0
        elif position is None:
            position = self.outbox.position
        self.outbox.put(Send(to, message, position), self.effects.sends)

    def refuse(self, sender: int, reason: Refused) -> Refused:
        """Count a message that changes nothing."""
        key = (sender, reason.value)
        self.refused[key] = self.refused.get(key, 0) + 1
        return reason

    def accuse(self, culprit: int, kind: str, text: str, *signed: Message) -> None:
        """Keep evidence of what a correct replica never does; with the signed messages that prove it, if there are."""
        self.effects.evidence.append(Evidence(culprit, kind, text, signed))

    def diverge(self, number: int) -> None:
        """The state after `number` here is not the one that q have signed: all that rests on it is wrong."""
        if not self.diverged:
            self.diverged = (
                f"its state at checkpoint {number} differs from the one that a quorum signed: its application, or its "
                "memory, went another way than the others'; it gets what differs from them, and begins anew with that"
            )
            self.accuse(self.me, "diverged", self.diverged)

    def halt(self, reason: str) -> None:
        """Stop voting for a reason that an operator has to know; the first reason stays."""
        if not self.halted:
            self.halted = reason
            self.accuse(self.me, "halted", reason)
