"""What a replica must know of its own state: where the log says that it stands, and what its sessions are."""

from __future__ import annotations

from pbft.protocol.records import Executing, Installed, Record
from pbft.simulation.machine import Machine
from pbft.simulation.oracles import OnDisk, Oracle
from pbft.simulation.world import Violation

_MIRROR_EVERY = 64
"""Steps between two looks at a mirror."""


class Replays(OnDisk):
    """A restart goes on where the log says that execution was, also above a state that came from others. Rule 1.6"""

    def __init__(self) -> None:
        super().__init__()
        self._executing: dict[int, int] = {}

    def on_synced(self, machine: Machine, position: int, record: Record) -> None:
        """It executes, and may say so."""
        if isinstance(record, (Executing, Installed)):
            self._executing[machine.me] = max(self._executing.get(machine.me, 0), record.number)

    def on_loss(self, machine: Machine) -> None:
        """Its log tells nothing."""
        self._executing.pop(machine.me, None)

    def on_step(self, machine: Machine) -> None:
        """Whatever boot this is."""
        executing, synced = machine.host.replica.core.log.executing, self._executing.get(machine.me, 0)
        if executing < synced:
            raise Violation("replay", f"replica {machine.me} stands at {executing}, and its log has {synced}")


class Mirrors(Oracle):
    """What agreement believes of the sessions is what the replicated state says of them. Rules 1.15, 2.9"""

    def __init__(self) -> None:
        self._steps = 0

    def on_step(self, machine: Machine) -> None:
        """Now and then: it is dear."""
        self._steps += 1
        replica = machine.host.replica
        if self._steps % _MIRROR_EVERY or replica.delivery.executed != machine.executor.last_executed:
            return
        start = machine.executor.start()
        if replica.mirror.contents() != (tuple(sorted(start.counts)), tuple(sorted(start.sessions))):
            raise Violation(
                "sessions", f"replica {machine.me} believes {replica.mirror.contents()} at {start.number}: {start}"
            )
        if (believed := replica.core.members.contents()) != start.members:
            raise Violation("incarnations", f"replica {machine.me} believes {believed} at {start.number}: {start}")
