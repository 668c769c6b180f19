"""Seeded bugs in how a state comes from others. Rule 2.9."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pbft.execution.results import ExecutionStart
from pbft.messages import StateRoots
from pbft.protocol.checkpoints import Checkpoints
from pbft.protocol.delivery import Delivery
from pbft.protocol.log import Log
from pbft.protocol.ordering import Ordering
from pbft.protocol.records import Installed
from pbft.protocol.retransmission import Retransmission
from pbft.simulation.machine import Machine
from pbft.simulation.mutants.base import HONEST, Mutant, Patch, unwritten
from pbft.state import ProofError
from pbft.transfer import StateTransfer

AWAY: Mapping[str, Any] = {"retained": 4096, "interval": 2, "window": 4, "operations": 80, "absences": 1}
"""Somebody needs a state in most runs."""

LIED_TO: Mapping[str, Any] = {
    **AWAY, "adversary": "lying-status", "accomplice": "", "stops": False, "twin": False,
    "relentless": True,
}  # fmt: skip


def _roots_believed() -> list[Patch]:
    def broken(self: StateTransfer, sender: int, message: StateRoots) -> None:
        if len(message.roots) == 3:
            self._keepers.add(sender)
            if self._roots is None:
                self._roots = message
                self._take_aim()
            self._ask()

    return [(StateTransfer, "_on_roots", broken)]


def _entries_believed() -> list[Patch]:
    from pbft.state import pieces

    original = pieces._read_entries

    def broken(body: bytes, expected_digest: bytes) -> dict[bytes, bytes]:
        try:
            return original(body, expected_digest)
        except ProofError:
            return {}

    return [(pieces, "_read_entries", broken)]


def _lie_is_final() -> list[Patch]:
    original = StateTransfer._on_piece

    def broken(self: StateTransfer, sender: int, want: Any, message: Any) -> None:
        lies = sum(self.lies.values())
        original(self, sender, want, message)
        if sum(self.lies.values()) > lies:
            self._is_installing = True

    return [(StateTransfer, "_on_piece", broken)]


def _sessions_kept() -> list[Patch]:
    original = Delivery.install

    def broken(self: Delivery, start: ExecutionStart) -> None:
        original(self, start._replace(sessions=(), counts=()))

    return [(Delivery, "install", broken)]


def _tail_kept() -> list[Patch]:
    original = Log.start_at

    def broken(self: Log, number: int) -> None:
        tail, held = dict(self.tail), self.tail_bytes
        original(self, number)
        self.tail, self.tail_bytes = tail, held

    return [(Log, "start_at", broken)]


def _one_source_is_enough() -> list[Patch]:
    def broken(self: Retransmission) -> bool:
        return self.cannot_catch_up

    return [(Retransmission, "needs_state", property(broken))]


def _installed_before_on_disk() -> list[Patch]:
    original = Machine._install

    def broken(self: Machine, fetched: Any) -> None:
        store = self._store

        class Forgetful:
            def write(self, *args: object, **how: object) -> None:
                """Not at all."""

        self._store = Forgetful()  # type: ignore[assignment]
        try:
            original(self, fetched)
        finally:
            self._store = store

    return [(Machine, "_install", broken)]


def _base_unwanted() -> list[Patch]:
    def broken(self: Log) -> tuple[int, bytes]:
        return (self.low, self.certificate[0].digest) if self.certificate else (0, b"")

    return [(Log, "vouched", property(broken))]


def _fetched_unsigned() -> list[Patch]:
    original = Checkpoints.on_loaded

    def broken(self: Checkpoints, number: int, state_digest: bytes) -> None:
        if number <= self._core.log.low:
            original(self, number, state_digest)

    return [(Checkpoints, "on_loaded", broken)]


def _never_told() -> list[Patch]:
    def broken(self: Ordering) -> list[tuple[int, bytes]]:
        return []

    return [(Ordering, "untold", broken)]


LONE: Mapping[str, Any] = {
    **HONEST, "adversary": "lone-checkpoint", "n": 4, "interval": 2, "window": 4, "false_alarms": 15,
}  # fmt: skip

LEFT_OUT: Mapping[str, Any] = {
    **LONE, "interval": 4, "window": 8, "stops": False, "operations": 5, "clients": 1, "callers": 1,
}  # fmt: skip
"""Few ask, so that nobody complains for the others."""

TRANSFER = (
    Mutant(
        "base-unwanted", "the state that a view begins from is not fetched unless q have signed it", _base_unwanted,
        rule="2.9", fixed=LONE, within=150,
    ),
    Mutant(
        "fetched-unsigned", "who fetched the state that a view begins from does not sign it", _fetched_unsigned,
        rule="2.9", fixed=LONE, within=40,
    ),
    Mutant(
        "left-out-stays-out", "what f+1 backups prepared is not asked for by who was left out", _never_told,
        rule="2.7", fixed=LEFT_OUT, within=120,
    ),
    Mutant(
        "roots-believed", "roots of a state are not compared with the digest that q signed", _roots_believed,
        rule="2.9", fixed=LIED_TO, within=80,
    ),
    Mutant(
        "entries-believed", "entries of a subtree are not compared with the digest that its parent names",
        _entries_believed, rule="2.9", fixed=LIED_TO, within=40,
    ),
    Mutant(
        "lie-is-final", "a wrong piece ends the transfer for ever", _lie_is_final,
        rule="2.9", fixed=LIED_TO, within=40,
    ),
    Mutant(
        "installed-unwritten", "that a state was installed is not written", lambda: unwritten(Installed),
        rule="2.9", fixed={**AWAY, **HONEST, "stops": False}, within=40,
    ),
    Mutant(
        "sessions-kept", "who installs a state goes on with the sessions that it knew", _sessions_kept,
        rule="2.9", fixed={**AWAY, **HONEST}, within=40,
    ),
    Mutant(
        "tail-kept", "batches executed before a state was installed are served as if nothing were missing between",
        _tail_kept, rule="2.9", fixed={**AWAY, **HONEST}, within=40,
    ),
    Mutant(
        "one-claim-is-enough", "one that says it retains what is needed keeps a replica from fetching a state",
        _one_source_is_enough, rule="2.9", fixed=LIED_TO, within=40,
    ),
    Mutant(
        "installed-not-on-disk", "a state is in the executor's place, and on no disk", _installed_before_on_disk,
        rule="2.9", fixed={**AWAY, **HONEST, "stops": False}, within=40,
    ),
)  # fmt: skip
