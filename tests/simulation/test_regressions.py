"""Scenarios that failed once do not fail again."""

from __future__ import annotations

from pathlib import Path

import pytest

from pbft.cli.main import main
from pbft.simulation.mutants import MUTANTS, applied
from pbft.simulation.regressions import load
from pbft.simulation.run import simulate
from pbft.simulation.scenario import Scenario

KEPT = Path(__file__).with_name("regressions.jsonl")


@pytest.mark.parametrize("scenario", load(KEPT), ids=lambda s: f"seed {s.seed}")
def test_it_does_not_fail_again(scenario: Scenario) -> None:
    """Each line is one bug that was found by simulation."""
    outcome = simulate(scenario)
    assert outcome.kind == "", (outcome.oracle, outcome.text)


def test_a_failing_scenario_is_kept_and_played_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One command makes a regression test of it, one plays it."""
    file = tmp_path / "kept.jsonl"
    mutant = next(m for m in MUTANTS if m.name == "said-undurable")
    with applied(mutant):
        assert main(["simulate", "--runs", "20", "--jobs", "1", "--keep", str(file)]) == 10
        assert main(["simulate", "--from", str(file), "--jobs", "1"]) == 10
    assert main(["simulate", "--from", str(file), "--jobs", "1"]) == 0
    assert "1 runs" in capsys.readouterr().out
    file.write_text("nonsense\n")
    assert main(["simulate", "--from", str(file)]) == 2
    assert "line 1" in capsys.readouterr().err
