"""What is to be seen of a simulated machine, for whoever judges it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pbft.batch import Batch
from pbft.execution import ExecutionSnapshot
from pbft.execution.results import Executed
from pbft.messages import Message
from pbft.protocol.effects import Evidence
from pbft.protocol.records import Record

if TYPE_CHECKING:
    from pbft.simulation.machine import Machine


class Observer(Protocol):
    """What oracles may watch of a correct machine."""

    def on_record(self, machine: Machine, position: int, record: Record) -> None:
        """A record was appended, not yet synced."""

    def on_durable(self, machine: Machine, position: int) -> None:
        """The log is durable up to here."""

    def on_cut(self, machine: Machine, below: int) -> None:
        """Records below this position may be removed."""

    def on_crash(self, machine: Machine) -> None:
        """What was not durable is gone."""

    def on_send(self, machine: Machine, to: int, message: Message) -> None:
        """A message leaves."""

    def on_executed(self, machine: Machine, batch: Batch, done: Executed) -> None:
        """A batch was executed."""

    def on_installed(self, machine: Machine, snapshot: ExecutionSnapshot) -> None:
        """A state that came from others is in the executor's place."""

    def on_evidence(self, machine: Machine, evidence: Evidence) -> None:
        """The machine accuses somebody."""

    def on_loss(self, machine: Machine) -> None:
        """The machine's disk is gone."""

    def on_step(self, machine: Machine) -> None:
        """A sweep is over."""
