"""A replica that runs twice: two machines with one identity and a disk each, between which the network is divided.

Each is correct by itself; together they say what no correct replica says. Whom each of them reaches changes all the
time: every peer talks to one of them, or to both. [Bano et al., Twins]
"""

from __future__ import annotations

from pbft.simulation.network import Deliver, Network
from pbft.simulation.world import World


class Twins:
    """Divides what goes to and comes from one identity between two machines."""

    def __init__(self, world: World, network: Network, me: int) -> None:
        self._world, self._network, self._me = world, network, me
        self._random = world.stream("twins")
        self._receivers: list[Deliver] = []
        self._sides: dict[int, tuple[bool, bool]] = {}
        """Peer -> which of the two it reaches, and is reached by."""
        self._planned = False
        network.attach(me, self._arrived)

    def port(self) -> TwinPort:
        """The network as the next of the two machines sees it."""
        return TwinPort(self, self._network)

    def begin(self) -> None:
        """Divide the network, and again after a while."""
        if self._planned:
            return
        self._sides.clear()
        self._world.after(self._random.uniform(0.1, 0.8), self.begin)

    def divide(self, sides: dict[int, tuple[bool, bool]]) -> None:
        """Divide the network in this way and not by chance; who is not named reaches both."""
        self._planned = True
        self._sides = dict(sides)

    def attach(self, deliver: Deliver) -> int:
        """Take in a machine; returns its number."""
        self._receivers.append(deliver)
        return len(self._receivers) - 1

    def reaches(self, machine: int, peer: int) -> bool:
        """Whether this machine and a peer are on one side."""
        if peer not in self._sides:
            ways = ((True, False), (False, True), (True, True))
            self._sides[peer] = ways[2] if self._planned else self._random.choice(ways)
        return self._sides[peer][machine]

    def _arrived(self, sender: int, body: bytes) -> None:
        for machine, deliver in enumerate(self._receivers):
            if self.reaches(machine, sender):
                deliver(sender, body)


class TwinPort:
    """`pbft.simulation.network.Carrier` for one of two machines."""

    def __init__(self, twins: Twins, network: Network) -> None:
        self._twins, self._network = twins, network
        self._number = 0

    def attach(self, principal: int, deliver: Deliver) -> None:
        """What reaches this machine goes to `deliver`."""
        self._number = self._twins.attach(deliver)

    def send(self, sender: int, receiver: int, body: bytes) -> None:
        """Only to peers on this machine's side."""
        if self._twins.reaches(self._number, receiver):
            self._network.send(sender, receiver, body)
