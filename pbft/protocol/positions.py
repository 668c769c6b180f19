"""Whether this replica runs from an old copy of its data. Rule 1.7 d.

A replica signs how far its log is durable, tells it to all while it votes, and they keep the newest. After a start
over a log that is not empty it says HELLO, and votes only once n-f-1 others have answered: each shows the newest
POSITION of this replica that it keeps. Shown its own signature over a position that its log does not reach, or over a
later start or incarnation, it knows that others have seen more of it than it remembers: what it has voted is lost,
and it recovers.

A peer's unsigned word counts for nothing. What was voted in the last second before the loss may be known to nobody:
such a replica counts among the f.
"""

from __future__ import annotations

from pbft.messages import Hello, Position, Shown
from pbft.protocol.core import Core, Refused
from pbft.protocol.effects import ALL
from pbft.protocol.records import PeerPosition

SAID_EVERY = 1.0
"""Seconds between two POSITIONs of a replica that votes."""
_ASK_AGAIN = 0.2
"""Seconds between two HELLOs."""
OLD_COPY = "its data directory is an old copy: others have signed testimony of later votes"


class Positions:
    """Of one replica: what it has said, what others have, and who has answered since its start."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._said: Position | None = None
        self._next_saying = 0.0
        self._next_question = 0.0
        self._start = 0
        """Log position at the start."""
        self._answered: set[int] = set()

    @property
    def needed(self) -> int:
        """Answers without which this replica does not vote after a start."""
        return self._core.quorums.n - self._core.quorums.f - 1

    @property
    def text(self) -> str:
        """What it waits for, for operators; empty if it does not."""
        if not self._core.unheard:
            return ""
        return (
            f"it was started, and {len(self._answered)} of {self.needed} others have said how much of it they have "
            "seen: whoever runs from an old copy of its data must not vote"
        )

    def start(self, position: int) -> None:
        """`position`: how far the log reaches. An empty one cannot be an old copy: that it is the first start the token
        says, or the past is lost anyway (rule 1.7 c). One that was copied in the middle of a recovery can: that
        recovery may have ended since, and this replica have voted after it."""
        core = self._core
        self._start = position
        core.unheard = position > 0 and (not core.lost or core.log.recovering is not None)
        if self._core.unheard:
            self._ask(ALL)

    # ---- own

    def on_tick(self) -> None:
        """Ask until enough have answered; say what is new, once a second."""
        core = self._core
        if core.unheard and core.now >= self._next_question:
            self._ask(ALL)
        if core.now >= self._next_saying and not core.is_mute:
            position = min(core.outbox.durable, core.bound)
            if self._said is None or position > self._said.position:
                self._said = self._signed(position)
                self._next_saying = core.now + SAID_EVERY
                core.send(ALL, self._said)

    def on_peer_up(self, peer: int) -> None:
        """A link is up: what was said over an earlier one may be lost."""
        if self._core.unheard:
            self._ask(peer)
        elif self._said is not None:
            self._core.send(peer, self._said)

    def _ask(self, to: int) -> None:
        self._next_question = self._core.now + _ASK_AGAIN
        self._core.send(to, Hello(self._core.boot))

    def _signed(self, position: int) -> Position:
        core = self._core
        unsigned = Position(core.me, core.incarnation, core.boot, position, b"")
        return unsigned._replace(seal=core.sign(unsigned.signed_body(core.group.cluster, core.group.epoch)))

    # ---- others'

    def is_new(self, message: Position) -> bool:
        """Whether it says more than what is kept of its sender; asked before its seal is looked at."""
        kept = self._core.log.peer_positions.get(message.sender)
        return kept is None or message[1:4] > kept[1:4]

    def on_position(self, sender: int, message: Position) -> Refused | None:
        """POSITION, its seal verified: keep the newest, durably with the next flush."""
        if message.sender != sender:
            return self._core.refuse(sender, Refused.WRONG_ROLE)
        if self.is_new(message):
            self._core.record(PeerPosition((message,)))
        return None

    def on_hello(self, sender: int, message: Hello) -> Refused | None:
        """Show a replica what it has signed last; everybody does, whatever it waits for itself."""
        kept = self._core.log.peer_positions.get(sender)
        self._core.send(sender, Shown(message.boot, () if kept is None else (kept,)))
        return None

    def on_shown(self, sender: int, message: Shown) -> Refused | None:
        """An answer; the seal of what it shows was verified. This replica votes once enough have come."""
        core = self._core
        if not core.unheard or message.boot != core.boot:
            return core.refuse(sender, Refused.NOT_WANTED)
        for shown in message.positions:
            if shown.sender != core.me:
                return core.refuse(sender, Refused.WRONG_ROLE)
            if self._is_beyond(shown):
                core.unheard = False
                core.is_old_copy = True
                return None
        self._answered.add(sender)
        if len(self._answered) >= self.needed:
            core.unheard = False
        return None

    def _is_beyond(self, shown: Position) -> bool:
        core = self._core
        if core.lost:
            return core.log.recovering is not None and shown.incarnation > core.log.recovering[0]
        if shown.incarnation != core.incarnation:
            return shown.incarnation > core.incarnation
        return shown.boot > core.boot or shown.position > self._start
