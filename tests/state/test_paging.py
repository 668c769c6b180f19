"""A state with pages outside behaves as one that is in memory, whatever is evicted, and keeps no page for nothing."""

from __future__ import annotations

import errno
import gc
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.state import PagedBucket, Snapshot, State, StateError, paged_class
from pbft.storage.pages import PageFile


class Memory:
    """Pages in a dict, which evict everything but the bucket that was loaded last."""

    def __init__(self) -> None:
        self.pages: dict[int, bytes] = {}
        self.numbers = 0
        self.loads = 0
        self.is_full = False
        self.last: PagedBucket | None = None

    def store(self, pages: list[bytes]) -> list[int]:
        if self.is_full:
            raise OSError(errno.ENOSPC, "full")
        numbers = []
        for page in pages:
            self.numbers += 1
            self.pages[self.numbers] = page
            numbers.append(self.numbers)
        return numbers

    def load(self, page: int) -> bytes:
        self.loads += 1
        return self.pages[page]

    def free(self, page: int) -> None:
        del self.pages[page]

    def loaded(self, bucket: PagedBucket, size: int) -> None:
        last, self.last = self.last, bucket
        if last is not None and last is not bucket:
            last.evict()


KEYS = st.sampled_from([b"", b"\x00", b"a", b"ab", *(bytes([i // 16, i % 16 << 4]) for i in range(0, 256, 3))]) | (
    st.binary(max_size=3)
)
VALUES = st.binary(max_size=6) | st.integers(4090, 4110).map(bytes)
STEP = st.one_of(
    st.tuples(st.just("set"), st.lists(st.tuples(KEYS, VALUES), max_size=40)),
    st.tuples(st.just("delete"), st.lists(KEYS, max_size=30)),
    st.tuples(st.just("checkpoint"), st.none()),
    st.tuples(st.just("hash"), st.integers(1, 20)),
    st.tuples(st.just("revert"), st.integers(0, 5)),
    st.tuples(st.just("rollback"), st.lists(st.tuples(KEYS, VALUES), max_size=20)),
    st.tuples(st.just("scan"), st.tuples(st.binary(max_size=2), st.none() | st.binary(max_size=2), st.integers(0, 9))),
)


def play(state: State, step: str, argument: object, kept: list[Snapshot]) -> object:
    """One step; what can be seen of it."""
    if step == "set":
        for key, value in argument:  # type: ignore[attr-defined]
            state[key] = value
    elif step == "delete":
        for key in argument:  # type: ignore[attr-defined]
            if key in state:
                del state[key]
    elif step == "checkpoint":
        kept.append(state.checkpoint())
        return kept[-1].digest, list(kept[-1].items())
    elif step == "hash":
        state.hash_some(argument)  # type: ignore[arg-type]
    elif step == "revert" and kept:
        state.revert(kept[argument % len(kept)])  # type: ignore[operator]
    elif step == "rollback":
        state.begin()
        for key, value in argument:  # type: ignore[attr-defined]
            state[key] = value
        state.rollback()
    elif step == "scan":
        prefix, start, limit = argument  # type: ignore[misc]
        found = []
        for number, key in enumerate(state.keys(prefix, start, limit or None)):
            found.append((key, state[key]))
            if number % 3 == 0:
                state[key + b"!"] = b"new"
            if number % 4 == 1:
                del state[key]
        return found
    return len(state), list(state.items())


@settings(max_examples=120, deadline=None)
@given(st.lists(STEP, max_size=25))
def test_it_behaves_as_one_in_memory(steps: list[tuple[str, object]]) -> None:
    """Digests, contents, scans with writes in between, snapshots that were taken earlier."""
    memory = Memory()
    paged, plain = State(paging=paged_class(memory)), State()
    kept_paged: list[Snapshot] = []
    kept_plain: list[Snapshot] = []
    for step, argument in steps:
        assert play(paged, step, argument, kept_paged) == play(plain, step, argument, kept_plain)
    for one, other in zip(kept_paged, kept_plain, strict=True):
        assert one.digest == other.digest and list(one.items()) == list(other.items())
        assert all(is_right for _, is_right in one.check())
    assert paged.checkpoint().digest == plain.checkpoint().digest


def test_most_of_it_is_outside_and_pages_go_with_their_buckets() -> None:
    """What no snapshot refers to is freed."""
    memory = Memory()
    state = State(paging=paged_class(memory))
    state.load((b"key %06d" % i, bytes(500)) for i in range(20_000))
    first = state.checkpoint()
    pages = len(memory.pages)
    assert 1000 < pages < 20_000
    assert sum(map(len, memory.pages.values())) > 20_000 * 500, "all of it"
    for turn in range(5):
        for i in range(0, 20_000, 50):
            state[b"key %06d" % i] = b"%d" % turn
        state.checkpoint()
    assert first.get(b"key 000000") == bytes(500)
    assert pages < len(memory.pages) < 2.2 * pages, "those of the first snapshot, and the present ones"
    del first
    gc.collect()
    assert len(memory.pages) < 1.1 * pages
    before = memory.loads
    assert state[b"key 000100"] == b"4" and memory.loads - before <= 1
    list(state.keys(b"key 0001"))
    assert memory.loads - before < 30


def test_without_room_it_stays_in_memory_until_there_is_some() -> None:
    """Nothing is lost, and nothing raised."""
    memory = Memory()
    state = State(paging=paged_class(memory))
    memory.is_full = True
    state.load((b"key %03d" % i, b"x") for i in range(500))
    state.checkpoint()
    assert not memory.pages and len(state) == 500
    memory.is_full = False
    state[b"one more"] = b"x"
    digest = state.checkpoint().digest
    assert memory.pages and list(state.keys(b"key 4", limit=2)) == [b"key 400", b"key 401"]
    plain = State()
    plain.load(state.items())
    assert plain.checkpoint().digest == digest


@pytest.mark.parametrize("spoil", ["flip", "cut", "other"])
def test_a_page_that_rots_is_not_used(spoil: str) -> None:
    """It does not hash to what its bucket is known by."""
    memory = Memory()
    state = State(paging=paged_class(memory))
    state.load((b"key %03d" % i, b"value %d" % i) for i in range(300))
    state.checkpoint()
    rng = Random(1)
    for number, page in list(memory.pages.items()):
        at = rng.randrange(len(page))
        memory.pages[number] = {
            "flip": page[:at] + bytes([page[at] ^ 1 << rng.randrange(8)]) + page[at + 1 :],
            "cut": page[: -rng.randrange(1, 9)],
            "other": memory.pages[number % len(memory.pages) + 1],
        }[spoil]
    for i in range(300):
        memory.last = None
        with pytest.raises(StateError):
            raise_or_get(state, b"key %03d" % i)


def raise_or_get(state: State, key: bytes) -> None:
    """The last bucket that was loaded may still be in memory: then it is right."""
    value = state[key]
    assert value == b"value %d" % int(key[4:])
    raise StateError("in memory")


@pytest.fixture
def file(tmp_path: Path) -> Iterator[PageFile]:
    """With the least budget."""
    found = PageFile(tmp_path, 0)
    yield found
    found.close()


def test_a_page_file_keeps_to_its_budget_and_leaves_nothing(file: PageFile, tmp_path: Path) -> None:
    """Ten times as much as may stay in memory; no file is left to be seen."""
    state = State(paging=paged_class(file))
    state.load((b"key %06d" % i, bytes(1000)) for i in range(10_000))
    digest = state.checkpoint().digest
    assert file.used <= 1 << 20 and not list(tmp_path.iterdir())
    for i in Random(2).sample(range(10_000), 500):
        assert state[b"key %06d" % i] == bytes(1000)
    for i in range(0, 10_000, 3):
        del state[b"key %06d" % i]
    again = State()
    again.load((b"key %06d" % i, bytes(1000)) for i in range(10_000) if i % 3)
    assert state.checkpoint().digest == again.checkpoint().digest != digest
    assert file.used <= 1 << 20


def test_a_page_file_that_was_left_is_made_anew(tmp_path: Path) -> None:
    """Whatever it is."""
    (tmp_path / "pages").write_bytes(b"rubbish")
    file = PageFile(tmp_path, 1 << 20)
    assert file.load(file.store([b"one", b"two"])[1]) == b"two"
    with pytest.raises(StateError, match="gone"):
        file.load(77)
    file.close()
    with pytest.raises(StateError, match="cannot be read"):
        file.load(1)
    with pytest.raises(OSError, match="cannot be kept"):
        file.store([b"three"])
    with pytest.raises(OSError, match="cannot be kept"):
        PageFile(tmp_path / "absent", 1)
