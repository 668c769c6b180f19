"""What a seeded bug is, and how it is put in for the length of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from pbft.config import Quorums
from pbft.messages import Checkpoint
from pbft.protocol.checkpoints import Checkpoints
from pbft.protocol.core import Core
from pbft.protocol.records import Record
from pbft.simulation.network import Weather
from pbft.simulation.scenario import Scenario

Patch = tuple[Any, str, Any]


QUIET: Mapping[str, Any] = {
    name: getattr(Scenario(0), name)
    for name in (
        *("weather", "crashes", "power_cuts", "partitions", "pauses", "skew", "timeout", "false_alarms"),
        *("adversary", "accomplice", "forges", "twin", "stops", "bad_client", "client_restarts"),
    )
}
"""No fault at all."""

HONEST: Mapping[str, Any] = {"adversary": "", "accomplice": "", "forges": False, "twin": False, "bad_client": False}
"""Faults of the world, and nobody who lies."""

ROUGH = Weather(delay=0.001, spread=0.02, loss=0.2)


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken rule."""

    name: str
    breaks: str
    patches: Callable[[], list[Patch]]
    provoked_by: str = ""
    """The misbehaviour without which nobody would notice: it is in every run of the hunt, with some view changes."""
    rule: str = ""
    """The section of the protocol that it breaks."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Values of the scenario that provoke it; the seed draws all others."""
    within: int = 20
    """Runs within which it is caught."""

    def scenario(self, seed: int) -> Scenario:
        """What this seed draws, with what provokes the mutant."""
        drawn = Scenario.draw(seed)
        if self.provoked_by:
            drawn = replace(drawn, adversary=self.provoked_by, false_alarms=max(10, drawn.false_alarms))
        return replace(drawn, **self.fixed)


def unwritten(kind: type[Record]) -> list[Patch]:
    """Records of one kind are applied and not written."""
    original = Core.record

    def broken(self: Core, record: Record, batch: Any = None) -> int:
        if isinstance(record, kind):
            self.log.apply(record, self.outbox.position, batch)
            return self.outbox.position
        return original(self, record, batch)

    return [(Core, "record", broken)]


def stable_by(enough: Callable[[Quorums], int], any_digest: bool = False) -> list[Patch]:
    """CHECKPOINTs of every number above h are counted, however far, and so many are a stable certificate."""

    def broken(self: Checkpoints, checkpoint: Checkpoint) -> None:
        if checkpoint.number <= self._core.log.low:
            return
        votes = self._votes.setdefault(checkpoint.number, {})
        votes.setdefault(checkpoint.sender, checkpoint)
        matching = tuple(v for v in votes.values() if any_digest or v.digest == checkpoint.digest)
        if len(matching) >= enough(self._core.quorums):
            self._become_stable(matching)

    return [(Checkpoints, "_count", broken)]


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """Replace, and put back at the end."""
    with ExitStack() as stack:
        for owner, name, value in mutant.patches():
            original = owner.__dict__[name]
            stack.callback(setattr, owner, name, original)
            setattr(owner, name, value)
        yield
