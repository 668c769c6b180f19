"""Seeded bugs that prove the simulator: each breaks one rule of the production code, and some oracle must notice.

A mutant replaces one function for the length of a run. `pbft simulate --mutants` prints which oracle caught which, and
after how many runs.
"""

from __future__ import annotations

from dataclasses import replace

from pbft.simulation.mutants.base import Mutant, applied
from pbft.simulation.mutants.normal import NORMAL_CASE
from pbft.simulation.mutants.views import VIEW_CHANGE
from pbft.simulation.run import Outcome, simulate
from pbft.simulation.scenario import Scenario

__all__ = ["MUTANTS", "Mutant", "applied", "hunt"]

MUTANTS = (*NORMAL_CASE, *VIEW_CHANGE)


def hunt(mutant: Mutant, most: int, first: int = 0) -> tuple[int, Outcome | None]:
    """(runs needed, the outcome that caught it), or None after `most` runs."""
    with applied(mutant):
        for count in range(1, most + 1):
            scenario = Scenario.draw(first + count)
            if mutant.provoked_by:
                alarms = max(10, scenario.false_alarms)
                scenario = replace(scenario, adversary=mutant.provoked_by, false_alarms=alarms)
            outcome = simulate(scenario)
            if outcome.kind:
                return count, outcome
    return most, None
