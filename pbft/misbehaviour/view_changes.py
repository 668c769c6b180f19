"""Lies about the past in VIEW-CHANGEs, and needless or missing view changes."""

from __future__ import annotations

from pbft.batch import NULL_DIGEST, Batch
from pbft.messages import (
    Body,
    Checkpoint,
    Commit,
    Committed,
    Message,
    NewView,
    PrePrepare,
    Stable,
    StatePiece,
    StateRoots,
    Status,
    Suspect,
    ViewChange,
)
from pbft.misbehaviour.base import (
    GENESIS_DIGEST,
    Captive,
    Misbehaviour,
    Outgoing,
    Sent,
    forget_oldest,
    is_replica,
)
from pbft.misbehaviour.primary import NarrowEquivocation, Plan
from pbft.misbehaviour.votes import Withholding

_VIEWS = 64
_STUFFING = 64


class SilentViewChange(Withholding):
    """Never complains and never leaves: no SUSPECT, no VIEW-CHANGE."""

    name = "silent-view-change"
    withheld = (Suspect, ViewChange)


class Testifying(Misbehaviour):
    """Bends its own VIEW-CHANGE, sealed again, wherever it stands: one lie per view and side."""

    def __init__(self, captive: Captive) -> None:
        super().__init__(captive)
        self._told: dict[tuple[int, int], ViewChange] = {}
        self._names_lie: dict[int, bool] = {}

    def bent(self, message: ViewChange) -> ViewChange:
        """The lie, not sealed yet."""
        raise NotImplementedError

    def side(self, to: int) -> int:
        """Replicas of one side are told one thing; side 0 the truth if there are several."""
        return 1

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """A NEW-VIEW of its own names now the lie, now the truth."""
        if isinstance(message, ViewChange) and message.sender == self.me:
            return [Sent(to, self._lie(to, message))]
        if isinstance(message, NewView) and message.sender == self.me and is_replica(to):
            names_lie = self._names_lie.setdefault(message.view, self.random.random() < 0.5)
            forget_oldest(self._names_lie, _VIEWS)
            return [Sent(to, self._naming(to, message) if names_lie else message)]
        return [Sent(to, message)]

    def _lie(self, to: int, message: ViewChange) -> ViewChange:
        side = self.side(to)
        if side == 0:
            return message
        if (message.view, side) not in self._told:
            self._told[message.view, side] = self.captive.sealed(self.bent(message))
            forget_oldest(self._told, _VIEWS)
        return self._told[message.view, side]

    def _naming(self, to: int, message: NewView) -> NewView:
        found = tuple(self._lie(to, m) if m.sender == self.me else m for m in message.view_changes)
        return self.captive.sealed(
            message._replace(named=tuple((m.sender, m.digest) for m in found), view_changes=found)
        )

    def some_entry(self, number: int, below: int) -> tuple[bytes, int]:
        """Something that might have been prepared at a number: NULL, nothing that exists, or what somebody proposed
        there; in the view in which it was, or in the highest that is believable."""
        random = self.random
        known = [e for e in self.captive.candidates.get(number, {}).items() if e[1] < below]
        made_up = (
            (NULL_DIGEST, below - 1),
            (random.randbytes(32), random.choice((below - 1, random.randrange(below)))),
        )
        digest, view = random.choice((*made_up, *known, *known))
        return digest, random.choice((view, view, below - 1))

    def numbers(self, message: ViewChange) -> list[int]:
        """Numbers inside the window, half of them."""
        window = range(message.low + 1, message.low + self.group.tunables.log_window + 1)
        return [n for n in window if self.random.random() < 0.5]


class ForgedPrepared(Testifying):
    """Claims to have prepared, in high views, what nobody proposed or what others lost; with or without a Q entry."""

    name = "forged-prepared"

    def bent(self, message: ViewChange) -> ViewChange:
        """P entries at half of the numbers of the window."""
        p = {n: (d, v) for n, d, v in message.prepared}
        q = {(n, d): v for n, d, v in message.preprepared}
        supported = self.random.random() < 0.5
        for number in self.numbers(message):
            digest, view = self.some_entry(number, message.view)
            p[number] = digest, view
            if supported:
                q[number, digest] = view
        return _with_p_and_q(message, p, q)


class ForgedPreprepared(Testifying):
    """Claims to have pre-prepared everything anywhere in the highest view, so that any forged P entry finds support."""

    name = "forged-preprepared"

    def bent(self, message: ViewChange) -> ViewChange:
        """Q entries for all digests that it knows of, and for some that do not exist."""
        q = {(n, d): v for n, d, v in message.preprepared}
        for number in self.numbers(message):
            for digest in (NULL_DIGEST, self.random.randbytes(32), *self.captive.candidates.get(number, {})):
                q[number, digest] = message.view - 1
        return _with_q(message, q)


class StuffedViewChange(Testifying):
    """Fills its VIEW-CHANGE with Q entries for batches that do not exist, so that it is large and costly to judge."""

    name = "stuffed-view-change"

    def bent(self, message: ViewChange) -> ViewChange:
        """As many digests at each number as a correct replica might have seen in as many views, and more."""
        q = {(n, d): v for n, d, v in message.preprepared}
        for number in self.numbers(message):
            for _ in range(_STUFFING):
                q[number, self.random.randbytes(32)] = self.random.randrange(message.view)
        return _with_q(message, q)


class BackingTheLoser(NarrowEquivocation, Testifying):
    """Proposes one batch to just enough backups, another one to the rest, and testifies that it prepared the latter."""

    name = "backing-the-loser"

    def plan(self, message: PrePrepare, batch: Batch) -> Plan:
        """Who is left out has pre-prepared the loser, so that the testimony finds support."""
        return super().plan(message, batch)._replace(other=self.alternative(batch), votes=True)

    def bent(self, message: ViewChange) -> ViewChange:
        """P and Q entries for the losers of the views before."""
        p = {n: (d, v) for n, d, v in message.prepared}
        q = {(n, d): v for n, d, v in message.preprepared}
        for (view, number), planned in self._plans.items():
            in_window = message.low < number <= message.low + self.group.tunables.log_window
            if in_window and view < message.view and planned.other is not None:
                p[number] = planned.other.digest, view
                q[number, planned.other.digest] = view
        return _with_p_and_q(message, p, q)

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """Proposals and votes as one who equivocates, testimony as one who lies."""
        if isinstance(message, (ViewChange, NewView)):
            return Testifying.outgoing(self, to, message)
        return NarrowEquivocation.outgoing(self, to, message)


class ForgetfulViewChange(Testifying):
    """Testifies that it has prepared and pre-prepared nothing, sometimes as if it stood at the very beginning."""

    name = "forgetful-view-change"

    def bent(self, message: ViewChange) -> ViewChange:
        """Empty P and Q."""
        if self.random.random() < 0.5:
            message = message._replace(low=0, checkpoints=((0, GENESIS_DIGEST),))
        return message._replace(prepared=(), preprepared=())


class FallingSilent(Testifying):
    """Helps views to begin by VIEW-CHANGEs that forget everything, and falls silent for ever after some view."""

    name = "falling-silent"

    def __init__(self, captive: Captive) -> None:
        super().__init__(captive)
        self._last = self.random.randint(1, 8)

    def bent(self, message: ViewChange) -> ViewChange:
        """Empty P and Q."""
        return message._replace(prepared=(), preprepared=())

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """What others learned while it helped must be enough without it."""
        return super().outgoing(to, message) if self.captive.promised <= self._last else []


class FalseTestimony(Testifying):
    """Names checkpoints that nobody has, above and at its own low watermark."""

    name = "false-testimony"

    def bent(self, message: ViewChange) -> ViewChange:
        """A state that does not exist, at h, at h+K, or far ahead; or a low watermark far ahead."""
        k, random = self.group.tunables.checkpoint_interval, self.random
        c = dict(message.checkpoints)
        low = random.choice((message.low, message.low, message.low + k, message.low + 1000 * k))
        c = {n: d for n, d in c.items() if n >= low}
        for number in (low, low + k, low + random.randrange(1, 1000) * k):
            if number == low or random.random() < 0.5:
                c[number] = random.choice((c.get(number), None)) or random.randbytes(32)
        bent = message._replace(low=low, checkpoints=tuple(sorted(c.items())))
        if low == message.low:
            return bent
        return bent._replace(prepared=(), preprepared=())


class LoneCheckpoint(Testifying):
    """Lets one other replica alone reach a checkpoint, testifies to that state and helps nobody to it."""

    name = "lone-checkpoint"
    _unhelpful = (Committed, Checkpoint, Stable, Status, Body, StateRoots, StatePiece)

    def __init__(self, captive: Captive) -> None:
        super().__init__(captive)
        self._friend, self._left_out = self.random.sample(captive.backups(), 2)

    def bent(self, message: ViewChange) -> ViewChange:
        """Nothing but the states: so small that every primary takes it."""
        return message._replace(prepared=(), preprepared=())

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """With its COMMIT the friend alone has q of them."""
        if isinstance(message, self._unhelpful):
            return []
        if isinstance(message, (PrePrepare, Commit)) and message.number % self.group.tunables.checkpoint_interval == 0:
            helped = to != self._left_out if isinstance(message, PrePrepare) else to == self._friend
            return [Sent(to, message)] if helped else []
        return super().outgoing(to, message)


class TwoViewChanges(ForgedPrepared):
    """Signs two VIEW-CHANGEs for one view: the true one for some, an empty or forged one for the rest."""

    name = "two-view-changes"

    def __init__(self, captive: Captive) -> None:
        super().__init__(captive)
        backups = captive.backups()
        self._deceived = frozenset(backups[: self.random.randint(1, len(backups) - 1)])

    def side(self, to: int) -> int:
        """Always the same ones are deceived."""
        return int(to in self._deceived)

    def bent(self, message: ViewChange) -> ViewChange:
        """Empty or forged."""
        if self.random.random() < 0.5:
            return message._replace(prepared=(), preprepared=())
        return super().bent(message)


class HighViews(Misbehaviour):
    """Suspects and leaves for views that lie ahead, near and very far."""

    name = "high-views"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """With each STATUS."""
        if not isinstance(message, Status):
            return [Sent(to, message)]
        random, view = self.random, self.captive.promised
        far = view + random.choice((1, 2, self.captive.quorums.n, 1000, 1 << 40))
        return [
            Sent(to, message),
            Sent(to, Suspect(random.choice((far, view + 1, (1 << 64) - 1)))),
            Sent(to, self.captive.view_change(far)),
        ]


class Suspecting(Misbehaviour):
    """Suspects every view from its beginning, all the time."""

    name = "suspecting"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """With each STATUS, and with one in four other messages."""
        if not is_replica(to) or (not isinstance(message, Status) and self.random.random() < 0.75):
            return [Sent(to, message)]
        return [Sent(to, message), Sent(to, Suspect(self.captive.promised))]


class Resigning(Misbehaviour):
    """Leaves its view as soon as it is primary."""

    name = "resigning"

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """A VIEW-CHANGE goes along with whatever the new primary says."""
        if not self.captive.is_primary or not is_replica(to):
            return [Sent(to, message)]
        return [Sent(to, message), Sent(to, self.captive.view_change(self.captive.promised + 1))]


def _with_p_and_q(message: ViewChange, p: dict[int, tuple[bytes, int]], q: dict[tuple[int, bytes], int]) -> ViewChange:
    return _with_q(message._replace(prepared=tuple((n, d, v) for n, (d, v) in sorted(p.items()))), q)


def _with_q(message: ViewChange, q: dict[tuple[int, bytes], int]) -> ViewChange:
    return message._replace(preprepared=tuple((n, d, v) for (n, d), v in sorted(q.items())))
