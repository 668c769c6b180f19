"""What a view begins with, what a VIEW-CHANGE tells, what "prepared" means, and below what the log is cut: checked
against what correct replicas have on disk. These see a broken rule when it is broken, long before two replicas execute
different batches. Rules 1.6, 2.6
"""

from __future__ import annotations

from typing import cast

from pbft.batch import Batch
from pbft.config import Quorums
from pbft.execution.results import Executed
from pbft.messages import Message, NewView, ViewChange, decode
from pbft.protocol.records import Accepted, Entered, Executing, Prepared, Record
from pbft.simulation.machine import Machine
from pbft.simulation.oracles import OnDisk, Oracle
from pbft.simulation.world import Violation

Place = tuple[int, int, bytes]
"""(view, number, digest)"""


class NewViews(Oracle):
    """Whatever a correct replica had executed when the first correct one enters a view is agreed again in that view, or
    lies at or below the checkpoint that it begins from. This is why a view change loses nothing. Rule 1.3"""

    def __init__(self) -> None:
        self._executed: dict[int, bytes] = {}
        self._newest = 0

    def on_executed(self, machine: Machine, batch: Batch, done: Executed) -> None:
        """Committed, in whatever view."""
        self._executed.setdefault(done.number, batch.digest)

    def on_record(self, machine: Machine, position: int, record: Record) -> None:
        """Before anybody correct has entered a view or a later one, nothing can have committed in either."""
        if not isinstance(record, Entered):
            return
        view, log = cast(NewView, decode(record.new_view)).view, machine.host.replica.core.log
        if view <= self._newest:
            return
        self._newest = view
        if log.view != view:
            return  # it has gone on already, in the same sweep
        low = log.last_chosen - len(log.chosen)
        for number, digest in self._executed.items():
            if number > low and log.chosen.get(number) != digest:
                told = "nothing" if number not in log.chosen else "another batch"
                raise Violation(
                    "chosen keeps executed", f"view {view} begins with {told} at {number}, which has executed"
                )


class Cuts(OnDisk):
    """The log is cut only below what a restart needs: the newest of each record that binds for ever, what was voted
    above h, and whatever executed above the state on disk. Rule 1.6"""

    def __init__(self) -> None:
        super().__init__()
        self._newest: dict[tuple[int, str], int] = {}
        self._numbered: dict[int, dict[int, tuple[int, bool]]] = {}
        """Replica -> position -> (number, whether it executed there and not only got a vote)."""

    def on_synced(self, machine: Machine, position: int, record: Record) -> None:
        """What the log must go on telling for a while."""
        if isinstance(record, (Accepted, Prepared, Executing)):
            is_executed = isinstance(record, Executing)
            self._numbered.setdefault(machine.me, {})[position] = (record.number, is_executed)
        else:
            self._newest[machine.me, type(record).__name__] = position

    def on_loss(self, machine: Machine) -> None:
        """Nothing is left to be cut."""
        self._numbered.pop(machine.me, None)
        for key in [key for key in self._newest if key[0] == machine.me]:
            del self._newest[key]

    def on_cut(self, machine: Machine, below: int) -> None:
        """Would anything be missed?"""
        me, log, numbered = machine.me, machine.host.replica.core.log, self._numbered.get(machine.me, {})
        kinds = ["Boot", "Entered", "StableCertificate", "Reborn", *(() if log.is_active else ("Left",))]
        for kind in kinds + ["Lost", "Recovering"] * log.lost:
            if self._newest.get((me, kind), below) < below:
                raise Violation("cut log", f"replica {me} cuts its newest {kind}")
        for p in [p for p in numbered if p < below]:
            number, is_executed = numbered.pop(p)
            if number > (machine.state_on_disk if is_executed else log.low):
                raise Violation("cut log", f"replica {me} cuts what it did at {number}")


class Held(OnDisk):
    """What each correct replica has on disk: the batches that it pre-prepared and prepared."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted: dict[int, dict[Place, bool]] = {}
        self.prepared: dict[int, dict[int, tuple[bytes, int]]] = {}

    def on_loss(self, machine: Machine) -> None:
        """Its disk is gone."""
        self.accepted.pop(machine.me, None)
        self.prepared.pop(machine.me, None)

    def on_synced(self, machine: Machine, position: int, record: Record) -> None:
        """It will be there after a crash."""
        if isinstance(record, Accepted):
            self.accepted.setdefault(machine.me, {})[record.view, record.number, record.digest] = True
        elif isinstance(record, Prepared):
            self.prepared.setdefault(machine.me, {})[record.number] = (record.digest, record.view)


class Prepares(Held):
    """A prepared batch is on the disks of q replicas, as pre-prepared in that very view: of all but the faulty ones the
    disks were seen. A proposal is no vote, and nobody counts twice. Rules 1.5, 1.10"""

    def __init__(self, quorums: Quorums, faulty: int) -> None:
        super().__init__()
        self._needed = quorums.strong - faulty

    def on_record(self, machine: Machine, position: int, record: Record) -> None:
        """Count who holds it."""
        super().on_record(machine, position, record)
        if isinstance(record, Prepared):
            holders = sum(tuple(record) in places for places in self.accepted.values())
            if holders < self._needed:
                raise Violation(
                    "prepared by a quorum",
                    f"replica {machine.me} prepares {record.number} in view {record.view}; "
                    f"{holders} of {self._needed} have it on disk",
                )


class Testimony(Held):
    """A VIEW-CHANGE tells everything above its h that its sender pre-prepared in the views that it leaves, and what it
    prepared there last; only Q entries below its own P entry are left out. Rule 2.6"""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[tuple[int, int], bool] = {}

    def on_send(self, machine: Machine, to: int, message: Message) -> None:
        """Its first transmission. It may have waited for the disk until its sender had entered the new view."""
        me = machine.me
        if not isinstance(message, ViewChange) or message.sender != me or (me, message.view) in self._told:
            return
        self._told[me, message.view] = True
        p = {n: (d, v) for n, d, v in message.prepared}
        q = {(n, d): v for n, d, v in message.preprepared}
        for number, entry in self.prepared.get(me, {}).items():
            if number > message.low and entry[1] < message.view and p.get(number) != entry:
                raise Violation("testimony", f"replica {me} conceals what it prepared at {number}")
        for view, number, digest in self.accepted.get(me, {}):
            bound = p[number][1] if number in p else 0
            if number > message.low and bound <= view < message.view and q.get((number, digest), -1) < view:
                raise Violation("testimony", f"replica {me} conceals what it pre-prepared at {number} in view {view}")
