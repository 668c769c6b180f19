"""The fuzz target at the size of CI, and that it would notice something."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pbft.batch
from pbft.protocol.inbound import Inbound
from pbft.protocol.records import Left


@pytest.fixture(scope="module")
def fuzz_codec() -> ModuleType:
    path = Path(__file__).with_name("fuzz_codec.py")
    spec = importlib.util.spec_from_file_location("fuzz_codec", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fuzz_codec"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.scenario("G16")
def test_two_seconds_of_fuzzing_find_nothing(fuzz_codec: ModuleType) -> None:
    """Varied plays reach much of the protocol, and neither raise, nor break an invariant, nor get a lie out."""
    executions, points, kept, findings = fuzz_codec.fuzz(2.0, 1)
    assert not findings, next(iter(findings.values()))[1]
    assert executions >= kept >= 20
    assert points > 600


def test_the_first_play_is_the_normal_case(fuzz_codec: ModuleType) -> None:
    """Unvaried, it brings a backup through four batches and two stable checkpoints: variations start deep."""
    world = fuzz_codec.World(1)
    for sender, body in fuzz_codec.seeds()[0]:
        world.step(sender, body)
    status = world.replica.status()
    assert (status.last_executed, status.stable_checkpoint, status.halted) == (4, 4, "")


def test_a_replica_that_learns_catches_up(fuzz_codec: ModuleType) -> None:
    """The second play brings a backup through four batches that it never prepared."""
    world = fuzz_codec.World(1)
    for sender, body in fuzz_codec.seeds()[1]:
        world.step(sender, body)
    assert world.replica.status().last_executed == 4


def played(fuzz_codec: ModuleType, me: int, steps: list[tuple[int, bytes]]) -> object:
    world = fuzz_codec.World(me)
    for sender, body in steps:
        world.step(sender, body)
    return world.replica.status()


def test_plays_go_through_view_changes(fuzz_codec: ModuleType) -> None:
    """Unvaried, some lead both replicas into views 1 to 4, from suspicion, by what others signed and as their primary,
    over crashes, with batches that are agreed again and NULL between them."""
    ends = [played(fuzz_codec, me, steps) for me in (0, 1) for steps in fuzz_codec.seeds()]
    views = {(s.id, s.view): max(t.last_executed for t in ends if (t.id, t.view) == (s.id, s.view)) for s in ends}
    assert set(views) == {(me, view) for me in (0, 1) for view in range(5)}
    assert all(views[me, view] >= 3 for me in (0, 1) for view in (2, 3))
    assert any(s.promised > s.view for s in ends), "some end while a NEW-VIEW is waited for"


def test_it_finds_a_vote_that_is_forgotten(fuzz_codec: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the record of a VIEW-CHANGE is lost in a crash, a vote in the view that was left is a finding."""
    normal, _, _, _, _, suspected, *_ = fuzz_codec.seeds()
    steps = [*suspected, (fuzz_codec.DISK, b""), (fuzz_codec.CRASH, b""), *normal]
    assert fuzz_codec.attempt(steps) is None
    original = fuzz_codec.fold

    def forgetful(group: object, records: list[tuple[int, object]]) -> object:
        return original(group, [r for r in records if not isinstance(r[1], Left)])

    monkeypatch.setattr(fuzz_codec, "fold", forgetful)
    assert "after VIEW-CHANGE" in str(fuzz_codec.attempt(steps))


@pytest.mark.slow
def test_it_finds_a_parser_that_raises_something_else(fuzz_codec: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a bug put into the parsing of batches, an IndexError deep in, the search finds and shrinks it."""
    original = pbft.batch.decode_batch

    def broken(encoded: bytes) -> pbft.batch.Batch:
        batch = original(encoded)
        if len(batch.requests) == 2 and batch.requests[1].operations:
            raise IndexError("seeded bug")
        return batch

    monkeypatch.setattr(fuzz_codec, "decode_batch", broken)
    _, _, _, findings = fuzz_codec.fuzz(0.3, 1)
    (steps, trace) = next(iter(findings.values()))
    assert "seeded bug" in trace and len(steps) == 1


@pytest.mark.slow
def test_it_finds_an_answer_that_is_no_refusal(fuzz_codec: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """An `Inbound.receive` that lets an exception out is a finding."""

    def broken(self: Inbound, sender: int, body: bytes) -> None:
        raise KeyError(sender)

    monkeypatch.setattr(Inbound, "receive", broken)
    _, _, _, findings = fuzz_codec.fuzz(0.1, 1)
    assert any(kind.startswith("KeyError") for kind in findings)
