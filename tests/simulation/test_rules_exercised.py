"""What runs exercise is counted by rule, and a rule that none did stands out."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from pbft.cli.main import main
from pbft.simulation.rules import RULES, lines
from pbft.simulation.run import simulate
from pbft.simulation.scenario import Scenario

QUIET = Scenario(1, operations=6)


def test_a_quiet_run_exercises_the_normal_case_and_nothing_of_view_changes() -> None:
    """Each batch is pre-prepared, prepared and executed by each of four replicas."""
    counts = simulate(QUIET).rules
    assert counts["batch pre-prepared"] == counts["batch prepared"] == counts["batch executed"] > 0
    assert counts["batch executed"] % 4 == 0
    assert counts["session opened"] == 8
    assert not [name for name in counts if name.startswith(("decision", "left", "accused", "floor", "SUSPECT"))]


def test_view_changes_show_which_branch_of_the_decision_was_taken() -> None:
    """And who was accused of what."""
    alarmed = replace(QUIET, false_alarms=12, operations=30)
    counts = Counter(simulate(alarmed).rules)
    assert counts["view entered"] >= 4
    assert counts["decision: batch by A"] > 0
    lying = Counter(simulate(replace(alarmed, adversary="two-view-changes", faulty=2)).rules)
    assert lying["accused: two-view-changes"] > 0
    assert counts["accused: two-view-changes"] == 0


def test_only_listed_rules_are_counted() -> None:
    """So that the table is complete."""
    for adversary in ("", "flooding", "wrong-new-view+lying-status"):
        hostile = replace(QUIET, adversary=adversary, false_alarms=5, crashes=2, bad_client=not adversary)
        assert set(simulate(hostile).rules) <= set(RULES)


def test_a_rule_that_nothing_exercised_stands_out(capsys: pytest.CaptureFixture[str]) -> None:
    """In the list and on the command line."""
    told = {line.split("  ")[1]: line for line in lines({"SUSPECT": 3})}
    assert told["SUSPECT"].endswith("1.12       3")
    assert told["batch executed"].endswith("NEVER")
    assert len(told) == len(RULES)
    assert main(["simulate", "--runs", "1", "--faults", "none", "--jobs", "1"]) == 0
    told_all = capsys.readouterr().out
    assert "rules exercised:" in told_all
    assert "NEVER" in told_all
