"""`pbft simulate`: seeded runs with every oracle on. A failure prints one command that repeats it.

Exit codes: 0 well, 1 a mutant survived, 2 usage, 10 an oracle failed, 11 no progress, 12 an exception.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import textwrap
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields, replace
from functools import partial
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

from pbft.config import ConfigError
from pbft.misbehaviour import split
from pbft.misbehaviour import table as misbehaviours
from pbft.simulation import enumerated
from pbft.simulation.mutants import table as mutant_table
from pbft.simulation.network import Weather
from pbft.simulation.regressions import keep, load
from pbft.simulation.rules import RULES, lines
from pbft.simulation.run import Outcome, shrink, simulate
from pbft.simulation.scenario import FAULTS, Scenario
from pbft.simulation.services import SERVICES

EXIT_CODES = {"": 0, "wrong": 10, "stuck": 11, "crashed": 12}
_PROGRESS_EVERY = 2.0

_KINDS = {
    f.name: kind
    for f in fields(Scenario)
    if (kind := type(getattr(Scenario(0), f.name))) in (int, float, bool, str) and f.name != "seed"
}
"""What `--set` fixes, and of what type it is."""


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _minutes(text: str) -> float:
    if not 0 < (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} minutes are no time to run")
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `pbft simulate`."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    settable = textwrap.fill(", ".join(_KINDS), 110, initial_indent="  ", subsequent_indent="  ")
    parser.epilog = (
        f"misbehaviours of faulty replicas (--set adversary=NAME, or NAME+NAME):\n{misbehaviours()}\n\n"
        f"values that --set fixes:\n{settable}"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the first seed (default 0); alone, run just this one")
    parser.add_argument("--runs", type=_positive, metavar="N", help="how many seeds (default 100, or 1 with --seed)")
    parser.add_argument("--minutes", type=_minutes, metavar="M", help="as many seeds as are begun in so long")
    parser.add_argument("--replicas", type=int, metavar="N", help="group size (default: drawn from the seed)")
    parser.add_argument("--app", choices=sorted(SERVICES), help="the service (default: drawn from the seed)")
    kinds = f"comma-separated, of {', '.join(FAULTS)}; or none, or all (the default)"
    parser.add_argument("--faults", metavar="LIST", help=kinds)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="fix one value of the scenario"
    )
    parser.add_argument("--trace", action="store_true", help="print the whole run, one line per step")
    parser.add_argument("--doublecheck", action="store_true", help="run each seed twice and compare")
    parser.add_argument(
        "--mutants",
        nargs="?",
        const="",
        metavar="NAME,...",
        help="look for these seeded bugs, or for all of them, instead; up to --runs runs each",
    )
    parser.add_argument("--twins", action="store_true", help="play all plans with one replica that runs twice instead")
    parser.add_argument("--depth", type=int, default=2, metavar="N", help="rounds of a plan with twins (default 2)")
    parser.add_argument("--cells", type=int, default=2, metavar="N", help="most parts of the network (default 2)")
    parser.add_argument("--jobs", type=_positive, default=os.cpu_count() or 1, metavar="N", help="processes")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="add a failing scenario, made simple, to FILE")
    parser.add_argument("--from", type=Path, dest="kept", metavar="FILE", help="play the scenarios kept in FILE")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(args: argparse.Namespace) -> int:
    """Run what was asked for."""
    if args.mutants is not None:
        return mutant_table.run(args)
    if args.twins:
        return enumerated.run(args)
    scenarios, runs = _scenarios(args)
    begun = time.monotonic()
    if args.trace and runs == 1:
        return _report(simulate(next(scenarios), print), args, begun, 1)
    if args.minutes is not None:
        scenarios = takewhile(lambda _: time.monotonic() - begun < 60 * args.minutes, scenarios)
    done = events = executed = 0
    simulated = 0.0
    rules: Counter[str] = Counter()
    for outcome in _all(scenarios, partial(_simulate, args.doublecheck), 1 if runs == 1 else args.jobs):
        done += 1
        events, executed = events + outcome.events, executed + outcome.executed
        simulated += outcome.seconds
        rules.update(outcome.rules)
        if outcome.kind:
            return _report(outcome, args, begun, done)
        _progress(begun, f"{done}/{runs or '?'} runs, {executed} batches")
    seconds = time.monotonic() - begun
    _clear_progress()
    if args.json:
        told = {"runs": done, "failed": 0, "events": events, "executed": executed, "seconds": seconds}
        told["simulated_seconds"] = simulated
        print(json.dumps({**told, "rules": {name: rules[name] for name in RULES}}))
    else:
        twice = ", each twice with equal traces" if args.doublecheck else ""
        print(
            f"{done} runs from seed {args.seed or 0}{twice}: {executed} batches, {events} events, "
            f"{simulated / 3600:.1f} simulated hours in {seconds:.0f} s"
        )
        print("rules exercised:", *lines(rules), sep="\n")
        print("no oracle failed")
    return 0


def _scenarios(args: argparse.Namespace) -> tuple[Iterator[Scenario], int]:
    """What to run, and how many runs that are; 0 if only time ends it."""
    draw = _drawing(args)
    if args.kept is not None:
        kept = load(args.kept)
        return iter(kept), len(kept)
    first = args.seed or 0
    if args.minutes is not None and args.runs is None:
        return map(draw, count(first)), 0
    runs = args.runs if args.runs is not None else 1 if args.seed is not None else 100
    return map(draw, range(first, first + runs)), runs


def _simulate(twice: bool, scenario: Scenario) -> Outcome:
    outcome = simulate(scenario)
    if twice and not outcome.kind and (again := simulate(scenario)).fingerprint != outcome.fingerprint:
        return replace(again, kind="wrong", oracle="exact replay", text="two runs of one seed differ")
    return outcome


def _all(scenarios: Iterator[Scenario], work: Callable[[Scenario], Outcome], jobs: int) -> Iterator[Outcome]:
    if jobs <= 1:
        yield from map(work, scenarios)
        return
    with ProcessPoolExecutor(jobs) as pool:
        waiting = deque(pool.submit(work, s) for s in islice(scenarios, 4 * jobs))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting += [pool.submit(work, s) for s in islice(scenarios, 1)]
        finally:
            for future in waiting:
                future.cancel()


# ---- scenarios


def _drawing(args: argparse.Namespace) -> Callable[[int], Scenario]:
    named = "all" if args.faults is None else args.faults
    faults = FAULTS if named == "all" else tuple(f for f in named.split(",") if f and f != "none")
    if unknown := [f for f in faults if f not in FAULTS]:
        raise ConfigError(f"--faults: {unknown[0]!r} is none of {', '.join(FAULTS)}")
    if args.replicas is not None and not 4 <= args.replicas <= 31:
        raise ConfigError("--replicas must lie between 4 and 31")
    fixed = dict(_setting(text) for text in args.set)
    return lambda seed: replace(Scenario.draw(seed, args.replicas, faults, args.app), **fixed)


def _setting(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if text == "weather=calm":
        return name, Weather()
    kind = _KINDS.get(name)
    if not equals or kind is None:
        raise ConfigError(f"--set {text!r} is not NAME=VALUE with a NAME such as crashes, clients or adversary")
    if name in ("adversary", "accomplice") and value:
        split(value)
    try:
        return name, value == "True" if kind is bool else kind(value)
    except ValueError:
        raise ConfigError(f"--set {text!r}: {name} takes a {kind.__name__}") from None


def command_of(scenario: Scenario) -> str:
    """The command that repeats a scenario exactly."""
    drawn = Scenario.draw(scenario.seed)
    words = [f"pbft simulate --seed {scenario.seed}"]
    for spec in fields(scenario):
        value = getattr(scenario, spec.name)
        if value != getattr(drawn, spec.name):
            words.append(f"--set {spec.name}={'calm' if spec.name == 'weather' else value}")
    return " ".join(words)


# ---- output


def _report(outcome: Outcome, args: argparse.Namespace, begun: float, count: int) -> int:
    _clear_progress()
    code = EXIT_CODES[outcome.kind]
    if not outcome.kind:
        print(f"seed {outcome.scenario.seed}: {outcome.executed} batches, {outcome.calls} calls, no oracle failed")
        return code
    small = shrink(outcome)
    if args.keep is not None:
        keep(args.keep, small.scenario, f"{small.kind}: {small.oracle}: {small.text}"[:200])
    if args.json:
        print(
            json.dumps(
                {**asdict(outcome), "command": command_of(outcome.scenario), "shrunk": command_of(small.scenario)}
            )
        )
        return code
    print("\n".join(small.trace))
    print(f"\n{outcome.kind}: {outcome.oracle}: {outcome.text}")
    print(f"run {count}, after {time.monotonic() - begun:.0f} s; above are the last steps of the simplest run found")
    print(f"simplest: {command_of(small.scenario)}\nrepeat:   {command_of(outcome.scenario)}")
    return code


_last_progress = 0.0


def _progress(begun: float, text: str) -> None:
    global _last_progress
    now = time.monotonic()
    if sys.stderr.isatty() and now - begun > _PROGRESS_EVERY and now - _last_progress > 0.2:
        _last_progress = now
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def _clear_progress() -> None:
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
