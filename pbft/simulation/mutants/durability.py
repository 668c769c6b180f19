"""Seeded bugs in what is written, in which order, and when the log is cut. Rules 1.5, 1.6."""

from __future__ import annotations

from pbft.messages import Checkpoint
from pbft.protocol.checkpoints import Checkpoints
from pbft.protocol.log import Log
from pbft.protocol.records import Entered, Executing, OwnCheckpoint, Prepared
from pbft.simulation.mutants.base import Mutant, Patch, unwritten


def _not_written_again() -> list[Patch]:
    def broken(self: Checkpoints, number: int) -> None:
        self._core.log.begin_rewrite()
        self._core.effects.cut = self._core.log.durable_checkpoint(number)

    return [(Checkpoints, "on_state_durable", broken)]


def _cut_without_state() -> list[Patch]:
    original = Checkpoints._become_stable

    def broken(self: Checkpoints, certificate: tuple[Checkpoint, ...]) -> None:
        original(self, certificate)
        first_again = self._core.outbox.position + 1
        self.on_state_durable(certificate[0].number)
        self._cut = (self._core.outbox.position, first_again)

    return [(Checkpoints, "_become_stable", broken)]


def _learning_clears() -> list[Patch]:
    original = Log._executing

    def broken(self: Log, record: Executing, position: int) -> None:
        original(self, record, position)
        self.p.pop(record.number, None)
        self.q.pop(record.number, None)

    return [(Log, "_executing", broken)]


DURABILITY = (
    Mutant("prepared-unwritten", "that a batch is prepared is not written", lambda: unwritten(Prepared), rule="1.5"),
    Mutant(
        "entered-unwritten",
        "NEW-VIEWs are not written",
        lambda: unwritten(Entered),
        rule="1.5",
        fixed={"false_alarms": 10},
    ),
    Mutant("checkpoint-unwritten", "own CHECKPOINTs are not written", lambda: unwritten(OwnCheckpoint), rule="1.5"),
    Mutant(
        "not-rewritten",
        "the log is cut without writing again what still binds",
        _not_written_again,
        rule="1.6",
        fixed={"operations": 40, "false_alarms": 10},
    ),
    Mutant(
        "cut-without-state",
        "the log is cut below a stable checkpoint that is not on disk",
        _cut_without_state,
        rule="1.6",
        fixed={"operations": 40},
    ),
    Mutant(
        "execution-clears",
        "what has executed is told in no VIEW-CHANGE",
        _learning_clears,
        rule="1.13",
        fixed={"false_alarms": 10},
    ),
)
