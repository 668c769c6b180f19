"""Plans with one replica that runs twice: all of them, each once; a sample of them is survived; a seeded bug is not."""

from __future__ import annotations

import pytest

from pbft.cli.main import main
from pbft.simulation.enumerated import SECOND, Plan, Round, chosen, partitions, plans, play
from pbft.simulation.mutants import MUTANTS, applied


def test_partitions_are_counted_as_in_the_books() -> None:
    """S(5,1) + S(5,2) = 16, with S(5,3) = 25 more; each machine is in one cell."""
    assert [len(partitions(most)) for most in (1, 2, 3)] == [1, 16, 41]
    assert all(sorted(sum(cells, ())) == list(range(SECOND + 1)) for cells in partitions(3))
    assert len(set(partitions(3))) == 41


def test_each_plan_comes_once_whatever_its_machines_are_called() -> None:
    """Both machines of the identity, and replicas that never lead, are interchangeable."""
    found = list(plans(1, 2))
    assert len(set(found)) == len(found) == 60
    apart, swapped = (Plan(0, (Round(cells, True),)) for cells in (((0, 1, 2), (3, 4)), ((0, 3), (1, 2, 4))))
    assert (apart in found) != (swapped in found)
    assert {plan.twin for plan in found} == {0, 1, 2}
    assert {round_.leaves for plan in found for round_ in plan.rounds} == {True, False}
    assert len(list(plans(2, 2))) == 2560


@pytest.mark.slow
@pytest.mark.parametrize(("depth", "cells", "count"), [(1, 3, 8), (2, 2, 12), (3, 2, 4)])
def test_a_sample_of_the_plans_is_survived(depth: int, cells: int, count: int) -> None:
    """No oracle fails, and after the last round everything comes to an end."""
    found = list(plans(depth, cells)) if depth < 3 else _some_of_three_rounds()
    for number in chosen(len(found), count, None):
        outcome = play(found[number])
        assert outcome.kind == "", (str(found[number]), outcome.oracle, outcome.text)
        assert outcome.calls == 6


def _some_of_three_rounds() -> list[Plan]:
    """The last round of a plan again, with suspicion."""
    return [Plan(p.twin, (*p.rounds, p.rounds[0]._replace(leaves=True))) for p in plans(2, 2)]


def test_a_seeded_bug_is_found_by_some_plan() -> None:
    """With quorums too small, two cells decide by themselves."""
    found = list(plans(1, 2))
    with applied(next(m for m in MUTANTS if m.name == "quorum-too-small")):
        assert any(play(plan).kind == "wrong" for plan in found[:20])


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Says how many there are; repeats one by its number; tells which one failed."""
    assert main(["simulate", "--twins", "--depth", "1", "--runs", "2", "--jobs", "1"]) == 0
    assert "60 plans of 1 rounds with up to 2 cells, 2 of them played" in capsys.readouterr().out
    assert main(["simulate", "--twins", "--depth", "9"]) == 2
    assert "--depth must lie between 1 and 3" in capsys.readouterr().err
    with applied(next(m for m in MUTANTS if m.name == "said-undurable")):
        assert main(["simulate", "--twins", "--depth", "1", "--seed", "4", "--jobs", "1"]) == 10
    told = capsys.readouterr().out
    assert "plan 4, run 1: 0 runs twice" in told
    assert told.endswith("repeat: pbft simulate --twins --depth 1 --cells 2 --seed 4\n")
