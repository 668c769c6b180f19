"""Seeded bugs in how a lost disk is survived. Rule 1.7."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pbft.batch import ClientRequest
from pbft.execution.members import Members as ReplicatedMembers
from pbft.execution.results import Recovered
from pbft.protocol.checkpoints import Checkpoints
from pbft.protocol.core import Core
from pbft.protocol.members import Members
from pbft.protocol.records import Reborn
from pbft.protocol.recovery import Recovery
from pbft.protocol.view_change import ViewChanges
from pbft.simulation.mutants.base import HONEST, ROUGH, Mutant, Patch
from pbft.simulation.network import Weather

LOSING: Mapping[str, Any] = {**HONEST, "n": 4, "stops": False, "losses": 3, "crashes": 3, "operations": 40}
"""One of four loses its disk several times."""

VOIDING: Mapping[str, Any] = {
    **HONEST, "n": 4, "interval": 2, "window": 4, "operations": 80, "losses": 1, "false_alarms": 1, "stops": False,
    "weather": Weather(),
}  # fmt: skip
"""A disk is lost in a view that begins with a VIEW-CHANGE of its replica."""


def _nothing_is_lost() -> list[Patch]:
    original = Recovery.start

    def broken(self: Recovery, lost: str) -> None:
        original(self, "")
        self._core.lost = ""
        self._core.log.lost = False

    return [(Recovery, "start", broken)]


def _votes_at_once() -> list[Patch]:
    def broken(self: Recovery) -> None:
        core = self._core
        if core.lost and not self._reborn_at and self._is_executed:
            self._reborn_at = core.record(Reborn(core.members.incarnation(core.me)))

    return [(Recovery, "step", broken)]


def _point_too_low() -> list[Patch]:
    original = ReplicatedMembers.recover

    def broken(self: ReplicatedMembers, number: int, time: int, request: ClientRequest) -> Recovered | None:
        found = original(self, number, time, request)
        if found is not None:
            found = self._all[found.replica] = found._replace(point=number // self._interval * self._interval)
        return found

    return [(ReplicatedMembers, "recover", broken)]


def _no_nulls() -> list[Patch]:
    return [(Members, "fills", lambda self, low: False)]


def _ended_count() -> list[Patch]:
    return [
        (Members, "has_ended", lambda self, replica, incarnation: False),
        (ViewChanges, "forget_ended", lambda self: None),
        (Core, "is_void", property(lambda self: False)),
    ]


def _void_is_voted() -> list[Patch]:
    return [(Core, "is_void", property(lambda self: False))]


def _reborn_is_cut() -> list[Patch]:
    original = Checkpoints.on_state_durable

    def broken(self: Checkpoints, number: int) -> None:
        log = self._core.log
        incarnation, log.incarnation = log.incarnation, 0
        original(self, number)
        log.incarnation = incarnation

    return [(Checkpoints, "on_state_durable", broken)]


def _not_said_again() -> list[Patch]:
    original = Recovery.on_tick

    def broken(self: Recovery) -> None:
        original(self)
        if self._next > self._core.now:
            self._next = float("inf")

    return [(Recovery, "on_tick", broken)]


RECOVERY = (
    Mutant(
        "nothing-is-lost", "who has lost its disk votes at once", _nothing_is_lost,
        rule="1.7", fixed=LOSING, within=40,
    ),
    Mutant(
        "votes-too-soon", "who has lost its disk votes once RECOVER has executed", _votes_at_once,
        rule="1.7", fixed=LOSING, within=60,
    ),
    Mutant(
        "point-too-low", "the recovery point leaves out the window that was open when the disk was lost",
        _point_too_low, rule="1.7 a", fixed=LOSING, within=60,
    ),
    Mutant("no-nulls", "nothing fills up to a recovery point", _no_nulls, rule="1.7 e", fixed=LOSING, within=40),
    Mutant(
        "void-is-voted", "votes in a view that begins with a VIEW-CHANGE of an ended incarnation", _void_is_voted,
        rule="1.7 b", fixed=VOIDING, within=40,
    ),
    Mutant(
        "ended-count", "a VIEW-CHANGE of an ended incarnation counts like any", _ended_count,
        rule="1.7 b", fixed=VOIDING, within=40,
    ),
    Mutant(
        "reborn-is-cut", "the record of the present incarnation is not written again above the cut", _reborn_is_cut,
        rule="1.6", fixed=LOSING, within=60,
    ),
    Mutant(
        "recover-said-once", "RECOVER is not repeated until it has executed", _not_said_again,
        rule="1.7 a", fixed={**LOSING, "weather": ROUGH}, within=60,
    ),
)  # fmt: skip
