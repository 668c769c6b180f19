"""The log of one replica: slots between the watermarks, P and Q, and the executed tail kept for others.

Its durable part is a fold of records: `apply` is used in life and on replay alike, so a restart cannot come to another
conclusion than the run before it (rules 1.5, 1.6). Vote tallies (`Slot.prepares`, `Slot.commits`) are volatile.

Rules of this file: keeps what was decided and decides nothing; sends nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from pbft.batch import NULL_BATCH, NULL_DIGEST, Batch, ClientRequest, decode_batch
from pbft.config import PROPOSALS_PER_NUMBER, Quorums, Tunables
from pbft.messages import Checkpoint, NewView, Position, PrePrepare, ViewChange, decode
from pbft.protocol.decision import GENESIS, decide
from pbft.protocol.records import (
    Accepted,
    Boot,
    ClientKey,
    Entered,
    Executing,
    Installed,
    Left,
    Lost,
    OwnCheckpoint,
    PeerPosition,
    Prepared,
    Reborn,
    Record,
    Recovering,
    StableCertificate,
)
from pbft.protocol.votes import Votes

_KEYS_PER_CLIENT = 8


class Held(NamedTuple):
    """A PRE-PREPARE that cannot be accepted yet: its time lies ahead, or requests in it are not verified here."""

    message: PrePrepare
    batch: Batch
    doubtful: list[ClientRequest]
    """Requests not verified yet, each once; emptied from the end as they become known."""
    told: set[int]
    """Clients of which it was said that a request in it does not verify."""


class Slot:
    """One sequence number in the present view. Phases: empty -> pre-prepared -> prepared -> committed-local."""

    __slots__ = (
        "accepted_at",
        "batch",
        "commits",
        "committed",
        "digest",
        "held",
        "number",
        "own_durable",
        "prepared_at",
        "prepares",
        "touched",
    )

    def __init__(self, number: int) -> None:
        self.number = number
        self.digest: bytes | None = None
        """d of the accepted PRE-PREPARE. Invariant: set once per view."""
        self.batch: Batch | None = None
        self.accepted_at = 0
        """Log position of Accepted; 0 while nothing is accepted."""
        self.prepared_at = 0
        """Log position of Prepared; 0 while not prepared."""
        self.own_durable = False
        """Own PRE-PREPARE or PREPARE is on disk, so it counts here (rule 1.5)."""
        self.committed = False
        self.prepares = Votes()
        """PREPAREs of backups and, as the primary's vote, its PRE-PREPARE."""
        self.commits = Votes()
        self.held: Held | None = None
        self.touched = 0.0
        """When this replica last sent something for this number."""


class Tail(NamedTuple):
    """An executed batch kept to serve others."""

    digest: bytes
    encoded: bytes


class Log:
    """Slots in (h, h+L], the sets P and Q of view changes (2.6), own checkpoints, and the executed tail."""

    def __init__(self, quorums: Quorums, tunables: Tunables) -> None:
        self._quorums = quorums
        self._tunables = tunables
        self.view = 0
        """v, the view whose NEW-VIEW was accepted last; 0 at first. Invariant: never decreases."""
        self.promised = 0
        """Highest view for which a VIEW-CHANGE was signed, or v. Invariant: no vote below it, also after a restart."""
        self.view_change: ViewChange | None = None
        """The own VIEW-CHANGE for `promised`."""
        self.new_view: NewView | None = None
        """The NEW-VIEW of v; None in view 0."""
        self.chosen: dict[int, bytes] = {}
        """n -> d that v begins with. Rule 2.6."""
        self.last_chosen = 0
        """In v, fresh proposals lie above it."""
        self.base = GENESIS
        """(n, d) of the state that v begins from. f+1 replicas vouch for it, perhaps no q: it may lie above h."""
        self.boot = 0
        self.incarnation = 0
        """The one in which this replica votes, or last did as far as it knows."""
        self.lost = False
        """What was voted in it is not known any more: no vote before `Reborn`. Rule 1.7."""
        self.recovering: tuple[int, int] | None = None
        """(incarnation, nonce) of the RECOVER that was signed last."""
        self.low = 0
        """h, the low watermark. Invariant: a multiple of K, never decreases."""
        self.certificate: tuple[Checkpoint, ...] = ()
        """The stable certificate of h; empty at h = 0."""
        self.slots: dict[int, Slot] = {}
        """Invariant: numbers lie in (h, h+L]."""
        self.p: dict[int, tuple[bytes, int]] = {}
        """P[n] = (d, v): prepared here at n in v, the newest. Invariant: n in (h, h+L]. (2.6)"""
        self.q: dict[int, dict[bytes, int]] = {}
        """Q[n][d] = v: pre-prepared here, the newest view per digest; its body is in `bodies`. (2.6)"""
        self.bodies: dict[int, dict[bytes, Batch]] = {}
        """Batches of Q entries and of numbers not yet executed."""
        self.peer_positions: dict[int, Position] = {}
        """Replica -> the newest POSITION that it has signed."""
        self.own_checkpoints: dict[int, Checkpoint] = {}
        self.client_keys: dict[int, dict[bytes, bytes]] = {}
        """Client -> key id -> authenticator key, the newest ones."""
        self.executing = 0
        """Highest number handed to the executor. Invariant: never decreases, no gaps."""
        self.tail: dict[int, Tail] = {}
        """Executed batches by number, contiguous up to `executing`."""
        self.tail_bytes = 0
        self.kept_from = 0
        """Tail entries above this number are never dropped: a restart would need them (rule 1.6)."""
        self.forgets = False
        """The next durable checkpoint lets all of the tail go that a restart does not need."""
        self._positions: dict[int, int] = {}
        """Number -> first log position that a replay of it needs."""
        self._small: dict[str, int] = {}
        """Positions of the small records that still bind, by kind."""

    # ---- the fold

    def apply(self, record: Record, position: int, batch: Batch | None = None) -> None:
        """Fold one record in. A total match: an unknown type is a bug."""
        match record:
            case Accepted():
                self._accepted(record, position, batch)
            case Prepared(view, number, digest):
                self.p[number] = (digest, view)
                entries = self.q.get(number, {})
                self.q[number] = {d: v for d, v in entries.items() if v >= view}
                slot = self.slots.get(number)
                if slot is not None and view == self.view:
                    slot.prepared_at = position
            case Executing():
                self._executing(record, position)
            case OwnCheckpoint((checkpoint,)):
                self.own_checkpoints[checkpoint.number] = checkpoint
                self._small["checkpoint"] = position
            case StableCertificate(checkpoints):
                self._small["stable"] = position
                self._advance(checkpoints)
            case Boot(boot):
                self.boot = boot
                self._small["boot"] = position
            case Left((view_change,)):
                self.view_change = view_change
                self.promised = max(self.promised, view_change.view)
                self._small["left"] = position
            case Entered(new_view):
                self._entered(new_view)
                self._small["entered"] = position
            case Installed(number):
                self.start_at(number)
            case Lost():
                self._lose()
                self._small["lost"] = position
            case Recovering(incarnation, nonce):
                self.recovering = (incarnation, nonce)
                self._small["recovering"] = position
            case Reborn(incarnation):
                self.incarnation, self.lost, self.recovering = incarnation, False, None
                self._small["reborn"] = position
                self._small.pop("lost", None)
                self._small.pop("recovering", None)
            case ClientKey(client, key_id, key):
                keys = self.client_keys.setdefault(client, {})
                keys[key_id] = key
                if len(keys) > _KEYS_PER_CLIENT:
                    del keys[next(iter(keys))]
                self._small["key"] = min(position, self._small.get("key", position))
            case PeerPosition((said,)):
                self.peer_positions[said.sender] = said
                self._small["peer"] = min(position, self._small.get("peer", position))
            case _:
                raise TypeError(f"no rule folds {type(record).__name__}")

    def _accepted(self, record: Accepted, position: int, batch: Batch | None) -> None:
        view, number, digest, encoded = record
        if view > self.view:
            self._begin(view)  # on replay: the cut log has the record of its NEW-VIEW further up
        if number <= self.low:
            return  # on replay: a slot that a later record has collected already
        if batch is None:
            batch = decode_batch(encoded) if encoded else self.find(number, digest)
            if batch is None:
                return  # on replay: the log was cut between its body and here, so a later record has collected it
        slot = self.slot(number)
        slot.digest, slot.batch, slot.accepted_at, slot.held = digest, batch, position, None
        self.q.setdefault(number, {})[digest] = view
        self.bodies.setdefault(number, {})[digest] = batch
        self._positions.setdefault(number, position)

    def _entered(self, encoded: bytes) -> None:
        """The fold of a NEW-VIEW: what it chose follows from what it names."""
        message = decode(encoded)
        assert type(message) is NewView
        if message.view < self.view:
            return  # on replay
        decision = decide(self._quorums, self._tunables.log_window, message.view_changes)
        assert decision is not None
        if message.view > self.view:
            self._begin(message.view)
        self.new_view, self.chosen, self.last_chosen = message, dict(decision.chosen), decision.last
        self.base = decision.low, decision.state

    def _begin(self, view: int) -> None:
        self.view = view
        self.promised = max(self.promised, view)
        self.slots.clear()
        self.new_view, self.chosen, self.last_chosen, self.base = None, {}, 0, GENESIS

    def _lose(self) -> None:
        """Nothing here testifies to a vote any more. What was executed, and what others signed, is true still."""
        self.lost = True
        self.view_change, self.promised = None, self.view
        for table in (self.slots, self.p, self.q, self.own_checkpoints):
            table.clear()

    def _executing(self, record: Executing, position: int) -> None:
        number, digest, encoded = record
        if number != self.executing + 1 and self.executing:
            return  # on replay: a cut log may start in the middle
        held = self.bodies.get(number, {}).get(digest)
        self.executing = number
        if held is None and not encoded and digest != NULL_DIGEST:
            self.tail.clear()  # on replay: the log was cut between this batch and the number it executed at
            self.tail_bytes = 0
            return
        entry = Tail(digest, encoded if held is None else held.encoded)
        self.tail[number] = entry
        self.tail_bytes += len(entry.encoded) + 64
        self._positions.setdefault(number, position)

    def _advance(self, checkpoints: tuple[Checkpoint, ...]) -> None:
        number = checkpoints[0].number
        if number <= self.low:
            return
        self.low, self.certificate = number, checkpoints
        for table in (self.slots, self.p, self.q):
            for n in [n for n in table if n <= number]:
                del table[n]
        for n in [n for n in self.own_checkpoints if n < number]:
            del self.own_checkpoints[n]
        self.forget_bodies()

    # ---- views

    @property
    def is_active(self) -> bool:
        """Whether this replica votes in v: it has not left it."""
        return self.promised == self.view

    def testimony(
        self,
    ) -> tuple[tuple[tuple[int, bytes], ...], tuple[tuple[int, bytes, int], ...], tuple[tuple[int, bytes, int], ...]]:
        """C, P and Q of a VIEW-CHANGE that is sent now. Rule 2.6."""
        c = {n: checkpoint.digest for n, checkpoint in self.own_checkpoints.items()}
        if self.certificate:
            c[self.low] = self.certificate[0].digest
        elif self.low == 0:
            c[0] = GENESIS[1]
        p = sorted((n, d, v) for n, (d, v) in self.p.items())
        q = sorted((n, d, v) for n, entries in self.q.items() for d, v in entries.items())
        return tuple(sorted(c.items())), tuple(p), tuple(q)

    def is_crowded(self, number: int) -> bool:
        """Whether so many batches were accepted at a number, and none has prepared since, that a fresh one is accepted
        there only if it is one of them, or NULL. None of Q may be forgotten: each may be what another replica has
        prepared (rule A2), and then nobody else could ever decide that number."""
        entries = self.q.get(number)
        return entries is not None and len(entries.keys() - {NULL_DIGEST}) >= PROPOSALS_PER_NUMBER

    # ---- the window

    @property
    def vouched(self) -> tuple[int, bytes]:
        """(n, d) of the newest state that is known to be right: signed by q at h, or the one that v begins from."""
        if self.base[0] > self.low or not self.certificate:
            return self.base
        return self.low, self.certificate[0].digest

    @property
    def high(self) -> int:
        """H = h + L, the high watermark. [CL99 §4.3]"""
        return self.low + self._tunables.log_window

    def slot(self, number: int) -> Slot:
        """The slot of a number inside the window."""
        found = self.slots.get(number)
        if found is None:
            found = self.slots[number] = Slot(number)
        return found

    def open_slots(self) -> Iterator[Slot]:
        """Slots in order of their numbers."""
        for number in sorted(self.slots):
            yield self.slots[number]

    def body(self, number: int, digest: bytes) -> Batch | None:
        """The parsed body of a batch, if it is held."""
        return self.bodies.get(number, {}).get(digest)

    def find(self, number: int, digest: bytes) -> Batch | None:
        """The batch with this digest, pre-prepared or executed, if it is held; NULL always is."""
        if digest == NULL_DIGEST:
            return NULL_BATCH
        found = self.body(number, digest)
        if found is None and (entry := self.tail.get(number)) is not None and entry.digest == digest:
            found = decode_batch(entry.encoded)
        return found

    def encoded(self, number: int, digest: bytes) -> bytes | None:
        """The bytes of a batch, executed or not, if they are held."""
        entry = self.tail.get(number)
        if entry is not None and entry.digest == digest:
            return entry.encoded
        body = self.body(number, digest)
        return None if body is None else body.encoded

    def holds_accepted(self, number: int, digest: bytes) -> bool:
        """Whether a replay finds the body of this batch in an Accepted record."""
        return number in self._positions and self.body(number, digest) is not None

    def forget_bodies(self) -> None:
        """Drop parsed bodies that neither Q nor the executor needs any more."""
        bound = min(self.low, self.executing)
        for n in [n for n in self.bodies if n <= bound]:
            del self.bodies[n]

    # ---- the tail

    @property
    def first_retained(self) -> int:
        """Lowest executed number that can still be served; `executing + 1` if there is none."""
        return next(iter(self.tail), self.executing + 1)

    def trim_tail(self) -> None:
        """Keep the executed tail within its bound, but never drop what a restart would need."""
        limit = min(self.kept_from, self.low)
        most = 0 if self.forgets else self._tunables.retained_log_bytes
        while self.tail_bytes > most:
            oldest = next(iter(self.tail))
            if oldest > limit:
                return
            self.tail_bytes -= len(self.tail.pop(oldest).encoded) + 64
            self._positions.pop(oldest, None)

    def start_at(self, number: int) -> None:
        """A durable checkpoint of this number was loaded: execution continues above it."""
        if self.executing < number:
            self.executing = number
            self.tail.clear()
            self.tail_bytes = 0
        self.kept_from = number
        self.forget_bodies()

    def begin_rewrite(self) -> None:
        """What is small and binds is about to be written again: older positions of it count no more."""
        self._small.clear()

    def durable_checkpoint(self, number: int) -> int:
        """State `number` is on disk with its certificate: the first log position that is still needed, for a restart
        or to serve others (rule 1.6)."""
        self.kept_from = number
        self.trim_tail()
        self.forgets = False
        first = self.first_retained
        for n in [n for n in self._positions if n < first]:
            del self._positions[n]
        return min((*self._positions.values(), *self._small.values()), default=0)
