"""What every misbehaviour is made of: the captive machine, and one rule for what leaves it and what it hears."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import ClassVar, NamedTuple, TypeVar

from pbft.codec import CodecError
from pbft.config import Group, is_client
from pbft.messages import (
    Checkpoint,
    Commit,
    Message,
    NewView,
    Prepare,
    PrePrepare,
    Stable,
    Status,
    ViewChange,
    decode,
    wire,
)

Sign = Callable[[bytes], bytes]
"""Seals bytes with the captive's own key; nobody else's is ever at hand."""

GENESIS_DIGEST = bytes(32)
"""The C entry of the state before the first batch (`pbft.protocol.decision.GENESIS`)."""

_REMEMBERED = 64
_NUMBERS = {kind: number for number, kind in wire.types().items()}
_KEPT = {_NUMBERS[kind] for kind in (PrePrepare, Prepare, Commit, Checkpoint, Stable, ViewChange, NewView)}

S = TypeVar("S", Checkpoint, ViewChange, NewView)
T = TypeVar("T")
U = TypeVar("U")


class Sent(NamedTuple):
    """A message that leaves, so many seconds late."""

    to: int
    message: Message
    delay: float = 0.0


Outgoing = list[Sent]


class Captive:
    """The replica that was taken over: who it is, its own signing function, what it has said and heard."""

    def __init__(self, me: int, group: Group, random: Random, sign: Sign) -> None:
        self.me, self.group, self.random, self.sign = me, group, random, sign
        self.quorums = group.quorums
        self.others = tuple(i for i in range(self.quorums.n) if i != me)
        self.view = self.promised = self.stable = self.executed = 0
        """As its last STATUS told."""
        self.candidates: dict[int, dict[bytes, int]] = {}
        """Number -> digest -> newest view in which somebody, itself included, proposed it there or voted for it."""
        self.proposals: deque[PrePrepare] = deque(maxlen=_REMEMBERED)
        """PRE-PREPAREs of others."""
        self.signed: deque[Message] = deque(maxlen=4 * _REMEMBERED)
        """Signed messages of others."""
        self.view_changes: dict[int, ViewChange] = {}
        """Of each other replica, the last one that came."""
        self._own_checkpoints = {0: GENESIS_DIGEST}
        self._testimony: ViewChange | None = None
        self._made_up: dict[int, ViewChange] = {}

    def says(self, message: Message) -> None:
        """Learn from what the machine wants to send."""
        if isinstance(message, Status):
            self.view, self.promised = message.view, max(message.view, message.promised)
            self.stable, self.executed = message.stable, message.last_executed
        elif isinstance(message, (PrePrepare, Prepare)):
            self.view = self.promised = max(message.view, self.promised)
        elif isinstance(message, Checkpoint) and message.sender == self.me:
            self._own_checkpoints[message.number] = message.digest
            forget_oldest(self._own_checkpoints, _REMEMBERED)
        elif isinstance(message, ViewChange) and message.sender == self.me:
            self._testimony, self.promised = message, max(message.view, self.promised)

    def hears(self, body: bytes) -> None:
        """Learn from what arrives: whatever others signed, and proposals."""
        if len(body) < 2 or body[1] not in _KEPT:  # an array head of one byte, then the number of the type
            return
        try:
            message = decode(body)
        except CodecError:
            return
        if isinstance(message, (PrePrepare, Prepare, Commit)):
            self.note_candidate(message)
            if isinstance(message, PrePrepare):
                self.proposals.append(message)
            return
        self.signed.append(message)
        if isinstance(message, ViewChange) and message.sender in self.others:
            self.view_changes[message.sender] = message

    def note_candidate(self, message: PrePrepare | Prepare | Commit) -> None:
        """Somebody wants this digest at this number, or the machine itself says so."""
        digests = self.candidates.setdefault(message.number, {})
        digests[message.digest] = max(message.view, digests.get(message.digest, 0))
        forget_oldest(digests, _REMEMBERED)
        forget_oldest(self.candidates, 4 * _REMEMBERED)

    @property
    def is_primary(self) -> bool:
        """Whether the machine leads the view that it is in."""
        return self.quorums.primary(self.promised) == self.me

    def backups(self) -> list[int]:
        """The others, in random order."""
        return self.random.sample(self.others, len(self.others))

    def sealed(self, message: S) -> S:
        """The message with a seal that verifies."""
        return message._replace(seal=self.sign(message.signed_body(self.group.cluster, self.group.epoch)))

    def view_change(self, view: int) -> ViewChange:
        """A well-formed, sealed VIEW-CHANGE of its own for any view above 0; the same one each time."""
        if view not in self._made_up:
            low = self.stable if self.stable in self._own_checkpoints else 0
            known = self._testimony
            if known is not None and known.low >= low and known.view <= view:
                made = known._replace(view=view)
            else:
                made = ViewChange(self.me, 0, view, low, ((low, self._own_checkpoints[low]),), (), (), b"")
            self._made_up[view] = self.sealed(made)
            forget_oldest(self._made_up, _REMEMBERED)
        return self._made_up[view]


class Misbehaviour:
    """Does one thing that a machine which was taken over might do; all else stays as a correct replica has it."""

    name: ClassVar[str] = ""

    def __init__(self, captive: Captive) -> None:
        self.captive = captive
        self.me, self.group, self.random = captive.me, captive.group, captive.random

    def outgoing(self, to: int, message: Message) -> Outgoing:
        """What leaves instead of `message` for `to`; messages to others may be added."""
        return [Sent(to, message)]

    def hears(self, sender: int, body: bytes) -> bool:
        """Whether the machine takes notice of what arrives."""
        return True


def forget_oldest(table: dict[T, U], most: int) -> None:
    """Keep the newest entries of a table."""
    while len(table) > most:
        del table[next(iter(table))]


def other_digest(digest: bytes) -> bytes:
    """A digest that nobody computed."""
    return bytes([digest[0] ^ 1]) + digest[1:]


def is_replica(principal: int) -> bool:
    """Whether a message goes to a replica."""
    return not is_client(principal)
