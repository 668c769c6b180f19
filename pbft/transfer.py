"""State transfer between replicas, the side that takes: who is asked for which piece. Rule 2.9.

A replica that is further behind than what the others retain fetches a state for whose digest others vouch. Every piece
is checked by `pbft.state.Patch` before it is kept, so sources need not be believed: one that lies is asked no more, one
that is slow or silent is passed over, one that does not keep the state (any more) says so. When no more than f keep
it, a newer vouched state becomes the target, and what holds already is not fetched again.

Rules of this file: pure; time is handed in. Agreement knows nothing of it, and it nothing of agreement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from typing import NamedTuple

from pbft.application import Application
from pbft.codec import Family, array, blob, uint
from pbft.config import Group
from pbft.execution import ExecutionSnapshot, Executor
from pbft.execution.snapshots import state_digest
from pbft.messages import PIECE_MAX_BYTES, FetchState, Message, StatePiece, StateRoots, Transfer, piece_wanted
from pbft.state import EMPTY_DIGEST, PagedBucket, Patch, State, StateError, Taken, Want
from pbft.transfer_source import Job, Source, UnpackError, unpacked

States = tuple[State, State, State]

AT_ONCE = 16
"""Pieces asked for in one message; a source has up to two such messages to answer."""

_RETRY = 0.5
"""Seconds between two questions who keeps the state."""
_PATIENCE = 2.0
"""Seconds after which a piece is asked of another source."""
_PASSED_OVER = 10.0
"""Seconds for which a slow source is asked only if there is no other."""
_LOOK = 10_000
_AT_A_TIME = 1000
"""Keys that are hashed in one go: some milliseconds."""

journal = Family("entry of a transfer journal")
"""What a transfer has done, in its order: whoever does it again, to the same base, is where it was."""


@journal.register(1, array(blob(32, 32), 3, 3))
class Base(NamedTuple):
    """The first entry: root digests of the states that it began with."""

    roots: tuple[bytes, ...]


@journal.register(2, uint(), blob(32, 32), array(blob(32, 32), 3, 3), blob(32, 32))
class Aimed(NamedTuple):
    """From here on the state of this number and digest is fetched."""

    number: int
    digest: bytes
    roots: tuple[bytes, ...]
    history: bytes


@journal.register(3, piece_wanted, blob(PIECE_MAX_BYTES))
class Took(NamedTuple):
    """A piece that was verified and kept."""

    want: tuple[int, int, bytes, int]
    data: bytes


Entry = Base | Aimed | Took


class Prepared(NamedTuple):
    """States to fetch into, and what of a journal was applied to them."""

    states: States
    patch: Patch
    aimed: Aimed | None
    applied: int
    """Entries that still hold."""


class Fetched(NamedTuple):
    """All of a state is here; that it hashes to `digest` is still to be seen."""

    number: int
    digest: bytes
    history: bytes
    patch: Patch
    states: States


class Progress(NamedTuple):
    """What `status` shows of a transfer."""

    number: int
    pieces: int
    bytes: int
    """Of the pieces that are here, those that an earlier life of this replica has fetched among them."""
    fetched: int
    """Bytes that have come in this life."""
    waiting: int
    """Pieces known to be missing; more may be behind them."""
    share: float
    """About how much of it is here, from 0 to 1."""
    rate: int
    """Bytes that came in the last second."""
    sources: tuple[int, ...]


class StateTransfer:
    """Of one replica; what it gives to others is done by `source`."""

    def __init__(
        self,
        group: Group,
        me: int,
        send: Callable[[int, Message], None],
        kept: Callable[[int], ExecutionSnapshot | None],
        prepare: Callable[[], None],
        serve: Callable[[Job], None],
        keep: Callable[[Aimed | Took | None], None] = lambda entry: None,
    ) -> None:
        """`prepare`: wants `on_prepared` with a copy of the newest state that is here, or empty ones, and with what a
        journal adds to them. `serve`: see `Source`. `keep`: an entry for that journal; None: it is of no use now."""
        self._group = group
        self._others = [i for i in range(len(group.replicas)) if i != me]
        self._send = send
        self._prepare = prepare
        self._keep = keep
        self.source = Source(send, kept, serve, group.tunables.transfer_rate << 20)
        self._now = 0.0
        self._forget()
        self.fetched = 0
        """Bytes of pieces that have come in this life, of all states."""
        self.lies: dict[int, int] = {}
        """Replica -> pieces and roots from it that do not hash to what they should."""

    def _end(self) -> None:
        self._keep(None)
        self._forget()

    def _forget(self) -> None:
        self._fetched = 0
        self._rate = 0
        self._second = (self._now, 0)
        """When the last second began that is measured, and what had come until then."""
        self._target: tuple[int, bytes] | None = None
        self._states: States | None = None
        self._patch: Patch | None = None
        self._is_installing = False
        self._banned: set[int] = set()
        """Have lied in this transfer."""
        self._aim_at(None)

    def _aim_at(self, target: tuple[int, bytes] | None) -> None:
        self._target = target
        self._roots: StateRoots | None = None
        self._is_aimed = False
        """The patch is on its way to these roots; else it still has to hash what it has."""
        self._keepers: set[int] = set()
        """Who proved to have the state, and answers."""
        self._slow: dict[int, float] = {}
        """Who let a piece wait too long -> until when others are asked first."""
        self._asked: dict[Want, tuple[int, float]] = {}
        self._next_question = 0.0

    # ---- events

    def on_message(self, sender: int, message: Transfer) -> None:
        """A message of a replica; nothing in it is believed."""
        if isinstance(message, FetchState):
            self.source.on_fetch(sender, message)
        elif self._target is None or message.number != self._target[0] or sender in self._banned:
            return
        elif isinstance(message, StateRoots):
            self._on_roots(sender, message)
        else:
            self._on_piece(sender, Want(*message.want), message)

    def on_tick(self, now: float, target: tuple[int, bytes] | None, is_busy: bool = False) -> None:
        """Time has passed; `target`: (number, digest) of the newest vouched state, if this replica needs one.
        `is_busy`: requests are ordered at present."""
        self._now = now
        self.source.on_tick(now, is_busy)
        if (passed := now - self._second[0]) >= 1.0:
            self._rate = round((self._fetched - self._second[1]) / passed)
            self._second = (now, self._fetched)
        if self._is_installing:
            return
        if target is None:
            if self._target is not None:
                self._end()  # it has caught up by other means
            return
        if self._target is None:
            self._aim_at(target)
            self._prepare()
        for source in dict.fromkeys([source for source, when in self._asked.values() if now - when > _PATIENCE]):
            self._slow[source] = now + _PASSED_OVER
            self._drop(source)
        if now >= self._next_question:
            if target != self._target and len(self._keepers) <= self._group.quorums.f:
                self._aim_at(target)  # perhaps nobody correct keeps the old one any more, and a liar gives it slowly
            self._next_question = now + _RETRY
            if self._target is not None and len(self._keepers) < len(self._others):
                for replica in self._others:
                    if replica not in self._keepers and replica not in self._banned:
                        self._send(replica, FetchState(self._target[0], ()))
            if len(self._banned) == len(self._others):
                self._banned.clear()  # more than f liars: nothing is to be had but by trying
        self._take_aim()
        self._ask()

    def on_prepared(self, prepared: Prepared) -> None:
        """The states to start from; what an earlier life has fetched may be in them."""
        if self._target is None or self._states is not None:
            return
        self._states, self._patch = prepared.states, prepared.patch
        aimed = prepared.aimed
        if aimed is not None and (aimed.number, aimed.digest) == self._target and self._is_target(aimed):
            self._roots = StateRoots(aimed.number, aimed.roots, aimed.history)
            self._is_aimed = True
            self._ask()
        else:
            self._take_aim()

    def take_fetched(self) -> Fetched | None:
        """The state once all of it is here. Given out once; `on_installed` must follow."""
        if self._is_installing or self._patch is None or not self._is_aimed or self._asked:
            return None
        if next(iter(self._patch.wanted()), None) is not None:
            return None
        assert self._target is not None and self._states is not None and self._roots is not None
        self._is_installing = True
        return Fetched(*self._target, self._roots.history, self._patch, self._states)

    def on_installed(self) -> None:
        """The state given out last is in its place, or was refused."""
        self._end()

    @property
    def progress(self) -> Progress | None:
        """Of the present transfer, None if there is none."""
        if self._target is None:
            return None
        patch = self._patch
        return Progress(
            self._target[0],
            patch.taken_pieces if patch else 0,
            patch.taken_bytes if patch else 0,
            self._fetched,
            sum(1 for _ in islice(patch.wanted(), _LOOK)) if patch and self._is_aimed else 0,
            round(patch.share, 3) if patch else 0.0,
            self._rate,
            tuple(sorted(self._keepers)),
        )

    # ---- what comes

    def _on_roots(self, sender: int, message: StateRoots) -> None:
        assert self._target is not None
        if not message.roots:
            self._drop(sender)
            return
        if not self._is_target(message):
            self._ban(sender)
            return
        self._keepers.add(sender)
        if self._roots is None:
            self._roots = message
            self._take_aim()
        self._ask()

    def _is_target(self, said: StateRoots | Aimed) -> bool:
        group = self._group
        found = state_digest(group.cluster, group.epoch, said.number, said.roots, said.history)
        return len(said.roots) == 3 and self._target == (said.number, found)

    def _take_aim(self) -> None:
        """Once the patch is known, and the roots; and once it has done, bit by bit, what an earlier aim has left."""
        if self._patch is None or self._roots is None or self._is_aimed:
            return
        if self._patch.settle(_AT_A_TIME):
            self._patch.aim(self._roots.roots)
            self._is_aimed = True
            assert self._target is not None
            self._keep(Aimed(*self._target, self._roots.roots, self._roots.history))
            self._ask()

    def _on_piece(self, sender: int, want: Want, message: StatePiece) -> None:
        if self._patch is None or self._asked.get(want, (None,))[0] != sender:
            return
        del self._asked[want]
        self._fetched += len(message.data)
        self.fetched += len(message.data)
        try:
            data = unpacked(message)
        except UnpackError:
            self._ban(sender)
            self._ask()
            return
        taken = self._patch.take(want, data)
        if taken is Taken.LIE:
            self._ban(sender)
        elif taken is Taken.KEPT:
            self._keep(Took((want.space, want.kind, want.place, want.index), data))
            assert self._states is not None
            self._states[0].relieve()
        self._ask()

    def _ban(self, sender: int) -> None:
        self.lies[sender] = self.lies.get(sender, 0) + 1
        self._banned.add(sender)
        self._drop(sender)

    def _drop(self, source: int) -> None:
        """Ask it no more, until it proves again that it has the state; others get what it was asked for."""
        self._keepers.discard(source)
        for want in [w for w, (asked, _) in self._asked.items() if asked == source]:
            del self._asked[want]

    # ---- what is asked for

    def _ask(self) -> None:
        """Give every source that keeps the state something to do."""
        if self._patch is None or not self._is_aimed or self._target is None:
            return
        prompt = [s for s in sorted(self._keepers) if self._slow.get(s, 0.0) <= self._now]
        busy = dict.fromkeys(prompt or sorted(self._keepers), 0)
        for source, _ in self._asked.values():
            if source in busy:
                busy[source] += 1
        idle = sorted((count, source) for source, count in busy.items() if count <= AT_ONCE)
        if not idle:
            return
        free = (w for w in self._patch.wanted() if w not in self._asked)
        for _, source in idle:
            wants = tuple(islice(free, AT_ONCE))
            if not wants:
                return
            for want in wants:
                self._asked[want] = (source, self._now)
            self._send(source, FetchState(self._target[0], wants))


def copies(snapshot: ExecutionSnapshot | None, paging: type[PagedBucket] | None = None) -> States:
    """States of its own with the content of a snapshot, or empty ones."""
    states = (State(paging=paging), State(), State())
    if snapshot is not None:
        for state, space in zip(states, snapshot.spaces, strict=True):
            state.revert(space)
    return states


def base_of(snapshot: ExecutionSnapshot | None) -> Base:
    """What a journal over this state begins with."""
    return Base((EMPTY_DIGEST,) * 3 if snapshot is None else tuple(space.digest for space in snapshot.spaces))


def prepared(
    snapshot: ExecutionSnapshot | None, entries: Iterable[Entry], paging: type[PagedBucket] | None = None
) -> Prepared:
    """Copies of a state, or empty ones, with what a journal adds to them: each piece is verified once more, and
    whatever does not follow ends it."""
    states = copies(snapshot, paging)
    patch, aimed, applied = Patch(states), None, 0
    for entry in entries:
        if isinstance(entry, Aimed):
            patch.aim(entry.roots)
            aimed = entry
        elif not isinstance(entry, Took) or patch.take(Want(*entry.want), entry.data) is not Taken.KEPT:
            break
        applied += 1
        states[0].relieve()
    return Prepared(states, patch, aimed, applied)


def built(group: Group, application: Callable[[State], Application], fetched: Fetched) -> Executor:
    """An executor at the fetched state, whose digest is looked at once more. Raises SnapshotError, StateError, and
    whatever the application does."""
    if not fetched.patch.done:
        raise StateError(f"the pieces of state {fetched.number} do not make the state that was certified")
    return Executor.installed(
        group, application, fetched.states, fetched.number, fetched.history, expected=fetched.digest
    )
