"""A network that delays, loses, duplicates and reorders, and that can be cut, also in one direction only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pbft.simulation.world import World

Deliver = Callable[[int, bytes], None]


@dataclass(slots=True)
class Weather:
    """How bad the network is."""

    delay: float = 0.001
    spread: float = 0.001
    loss: float = 0.0
    duplication: float = 0.0
    straggling: float = 0.0
    """Share of messages that take a hundred times as long: heavy reordering."""


class Network:
    """Carries bytes between principals."""

    def __init__(self, world: World, weather: Weather) -> None:
        self._world = world
        self.weather = weather
        self._receivers: dict[int, Deliver] = {}
        self._cut: dict[tuple[int, int], bool] = {}
        self.carried = 0

    def attach(self, principal: int, deliver: Deliver) -> None:
        """Messages for `principal` go to `deliver(sender, body)`."""
        self._receivers[principal] = deliver

    def cut(self, sender: int, receiver: int) -> None:
        """Nothing passes in this direction until `heal`."""
        self._cut[sender, receiver] = True

    def heal(self) -> None:
        """All directions are open."""
        self._cut.clear()

    def calm(self) -> None:
        """Good weather from now on."""
        self.weather = Weather()
        self.heal()

    def send(self, sender: int, receiver: int, body: bytes) -> None:
        """Maybe deliver, once or twice, some time later."""
        world, weather, random = self._world, self.weather, self._world.network
        if (sender, receiver) in self._cut or random.random() < weather.loss:
            return
        for _ in range(2 if random.random() < weather.duplication else 1):
            delay = weather.delay + random.expovariate(1 / weather.spread)
            if random.random() < weather.straggling:
                delay *= 100
            world.after(delay, lambda: self._arrive(sender, receiver, body))

    def _arrive(self, sender: int, receiver: int, body: bytes) -> None:
        deliver = self._receivers.get(receiver)
        if deliver is not None and (sender, receiver) not in self._cut:
            self.carried += 1
            deliver(sender, body)
