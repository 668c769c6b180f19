"""State as a mapping: what it takes, scans, operations, read-only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.state import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    ReadOnlyError,
    State,
    StateBoundError,
    StateError,
    StateTypeError,
)


def filled(*keys: bytes) -> State:
    state = State()
    for key in keys:
        state[key] = b"value of " + key
    return state


@pytest.mark.scenario("J09")
@pytest.mark.parametrize("key", [b"", b"\0", bytes(range(256)), b"k" * MAX_KEY_BYTES])
@pytest.mark.parametrize("value", [b"", b"\0", bytes(range(256))])
def test_empty_and_binary_keys_and_values_round_trip(key: bytes, value: bytes) -> None:
    """Empty and binary keys and values come back exactly, and an empty value is not an absent key."""
    state = State()
    assert key not in state
    state[key] = value
    assert key in state and state[key] == value and state.get(key, b"other") == value and len(state) == 1
    assert state.checkpoint().get(key) == value


@pytest.mark.scenario("J10")
@pytest.mark.parametrize("wrong", [bytearray(b"k"), memoryview(b"k"), "k", None, 1, type("B", (bytes,), {})(b"k")])
def test_only_exact_bytes_are_taken(wrong: Any) -> None:
    """What could change after it was stored, or is no bytes at all, is refused and stores nothing."""
    state = filled(b"k")
    before = state.checkpoint().digest
    calls: list[Callable[[], object]] = [
        lambda: state.__setitem__(wrong, b"v"),
        lambda: state.__setitem__(b"k", wrong),
        lambda: state.__delitem__(wrong),
        lambda: state.get(wrong),
        lambda: state[wrong],
        lambda: wrong in state,
        lambda: state.keys(prefix=wrong),
        lambda: state.load([(wrong, b"v")]),
        lambda: state.load([(b"other", wrong)]),
    ]
    for call in calls:
        with pytest.raises(StateTypeError):
            call()
    assert state.checkpoint().digest == before


def test_bounds_on_keys_and_values() -> None:
    """A key of 1024 bytes and a value of 16 MiB are taken, one byte more is refused with a typed error."""
    state = State()
    state[b"k" * MAX_KEY_BYTES] = b""
    state[b"big"] = bytes(MAX_VALUE_BYTES)
    for key, value in ((b"k" * (MAX_KEY_BYTES + 1), b""), (b"v", bytes(MAX_VALUE_BYTES + 1))):
        with pytest.raises(StateBoundError):
            state[key] = value
        with pytest.raises(StateBoundError):
            state.load([(key, value)])
    assert len(state) == 2


def test_missing_keys_raise_key_error() -> None:
    """Reading or deleting what is not there raises KeyError; `get` gives the default."""
    state = State()
    with pytest.raises(KeyError):
        state[b"k"]
    with pytest.raises(KeyError):
        del state[b"k"]
    assert state.get(b"k") is None and state.get(b"k", b"d") == b"d"


def test_scans_are_ordered_and_bounded() -> None:
    """Prefix, start and limit restrict a scan, which goes in byte order."""
    state = filled(b"b", b"a\xff", b"a", b"ab", b"aa", b"")
    assert list(state) == [b"", b"a", b"aa", b"ab", b"a\xff", b"b"]
    assert list(state.keys(b"a")) == [b"a", b"aa", b"ab", b"a\xff"]
    assert list(state.keys(b"a", start=b"aaa")) == [b"ab", b"a\xff"]
    assert list(state.keys(b"a", start=b"")) == [b"a", b"aa", b"ab", b"a\xff"]
    assert list(state.items(b"a", limit=2)) == [(b"a", b"value of a"), (b"aa", b"value of aa")]
    assert list(state.keys(limit=0)) == [] and list(state.keys(b"c")) == []
    for limit in (-1, True, 1.0):
        with pytest.raises(StateBoundError):
            state.keys(limit=limit)  # type: ignore[arg-type]


def test_scan_goes_by_the_keys_that_were_there_when_it_began() -> None:
    """Deleting and inserting while scanning ends, skips the deleted and does not visit the new."""
    state = filled(b"a", b"b", b"c", b"d")
    seen = []
    for key, value in state.items():
        seen.append((key, value))
        state[key + b"+"] = b"new"  # would never end if new keys were visited
        if key == b"a":
            del state[b"b"]
            state[b"c"] = b"changed"
            assert list(state.keys(b"a")) == [b"a", b"a+"]  # a scan within
    assert seen == [(b"a", b"value of a"), (b"c", b"changed"), (b"d", b"value of d")]
    assert list(state) == [b"a", b"a+", b"c", b"c+", b"d", b"d+"]


def test_scan_survives_a_mass_of_new_keys() -> None:
    """A scan is right also when so many keys appear meanwhile that the index is brought up to date."""
    state = filled(b"a", b"z")
    scan = state.keys()
    assert next(scan) == b"a"
    for i in range(17_000):
        state[b"m%d" % i] = b""
    assert list(scan) == [b"z"]
    assert len(list(state.keys())) == 17_002


def test_delete_everything_under_a_prefix_while_scanning_it() -> None:
    """The obvious loop for removing a prefix does what it says."""
    state = filled(b"q1", b"q2", b"q3", b"r")
    for key in state.keys(b"q"):
        del state[key]
    assert list(state) == [b"r"]


def test_rollback_undoes_one_operation() -> None:
    """After a rollback keys, values, order, length and digest are as before; after a commit they are not."""
    state = filled(b"a", b"b")
    before = state.checkpoint()
    state.begin()
    state[b"a"] = b"1"
    state[b"a"] = b"2"
    del state[b"b"]
    state[b"b"] = b"again"
    state[b"c"] = b"3"
    del state[b"c"]
    state[b"d"] = b"4"
    assert list(state) == [b"a", b"b", b"d"]
    state.rollback()
    assert dict(state.items()) == dict(before.items()) and len(state) == 2
    assert state.checkpoint().digest == before.digest
    state.begin()
    state[b"a"] = b"1"
    state.commit()
    assert state[b"a"] == b"1" and state.checkpoint().digest != before.digest


def test_operations_do_not_nest() -> None:
    """A second begin, an end without a begin, and hashing or loading inside an operation raise and change nothing."""
    state = filled(b"a")
    for call in (state.commit, state.rollback):
        with pytest.raises(StateError):
            call()
    state.begin()
    state[b"b"] = b""
    snapshot = State().checkpoint()
    refusals: list[Callable[[], object]] = [
        state.begin,
        state.checkpoint,
        state.freeze,
        lambda: state.hash_some(1),
        lambda: state.load([(b"c", b"")]),
        lambda: state.revert(snapshot),
    ]
    for refused in refusals:
        with pytest.raises(StateError):
            refused()
    state.rollback()
    assert list(state) == [b"a"]


def test_read_only_refuses_every_write() -> None:
    """Inside `read_only` nothing can be written, and reading goes on; afterwards writing works again."""
    state = filled(b"a")
    with state.read_only():
        with state.read_only():
            pass
        writes: list[Callable[[], object]] = [
            lambda: state.__setitem__(b"a", b"1"),
            lambda: state.__setitem__(b"a", b"value of a"),
            lambda: state.__delitem__(b"a"),
            lambda: state.load([(b"n", b"")]),
        ]
        for call in writes:
            with pytest.raises(ReadOnlyError):
                call()
        assert state[b"a"] == b"value of a"
    state[b"a"] = b"1"
    with pytest.raises(KeyError), state.read_only():
        state[b"absent"]
    state[b"a"] = b"2"
    assert state[b"a"] == b"2"


def test_writing_the_same_value_again_costs_no_hashing() -> None:
    """Only keys whose value changed are dirty."""
    state = filled(b"a", b"b")
    state.checkpoint()
    state[b"a"] = b"value of a"
    assert state.dirty_count == 0
    state[b"b"] = b"new"
    del state[b"a"]
    assert sorted(state.dirty_keys) == [b"a", b"b"] and state.dirty_count == 2


def test_load_refuses_a_key_twice() -> None:
    """A stored checkpoint names each key once; pieces of it may be loaded one after the other."""
    state = State()
    state.load([(b"b", b"2"), (b"d", b"4")])
    state.load(iter([(b"a", b"1")]))
    with pytest.raises(StateError):
        state.load([(b"c", b"3"), (b"a", b"other")])
    assert list(state.items()) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3"), (b"d", b"4")]


short_keys = st.binary(max_size=3) | st.sampled_from([b"a", b"ab", b"abc"])
steps = st.lists(st.tuples(st.sampled_from("wdbcrs"), short_keys, st.binary(max_size=4)), max_size=60)


@given(steps)
def test_state_behaves_as_a_dictionary(script: list[tuple[str, bytes, bytes]]) -> None:
    """Any sequence of writes, deletes, operations and scans gives what a sorted dictionary gives."""
    state, model = State(), dict[bytes, bytes]()
    saved: dict[bytes, bytes] | None = None
    for what, key, value in script:
        if what == "w":
            state[key] = model[key] = value
        elif what == "d" and key in model:
            del state[key], model[key]
        elif what == "b" and saved is None:
            state.begin()
            saved = dict(model)
        elif what == "c" and saved is not None:
            state.commit()
            saved = None
        elif what == "r" and saved is not None:
            state.rollback()
            model, saved = saved, None
        elif what == "s":
            assert list(state.keys(key)) == [k for k in sorted(model) if k.startswith(key)]
    assert list(state.items()) == sorted(model.items()) and len(state) == len(model)
