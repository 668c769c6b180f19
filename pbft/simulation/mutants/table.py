"""`pbft simulate --mutants`: which rule each seeded bug breaks, what caught it, after how many runs, and the command
that shows it again. Exit code 1 if one survives.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import NamedTuple

from pbft.cli.output import table
from pbft.config import ConfigError
from pbft.simulation.mutants import MUTANTS, Mutant, hunt


class Row(NamedTuple):
    """One seeded bug, and what became of it."""

    mutant: str
    rule: str
    breaks: str
    caught_by: str
    """The oracle; empty if it survived."""
    runs: int
    within: int
    command: str
    text: str


def run(args: argparse.Namespace) -> int:
    """Hunt the named ones, or all."""
    mutants = chosen(args.mutants)
    work = partial(_hunt, args.runs, 1 if args.seed is None else args.seed)
    if args.jobs <= 1 or len(mutants) == 1:
        rows = [work(m.name) for m in mutants]
    else:
        with ProcessPoolExecutor(args.jobs) as pool:
            rows = list(pool.map(work, [m.name for m in mutants]))
    survived = [row.mutant for row in rows if not row.caught_by]
    if args.json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
        return 1 if survived else 0
    told = [(*row[:3], row.caught_by or "SURVIVED", f"{row.runs}/{row.within}", row.command) for row in rows]
    print(table(("mutant", "rule", "breaks", "caught by", "runs", "shown by"), told, left=6))
    print(f"{len(rows) - len(survived)} of {len(rows)} caught" + "".join(f"; {name} survives" for name in survived))
    return 1 if survived else 0


def chosen(names: str) -> list[Mutant]:
    """The mutants with these names, all for none. Raises ConfigError."""
    known = {m.name: m for m in MUTANTS}
    if unknown := [name for name in names.split(",") if name and name not in known]:
        raise ConfigError(f"--mutants: {unknown[0]!r} is none of {', '.join(sorted(known))}")
    return [known[name] for name in names.split(",") if name] or list(MUTANTS)


def _hunt(most: int | None, first: int, name: str) -> Row:
    mutant = next(m for m in MUTANTS if m.name == name)
    within = most or mutant.within
    runs, outcome = hunt(mutant, within, first)
    seed = first + runs - 1 if outcome else first
    command = f"pbft simulate --mutants {name} --seed {seed} --runs {1 if outcome else within}"
    oracle, text = (outcome.oracle, outcome.text) if outcome else ("", "")
    return Row(name, mutant.rule, mutant.breaks, oracle, runs, within, command, text)
