"""Seeded bugs that prove the simulator: each breaks one rule of the production code, and some oracle must notice.

A mutant replaces one function for the length of a run. `pbft simulate --mutants` prints which oracle caught which, and
after how many runs.
"""

from __future__ import annotations

from pbft.simulation.mutants.admission import ADMISSION
from pbft.simulation.mutants.base import Mutant, applied
from pbft.simulation.mutants.durability import DURABILITY
from pbft.simulation.mutants.normal import NORMAL_CASE
from pbft.simulation.mutants.recovery import RECOVERY
from pbft.simulation.mutants.transfer import TRANSFER
from pbft.simulation.mutants.views import VIEW_CHANGE
from pbft.simulation.run import Outcome, simulate

__all__ = ["MUTANTS", "Mutant", "applied", "hunt"]

MUTANTS = (*NORMAL_CASE, *DURABILITY, *VIEW_CHANGE, *ADMISSION, *TRANSFER, *RECOVERY)


def hunt(mutant: Mutant, most: int, first: int = 1) -> tuple[int, Outcome | None]:
    """(runs needed, the outcome that caught it), or None after `most` runs, from seed `first` on."""
    with applied(mutant):
        for count in range(1, most + 1):
            outcome = simulate(mutant.scenario(first + count - 1))
            if outcome.kind:
                return count, outcome
    return most, None
