"""Replicas that were away for longer than others retain what they missed, and kills inside view changes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from pbft.simulation.run import Run, outcome_of, simulate
from pbft.simulation.scenario import Scenario

pytestmark = pytest.mark.slow

LITTLE = Scenario(0, retained=4096, operations=80, interval=2, window=4, absences=1)


def play(scenario: Scenario) -> tuple[Run, Counter[str]]:
    run = Run(scenario)
    outcome = outcome_of(run)
    assert outcome.kind == "", f"seed {scenario.seed}: {outcome.oracle}: {outcome.text}"
    return run, Counter(outcome.rules)


@pytest.mark.parametrize("app", ["counter", "kv"])
def test_who_was_away_installs_a_state_that_others_computed(app: str) -> None:
    """And executes on from there like everybody: the oracles compare batches, states, votes and replies."""
    installed = sum(play(replace(LITTLE, seed=seed, app=app, crashes=1))[1]["state installed"] for seed in range(6))
    assert installed >= 4


def test_one_that_lies_about_states_is_found_and_the_transfer_ends() -> None:
    """Wrong roots, wrong pieces, or none."""
    lies = installed = 0
    for seed in range(7):
        scenario = replace(LITTLE, seed=seed, adversary="lying-status", faulty=seed + 1, relentless=True)
        run, counts = play(scenario)
        lies += sum(sum(m.host.transfer.lies.values()) for m in run.machines if m.up)
        installed += counts["state installed"]
        liars = {liar for m in run.correct for liar in m.host.transfer.lies}
        assert liars <= {scenario.faulty % scenario.n}, "nobody correct is taken for a liar"
    assert installed >= 4 and lies >= 1


def test_the_group_goes_on_while_all_but_a_quorum_fetch_states() -> None:
    """With n = 7 two are away at one time."""
    for seed in (1, 2):
        scenario = replace(LITTLE, seed=seed, n=7, crashes=3, partitions=1)
        assert play(scenario)[1]["state installed"] >= 1


def test_replicas_killed_between_views_lose_no_vote() -> None:
    """At any instants after they left a view and before they begin the next one, with all that was not synced."""
    killed = 0
    for seed in range(3):
        outcome = simulate(Scenario(seed, ambushes=15, false_alarms=15, operations=20))
        assert outcome.kind == "", f"{outcome.oracle}: {outcome.text}"
        killed += Counter(outcome.rules)["killed between views"]
    assert killed >= 30


@pytest.mark.scenario("B06", "H03")
def test_disks_are_lost_and_nothing_that_was_said_is_contradicted() -> None:
    """With everything else that can happen; and everybody votes again in the end."""
    counts: Counter[str] = Counter()
    for seed in range(8):
        counts += play(replace(Scenario.draw(seed), losses=3, stops=False))[1]
    assert (
        counts["disk lost"] >= 6 and counts["vote regained"] >= 4 and counts["NULL fills up to a recovery point"] >= 20
    )
