"""The table of seeded bugs: each names its rule, is caught within a stated number of runs, and by a command."""

from __future__ import annotations

import json

import pytest

from pbft.cli.main import main
from pbft.simulation import mutants
from pbft.simulation.mutants import MUTANTS, Mutant, applied, hunt
from pbft.simulation.run import simulate

QUICK = (
    *("first-view-change", "no-a1", "null-cut", "q-newest-only", "again-is-two", "answered-awaited", "cached-reads"),
    *("not-rewritten", "cut-without-state", "one-suspect", "execution-clears", "votes-any-digest", "waiting-dropped"),
)
"""Those that are caught in little time and not by `test_simulation.py`."""


def test_every_mutant_names_the_rule_that_it_breaks() -> None:
    """At least forty, each with another name."""
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 60
    assert all(m.rule and m.breaks for m in MUTANTS)


@pytest.mark.parametrize("name", QUICK)
def test_it_is_caught_within_its_bound(name: str) -> None:
    """In the scenarios that provoke it."""
    mutant = next(m for m in MUTANTS if m.name == name)
    count, outcome = hunt(mutant, mutant.within)
    assert outcome is not None, f"{name} survives {count} runs"


def test_a_forged_p_entry_wins_where_the_highest_p_wins_and_not_by_the_real_rule() -> None:
    """PREPAREs carry MACs, so a P entry is one replica's word: with the rule of the all-signed protocol a liar makes a
    view begin with another batch than one that has executed. In the very same run A1 and A2 hold. Rule 1.3"""
    mutant = next(m for m in MUTANTS if m.name == "highest-p-wins")
    count, outcome = hunt(mutant, mutant.within)
    assert outcome is not None
    assert outcome.scenario.adversary == "forged-prepared"
    assert (outcome.kind, outcome.oracle) == ("wrong", "chosen keeps executed"), outcome.text
    real = simulate(outcome.scenario)
    assert real.kind == "", real.text
    assert count == outcome.scenario.seed


@pytest.mark.parametrize("name", ["one-suspect", "waiting-dropped"])
def test_what_provokes_it_harms_nothing_without_it(name: str) -> None:
    """The scenarios of the table are fair ones."""
    mutant = next(m for m in MUTANTS if m.name == name)
    for seed in range(1, 3):
        assert simulate(mutant.scenario(seed)).kind == ""


def test_the_command_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Named ones; what is printed shows it again; a survivor gives exit code 1."""
    assert main(["simulate", "--mutants", "weak-commits,said-undurable", "--jobs", "1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(r["mutant"], r["rule"], r["caught_by"]) for r in rows] == [
        ("weak-commits", "1.13", "durable before executed"),
        ("said-undurable", "1.5", "durable before said"),
    ]
    assert main([*rows[0]["command"].split()[1:], "--jobs", "1"]) == 0
    assert "1 of 1 caught" in capsys.readouterr().out
    assert main(["simulate", "--mutants", "gremlin"]) == 2
    assert "'gremlin' is none of accepted-unwritten" in capsys.readouterr().err

    harmless = Mutant("harmless", "nothing at all", list)
    monkeypatch.setattr(mutants.table, "MUTANTS", (harmless,))
    assert main(["simulate", "--mutants", "--runs", "1", "--jobs", "1"]) == 1
    told = capsys.readouterr().out
    assert "SURVIVED" in told
    assert told.endswith("0 of 1 caught; harmless survives\n")


def test_a_mutant_is_put_in_and_taken_out() -> None:
    """Whatever it replaces."""
    for mutant in MUTANTS:
        before = [(owner, name, owner.__dict__[name]) for owner, name, _ in mutant.patches()]
        with applied(mutant):
            assert all(owner.__dict__[name] is not value for owner, name, value in before), mutant.name
        assert all(owner.__dict__[name] is value for owner, name, value in before), mutant.name
