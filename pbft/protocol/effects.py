"""What an event causes. The contract between the pure core and whoever drives it.

The driver executes the fields of `Effects` in their order:

1. `records` are appended to the log; the driver calls `Replica.on_durable(position)` when they are on disk.
2. `sends` leave now. A message that rests on a record is not among them before that record is durable: the core's
   `Outbox` keeps it until then (rule 1.5, "durable before said"). Every `Send` names the position it rests on, and the
   driver asserts once more that it is durable. The default is: a message rests on everything recorded so far. The
   exceptions, with their reasons, stand in `rests_on_nothing`, and nowhere else.
3. `execute`: committed batches, in order of their numbers; the driver answers with `Replica.on_executed`.
4. `answers`: requests that the replicated table already answers; the executor is asked, nothing executes.
5. `stable`: the stable checkpoint moved; the driver decides by bytes and time whether that state goes to disk, and then
   calls `Replica.on_checkpoint_durable`.
6. `cut`: records below this position may be removed (0: none).
7. `evidence`: what a correct replica never does; logged and kept.
8. `transfer`: messages of state transfer, for whoever holds the state (`pbft.transfer`).
9. `reborn`: note durably, outside the log, that the log holds all that binds this incarnation, then call
   `Replica.on_declared`. It may be asked for again until then.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from pbft.batch import Batch, ClientRequest
from pbft.messages import (
    Body,
    Checkpoint,
    Commit,
    Committed,
    Fetch,
    FetchState,
    Hello,
    Message,
    Nack,
    NewView,
    Position,
    Prepare,
    PrePrepare,
    Refusal,
    Reply,
    Request,
    Shown,
    Stable,
    StatePiece,
    StateRoots,
    Status,
    Suspect,
    Transfer,
    ViewChange,
)
from pbft.protocol.records import Record

ALL = -1
"""Destination: every other replica."""


class InvariantViolated(Exception):
    """Our own fault: a promise of this code does not hold. Never caught below the shell, which stops the replica."""


def invariant(condition: bool, text: str, **facts: object) -> None:
    """Check a promise of our own; `assert` would vanish under `python -O`."""
    if not condition:
        raise InvariantViolated(text + "".join(f" {name}={value!r}" for name, value in facts.items()))


class Send(NamedTuple):
    """A message to leave now. `to` is a replica, a client or ALL; `position` is the log position it rests on."""

    to: int
    message: Message
    position: int


class Execute(NamedTuple):
    """A committed batch to execute."""

    number: int
    batch: Batch


class Evidence(NamedTuple):
    """Something that a correct `culprit` never does."""

    culprit: int
    kind: str
    text: str
    signed: tuple[Message, ...] = ()
    """What proves it to others; empty where only MACs vouch (`pbft.evidence`)."""


@dataclass(slots=True)
class Effects:
    """See the module docstring for the order and the meaning of the fields."""

    records: list[Record] = field(default_factory=list)
    sends: list[Send] = field(default_factory=list)
    execute: list[Execute] = field(default_factory=list)
    answers: list[ClientRequest] = field(default_factory=list)
    stable: list[int] = field(default_factory=list)
    cut: int = 0
    evidence: list[Evidence] = field(default_factory=list)
    transfer: list[tuple[int, Transfer]] = field(default_factory=list)
    reborn: bool = False


def rests_on_nothing(message: Message) -> bool:
    """Whether a message may leave whatever is still being written. A total match: an unknown type is a bug.

    PRE-PREPARE, PREPARE, COMMIT, CHECKPOINT, VIEW-CHANGE and NEW-VIEW are votes (those of others, relayed, are sent
    with position 0), COMMITTED and REPLY tell what this replica has executed: after a crash it must not have forgotten
    what it said. The rest promises nothing.
    """
    match message:
        case PrePrepare() | Prepare() | Commit() | Checkpoint() | ViewChange() | NewView() | Committed() | Reply():
            return False
        case Suspect():  # a complaint: it binds nobody, and who sent it goes on voting
            return True
        case Status() | Fetch() | FetchState() | Hello():  # questions; the receiver believes nothing because of them
            return True
        case (
            Body() | Stable() | StateRoots() | StatePiece() | Position() | Shown()
        ):  # proven by digest, or by the signatures inside
            return True
        case Request() | Nack() | Refusal():  # relayed, or advice; no certificate counts them
            return True
        case _:
            raise InvariantViolated(f"no rule says what {type(message).__name__} rests on")


class Outbox:
    """Messages that wait for the log. Invariant: positions in the queue never decrease."""

    __slots__ = ("_waiting", "durable", "position")

    def __init__(self) -> None:
        self.position = 0
        """Records issued so far, counted from the first one ever."""
        self.durable = 0
        """Records known to be on disk; never above `position`."""
        self._waiting: deque[Send] = deque()

    def put(self, send: Send, ready: list[Send]) -> None:
        """Queue a message, or hand it out at once if what it rests on is durable."""
        if send.position <= self.durable:
            ready.append(send)
            return
        if self._waiting and self._waiting[-1].position > send.position:
            send = send._replace(position=self._waiting[-1].position)
        self._waiting.append(send)

    def release(self, durable: int, ready: list[Send]) -> None:
        """The log is durable up to `durable`: hand out what waited for that."""
        invariant(durable <= self.position, "the log is durable beyond its end", durable=durable, end=self.position)
        self.durable = max(self.durable, durable)
        waiting = self._waiting
        while waiting and waiting[0].position <= self.durable:
            ready.append(waiting.popleft())
