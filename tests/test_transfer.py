"""Who is asked for a state, and what becomes of sources that lie, stall, or no longer keep it. Rule 2.9."""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections import deque
from collections.abc import Callable, Iterable

import pytest

from pbft.config import Group, Tunables
from pbft.execution import ExecutionSnapshot
from pbft.messages import PIECE_MAX_BYTES, FetchState, Message, StatePiece, StateRoots
from pbft.state import State, StateError, Want
from pbft.transfer import AT_ONCE, Aimed, Entry, Fetched, StateTransfer, Took, prepared
from pbft.transfer_source import RATE, Job, Source, UnpackError, answers, unpacked

GROUP = Group(b"c" * 32, "app", tuple(bytes([i]) * 32 for i in range(4)), {}, Tunables())
ME = 3
SOURCES = (0, 1, 2)


def value(number: int, is_new: bool) -> bytes:
    """A thousand bytes that no packing makes fewer."""
    return hashlib.shake_128(b"%d %d" % (number, is_new)).digest(1000)


def state_at(
    number: int,
    keys: int = 2000,
    changed: int = 0,
    chosen: Iterable[int] = (),
    value: Callable[[int, bool], bytes] = value,
) -> ExecutionSnapshot:
    """A state of about `keys` kilobytes, `changed` and the chosen of which are other ones than in state 0."""
    spaces = (State(), State(), State())
    new = {*range(changed), *chosen}
    spaces[0].load((b"key %06d" % i, value(i, i in new)) for i in range(keys))
    spaces[1].load([(b"session", b"%d" % number)])
    return ExecutionSnapshot(GROUP.cluster, 0, number, b"h" * 32, tuple(s.checkpoint() for s in spaces))  # type: ignore[arg-type]


def source_of(send: Callable[[int, Message], None], kept: Callable[[int], ExecutionSnapshot | None]) -> Source:
    """One that does its jobs at once."""
    source = Source(send, kept, lambda job: source.on_served(job, answers(job)))
    return source


class Play:
    """Replica 3 fetches from three others; messages arrive at once, time passes in ticks."""

    def __init__(self, *kept: ExecutionSnapshot, base: ExecutionSnapshot | None = None) -> None:
        self.now = 0.0
        self.kept = {source: {s.number: s for s in kept} for source in SOURCES}
        self.wire: deque[tuple[int, int, Message]] = deque()
        self.asked: list[tuple[int, FetchState]] = []
        self.twist: Callable[[int, Message], list[Message]] = lambda source, message: [message]
        self.here = StateTransfer(
            GROUP, ME, lambda to, m: self.wire.append((ME, to, m)), lambda number: None, self._prepare,
            lambda job: None, self._keep,
        )  # fmt: skip
        self.base = base
        self.journal: list[Entry] = []
        self.sources = {i: source_of(self._sender(i), self.kept[i].get) for i in SOURCES}
        self.fetched: Fetched | None = None

    def _sender(self, source: int) -> Callable[[int, Message], None]:
        return lambda to, m: self.wire.extend((source, to, twisted) for twisted in self.twist(source, m))

    def _prepare(self) -> None:
        self.here.on_prepared(prepared(self.base, self.journal))

    def _keep(self, entry: Entry | None) -> None:
        if entry is None:
            self.journal.clear()
        else:
            self.journal.append(entry)

    def run(self, target: ExecutionSnapshot | None, seconds: float) -> Fetched | None:
        """Until the state is here, or that time has passed."""
        for _ in range(round(seconds / 0.02)):
            self.now += 0.02
            for source in self.sources.values():
                source.on_tick(self.now)
            self.here.on_tick(self.now, (target.number, target.digest) if target else None)
            while self.wire:
                sender, to, message = self.wire.popleft()
                if to == ME:
                    assert isinstance(message, (FetchState, StateRoots, StatePiece))
                    self.here.on_message(sender, message)
                else:
                    assert isinstance(message, FetchState)
                    self.asked.append((to, message))
                    self.sources[to].on_fetch(ME, message)
            self.fetched = self.fetched or self.here.take_fetched()
            if self.fetched:
                break
        return self.fetched

    def pieces_from(self, source: int) -> int:
        return sum(len(m.wanted) for to, m in self.asked if to == source)


def is_that(fetched: Fetched | None, target: ExecutionSnapshot) -> bool:
    """Whether all of it is here."""
    assert fetched is not None and fetched.patch.done
    spaces = tuple(state.checkpoint() for state in fetched.states)
    found = ExecutionSnapshot(GROUP.cluster, 0, fetched.number, fetched.history, spaces)  # type: ignore[arg-type]
    return found.digest == fetched.digest == target.digest


def test_a_state_comes_from_all_who_keep_it() -> None:
    """From nothing; each of the three gives a part, and no piece is asked for twice."""
    target = state_at(128)
    play = Play(target)
    assert is_that(play.run(target, 5.0), target)
    assert all(play.pieces_from(source) >= AT_ONCE for source in SOURCES)
    wanted = [want for _, message in play.asked for want in message.wanted]
    assert len(wanted) == len(set(wanted)) == play.here.progress.pieces  # type: ignore[union-attr]


def test_only_what_differs_is_fetched() -> None:
    """From a state in which a hundredth of the keys is another."""
    target = state_at(128, changed=20)
    play = Play(target, base=state_at(0))
    assert is_that(play.run(target, 5.0), target)
    assert play.here.progress is not None and play.here.progress.bytes < 300_000 < 2000 * 1000


def test_wrong_roots_are_counted_and_their_sender_is_asked_for_nothing() -> None:
    """Whatever it makes up does not hash to what q replicas signed; too few or too many roots are no roots."""
    target = state_at(128)
    for roots in (target.spaces[:2], (target.spaces[1], target.spaces[0], target.spaces[2]), ()):
        play = Play(target)
        lie = StateRoots(128, tuple(s.digest for s in roots), target.history)
        play.twist = lambda source, m, lie=lie: [lie] if source == 0 and isinstance(m, StateRoots) else [m]  # type: ignore[misc]
        assert is_that(play.run(target, 5.0), target)
        assert play.pieces_from(0) == 0
        assert play.here.lies == ({0: 1} if roots else {}), "who does not keep it says so without roots"


def test_a_source_that_sends_wrong_pieces_is_found_at_the_first() -> None:
    """It is asked no more; what it was asked for comes from others."""
    target = state_at(128)
    play = Play(target)

    def spoil(source: int, message: Message) -> list[Message]:
        if source == 1 and isinstance(message, StatePiece):
            return [message._replace(data=message.data[:-1] + bytes([message.data[-1] ^ 1]))]
        return [message]

    play.twist = spoil
    assert is_that(play.run(target, 5.0), target)
    assert play.here.lies == {1: 1}
    assert play.pieces_from(1) <= 2 * AT_ONCE


@pytest.mark.scenario("C09")
def test_a_source_that_proves_to_have_it_and_then_falls_silent_delays_little() -> None:
    """After two seconds others are asked for what it was to send; it alone left out, the state is here."""
    target = state_at(128)
    play = Play(target)
    play.twist = lambda source, m: [] if source == 2 and isinstance(m, StatePiece) else [m]
    assert is_that(play.run(target, 5.0), target)
    assert 2.0 < play.now < 3.0
    assert play.pieces_from(2) <= 2 * AT_ONCE and not play.here.lies


def test_with_one_source_left_the_transfer_goes_on() -> None:
    """The other two are silent altogether."""
    target = state_at(128)
    play = Play(target)
    play.twist = lambda source, m: [m] if source == 1 else []
    assert is_that(play.run(target, 5.0), target)


def test_a_state_that_nobody_keeps_any_more_is_given_up_for_a_newer_one() -> None:
    """What has come already and still holds is not fetched again."""
    old, new = state_at(128), state_at(256, changed=10)
    play = Play(old)
    budget = 120

    def stop_half_way(source: int, message: Message) -> list[Message]:
        nonlocal budget
        budget -= isinstance(message, StatePiece)
        return [message] if budget > 0 else []

    play.twist = stop_half_way
    assert play.run(old, 1.0) is None
    assert play.here.progress is not None
    before = play.here.progress.bytes
    for source in SOURCES:
        play.kept[source].clear()
        play.kept[source][256] = new
    play.sources = {i: source_of(play._sender(i), play.kept[i].get) for i in SOURCES}
    play.twist = lambda source, m: [m]
    assert is_that(play.run(new, 10.0), new)
    progress = play.here.progress
    assert progress.number == 256 and before > 300_000
    assert progress.bytes < 2_200_000, "about as much as the state has, although some of it came for the old one"


def some(play: Play, pieces: int) -> None:
    """Until that many pieces have come."""
    left = pieces

    def give(source: int, message: Message) -> list[Message]:
        nonlocal left
        left -= isinstance(message, StatePiece)
        return [message] if left >= 0 else []

    play.twist = give


@pytest.mark.scenario("C05")
@pytest.mark.parametrize("pieces", [0, 1, 7, 100, 160])
def test_who_begins_again_with_its_journal_fetches_nothing_twice(pieces: int) -> None:
    """Killed anywhere in the transfer; the next life asks for what is missing alone, even where only a part of the
    journal is left."""
    target = state_at(128, changed=1500)
    base = state_at(0)
    first = Play(target, base=base)
    some(first, pieces)
    first.run(target, 1.0)
    assert first.fetched is None
    came = {(entry.want, entry.data) for entry in first.journal if isinstance(entry, Took)}
    assert len(came) == pieces
    second = Play(target, base=base)
    second.journal = list(first.journal)
    assert is_that(second.run(target, 5.0), target)
    asked = {tuple(want) for _, message in second.asked for want in message.wanted}
    assert not asked & {want for want, _ in came}
    third = Play(target, base=base)
    third.journal = first.journal[: 1 + pieces // 2]
    assert is_that(third.run(target, 5.0), target)


def test_a_journal_of_an_older_state_is_used_for_a_newer_one() -> None:
    """While it was down the others went on: what still holds of what it had is not fetched again."""
    old, new = state_at(128), state_at(256, changed=10)
    first = Play(old)
    some(first, 150)
    assert first.run(old, 1.0) is None
    second = Play(new)
    second.journal = list(first.journal)
    assert is_that(second.run(new, 5.0), new)
    whole = Play(new)
    assert is_that(whole.run(new, 5.0), new)
    fetched, all_of_it = (sum(play.pieces_from(source) for source in SOURCES) for play in (second, whole))
    assert all_of_it - fetched > 0.8 * 150


def test_a_journal_that_lies_is_not_believed() -> None:
    """Each piece of it is verified once more; what follows a wrong one is left out."""
    target = state_at(128)
    first = Play(target)
    some(first, 100)
    assert first.run(target, 1.0) is None
    for place in (1, 2, 50, 99):
        second = Play(target)
        wrong = first.journal[place]
        assert isinstance(wrong, Took)
        second.journal = list(first.journal)
        second.journal[place] = wrong._replace(data=wrong.data[:-1] + bytes([wrong.data[-1] ^ 1]))
        assert prepared(None, second.journal).applied == place
        assert is_that(second.run(target, 5.0), target)


def test_one_slow_source_does_not_hold_a_replica_on_an_old_state() -> None:
    """All others keep a newer one; the last that proved to have the old one lets each piece wait just short of what
    would have it passed over."""
    old, new = state_at(128), state_at(256, changed=10)
    play = Play(old)
    for source in SOURCES[1:]:
        play.kept[source].clear()
        play.kept[source][256] = new
    play.kept[SOURCES[0]][256] = new
    late: list[tuple[float, Message]] = []

    def slowly(source: int, message: Message) -> list[Message]:
        if source != SOURCES[0] or not isinstance(message, StatePiece):
            return [message]
        late.append((play.now + 1.5, message))
        return []

    play.twist = slowly
    for step in range(60):
        play.wire.extend((SOURCES[0], ME, m) for when, m in late if when <= play.now)
        late = [(when, m) for when, m in late if when > play.now]
        if play.run(old if step < 10 else new, 0.1):
            break
    assert is_that(play.fetched, new)


def test_who_caught_up_by_other_means_stops_fetching() -> None:
    """And what comes late changes nothing."""
    target = state_at(128)
    play = Play(target)
    play.twist = lambda source, m: [] if isinstance(m, StatePiece) else [m]
    assert play.run(target, 0.5) is None and play.here.progress is not None
    play.run(None, 0.04)
    assert play.here.progress is None
    asked = len(play.asked)
    play.here.on_message(0, StateRoots(128, tuple(s.digest for s in target.spaces), target.history))
    play.here.on_message(0, StatePiece(128, (0, 0, b"", 0), b"\x00junk", 0))
    play.run(None, 1.0)
    assert len(play.asked) == asked and play.here.take_fetched() is None


def test_what_nobody_asked_for_is_ignored() -> None:
    """A piece from another source than the one that was asked is no lie of whoever was."""
    target = state_at(128)
    play = Play(target)
    play.twist = lambda source, m: [] if isinstance(m, StatePiece) else [m]
    assert play.run(target, 0.1) is None
    to, message = next((to, m) for to, m in play.asked if m.wanted)
    other = next(s for s in SOURCES if s != to)
    play.here.on_message(other, StatePiece(128, message.wanted[0], b"junk", 0))
    play.here.on_message(to, StatePiece(127, message.wanted[0], b"junk", 0))
    assert not play.here.lies


@pytest.mark.scenario("C18")
def test_a_source_gives_one_peer_no_more_than_its_share() -> None:
    """It asks for everything again and again: a burst at once, then so much a second; the rest of its questions is
    dropped, not kept."""
    target = state_at(128)
    given = 0

    def count(to: int, message: Message) -> None:
        nonlocal given
        given += len(message.data) if isinstance(message, StatePiece) else 0

    source = source_of(count, {128: target}.get)
    source.on_tick(0.0)
    path = next(p for p in range(16) if target.spaces[0].node(bytes([6, 11, 6, 5, 7, 9, 2, 0, 3, 0, 3, 0, 3, p])))
    wants = ((0, 0, bytes([6, 11, 6, 5, 7, 9, 2, 0, 3, 0, 3, 0, 3, path]), 0),) * AT_ONCE
    for _ in range(400):
        source.on_fetch(1, FetchState(128, wants))
    assert (1 << 19) <= given < (1 << 20) + (1 << 18)
    begun = given
    for step in range(1, 51):
        source.on_tick(step * 0.02)
        for _ in range(100):
            source.on_fetch(1, FetchState(128, wants))
    assert RATE // 4 < given - begun < RATE + (1 << 18)


def test_a_peer_keeps_one_old_state_alive_and_not_for_ever() -> None:
    """The one that it fetches; another one takes its place, and without questions it goes."""
    kept = {number: state_at(number, keys=20) for number in (128, 256)}
    answered: list[Message] = []
    source = source_of(lambda to, m: answered.append(m), kept.get)
    source.on_tick(0.0)
    source.on_fetch(1, FetchState(128, ()))
    del kept[128]
    source.on_fetch(1, FetchState(128, ()))
    assert [bool(m.roots) for m in answered if isinstance(m, StateRoots)] == [True, True]
    source.on_fetch(2, FetchState(128, ()))
    source.on_fetch(1, FetchState(256, ()))
    source.on_fetch(1, FetchState(128, ()))
    assert [bool(m.roots) for m in answered[2:] if isinstance(m, StateRoots)] == [False, True, False]
    del kept[256]
    source.on_tick(11.0)
    source.on_fetch(1, FetchState(256, ()))
    last = answered[-1]
    assert isinstance(last, StateRoots) and not last.roots


def test_nobody_holds_an_old_state_for_ever() -> None:
    """Whoever asks for it again and again, and never has enough."""
    answered: list[Message] = []
    kept = {128: state_at(128, keys=20)}
    source = source_of(lambda to, m: answered.append(m), kept.get)
    source.on_fetch(1, FetchState(128, ()))
    kept.clear()
    for second in range(9, 3700, 9):
        source.on_tick(second)
        source.on_fetch(1, FetchState(128, ()))
    found = [bool(m.roots) for m in answered if isinstance(m, StateRoots)]
    assert 390 < sum(found) < 405 and not found[-1]


def test_nonsense_is_answered_by_nothing() -> None:
    """Spaces, kinds and places that do not exist cost a look and bring no answer."""
    answered: list[Message] = []
    source = source_of(lambda to, m: answered.append(m), {128: state_at(128, keys=20)}.get)
    nonsense = ((2, 1, b"absent", 0), (0, 2, b"key 000001", 1 << 31), (0, 0, bytes([99]), 0), (1, 2, b"", 7))
    source.on_fetch(1, FetchState(128, nonsense))
    assert answered == []


@pytest.mark.parametrize(
    ("chosen", "most"), [(range(0, 4000, 100), 2.6), (range(0, 4000, 10), 1.6), (range(4000), 1.1)]
)
def test_what_travels_follows_what_differs(chosen: range, most: float) -> None:
    """Keys of one kilobyte each that are scattered over the state: where most of a bucket is here, only its rows and
    the entries that differ are fetched; where most of it differs, all of it at once."""
    target = state_at(128, 4000, chosen=chosen)
    play = Play(target, base=state_at(0, 4000))
    assert is_that(play.run(target, 5.0), target)
    assert play.here.progress is not None
    assert play.here.progress.fetched < most * len(chosen) * 1010 + 5000


@pytest.mark.scenario("C13")
def test_a_transfer_costs_no_more_than_the_state() -> None:
    """Whoever begins with nothing fetches each byte once, and little besides."""
    target = state_at(128, 2000)
    play = Play(target)
    assert is_that(play.run(target, 5.0), target)
    assert play.here.progress is not None and play.here.progress.fetched < 1.1 * 2000 * 1010
    assert len(play.asked) < 100


def test_what_packs_well_travels_packed() -> None:
    """The same state, and a sixth of the bytes; among it is what does not pack."""
    target = state_at(128, 2000, value=lambda i, _: value(i, False) if i % 50 == 7 else b"%07d" % i * 140)
    play = Play(target)
    assert is_that(play.run(target, 5.0), target)
    assert play.here.progress is not None
    assert play.here.progress.fetched < play.here.progress.bytes / 6


def test_a_new_aim_waits_until_what_came_is_hashed_bit_by_bit() -> None:
    """Hashing all of it at once would hold a replica for as long as it takes."""
    old, new = state_at(128, 6000), state_at(256, 6000, changed=3)
    play = Play(old)
    passed = itertools.count()
    play.twist = lambda source, m: [] if isinstance(m, StatePiece) and next(passed) >= 80 else [m]
    assert play.run(old, 0.3) is None
    play.twist = lambda source, m: [m]
    play.kept = {source: {256: new} for source in SOURCES}
    play.sources = {i: source_of(play._sender(i), play.kept[i].get) for i in SOURCES}
    patch = play.here._patch
    assert patch is not None and patch.taken_pieces > 50
    hashed: list[int] = []
    aim, settle = patch.aim, patch.settle
    patch.settle = lambda keys: hashed.append(keys) or settle(keys)  # type: ignore[method-assign,func-returns-value]

    def aims(roots: tuple[bytes, ...]) -> None:
        assert not any(state.hash_some(1) for state in patch._states), "nothing is left to hash"
        aim(roots)

    patch.aim = aims  # type: ignore[method-assign]
    assert is_that(play.run(new, 5.0), new)
    assert len(hashed) > 1 and max(hashed) <= 1000


def test_very_many_keys_that_are_gone_go_in_steps() -> None:
    """One small piece says so; no piece removes more than a thousand of them."""
    base, target = state_at(0, 20_000, value=lambda i, _: b"%d" % i), state_at(128, 3, value=lambda i, _: b"%d" % i)
    play = Play(target, base=base)
    removed: list[int] = []
    play.run(target, 0.1)
    patch = play.here._patch
    assert patch is not None
    remove = patch._remove
    patch._remove = lambda keys: removed.append(keys) or remove(keys)  # type: ignore[method-assign,func-returns-value]
    fetched = play.run(target, 5.0)
    assert is_that(fetched, target) and len(removed) > 15 and max(removed) == 1000


def test_a_job_takes_no_more_than_there_is_room_for() -> None:
    """What is left of it comes later; a want for nothing counts, too, and so does time."""
    target = state_at(128, 4000)
    jobs: list[Job] = []
    sent: list[Message] = []
    source = Source(lambda to, m: sent.append(m), {128: target}.get, jobs.append)
    nothing = tuple((0, 1, b"nobody %d" % i, 0) for i in range(16))
    source.on_fetch(1, FetchState(128, nothing))
    source.on_fetch(2, FetchState(128, nothing))
    for _ in range(6):
        source.on_served(jobs[-1], answers(jobs[-1]))
    assert [job.peer for job in jobs] == [1, 2, 1, 2, 1, 2, 1] and not sent, "in turn, and one at a time"
    source.on_served(jobs[-1], answers(jobs[-1]), 1.0)
    source.on_served(jobs[-1], answers(jobs[-1]), 1.0)
    assert len(jobs) == 8, "both have used up a second of a processor"
    source.on_tick(0.5)
    assert len(jobs) == 8
    source.on_tick(1.0)
    little = jobs[-1]._replace(room=1.0, wants=(Want(0, 0, b"", 0),) * 4)
    assert answers(little).done == 1


def test_a_page_that_has_rotted_is_no_piece() -> None:
    """It brings no answer, and nobody down; whoever asked gets it from another source."""
    target = state_at(128, 40)

    class Rotten:
        digest = target.spaces[0].digest

        def get(self, key: bytes) -> bytes:
            raise StateError("page 7 of the state is not what was stored")

    snapshot = ExecutionSnapshot.__new__(ExecutionSnapshot)
    for name in ("_cluster", "_epoch", "digest", "history", "number"):
        setattr(snapshot, name, getattr(target, name))
    snapshot.spaces = (Rotten(), *target.spaces[1:])  # type: ignore[assignment]
    sent: list[Message] = []
    source = source_of(lambda to, m: sent.append(m), {128: snapshot}.get)
    source.on_fetch(1, FetchState(128, ((0, 1, b"key 000001", 0), (1, 0, b"", 0))))
    source.on_fetch(1, FetchState(128, ((1, 0, b"", 0),)))
    assert [m.want[0] for m in sent if isinstance(m, StatePiece)] == [1, 1]


def test_a_journal_that_lies_of_its_roots_is_not_believed() -> None:
    """Else each honest piece would be taken for a lie, and again after each restart."""
    target, other = state_at(128, 300), state_at(128, 300, changed=9)
    play = Play(target)
    roots = tuple(space.digest for space in other.spaces)
    play.journal = [Aimed(128, target.digest, roots, target.history)]
    assert is_that(play.run(target, 5.0), target)
    assert play.here.lies == {}


BAD_PACKS = {
    "a bomb": (zlib.compress(bytes(1 << 24)), PIECE_MAX_BYTES),
    "less than was said": (zlib.compress(bytes(1000)), 1001),
    "more than was said": (zlib.compress(bytes(1000)), 999),
    "cut off": (zlib.compress(bytes(1000))[:-1], 1000),
    "with a tail": (zlib.compress(bytes(1000)) + b"x", 1000),
    "not packed": (bytes(1000), 1000),
    "nothing": (b"", 1),
}


@pytest.mark.parametrize("bad", BAD_PACKS)
def test_what_does_not_unpack_is_a_lie(bad: str) -> None:
    """It is unpacked no further than a piece may be large; the state comes from the others."""
    data, size = BAD_PACKS[bad]
    with pytest.raises(UnpackError):
        unpacked(StatePiece(128, (0, 0, b"", 0), data, size))
    target = state_at(128, 300)
    play = Play(target)
    play.twist = lambda source, m: [
        m._replace(data=data, size=size) if source == 1 and isinstance(m, StatePiece) else m
    ]
    assert is_that(play.run(target, 5.0), target)
    assert play.here.lies == {1: 1}


def test_progress_tells_about_how_much_is_here() -> None:
    """It grows, from nothing to nearly all, about as the bytes do."""
    target, seen = state_at(128, 4000), []
    play = Play(target)

    def look(source: int, message: Message) -> list[Message]:
        if isinstance(message, StatePiece) and play.here.progress is not None:
            seen.append((play.here.progress.share, play.here.progress.bytes / 4_080_000))
        return [message]

    play.twist = look
    assert is_that(play.run(target, 5.0), target)
    shares = [share for share, _ in seen]
    assert shares == sorted(shares) and shares[0] < 0.03 and shares[-1] > 0.9
    assert all(abs(share - of_bytes) < 0.2 for share, of_bytes in seen)
