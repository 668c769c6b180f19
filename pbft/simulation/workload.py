"""Clients: several callers in a closed loop share a proxy, which is the production `ClientCore`."""

from __future__ import annotations

from pbft.client import Call, ClientCore, ClientError
from pbft.config import Group
from pbft.simulation.keys import client_principal, shared_key, signature
from pbft.simulation.network import Network
from pbft.simulation.services import Asked, Ended, Service
from pbft.simulation.world import World

CALL_SECONDS = 60.0


class SimulatedClient:
    """One proxy with a number of callers in a closed loop."""

    def __init__(
        self,
        world: World,
        network: Network,
        group: Group,
        index: int,
        service: Service,
        callers: int,
        operations: int,
        seconds: float,
    ) -> None:
        """`seconds`: about how long the operations take, thinking included."""
        self._world, self._network, self._group, self._service = world, network, group, service
        self.principal = client_principal(index)
        self._random = world.stream(f"client {index}")
        self._left = operations
        self._callers = callers
        self._think = operations / callers / seconds
        self._calls: dict[Call, tuple[Asked, float]] = {}
        self.ended: list[Ended] = []
        self.begun = 0
        self._links: dict[int, bool] = {}
        self._pumping = False
        self._life = 0
        network.attach(self.principal, self._arrived)
        self._new_core()

    def _new_core(self) -> None:
        self._life += 1
        self.core = ClientCore(
            self._group,
            self.principal,
            lambda body: signature(self.principal, body),
            self._random.randbytes,
            self._random,
            window=self._random.choice((1, 2, 4)),
        )
        for replica in self._links:
            self.core.on_link_up(replica, shared_key(self.principal, replica), self._world.now)

    @property
    def is_done(self) -> bool:
        """Whether every call has been made and has ended."""
        return not self._left and not self._calls

    def begin(self) -> None:
        """Start the callers."""
        for _ in range(self._callers):
            self._world.after(self._random.random() * 0.1, self._call)
        self._world.after(0.02, self._tick)

    def restart(self) -> None:
        """The client's process ends and a new one begins: its calls' outcomes stay unknown to it."""
        self._world.note(f"client {self.principal & 0xFF} restarts")
        for asked, begun in self._calls.values():
            self.ended.append(Ended(self.principal, asked, begun, self._world.now, None, "client restarted"))
        lost = len(self._calls)
        self._calls.clear()
        self._new_core()
        for _ in range(lost):
            self._call()

    # ---- links

    def link_up(self, replica: int) -> None:
        """A replica can be reached."""
        self._links[replica] = True
        self.core.on_link_up(replica, shared_key(self.principal, replica), self._world.now)
        self._want_pump()

    def link_down(self, replica: int) -> None:
        """A replica is gone."""
        self._links.pop(replica, None)
        self.core.on_link_down(replica, self._world.now)
        self._want_pump()

    # ---- calls

    def _call(self) -> None:
        if not self._left:
            return
        self._left -= 1
        self.begun += 1
        asked = self._service.draw(self._random)
        now = self._world.now
        call = self.core.invoke(asked.operation, now, now + CALL_SECONDS, asked.is_query)
        self._calls[call] = (asked, now)
        self._want_pump()

    def _arrived(self, sender: int, body: bytes) -> None:
        self.core.on_message(sender, body, self._world.now)
        self._want_pump()

    def _tick(self) -> None:
        self.core.on_tick(self._world.now)
        self._pump()
        self._world.after(0.02, self._tick)

    def _want_pump(self) -> None:
        if not self._pumping:
            self._pumping = True
            self._world.after(0.00005, self._pump)

    def _pump(self) -> None:
        self._pumping = False
        for call, result in self.core.take_completions():
            known = self._calls.pop(call, None)
            if known is None:
                continue
            failed = isinstance(result, ClientError)
            value = None if isinstance(result, ClientError) else result
            error = f"{type(result).__name__}: {result!s}" if failed else ""
            self.ended.append(Ended(self.principal, known[0], known[1], self._world.now, value, error))
            self._world.note(f"client {self.principal & 0xFF} gets {value!r} {error}")
            self._world.after(self._random.expovariate(self._think), self._call)
        for replica, body, _ in self.core.take_sends():
            self._network.send(self.principal, replica, body)
