"""Scenarios that failed once, kept whole: one line of JSON each, since what a seed draws changes with the code.

`pbft simulate --keep FILE` adds the simplest failing scenario that shrinking found; `--from FILE` plays all of a file.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from pbft.config import ConfigError
from pbft.simulation.network import Weather
from pbft.simulation.scenario import Scenario


def keep(path: Path, scenario: Scenario, why: str) -> None:
    """Append a scenario and what went wrong in it."""
    with path.open("a") as file:
        file.write(json.dumps({"why": why, **_told(scenario)}) + "\n")


def load(path: Path) -> list[Scenario]:
    """All scenarios of a file. Raises ConfigError with the line that cannot be read, and OSError."""
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            values = json.loads(line)
            values.pop("why", None)
            if "weather" in values:
                values["weather"] = Weather(**values["weather"])
            found.append(Scenario(**values))
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(f"{path}, line {number}: no scenario ({error})") from None
    return found


def _told(scenario: Scenario) -> dict[str, object]:
    """What differs from a scenario without faults, so that a reader sees what matters."""
    quiet = asdict(Scenario(scenario.seed))
    return {name: value for name, value in asdict(scenario).items() if name == "seed" or value != quiet[name]}
