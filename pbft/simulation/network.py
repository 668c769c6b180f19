"""A network that delays, loses, duplicates and reorders, and that can be cut, also in one direction only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from pbft.simulation.world import World

Deliver = Callable[[int, bytes], None]


class Carrier(Protocol):
    """What a machine uses of the network."""

    def attach(self, principal: int, deliver: Deliver) -> None:
        """Messages for `principal` go to `deliver(sender, body)`."""

    def send(self, sender: int, receiver: int, body: bytes) -> None:
        """Maybe deliver, some time later."""


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
        self.tap: Callable[[int, int, bytes], None] | None = None
        """Overhears everything that is sent: `tap(sender, receiver, body)`."""

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
        if self.tap is not None:
            self.tap(sender, receiver, body)
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
