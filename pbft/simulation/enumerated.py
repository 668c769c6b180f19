"""Every small plan with one replica that runs twice: in each round a partition of the machines, and whether everybody
suspects the primary at its beginning. After the last round the network is whole again, and everything has to end well.
[Bano et al., Twins]

Two machines of one identity, each correct by itself, say together what an equivocating replica says. What differs only
in the names of the two machines, or of replicas that lead none of these views, is one plan.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import permutations, product
from typing import NamedTuple

from pbft.config import ConfigError
from pbft.simulation.run import Outcome, Run, outcome_of
from pbft.simulation.scenario import Scenario

REPLICAS = 4
SECOND = REPLICAS
"""The second machine of the identity that runs twice, beside machines 0 to 3."""
ROUND_SECONDS = 0.3

Cells = tuple[tuple[int, ...], ...]


class Round(NamedTuple):
    """Who reaches whom, and whether the view is left: the next replica leads then."""

    cells: Cells
    leaves: bool


class Plan(NamedTuple):
    """One enumerated scenario."""

    twin: int
    rounds: tuple[Round, ...]

    def __str__(self) -> str:
        rounds = (
            " | ".join(",".join("0123'"[i] for i in cell) for cell in r.cells) + (", all suspect" if r.leaves else "")
            for r in self.rounds
        )
        return f"{self.twin} runs twice, the second one is ': " + "; ".join(rounds)


def partitions(most: int) -> list[Cells]:
    """All ways to divide the five machines into at most so many cells."""
    found: list[list[list[int]]] = [[]]
    for machine in range(REPLICAS + 1):
        longer = []
        for cells in found:
            longer += [[*cells[:i], [*cell, machine], *cells[i + 1 :]] for i, cell in enumerate(cells)]
            longer += [[*cells, [machine]]] if len(cells) < most else []
        found = longer
    return [tuple(tuple(cell) for cell in cells) for cells in found]


def plans(depth: int, most: int) -> Iterator[Plan]:
    """Every plan, one of those that are the same by symmetry."""
    leading = range(min(depth + 1, REPLICAS))
    free = [i for i in range(REPLICAS) if i not in leading]
    choices = [Round(cells, leaves) for cells in partitions(most) for leaves in (False, True)]
    for twin in (*leading, *free[:1]):
        names = _symmetries(twin, [i for i in free if i != twin])
        for rounds in product(choices, repeat=depth):
            if all(rounds <= tuple(_renamed(r, name) for r in rounds) for name in names):
                yield Plan(twin, rounds)


def _symmetries(twin: int, free: list[int]) -> list[tuple[int, ...]]:
    """Renamings of the machines under which nothing changes, but for the one that renames nothing."""
    found = []
    for pair in ((twin, SECOND), (SECOND, twin)):
        for order in permutations(free):
            names = list(range(REPLICAS + 1))
            for old, new in ((twin, pair[0]), (SECOND, pair[1]), *zip(free, order, strict=True)):
                names[old] = new
            found.append(tuple(names))
    return found[1:]


def _renamed(round_: Round, names: tuple[int, ...]) -> Round:
    return Round(tuple(sorted(tuple(sorted(names[i] for i in cell)) for cell in round_.cells)), round_.leaves)


class PlannedRun(Run):
    """A run whose faults are those of a plan."""

    def __init__(self, plan: Plan) -> None:
        seconds = ROUND_SECONDS * len(plan.rounds)
        fixed = {"clients": 1, "callers": 2, "operations": 6, "interval": 2, "window": 4, "fault_seconds": seconds}
        super().__init__(Scenario(0, n=REPLICAS, twin=True, faulty=plan.twin, **fixed))  # type: ignore[arg-type]
        self._plan = plan
        assert self.twins is not None
        self.twins.divide({})

    def _plan_faults(self) -> None:
        for count, round_ in enumerate(self._plan.rounds):
            self.world.after(ROUND_SECONDS * count, lambda r=round_: self._begin(r))  # type: ignore[misc]
        self.world.after(ROUND_SECONDS * len(self._plan.rounds), self._heal)

    def _heal(self) -> None:
        assert self.twins is not None
        self.twins.divide({})

    def _begin(self, round_: Round) -> None:
        assert self.twins is not None
        twin = self._plan.twin
        self.world.note(f"round {round_}")
        self.network.heal()
        cell_of = {machine: cell for cell in round_.cells for machine in cell}
        others = [i for i in range(REPLICAS) if i != twin]
        self.twins.divide({i: (i in cell_of[twin], i in cell_of[SECOND]) for i in others})
        for a, b in permutations(others, 2):
            if b not in cell_of[a]:
                self.network.cut(a, b)
        for machine in self.machines if round_.leaves else ():
            if machine.up:
                machine.suspect()


def play(plan: Plan) -> Outcome:
    """Play one plan."""
    return outcome_of(PlannedRun(plan))


def run(args: argparse.Namespace) -> int:
    """`pbft simulate --twins`: all plans, or `--runs` of them evenly spread, or one by its number as `--seed`."""
    if not 1 <= args.depth <= 3 or not 2 <= args.cells <= 3:
        raise ConfigError("--depth must lie between 1 and 3, --cells between 2 and 3")
    found = list(plans(args.depth, args.cells))
    numbers = chosen(len(found), args.runs, args.seed)
    begun = time.monotonic()
    with ProcessPoolExecutor(args.jobs) as pool:
        mapped = map if args.jobs <= 1 else partial(pool.map, chunksize=8)
        outcomes: Iterator[Outcome] = mapped(play, [found[i] for i in numbers])
        for count, (number, outcome) in enumerate(zip(numbers, outcomes, strict=True), 1):
            if outcome.kind:
                pool.shutdown(cancel_futures=True)
                print("\n".join(outcome.trace))
                print(
                    f"\n{outcome.kind}: {outcome.oracle}: {outcome.text}\nplan {number}, run {count}: {found[number]}"
                )
                print(f"repeat: pbft simulate --twins --depth {args.depth} --cells {args.cells} --seed {number}")
                return 10 if outcome.kind == "wrong" else 11 if outcome.kind == "stuck" else 12
    told = f"{len(found)} plans of {args.depth} rounds with up to {args.cells} cells, {len(numbers)} of them played"
    print(f"{told} in {time.monotonic() - begun:.0f} s")
    print("no oracle failed, and everything came to an end")
    return 0


def chosen(total: int, most: int | None, number: int | None) -> list[int]:
    """Numbers of the plans to play."""
    if number is not None:
        return [n for n in range(number, number + (most or 1)) if n < total]
    return list(range(total)) if most is None or most >= total else [i * total // most for i in range(most)]
