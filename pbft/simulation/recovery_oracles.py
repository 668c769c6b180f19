"""Lost disks: who votes again and from where on, and what an ended incarnation still counts for. Rule 1.7."""

from __future__ import annotations

from typing import cast

from pbft.batch import Batch
from pbft.execution.results import Executed, Recovered
from pbft.messages import Checkpoint, Commit, Message, NewView, Prepare, PrePrepare, Suspect, ViewChange, decode
from pbft.protocol.records import Accepted, Boot, Entered, Record, StableCertificate
from pbft.simulation.machine import Machine
from pbft.simulation.oracles import Oracle
from pbft.simulation.world import Violation


class Incarnations(Oracle):
    """Who has lost its disk says nothing that binds before a RECOVER of its own has executed and a state at or above
    the recovery point is stable, and then votes above that. Nobody votes in a view, nor begins one, from the word of an
    incarnation that has ended. Judged by what was executed, not by what replicas believe."""

    def __init__(self) -> None:
        self._executed: dict[int, tuple[Recovered, ...]] = {}
        """Number -> recoveries that executed there."""
        self._lost_at: dict[int, int] = {}
        """Machine -> recoveries of it that had executed anywhere when it lost its disk last."""
        self._begun: dict[tuple[int, int], bool] = {}
        """(machine, view): it has begun this view; the NEW-VIEW is written again when the log is cut."""
        self._low: dict[int, int] = {}
        """Machine -> h when the record was made that was looked at last; records are seen at the end of a sweep."""

    def on_executed(self, machine: Machine, batch: Batch, done: Executed) -> None:
        """By whomever."""
        found = tuple(change for change in done.changes if isinstance(change, Recovered))
        if found:
            self._executed[done.number] = found

    def _of(self, replica: int, number: int | None = None) -> list[Recovered]:
        """Recoveries of a replica up to a number, oldest first."""
        return [
            r
            for n, found in sorted(self._executed.items())
            if number is None or n <= number
            for r in found
            if r.replica == replica
        ]

    def on_loss(self, machine: Machine) -> None:
        """It knows nothing of what it has voted."""
        self._lost_at[machine.me] = len(self._of(machine.me))

    def on_send(self, machine: Machine, to: int, message: Message) -> None:
        """Is it one that binds, and may it say so?"""
        me = machine.me
        if me not in self._lost_at:
            return
        if isinstance(message, (PrePrepare, Prepare, Commit)) or (
            isinstance(message, Checkpoint) and message.sender == me
        ):
            # The state at the recovery point itself is stable then: to sign it once more adds nothing.
            number = message.number + isinstance(message, Checkpoint)
        elif isinstance(message, Suspect) or (isinstance(message, (ViewChange, NewView)) and message.sender == me):
            number = machine.host.replica.core.log.low + 1
        else:
            return
        kind, since = type(message).__name__, self._of(me)[self._lost_at[me] :]
        if not since:
            raise Violation("lost past", f"replica {me} sends {kind} {number}, and no RECOVER of it has executed")
        if number <= since[-1].point:
            raise Violation("lost past", f"replica {me} sends {kind} {number}; its recovery point is {since[-1].point}")

    def on_record(self, machine: Machine, position: int, record: Record) -> None:
        """Votes for a proposal, and views that are begun."""
        log = machine.host.replica.core.log
        if isinstance(record, Boot):
            self._low[machine.me] = log.low
        elif isinstance(record, StableCertificate):
            self._low[machine.me] = record.checkpoints[0].number
        elif isinstance(record, Accepted) and log.new_view is not None and log.view == record.view:
            self._compare(machine, log.new_view, self._low[machine.me], f"accepts {record.number}")
        elif isinstance(record, Entered):
            message = cast(NewView, decode(record.new_view))
            if message.sender == machine.me and log.new_view == message and not machine.host.replica.core.lost:
                executed = machine.host.replica.delivery.executed
                if (machine.me, message.view) not in self._begun:
                    self._compare(machine, message, executed, "begins a view")
                self._begun[machine.me, message.view] = True

    def _compare(self, machine: Machine, new_view: NewView, number: int, does: str) -> None:
        for named in new_view.view_changes:
            present = self._of(named.sender, number)
            if present and named.incarnation < present[-1].incarnation:
                raise Violation(
                    "ended incarnation",
                    f"replica {machine.me} {does} in view {new_view.view}, on the word of incarnation "
                    f"{named.incarnation} of replica {named.sender}",
                )
