"""The library of misbehaviours: a correct replica whose messages are bent. Pure; for `pbft replica --adversary NAME`,
for the demonstration, and for the simulator.

Each class does one thing that a machine which was taken over might do; its own state stays that of a correct replica.
Names are composed with "+": what the first one lets out goes through the second one. An adversary signs with its own
key only, so whatever it forges it can answer for.
"""

from __future__ import annotations

import heapq
from random import Random

from pbft.config import ConfigError, Group
from pbft.messages import Commit, Message, Prepare, PrePrepare
from pbft.misbehaviour import catching_up, delivery, new_views, primary, replies, view_changes, votes
from pbft.misbehaviour.base import Captive, Misbehaviour, Outgoing, Sent, Sign

__all__ = ["MISBEHAVIOURS", "Adversary", "Late", "Misbehaviour", "Outgoing", "Sent", "Sign", "make", "split", "table"]

MISBEHAVIOURS: dict[str, type[Misbehaviour]] = {
    kind.name: kind
    for kind in (
        votes.Silent,
        votes.SilentPrePrepare,
        votes.SilentPrepare,
        votes.SilentCommit,
        votes.WrongDigests,
        votes.EquivocatingVotes,
        votes.HastyCommits,
        primary.EquivocatingPrimary,
        primary.NarrowEquivocation,
        primary.PartialMulticast,
        primary.FutureTime,
        primary.NullPrimary,
        primary.DoublingPrimary,
        primary.CorruptAuthenticators,
        primary.Crowding,
        primary.LeavingGaps,
        primary.SlowPrimary,
        primary.SlowingPrimary,
        primary.Censoring,
        view_changes.SilentViewChange,
        view_changes.ForgedPrepared,
        view_changes.ForgedPreprepared,
        view_changes.BackingTheLoser,
        view_changes.StuffedViewChange,
        view_changes.ForgetfulViewChange,
        view_changes.FallingSilent,
        view_changes.FalseTestimony,
        view_changes.LoneCheckpoint,
        view_changes.TwoViewChanges,
        view_changes.HighViews,
        view_changes.Suspecting,
        view_changes.Resigning,
        new_views.SilentNewView,
        new_views.WrongNewView,
        new_views.PartialNewView,
        new_views.TwoNewViews,
        new_views.LateNewView,
        catching_up.LyingStatus,
        catching_up.FalseCheckpoints,
        catching_up.SignedFalseCheckpoints,
        replies.LyingReplies,
        replies.MismatchedResults,
        replies.EarlyReplies,
        delivery.Delaying,
        delivery.CorruptToSome,
        delivery.Replaying,
        delivery.StaleReplays,
        delivery.Flooding,
    )
}


class Adversary:
    """One taken-over replica with one or more misbehaviours."""

    def __init__(self, name: str, captive: Captive, parts: list[Misbehaviour]) -> None:
        self.name = name
        self._captive = captive
        self._parts = parts

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """What leaves instead of `message` for `to`, each with the seconds by which it is late."""
        self._captive.says(message)
        sent = [Sent(to, message)]
        for part in self._parts:
            sent = [
                Sent(after.to, after.message, before.delay + after.delay)
                for before in sent
                for after in part.outgoing(before.to, before.message)
            ]
        for one in sent:
            if isinstance(one.message, (PrePrepare, Prepare, Commit)):
                self._captive.note_candidate(one.message)
        return sent

    def hears(self, sender: int, body: bytes) -> bool:
        """Whether the replica takes notice of what arrives; if not, it must never have been there."""
        self._captive.hears(body)
        return all(part.hears(sender, body) for part in self._parts)


class Late:
    """Messages that leave later: put in with the time at which they are due, taken out once it has come."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sent]] = []
        self._count = 0

    def put(self, due: float, sent: Sent) -> None:
        """Keep a message until `due`."""
        self._count += 1
        heapq.heappush(self._heap, (due, self._count, sent))

    def take(self, now: float) -> list[Sent]:
        """Everything that is due, in order."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            found.append(heapq.heappop(self._heap)[2])
        return found


def split(names: str) -> list[str]:
    """The single names in "one+another". Raises ConfigError for one that does not exist."""
    found = [name.strip() for name in names.split("+")]
    for name in found:
        if name not in MISBEHAVIOURS:
            raise ConfigError(f"{name!r} is no misbehaviour; these are: {', '.join(sorted(MISBEHAVIOURS))}")
    return found


def make(names: str, me: int, group: Group, random: Random, sign: Sign) -> Adversary:
    """The adversary that these names, joined by "+", describe; `sign` seals with the key of replica `me`."""
    captive = Captive(me, group, random, sign)
    return Adversary(names, captive, [MISBEHAVIOURS[name](captive) for name in split(names)])


def table() -> str:
    """All names with what they do, one to a line."""
    width = max(map(len, MISBEHAVIOURS))
    lines = []
    for name, kind in sorted(MISBEHAVIOURS.items()):
        first = " ".join((kind.__doc__ or "").split()).partition(". ")[0].rstrip(".")
        lines.append(f"  {name:{width}}  {first}")
    return "\n".join(lines)
