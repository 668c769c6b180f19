"""Weather and group sizes, each by itself."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pbft.simulation.network import Weather
from pbft.simulation.run import simulate
from pbft.simulation.scenario import Scenario

SMALL = Scenario(3, operations=10, clients=2, callers=2, fault_seconds=1.0)


@pytest.mark.slow
@pytest.mark.scenario("F08")
@pytest.mark.parametrize("first", range(0, 20, 5))
def test_messages_that_come_twice_and_in_another_order(first: int) -> None:
    """Three of ten come twice, two of ten take a hundred times as long."""
    weather = Weather(duplication=0.3, straggling=0.2)
    for seed in range(first, first + 5):
        outcome = simulate(replace(SMALL, seed=seed, weather=weather, crashes=seed % 2))
        assert outcome.kind == "", outcome.text


@pytest.mark.slow
@pytest.mark.scenario("H05")
@pytest.mark.parametrize("n", [5, 6, 8])
def test_groups_whose_size_is_not_3f_plus_1(n: int) -> None:
    """Split now and then, with one that lies: no two halves decide, and both together go on."""
    for seed in range(3):
        scenario = replace(SMALL, seed=seed, n=n, partitions=4, adversary="equivocating-primary", faulty=0)
        outcome = simulate(scenario)
        assert outcome.kind == "", outcome.text
