"""Disks that rot, and old copies of them that are put back: what a machine does not know until it looks, or is told.

Until then no oracle holds it to the rules: what it voted last may be known to nobody, and it counts among the f
(rule 1.7 d). Once it knows that its past is lost, they do.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING, NamedTuple

from pbft.storage.simulated_files import SimulatedDirectory

if TYPE_CHECKING:
    from pbft.simulation.machine import Machine

WAYS = ("disk", "rot", "copy", "copy-of-recovery")
"""How the past of a machine is lost: its disk is gone, a byte of it is another one, or an older copy is put back, one
that was made while it recovered from an earlier loss among them."""


class Copy(NamedTuple):
    """A data directory as it was."""

    directory: SimulatedDirectory
    starts: int
    lost: bool
    state_on_disk: int


def copy_of(machine: Machine) -> Copy:
    """What is durable there now."""
    return Copy(machine.directory.copy(), machine.starts, machine.lost, machine.state_on_disk)


def put_back(machine: Machine, copy: Copy) -> None:
    """Power off, and it will start from that."""
    machine.crash()
    machine.world.note(f"{machine.me} gets an old copy of its disk")
    machine.directory, machine.starts = copy.directory.copy(), copy.starts
    machine.lost, machine.state_on_disk = copy.lost, copy.state_on_disk
    machine.doubt = "old copy"


def rot(machine: Machine, random: Random) -> None:
    """Power off, and one byte of one file is another one."""
    machine.crash()
    names = [name for name in machine.directory.list() if machine.directory.size(name)]
    if not names:
        return
    name = random.choice(names)
    place = random.randrange(machine.directory.size(name))
    machine.directory.flip(name, place, 1 << random.randrange(8))
    machine.world.note(f"{machine.me} has rot in {name} at {place}")
    machine.doubt = "rot"


def losses(
    way: str, times: list[float], at: Callable[[float, Callable[[], None]], None], machine: Machine, random: Random
) -> None:
    """Plan that the machine loses its past in that way, at these times; it is down afterwards.

    `at`: does something at a time, if the machine is up then."""
    for time in times:
        if way == "rot":
            at(time, lambda: rot(machine, random))
        elif way == "copy":
            copies: list[Copy] = []
            at(random.uniform(0, time), lambda copies=copies: copies.append(copy_of(machine)))  # type: ignore[misc]
            at(time, lambda copies=copies: put_back(machine, copies[0]) if copies else machine.crash())  # type: ignore[misc]
        elif way == "copy-of-recovery":
            at(time / 3, lambda time=time: _copy_in_recovery(at, machine, time))  # type: ignore[misc]
        else:
            at(time, machine.lose_disk)


def _copy_in_recovery(at: Callable[[float, Callable[[], None]], None], machine: Machine, time: float) -> None:
    """The disk goes; it is copied once a RECOVER is signed, and that copy is put back later."""
    machine.lose_disk()

    copies: list[Copy] = []

    def look() -> None:
        core = machine.host.replica.core
        if not copies and core.lost and core.log.recovering is not None and core.outbox.durable == core.outbox.position:
            copies.append(copy_of(machine))
            at(time, lambda: put_back(machine, copies[0]))

    for step in range(200):
        at(0.01 * step, look)
