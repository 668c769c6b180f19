"""The digest of the state: by its definition, by content alone, in slices, and unchanged between versions."""

from __future__ import annotations

import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.state import EMPTY_DIGEST, BucketView, InnerView, Snapshot, State, parse_node


def _naive() -> Callable[[Mapping[bytes, bytes]], bytes]:
    spec = importlib.util.spec_from_file_location("naive_state", Path(__file__).with_name("naive_state.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.naive_digest  # type: ignore[no-any-return]


naive_digest = _naive()

# Few letters, so that keys share long paths, are prefixes of each other and fall on both halves of a byte.
keys = st.lists(st.sampled_from([b"a", b"b", b"\x61\x10", b"\x00", b"\xff"]), max_size=6).map(b"".join)
keys = keys | st.binary(max_size=2)
values = st.binary(max_size=3) | st.sampled_from([b"x" * 4096, b"x" * 4097, b"y" * 9000])
# Clusters of up to 40 keys with long common paths: inner nodes below compressed paths, which split and merge again.
prefixes = st.sampled_from([b"", b"a", b"cluster-a/", b"cluster-b/", b"cluster-\x6f", b"cluster", b"klaster"])
clusters = st.builds(
    lambda prefix, size, value: {prefix + b"%c" % (7 * i % 256): value for i in range(size)},
    prefixes,
    st.integers(0, 40),
    values,
)
contents = st.builds(
    lambda items, parts: items | {k: v for part in parts for k, v in part.items()},
    st.dictionaries(keys, values, max_size=40),
    st.lists(clusters, max_size=3),
)


def of(items: Mapping[bytes, bytes]) -> Snapshot:
    state = State()
    state.load(items.items())
    return state.checkpoint()


@pytest.mark.slow
@given(contents)
def test_digest_is_the_defined_one(items: dict[bytes, bytes]) -> None:
    """A state built at once has the digest that the definition gives, and its snapshot holds the content in order."""
    snapshot = of(items)
    assert snapshot.digest == naive_digest(items)
    assert list(snapshot.items()) == sorted(items.items()) and len(snapshot) == len(items)


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.sampled_from("wwwddCDDDfhcc"), keys | prefixes, clusters), max_size=60),
    st.randoms(use_true_random=False),
)
def test_incremental_equals_from_scratch(
    script: list[tuple[str, bytes, dict[bytes, bytes]]], choose: random.Random
) -> None:
    """After any writes, deletes, hashing ahead, freezes and checkpoints the digest is that of the content alone.

    Snapshots keep the content of their moment, whatever is written or hashed later.
    """
    state, model = State(), dict[bytes, bytes]()
    taken: list[tuple[Snapshot, dict[bytes, bytes]]] = []
    frozen = []
    for what, key, cluster in script:
        if what == "w":
            state[key] = model[key] = b"%d" % len(model)
        elif what == "C":
            for one, value in cluster.items():
                state[one] = model[one] = value
        elif what == "D":  # all of a prefix, but for one key at times
            for one in sorted(model):
                if one.startswith(key) and one != key:
                    del state[one], model[one]
        elif what == "d" and model:
            victim = choose.choice(sorted(model))
            del state[victim], model[victim]
        elif what == "f":
            frozen.append((state.freeze(), dict(model)))
        elif what == "h":
            state.hash_some(choose.randint(1, 20))
        elif what == "c":
            taken.append((state.checkpoint(), dict(model)))
    choose.shuffle(frozen)
    taken.append((state.checkpoint(), model))
    taken.extend((pending.finish(), content) for pending, content in frozen)
    for snapshot, content in taken:
        assert snapshot.digest == naive_digest(content)
        assert list(snapshot.items()) == sorted(content.items())
        assert all(snapshot.get(key) == content.get(key) for key in model)


@pytest.mark.slow
@given(contents, st.randoms(use_true_random=False))
def test_order_and_detours_do_not_matter(items: dict[bytes, bytes], choose: random.Random) -> None:
    """Any order of insertion gives one digest, and what was inserted and deleted leaves no trace."""
    order = sorted(items)
    choose.shuffle(order)
    state = State()
    extra = {key + b"e%d" % i: b"extra" for i, key in enumerate(order)}
    for i, key in enumerate(order):
        state[key] = b"first"
        state[key + b"e%d" % i] = b"extra"
        if i % 7 == 0:
            state.checkpoint()
        state[key] = items[key]
    for key in extra:
        if key in items:
            state[key] = items[key]
        else:
            del state[key]
        state.hash_some(3)
    assert state.checkpoint().digest == of(items).digest


@pytest.mark.slow
@given(contents, contents)
def test_diff_names_exactly_what_changed(a: dict[bytes, bytes], b: dict[bytes, bytes]) -> None:
    """`diff` gives each changed key once, in order, with both values; and `revert` takes a state there."""
    one, other = of(a), of(b)
    wanted = [(k, a.get(k), b.get(k)) for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
    assert list(one.diff(other)) == wanted
    state = State()
    state.load(a.items())
    state.hash_some(10)
    state.freeze()
    state[b"late"] = b"write"
    state.revert(other)
    assert list(state.items()) == sorted(b.items()) and state.dirty_count == 0
    assert state.checkpoint().digest == other.digest
    assert list(state.keys()) == sorted(b)


@pytest.mark.slow
@given(contents)
def test_every_subtree_is_a_state_of_its_own(items: dict[bytes, bytes]) -> None:
    """From the root digest alone all nodes can be fetched and verified; a subtree's entries build to its digest."""
    snapshot = of(items)
    todo = [(b"", len(items), snapshot.digest)] if items else []
    found: dict[bytes, bytes] = {}
    while todo:
        path, count, expected = todo.pop()
        data = snapshot.node(path)
        assert data is not None
        entries = dict(snapshot.subtree(path))
        assert len(entries) == count and of(entries).digest == expected
        node = parse_node(data, expected)
        assert isinstance(node, BucketView) == (count <= 16)
        if isinstance(node, InnerView):
            todo.extend((node.child_path(i), *child) for i, child in enumerate(node.children) if child is not None)
            found.update({k: v for k, v in entries.items() if len(k) * 2 == node.depth})
        else:
            assert [key for key, _ in node.entries] == sorted(entries)
            found.update(entries)
    assert found == items


@pytest.mark.slow
@given(contents, keys)
def test_prefix_walk_of_a_snapshot(items: dict[bytes, bytes], prefix: bytes) -> None:
    """A snapshot scans a prefix in order; no node lies at a path that no key begins with."""
    snapshot = of(items)
    wanted = [(k, v) for k, v in sorted(items.items()) if k.startswith(prefix)]
    assert list(snapshot.items(prefix)) == wanted
    if not wanted:
        assert snapshot.node(bytes([n for byte in prefix for n in (byte >> 4, byte & 15)])) is None


@pytest.mark.slow
def test_keys_that_are_prefixes_of_each_other_do_not_exhaust_the_stack() -> None:
    """1025 nested keys make the deepest trie there is; building, proving, changing and comparing all work."""
    items = {b"a" * i: b"%d" % i for i in range(1025)}
    state = State()
    for key in sorted(items, reverse=True):
        state[key] = items[key]
    before = state.checkpoint()
    assert before.digest == of(items).digest and before.get(b"a" * 1000) == b"1000"
    state[b"a" * 1024] = b"new"
    del state[b"a" * 500]
    after = state.checkpoint()
    assert [key for key, _, _ in before.diff(after)] == [b"a" * 500, b"a" * 1024]
    assert [key for key, _ in after.items(b"a" * 1023)] == [b"a" * 1023, b"a" * 1024]


def test_compressed_paths_split_and_merge() -> None:
    """A key beside a long common path splits it, and leaves no trace when it goes: alone or among other changes."""
    items = {b"long/common/path/%02d" % i: b"" for i in range(40)}
    for beside in (
        b"",
        b"long",
        b"long/common/",
        b"long/common/path",
        b"lomg",
        b"zebra",
        b"lomg/common/path/00",
        b"long/common/path/30x",
    ):
        for company in ({}, {b"long/common/path/00": b"changed", b"another": b"one"}):
            state = State()
            state.load(items.items())
            before = state.checkpoint()
            new = {beside: b"beside", **company}
            for key, value in new.items():
                state[key] = value
            after = state.checkpoint()
            assert after.digest == naive_digest(items | new)
            assert [key for key, _, _ in after.diff(before)] == sorted(new)
            for key in new:
                del state[key]
            state.load([(key, items[key]) for key in new if key in items])
            assert state.checkpoint().digest == before.digest
    other = of({b"lonG/common/path/%02d" % i: b"" for i in range(40)})
    assert len(list(of(items).diff(other))) == 80


def test_hashing_ahead_in_slices_leaves_little_for_the_checkpoint() -> None:
    """`hash_some` works off the dirty keys within its budget; a key written again is dirty again."""
    state = State()
    state.load([(b"%04d" % i, b"") for i in range(1000)])
    assert state.hash_some(100) and state.dirty_count == 900
    state[b"0000"] = b"again"
    assert state.dirty_count == 901
    while state.hash_some(100):
        pass
    assert state.dirty_count == 0 and not state.hash_some(1)
    wanted = {b"%04d" % i: b"" for i in range(1000)} | {b"0000": b"again"}
    assert state.checkpoint().digest == naive_digest(wanted)
    state[b"large"] = bytes(10 * 4096)
    state[b"small"] = b""
    assert state.hash_some(5) and state.dirty_count == 1  # the large value used up the budget alone


def test_a_frozen_state_is_hashed_while_writing_goes_on() -> None:
    """Writes after `freeze` do not reach the frozen state, and earlier freezes are hashed first."""
    state = State()
    state.load([(b"%04d" % i, b"") for i in range(300)])
    first = state.freeze()
    state[b"0000"] = b"second"
    second = state.freeze()
    state[b"0000"] = b"third"
    assert second.advance(100) and first.remaining == 200 and second.remaining == 1
    base = {b"%04d" % i: b"" for i in range(300)}
    assert second.finish().digest == naive_digest(base | {b"0000": b"second"})
    assert first.snapshot is not None and first.snapshot.digest == naive_digest(base)
    assert state.checkpoint().digest == naive_digest(base | {b"0000": b"third"})


def test_unchanged_nodes_are_shared_between_snapshots() -> None:
    """Two snapshots share every node that did not change, and values are kept by reference."""
    state = State()
    state.load([(b"%04d" % i, b"v%d" % i) for i in range(1000)])
    before = state.checkpoint()
    value = b"a value"
    state[b"0500"] = value
    after = state.checkpoint()
    assert after.get(b"0500") is value
    assert state.checkpoint().root is after.root
    state[b"0500"] = b"other"
    state[b"0500"] = value
    assert state.checkpoint().root is after.root
    assert before.get(b"0500") == b"v500" and before.get(b"0001") is after.get(b"0001")


GOLDEN = {
    "empty": ({}, "6db0ce277f9b5118ccae4dd34fbb91b8c157a49fb998bb849868904ab26e515c"),
    "empty key and value": ({b"": b""}, "908a2bae211619a048ef23def0a63f6582340f26d53fb8b86e7e40570398144d"),
    "bucket": (
        {b"k%d" % i: b"v%d" % i for i in range(16)},
        "fbef0939154d28a07f3662dce8133de84a636c670f68ba3d91cce27138be07c9",
    ),
    "inner": (
        {b"k%d" % i: b"v%d" % i for i in range(17)},
        "8c14064d20c3d5daa928e0c5ca7550dd5d79af43f0677653de32f293215ca871",
    ),
    "own entry and odd path": (
        {b"\x12" + bytes([i]) * (i > 0): b"" for i in range(40)},
        "8b19404f5afb9f867fb201267372c04660751eccd4d9084462a1da8c077e62c4",
    ),
    "chunked": ({b"large": bytes(range(256)) * 33}, "d6449913930da0a4d5d67aa1eca1698c550fceb69b28dfe84ec0f421e26b9aca"),
    "thousand": (
        {b"%d" % i: b"%d" % (i * i) for i in range(1000)},
        "e707cb03870d41976fc8857d641ce37521214ed716c76c551f5deb7f50ae9314",
    ),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_digests(name: str) -> None:
    """These digests are what running clusters have agreed on; another value is another format."""
    items, wanted = GOLDEN[name]
    assert of(items).digest.hex() == wanted


def test_nothing_has_a_digest_too() -> None:
    """An empty state has one digest, also after its last key has gone."""
    state = State()
    assert state.checkpoint().digest == EMPTY_DIGEST
    state[b"k"] = b""
    assert state.checkpoint().digest != EMPTY_DIGEST
    del state[b"k"]
    assert state.checkpoint().digest == EMPTY_DIGEST


_PROGRAM = """
from pbft.state import State
state = State()
for i in range(20):
    for j in range(60):
        state[b"%d" % (i * j)] = b"%d" % j
    for key in list(state.keys(b"1"))[::3]:
        del state[key]
    state.hash_some(25)
    print(state.checkpoint().digest.hex())
"""


@pytest.mark.slow
@pytest.mark.scenario("D10")
def test_digests_do_not_depend_on_the_hash_seed_or_on_history() -> None:
    """20 checkpoints are equal in processes with different hash seeds, and in one that was filled by transfer."""
    outputs = [
        subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1] and len(set(outputs[0].split())) == 20
    state = State()
    for i in range(20):
        for j in range(60):
            state[b"%d" % (i * j)] = b"%d" % j
        for key in list(state.keys(b"1"))[::3]:
            del state[key]
        transferred = State()
        transferred.load(reversed(list(state.items())))
        assert transferred.checkpoint().digest.hex() == outputs[0].split()[i]
