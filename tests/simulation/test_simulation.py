"""The simulator itself: it replays exactly, its oracles see seeded bugs, a failure can be repeated by one command."""

from __future__ import annotations

import json

import pytest

from pbft.cli.main import main
from pbft.simulation.command import command_of
from pbft.simulation.mutants import MUTANTS, applied, hunt
from pbft.simulation.run import shrink, simulate
from pbft.simulation.scenario import Scenario

QUICK = {
    "own-vote-twice": 20,
    "own-vote-undurable": 20,
    "said-undurable": 20,
    "weak-commits": 20,
    "prepared-executes": 20,
    "no-watermarks": 20,
    "executes-twice": 100,
    "floor-too-high": 20,
    "unchecked-body": 20,
    "one-committed": 20,
    "checkpoints-any-digest": 40,
    "weak-checkpoints": 20,
    "nothing-is-lost": 10,
    "votes-too-soon": 10,
    "no-nulls": 20,
    "reborn-is-cut": 20,
    "accepted-unwritten": 20,
    "executing-unwritten": 40,
    "gaps-skipped": 20,
    "numbers-again": 60,
    "local-eviction": 50,
    "digest-of-memory": 20,
    "one-reply": 40,
    "no-status": 20,
}
"""Mutant -> runs within which it is caught. `pbft simulate --mutants` looks for all of them, and takes longer."""


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 24, 8))
def test_seeds_pass_and_replay_exactly(first: int) -> None:
    """Eight seeds, each run twice: no oracle fails, and both traces are the same."""
    for seed in range(first, first + 8):
        outcomes = [simulate(Scenario.draw(seed)) for _ in range(2)]
        assert [o.kind for o in outcomes] == ["", ""], outcomes[0]
        assert outcomes[0].fingerprint == outcomes[1].fingerprint


@pytest.mark.parametrize("name", sorted(QUICK))
def test_a_seeded_bug_is_caught(name: str) -> None:
    """Every oracle was seen to fail."""
    count, outcome = hunt(next(m for m in MUTANTS if m.name == name), QUICK[name])
    assert outcome is not None, f"not caught in {count} runs"


def test_a_mutant_is_gone_afterwards() -> None:
    """The production code is whole again after a hunt."""
    mutant = next(m for m in MUTANTS if m.name == "said-undurable")
    with applied(mutant):
        assert simulate(Scenario.draw(1)).kind == "wrong"
    assert simulate(Scenario.draw(1)).kind == ""


def test_a_failure_shrinks_to_a_simpler_scenario_that_one_command_repeats(capsys: pytest.CaptureFixture[str]) -> None:
    """The printed command draws the very same scenario again."""
    mutant = next(m for m in MUTANTS if m.name == "unchecked-body")
    with applied(mutant):
        count, outcome = 0, simulate(Scenario.draw(0))
        while not outcome.kind:
            count += 1
            outcome = simulate(Scenario.draw(count))
        small = shrink(outcome)
        assert small.oracle == outcome.oracle
        assert small.scenario != outcome.scenario
        words = command_of(small.scenario).split()[1:]
        assert main([*words, "--json"]) == 10
    told = json.loads(capsys.readouterr().out)
    assert (told["kind"], told["oracle"], told["fingerprint"]) == ("wrong", small.oracle, small.fingerprint)


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Runs, one traced seed, and fixed values."""
    assert main(["simulate", "--runs", "2", "--replicas", "4", "--faults", "none", "--jobs", "1", "--doublecheck"]) == 0
    assert "no oracle failed" in capsys.readouterr().out
    assert main(["simulate", "--seed", "3", "--trace", "--app", "kv", "--set", "operations=4"]) == 0
    assert "executes 1 " in capsys.readouterr().out
    assert main(["simulate", "--runs", "1", "--faults", "all", "--jobs", "1"]) == 0
    assert "1 runs from seed 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--faults", "weather,gremlins"], "'gremlins' is none of"),
        (["--replicas", "3"], "between 4 and 31"),
        (["--set", "crashes"], "NAME=VALUE"),
        (["--set", "crashes=many"], "takes a int"),
        (["--set", "seed=4"], "NAME=VALUE"),
    ],
)
def test_bad_arguments_are_refused(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One sentence, exit code 2."""
    assert main(["simulate", *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1


def test_a_campaign_may_be_bounded_by_time(capsys: pytest.CaptureFixture[str]) -> None:
    """It ends by itself, and tells how much virtual time its runs took."""
    assert main(["simulate", "--minutes", "0.02", "--jobs", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["runs"] > 0
    assert told["simulated_seconds"] > 0
