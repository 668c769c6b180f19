"""State transfer: whatever two states are, one becomes the other, for little, and no lie gets in."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.codec import dumps
from pbft.crypto.digests import digest
from pbft.state import (
    CHUNK_BYTES,
    EMPTY_DIGEST,
    MAX_PIECE_BYTES,
    MAX_VALUE_BYTES,
    PIECE_BYTES,
    Kind,
    Patch,
    Snapshot,
    State,
    StateError,
    Taken,
    Want,
    chunk_list,
    entry_digest,
    piece,
)

Items = dict[bytes, bytes]


def filled(items: Mapping[bytes, bytes]) -> State:
    state = State()
    state.load(items.items())
    return state


def of(items: Mapping[bytes, bytes]) -> Snapshot:
    return filled(items).checkpoint()


def blob(size: int, *changed: int) -> bytes:
    """A value whose chunks all differ; `changed` names chunks that are unlike those of the same value without."""
    chunks = [b"%08d%c" % (i, i in changed) * (CHUNK_BYTES // 9 + 1) for i in range(-(-size // CHUNK_BYTES))]
    return b"".join([chunk[:CHUNK_BYTES] for chunk in chunks])[:size]


def nibbles(key: bytes) -> bytes:
    return bytes([int(digit, 16) for digit in key.hex()])


def differing(have: Items, target: Items) -> list[bytes]:
    return [key for key in have.keys() | target.keys() if have.get(key) != target.get(key)]


def is_needed(want: Want, have: Items, target: Items) -> bool:
    """By comparing the mappings: something under this place or at this key differs."""
    if want.kind == Kind.NODE:
        return any(nibbles(key).startswith(want.place) for key in differing(have, target))
    return have.get(want.place) != target.get(want.place)


def fetch(
    patch: Patch, sources: Sequence[Snapshot], steps: int = -1, choose: random.Random | None = None
) -> dict[Want, bytes]:
    """Take up to `steps` pieces, the first or any that is wanted; what was taken."""
    taken: dict[Want, bytes] = {}
    while steps:
        wants = list(patch.wanted())
        if not wants:
            break
        want = choose.choice(wants) if choose else wants[0]
        data = piece(sources, Want(want.space, int(want.kind), want.place, want.index))  # as it comes off the wire
        assert data is not None and len(data) <= PIECE_BYTES + CHUNK_BYTES
        assert want not in taken and patch.take(want, data) is Taken.KEPT
        taken[want] = data
        steps -= 1
    return taken


def aimed(have: Mapping[bytes, bytes], target: Snapshot) -> tuple[State, Patch]:
    state = filled(have)
    patch = Patch((state,))
    patch.aim((target.digest,))
    return state, patch


# Keys that share long paths, are prefixes of each other and fall on both halves of a byte.
keys = st.lists(st.sampled_from([b"a", b"b", b"\x61\x10", b"\x00", b"\xff"]), max_size=6).map(b"".join)
keys = keys | st.binary(max_size=2)
values = st.binary(max_size=3) | st.builds(
    blob, st.sampled_from([2000, 4096, 4097, 9000, PIECE_BYTES, PIECE_BYTES + 1, 90_000, 140_000]), st.integers(0, 40)
)
# Up to 40 keys with long common paths, most of them too much for one piece.
clusters = st.builds(
    lambda prefix, size, step, value: {prefix + b"%c" % (step * i % 256): value for i in range(size)},
    st.sampled_from([b"", b"a", b"cluster-a/", b"cluster-b/", b"cluster-\x6f", b"cluster", b"klaster"]),
    st.integers(0, 40),
    st.sampled_from([1, 7]),
    st.sampled_from([b"", b"few", blob(2000), blob(4097), blob(9000)]),
)
additions = st.builds(
    lambda items, parts: {k: v for part in parts for k, v in part.items()} | items,
    st.dictionaries(keys, values, max_size=12),
    st.lists(clusters, max_size=3),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Items]:
    """2 to 4 contents, each what the one before became, or something else altogether."""
    contents = [draw(additions)]
    for _ in range(draw(st.integers(1, 3))):
        base = contents[-1] if draw(st.integers(0, 5)) else {}
        kept = draw(st.sampled_from([1.0, 0.9, 0.3, 0.0]))
        choose = random.Random(draw(st.integers(0, 9)))
        contents.append({k: v for k, v in base.items() if choose.random() < kept} | draw(additions | st.just({})))
    return contents


@pytest.mark.slow
@settings(deadline=None)
@given(histories(), st.lists(st.integers(0, 25), min_size=3, max_size=3), st.randoms(use_true_random=False))
def test_any_state_becomes_any_other(contents: list[Items], steps: list[int], choose: random.Random) -> None:
    """Whatever the states are, in whatever order pieces come, also if the target moves: the end is the target.

    Nothing is fetched where the states do not differ, and nothing twice for one target.
    """
    state, *targets = filled(contents[0]), *contents[1:]
    other = filled(contents[-1])  # a second space, which goes the other way
    sources = [[of(target), of(contents[0])] for target in targets]
    patch = Patch((state, other))
    for i, (target, source) in enumerate(zip(targets, sources, strict=True)):
        before, last = [dict(state.items()), dict(other.items())], i == len(targets) - 1
        patch.aim((source[0].digest, source[1].digest))
        for want in fetch(patch, source, -1 if last else steps[i], choose):
            assert is_needed(want, before[want.space], (target, contents[0])[want.space])
    assert patch.done
    assert dict(state.items()) == contents[-1] and list(state.keys()) == sorted(contents[-1])
    assert dict(other.items()) == contents[0]


@pytest.mark.slow
def test_keys_that_are_prefixes_of_each_other() -> None:
    """A very deep trie, too large for one piece, is fetched into a part of itself."""
    target = {b"a" * i: blob(200) for i in range(0, 1025, 2)}
    source = of(target)
    state, patch = aimed(dict(list(target.items())[::3]) | {b"a" * 1023: b"", b"ab": b""}, source)
    assert len(fetch(patch, [source])) > 500
    assert patch.done and dict(state.items()) == target


@pytest.mark.parametrize("own", [{}, {b"long/path": b"own"}])
@pytest.mark.parametrize(
    "beside",
    [b"", b"l", b"long/pat", b"long/path", b"long/path\xff", b"long/pbth", b"lomg", b"zebra", b"long/path\x01"],
)
@pytest.mark.parametrize("count", [1, 5, 40])
def test_what_lies_beside_a_compressed_path_is_deleted(own: Items, beside: bytes, count: int) -> None:
    """Keys above, before, after and below the path that all keys of the target share: few of them or many."""
    target = {b"long/path%c" % i: blob(3000) for i in range(0, 200, 4)} | own
    have = {beside: b""} | {beside + b"\x01%c" % i: b"" for i in range(1, count)}
    source = of(target)
    for kept in ({}, target):
        state, patch = aimed(have | kept, source)
        fetch(patch, [source])
        assert patch.done and dict(state.items()) == target


@pytest.mark.parametrize("have", [{}, {b"k": b"v"}, {b"%d" % i: blob(5000) for i in range(50)}])
def test_an_empty_target_needs_nothing(have: Items) -> None:
    """All is deleted without a piece."""
    state, patch = aimed(have, of({}))
    assert list(patch.wanted()) == [] and patch.done
    assert len(state) == 0 and state.checkpoint().digest == EMPTY_DIGEST


def test_equal_content_needs_nothing() -> None:
    """A state with the same content is done at once, whatever its history is."""
    items = {b"%04d" % i: b"v" for i in range(300)}
    state = State()
    for key in reversed(items):
        state[key] = b"other"
        state[key + b"x"] = b"goes"
        state.hash_some(1)
        state[key] = b"v"
        del state[key + b"x"]
    patch = Patch((state, State()))
    assert not patch.done
    patch.aim((of(items).digest, EMPTY_DIGEST))
    assert list(patch.wanted()) == [] and patch.done and patch.taken_pieces == 0


# ---- how much is fetched


@pytest.mark.slow
def test_what_is_fetched_follows_the_difference() -> None:
    """10 of 10,000 keys changed, added or deleted: a small part of the state is fetched."""
    choose = random.Random(1)
    target = {b"account/%05d" % i: choose.randbytes(400) for i in range(10_000)}
    have = dict(target)
    for key in choose.sample(sorted(target), 9):
        have[key] = b"old"
    del have[choose.choice(sorted(have))]
    have[b"account/77777"] = b"goes"
    source = of(target)
    state, patch = aimed(have, source)
    taken = fetch(patch, [source])
    assert patch.done and dict(state.items()) == target
    size = sum(len(key) + len(value) for key, value in target.items())
    assert patch.taken_bytes == sum(map(len, taken.values())) < size * 0.1
    assert patch.taken_pieces == len(taken) <= 11 * 4

    _, patch = aimed({}, source)
    most = 0
    while not patch.done:
        most = max(most, len(list(patch.wanted())))
        fetch(patch, [source], 1)
    assert most < 100 < patch.taken_pieces < 1000  # few wants are open at a time, and pieces are filled
    assert size < patch.taken_bytes < size * 1.1


def test_the_first_want_is_the_first_in_key_order() -> None:
    """State by state, from the root down and along the keys: what is taken one by one comes in order."""
    target = {b"%03d" % i: blob(3000) for i in range(200)} | {b"1": blob(3000)} | {b"2": blob(100_000)}
    source = of(target)
    patch = Patch((State(), State()))
    patch.aim((source.digest, source.digest))
    taken = [(w.space, nibbles(w.place) if w.kind else w.place, w.index) for w in fetch(patch, [source, source])]
    assert patch.done and taken == sorted(taken) and len(taken) > 2 * 16


def test_many_tiny_entries_are_bounded_too() -> None:
    """What the encoding adds counts: entries of 2 bytes fill pieces with far less content than large ones."""
    target = {i.to_bytes(2, "big"): b"" for i in range(0, 50_000, 5)}
    source = of(target)
    state, patch = aimed({}, source)
    assert 2 < len(fetch(patch, [source])) < 30
    assert patch.done and dict(state.items()) == target


def test_part_of_a_bucket_may_be_a_node_of_the_target() -> None:
    """A bucket that holds what the target has in two nodes: neither is fetched."""
    few = {b"%c%d" % (letter, i): blob(3000) for letter in b"ab" for i in range(5)}
    source = of(few | {b"c%c" % i: blob(3000) for i in range(40)})
    state, patch = aimed(few, source)
    places = [want.place for want in fetch(patch, [source])]
    assert patch.done and len(state) == 50
    assert places[0] == b"" and all(place.startswith(nibbles(b"c")) for place in places[1:]) and len(places) > 2


def test_values_too_large_to_travel_together_are_fetched_one_by_one() -> None:
    """Of 16 values in one node, only the ones that differ travel, each in a piece of its own."""
    target = {b"%c" % i: blob(PIECE_BYTES, i) for i in range(16)}
    have = target | {b"\x03": b"old", b"gone": b""}
    del have[b"\x05"]
    source = of(target)
    state, patch = aimed(have, source)
    taken = fetch(patch, [source])
    assert patch.done and dict(state.items()) == target
    assert [(want.kind, want.place) for want in taken] == [(0, b""), (1, b"\x03"), (1, b"\x05")]


@pytest.mark.parametrize(
    ("old", "firsts"),
    [
        (None, [0, 16, 32, 48]),
        (blob(200_000), []),
        (blob(PIECE_BYTES), [16, 32, 48]),
        (blob(250_000)[:200_000] + b"longer", [48]),
        (blob(200_000, 3, 40), [3, 40]),
        (blob(200_000, 3, 18, 19, 35), [3, 19, 35]),
    ],
)
def test_chunks_that_the_old_value_has_are_not_fetched(old: bytes | None, firsts: list[int]) -> None:
    """Of a large value, only pieces with chunks travel that the old value does not have at the same index."""
    target = {b"big": blob(200_000), b"other": b"v"}
    source = of(target)
    state, patch = aimed({} if old is None else {b"big": old}, source)
    taken = fetch(patch, [source])
    assert patch.done and dict(state.items()) == target
    assert [want.index for want in taken if want.kind == Kind.CHUNKS] == firsts


def test_a_value_made_of_the_chunks_of_the_old_one() -> None:
    """A value cut at a chunk's end is put together as soon as its list is here."""
    target = {b"big": blob(20 * CHUNK_BYTES)}
    source = of(target)
    state, patch = aimed({b"big": blob(30 * CHUNK_BYTES)}, source)
    assert [want.kind for want in fetch(patch, [source])] == [Kind.NODE, Kind.ENTRY]
    assert patch.done and dict(state.items()) == target


@pytest.mark.slow
def test_the_largest_value() -> None:
    """A value of 16 MiB comes in pieces; only the list of its chunks is longer than the others."""
    value = random.Random(1).randbytes(MAX_VALUE_BYTES)
    key = b"k" * 1024
    source = of({key: value})
    state, patch = aimed({}, source)
    fetch(patch, [source], 1)
    [want] = patch.wanted()
    data = piece([source], want)
    assert data is not None and len(data) == MAX_PIECE_BYTES
    assert patch.take(want, data + b"\0") is Taken.LIE
    assert patch.take(want, data) is Taken.KEPT
    assert len(fetch(patch, [source])) == MAX_VALUE_BYTES // PIECE_BYTES
    assert patch.done and state[key] == value


# ---- another target in the middle


def test_a_newer_target_does_not_cost_what_still_holds() -> None:
    """After most was fetched the target changes a little: little is fetched again."""
    choose = random.Random(1)
    old = {b"%05d" % i: choose.randbytes(1000) for i in range(3000)}
    new = old | dict.fromkeys(choose.sample(sorted(old), 5), b"changed")
    sources = of(old), of(new)
    state, patch = aimed({}, sources[0])
    in_all = len(fetch(aimed({}, sources[0])[1], [sources[0]]))
    first = len(fetch(patch, [sources[0]], in_all * 3 // 4))
    patch.aim((sources[1].digest,))
    again = len(fetch(patch, [sources[1]]))
    assert patch.done and dict(state.items()) == new
    assert first + again < in_all + 5 * 4


@pytest.mark.parametrize("depth", [1, 40])
def test_chunks_are_kept_when_the_target_moves(depth: int) -> None:
    """Chunks of an incomplete value are not fetched again, neither under its digest nor in what it became."""
    others = {b"%02d" % i: blob(3000) for i in range(depth)}
    targets = [
        others | {b"big": blob(300_000)},
        others | {b"big": blob(300_000), b"00": blob(3000, 0)},
        others | {b"big": blob(300_000, 20), b"new": b""},
        others | {b"big": blob(300_000, 20), b"newer": b"", b"00": b""},
    ]
    sources = [of(target) for target in targets]
    state, patch = aimed({}, sources[0])
    while next(patch.wanted()).kind != Kind.CHUNKS:
        fetch(patch, [sources[0]], 1)
    assert [want.index for want in fetch(patch, [sources[0]], 2)] == [0, 16]
    patch.aim((sources[1].digest,))
    patch.aim((sources[1].digest,))  # nothing came in between
    while (want := next(patch.wanted())).kind != Kind.CHUNKS:
        assert want.place != b"big"
        fetch(patch, [sources[1]], 1)
    assert [want.index for want in fetch(patch, [sources[1]], 1)] == [32]
    patch.aim((sources[2].digest,))
    while next(patch.wanted()).kind != Kind.CHUNKS:
        fetch(patch, [sources[2]], 1)
    assert [want.index for want in fetch(patch, [sources[2]], 1)] == [20]
    patch.aim((sources[3].digest,))
    indices = [want.index for want in fetch(patch, [sources[3]]) if want.kind == Kind.CHUNKS]
    assert indices == [48, 64]
    assert patch.done and dict(state.items()) == targets[3]


def test_chunks_of_two_states_do_not_mix() -> None:
    """The same key in two states, incomplete in both when the target moves: each keeps its own chunks."""
    targets = [{b"big": blob(90_000, space)} for space in range(2)]
    sources = [of(target) for target in targets]
    states = State(), State()
    patch = Patch(states)
    patch.aim((sources[0].digest, sources[1].digest))
    for want in (Want(space, *rest) for space in range(2) for rest in ((0, b"", 0), (1, b"big", 0), (2, b"big", 0))):
        assert patch.take(want, piece(sources, want) or b"") is Taken.KEPT
    patch.aim((sources[0].digest, sources[1].digest))
    assert [(want.space, want.index) for want in fetch(patch, sources) if want.kind == 2] == [(0, 16), (1, 16)]
    assert patch.done and [dict(state.items()) for state in states] == targets


@pytest.mark.parametrize(
    ("end", "firsts"),
    [
        ({}, [0, 16]),
        ({b"big": b"small"}, [0, 16]),
        ({b"other": b"same"}, [0, 16]),
        ({b"other": blob(80_000)}, [0, 16]),
        ({b"other": b"same", b"big": blob(60_000)}, [14]),
        ({b"other": blob(60_000), b"big": blob(60_000)}, [14]),
        ({b"other": b"same", b"big": blob(90_000, 1)}, [1]),
    ],
)
def test_chunks_of_a_value_that_is_wanted_no_more_are_let_go(end: Items, firsts: list[int]) -> None:
    """The value goes, or becomes another: the end is the target, and a later return goes by what is there then."""
    start = {b"big": blob(90_000), b"other": b"same"}
    first, second = of(start), of(end)
    state, patch = aimed({b"other": b"same"}, first)
    assert [want.kind for want in fetch(patch, [first], 3)] == [Kind.NODE, Kind.ENTRY, Kind.CHUNKS]
    patch.aim((second.digest,))
    fetch(patch, [second])
    assert patch.done and dict(state.items()) == end
    patch.aim((first.digest,))
    assert [want.index for want in fetch(patch, [first]) if want.kind == Kind.CHUNKS] == firsts
    assert patch.done and dict(state.items()) == start


# ---- lies


def wants_of_all_kinds() -> Iterator[tuple[State, Patch, Snapshot, Want, bytes]]:
    """A patch before each of the pieces of a transfer: inner node, bucket, subtree, value, chunk list, chunks."""
    target = {b"few%02d" % i: b"%d" % i for i in range(40)} | {b"own": b"own", b"ow": blob(100)}
    target |= {b"own/%02d" % i: blob(5000, i % 2) for i in range(30)}
    target |= {b"value/%d" % i: blob(30_000, i) for i in range(3)} | {b"value/big": blob(20 * CHUNK_BYTES)}
    source = of(target)
    for i in range(100):
        state, patch = aimed({b"few01": b"old", b"own/99": b"goes", b"value/1": blob(30_000, 1)}, source)
        fetch(patch, [source], i)
        want = next(patch.wanted(), None)
        if want is None:
            return
        data = piece([source], want)
        assert data is not None
        yield state, patch, source, want, data


def assert_refused(state: State, patch: Patch, want: Want, lies: Sequence[bytes]) -> None:
    before = dict(state.items()), list(patch.wanted()), patch.taken_pieces, patch.taken_bytes, patch.done
    for lie in lies:
        assert patch.take(want, lie) is Taken.LIE
    assert before == (dict(state.items()), list(patch.wanted()), patch.taken_pieces, patch.taken_bytes, patch.done)


@pytest.mark.slow
def test_a_damaged_piece_is_a_lie_and_changes_nothing() -> None:
    """A byte changed anywhere, missing, or more than there should be; afterwards the truth is still taken."""
    choose = random.Random(1)
    seen = set()
    for state, patch, source, want, data in wants_of_all_kinds():
        seen.add((int(want.kind), data[:1] if want.kind != Kind.CHUNKS else b""))
        places = {0, 1, 2, 3, len(data) - 1, *choose.choices(range(len(data)), k=20)}
        lies = [data[:i] + bytes([data[i] ^ choose.randint(1, 255)]) + data[i + 1 :] for i in sorted(places)]
        lies += [b"", data[:1], data[1:], data[:-1], data + b"\0", b"\0" + data, bytes(len(data)), bytes(1 << 20)]
        if want.kind == Kind.CHUNKS:
            lies.append(data + blob(20 * CHUNK_BYTES)[16 * CHUNK_BYTES : 17 * CHUNK_BYTES])
        lies += [data[:1] + dumps(((),)), data[:1] + dumps(()), b"\0" * MAX_PIECE_BYTES, b"\1" * MAX_PIECE_BYTES]
        assert_refused(state, patch, want, lies)
        assert patch.take(want, bytearray(data)) is Taken.LIE  # type: ignore[arg-type]
        assert patch.take(want, data) is Taken.KEPT
        fetch(patch, [source])
        assert patch.done
    assert seen == {(0, b"\0"), (0, b"\1"), (1, b"\0"), (1, b"\1"), (2, b"")}


@given(st.sampled_from([0, 1, 3, 12, 20, 39, 40]), st.sampled_from([b"", b"\0", b"\1"]), st.binary(max_size=100))
def test_any_noise_is_a_lie(steps: int, tag: bytes, noise: bytes) -> None:
    """Never an exception, whatever is wanted."""
    source = of({b"%02d" % i: blob(5000) for i in range(30)} | {b"big": blob(150_000)})
    state, patch = aimed({}, source)
    fetch(patch, [source], steps)
    for want in list(patch.wanted()):
        assert_refused(state, patch, want, [tag + noise])


def test_entries_in_another_order_or_twice_are_a_lie() -> None:
    """One sequence of bytes alone is a subtree's piece."""
    a, b = (b"a", b"1"), (b"b", b"2")
    state, patch = aimed({}, of(dict([a, b])))
    want = Want(0, Kind.NODE, b"", 0)
    assert_refused(state, patch, want, [b"\0" + dumps((rows,)) for rows in ([b, a], [a, a, b], [a, b, b], [a])])
    assert patch.take(want, b"\0" + dumps(([a, b],))) is Taken.KEPT and patch.done
    large = [(b"a", blob(50_000)), (b"b", blob(50_000))]
    state, patch = aimed({}, of(dict(large)))
    assert_refused(state, patch, want, [b"\0" + dumps((large,))])  # does not fit


def test_a_piece_for_another_place_is_a_lie() -> None:
    """The pieces of all open wants, exchanged: each is good for its own place alone, even if the content is alike."""
    target = {b"%c/%02d" % (letter, i): blob(3000) for letter in b"abz" for i in range(30)}
    target |= {b"%c/big" % letter: blob(200_000) for letter in b"ab"}
    source = of(target)
    compared = set[tuple[int, int]]()
    for steps in range(40):
        state, patch = aimed({}, source)
        fetch(patch, [source], steps)
        pieces = {want: piece([source], want) or b"" for want in patch.wanted()}
        for want in pieces:
            wrong = [data for other, data in pieces.items() if other != want]
            assert_refused(state, patch, want, wrong)
            compared.update((int(want.kind), int(other.kind)) for other in pieces if other != want)
    assert compared >= {(0, 0), (0, 1), (1, 0), (0, 2), (2, 0), (2, 2)}


def test_what_nobody_asked_for_is_stale() -> None:
    """A want that is not open, or not any more, is no reason to blame anybody, and nothing is taken."""
    target = {b"%02d" % i: blob(3000) for i in range(40)}
    source = of(target)
    state, patch = aimed({}, source)
    root = Want(0, Kind.NODE, b"", 0)
    data = piece([source], root)
    assert data is not None
    for want in (Want(1, Kind.NODE, b"", 0), Want(0, Kind.ENTRY, b"01", 0), Want(0, 7, b"", 0), Want(0, 0, b"", 1)):
        assert patch.take(want, data) is Taken.STALE
    assert patch.take(root, data) is Taken.KEPT
    assert patch.take(root, data) is Taken.STALE
    assert Patch((state,)).take(root, data) is Taken.STALE
    assert patch.taken_pieces == 1 and len(state) == 0
    old = next(patch.wanted())
    patch.aim((EMPTY_DIGEST,))
    assert patch.take(old, piece([source], old) or b"") is Taken.STALE


def inner(depth: int, path: bytes, children: dict[int, tuple[int, bytes]], own: bytes = b"") -> bytes:
    """An inner node as it is hashed."""
    count = sum(size for size, _ in children.values()) + bool(own)
    bitmap = sum(1 << slot for slot in children) | bool(own) << 16
    head = depth.to_bytes(2, "big") + count.to_bytes(8, "big") + bitmap.to_bytes(4, "big")
    return head + path + own + b"".join(size.to_bytes(8, "big") + child for size, child in children.values())


def test_nodes_that_no_state_has_are_lies() -> None:
    """Even if a root names them: a node beside its place, above it, or a key that ends inside a byte."""
    other, one = of({b"elsewhere%d" % i: b"" for i in range(20)}), of({b"elsewhere": b""})
    above = inner(1, b"\x60", {0: (9, bytes(32)), 1: (9, bytes(32))})
    whole = [piece([snapshot], Want(0, Kind.NODE, b"", 0)) or b"" for snapshot in (other, one)]
    nodes = [snapshot.node(b"") or b"" for snapshot in (other, one)]
    for child, lies in (
        (other.digest, [whole[0], b"\1" + nodes[0]]),
        (one.digest, [whole[1], b"\1" + nodes[1]]),
        (digest(b"state-inner", above), [b"\1" + above]),
    ):
        root = inner(1, b"\x60", {0: (20, child), 1: (20, bytes(32))})
        state = filled({b"kept": b""})
        patch = Patch((state,))
        patch.aim((digest(b"state-inner", root),))
        assert patch.take(Want(0, Kind.NODE, b"", 0), b"\1" + root) is Taken.KEPT
        assert_refused(state, patch, Want(0, Kind.NODE, b"\6\0", 0), lies)
    odd = inner(1, b"\x60", {0: (10, bytes(32)), 1: (10, bytes(32))}, bytes(32))
    patch = Patch((state,))
    patch.aim((digest(b"state-inner", odd),))
    assert_refused(state, patch, Want(0, Kind.NODE, b"", 0), [b"\1" + odd])


def test_a_list_of_chunks_with_the_digest_of_another_key_is_a_lie() -> None:
    """Values and lists are bound to their keys, although their content is the same."""
    value = blob(PIECE_BYTES + 1)
    source = of({b"one": value, b"two": value})
    state, patch = aimed({}, source)
    fetch(patch, [source], 1)
    one, two = patch.wanted()
    assert (one.place, two.place) == (b"one", b"two")
    assert_refused(state, patch, one, [b"\1" + chunk_list(b"two", value), b"\0" + value, b"\1" + value])
    assert entry_digest(b"one", value) != entry_digest(b"two", value)
    assert patch.take(one, b"\1" + chunk_list(b"one", value)) is Taken.KEPT


# ---- the source


SOURCE = of({b"%02d" % i: blob(5000) for i in range(30)} | {b"big": blob(70_000), b"": b""})


@pytest.mark.parametrize(
    "want",
    [
        Want(1, Kind.NODE, b"", 0),
        Want(-1, Kind.NODE, b"", 0),
        Want(1 << 70, Kind.NODE, b"", 0),
        Want(0, 3, b"big", 0),
        Want(0, -1, b"big", 0),
        Want(0, Kind.NODE, b"\x10", 0),
        Want(0, Kind.NODE, b"\x03\xff", 0),
        Want(0, Kind.NODE, b"\x03\x00\x03\x00\x00", 0),
        Want(0, Kind.NODE, b"\x0f", 0),
        Want(0, Kind.NODE, bytes(1 << 20), 0),
        Want(0, Kind.NODE, b"", 2),
        Want(0, Kind.ENTRY, b"absent", 0),
        Want(0, Kind.ENTRY, b"k" * 2000, 0),
        Want(0, Kind.ENTRY, b"big", 1),
        Want(0, Kind.CHUNKS, b"absent", 0),
        Want(0, Kind.CHUNKS, b"", 0),
        Want(0, Kind.CHUNKS, b"big", 18),
        Want(0, Kind.CHUNKS, b"big", 1 << 80),
        Want(0, Kind.CHUNKS, b"big", -1),
    ],
)
def test_a_source_has_no_piece_for_nonsense(want: Want) -> None:
    """What is not in the snapshot, or in none, is None."""
    assert piece([SOURCE], want) is None
    assert piece([], want) is None


def test_a_source_has_a_piece_for_everything_in_it() -> None:
    """The counterpart of the nonsense: places, keys and chunks that are there."""
    for want in (Want(0, 0, b"", 0), Want(0, 0, b"\x03\x00", 0), Want(0, 1, b"", 0), Want(0, 2, b"big", 17)):
        assert piece([SOURCE], want) is not None
    assert piece([SOURCE], Want(0, 1, b"00", 0)) == b"\0" + blob(5000)
    assert piece([SOURCE], Want(0, 2, b"big", 17)) == blob(70_000)[17 * CHUNK_BYTES :]
    assert piece([of({})], Want(0, 0, b"", 0)) is None


@given(
    st.integers(), st.integers(-1, 4), st.binary(max_size=5) | st.lists(st.integers(0, 15)).map(bytes), st.integers()
)
def test_a_source_survives_any_want(space: int, kind: int, place: bytes, index: int) -> None:
    """A piece of bounded size or None, never an exception."""
    for want in (Want(space, kind, place, index), Want(0, kind, place, 0)):
        data = piece([SOURCE], want)
        assert data is None or 0 < len(data) <= PIECE_BYTES + CHUNK_BYTES


# ---- errors of ours


def test_a_state_that_somebody_else_changed_is_noticed() -> None:
    """Nothing is left to fetch and yet the digest differs: that is said, not passed over."""
    source = of({b"k": b"v"})
    state, patch = aimed({}, source)
    fetch(patch, [source])
    state[b"k"] = b"changed"
    with pytest.raises(StateError, match="state 0"):
        assert patch.done
    patch.aim((source.digest,))
    fetch(patch, [source])
    assert patch.done


@pytest.mark.parametrize("roots", [(), (EMPTY_DIGEST, EMPTY_DIGEST), (b"short",)])
def test_roots_that_do_not_fit_the_states(roots: tuple[bytes, ...]) -> None:
    """One root of 32 bytes for each state, else `StateError`, and the aim is what it was."""
    source = of({b"k": b"v"})
    _, patch = aimed({}, source)
    with pytest.raises(StateError):
        patch.aim(roots)
    fetch(patch, [source])
    assert patch.done
