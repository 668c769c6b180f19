"""Messages that a faulty replica makes up, beside those that `pbft.misbehaviour` bends."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from pbft.batch import operations_body
from pbft.config import Group
from pbft.crypto import digest
from pbft.messages import (
    Body,
    Checkpoint,
    Commit,
    Committed,
    Message,
    NewView,
    Prepare,
    PrePrepare,
    Reply,
    Request,
    Suspect,
    ViewChange,
    encode,
)
from pbft.simulation.bad_client import FORGED
from pbft.simulation.keys import signature
from pbft.simulation.network import Network
from pbft.simulation.world import World

_CAPTURED = 200


class ActiveReplica:
    """A taken-over replica that makes up messages of its own; it holds its own keys only."""

    def __init__(
        self, world: World, network: Network, group: Group, me: int, random: Random, seen: Callable[[], tuple[int, int]]
    ) -> None:
        """`seen()`: about the view that the group is in, and how far it has executed."""
        self._world, self._network, self._group, self._me = world, network, group, me
        self._random = random
        self._seen = seen
        self._captured: list[bytes] = []
        self.active = True

    def capture(self, sender: int, body: bytes) -> None:
        """Keep a message that it received, to replay or bend."""
        if len(self._captured) < _CAPTURED:
            self._captured.append(body)
        elif self._random.random() < 0.1:
            self._captured[self._random.randrange(_CAPTURED)] = body

    def begin(self) -> None:
        """Act now and then."""
        self._world.after(self._random.expovariate(40), self._act)

    def _act(self) -> None:
        if not self.active:
            return
        random = self._random
        n = len(self._group.replicas)
        target = random.choice([i for i in range(n) if i != self._me])
        for body in self._forge():
            self._network.send(self._me, target, body)
        client = random.choice(sorted(self._group.clients))
        lie = b"\x82\x00\x81\x82\x00\x43999"
        row = (random.randint(1, 20), False, digest(b"result", lie), lie)
        self._network.send(self._me, client, encode(Reply(random.randint(0, 9), 1 << 16, (row,))))
        self.begin()

    def _forge(self) -> list[bytes]:
        random = self._random
        choice = random.randrange(9)
        if choice < 2 and self._captured:
            return [random.choice(self._captured)]
        if choice == 2 and self._captured:
            body = bytearray(random.choice(self._captured))
            body[random.randrange(len(body))] ^= 1 << random.randrange(8)
            return [bytes(body)]
        if choice == 3:
            return [random.randbytes(random.randint(0, 60))]
        if choice == 4:  # in a client's name, as if it had come to this replica and were passed on
            client = random.choice(sorted(self._group.clients))
            forged = operations_body(client, 1 << 16 | random.randrange(3), random.randint(1, 60), 0, 255, [FORGED])
            return [encode(Request(forged, random.choice((b"\x01" + bytes(160), b"\x00" + random.randbytes(96)))))]
        return [encode(self._message()) for _ in range(random.choice((1, 1, 5)))]

    def _message(self) -> Message:
        """Well-formed, for about the right view and number, and of its own seal where it needs one."""
        random, k = self._random, self._group.tunables.checkpoint_interval
        view, executed = self._seen()
        view = max(0, view + random.choice((-1, 0, 0, 0, 1)))
        number = max(1, executed + random.choice((-k, -1, 0, 1, 2, k, 1000, 1 << 40)))
        junk = random.randbytes(32)
        low = executed - executed % k
        q = self._group.quorums.strong
        unsealed: list[Checkpoint | ViewChange | NewView] = [
            Checkpoint(self._me, 0, number - number % k + k, junk, 1, 1, (), b""),
            ViewChange(self._me, 0, view + 1, low, ((low, junk),), (), ((low + 1, junk, view),), b""),
            NewView(self._me, 0, view + 1, tuple((i, junk) for i in range(q)), b"", ()),
        ]
        message: Message = random.choice(
            (
                Prepare(view, number, junk),
                Commit(view, number, junk),
                PrePrepare(view, number, junk, b""),
                Committed(number, (junk, junk)),
                Body(number, junk, random.randbytes(40)),
                Suspect(view),
                *unsealed,
            )
        )
        if isinstance(message, NewView):  # a captured or made-up testimony under each name
            own = unsealed[1]
            assert isinstance(own, ViewChange)
            claimed = tuple(own._replace(sender=i, seal=random.randbytes(160)) for i in range(q))
            message = message._replace(named=tuple((m.sender, m.digest) for m in claimed), view_changes=claimed)
        if isinstance(message, (Checkpoint, ViewChange, NewView)):
            body = message.signed_body(self._group.cluster, self._group.epoch)
            return message._replace(seal=signature(self._me, body, 160))
        return message
