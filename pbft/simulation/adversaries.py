"""Active misbehaviour beside the bent messages of `pbft.misbehaviour`: forged, mutated messages, and a bad client."""

from __future__ import annotations

from collections.abc import Callable

from pbft.batch import open_body, operations_body, signature_body
from pbft.config import Group
from pbft.crypto import digest, make_authenticator
from pbft.messages import (
    Body,
    Checkpoint,
    Commit,
    Committed,
    Message,
    Prepare,
    PrePrepare,
    Reply,
    Request,
    encode,
)
from pbft.simulation.keys import shared_key, signature
from pbft.simulation.network import Network
from pbft.simulation.world import World

FORGED = b"inc 1000000"
"""What no correct client asks for: only somebody else says it in its name."""


class ActiveReplica:
    """A taken-over replica that makes up messages of its own; it holds its own keys only."""

    def __init__(self, world: World, network: Network, group: Group, me: int, seen: Callable[[], int]) -> None:
        """`seen()`: about how far the group has executed."""
        self._world, self._network, self._group, self._me = world, network, group, me
        self._seen = seen
        self._captured: list[bytes] = []
        self.active = True

    def capture(self, body: bytes) -> None:
        """Keep a message that it received, to replay or bend."""
        if len(self._captured) < 200:
            self._captured.append(body)

    def begin(self) -> None:
        """Act now and then."""
        self._world.after(self._world.adversary.expovariate(40), self._act)

    def _act(self) -> None:
        if not self.active:
            return
        random = self._world.adversary
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
        random = self._world.adversary
        k = self._group.tunables.checkpoint_interval
        number = max(1, self._seen() + random.choice((-k, -1, 0, 1, 2, k, 1000, 1 << 40)))
        junk = random.randbytes(32)
        choice = random.randrange(9)
        if choice == 0 and self._captured:
            return [random.choice(self._captured)]
        if choice == 1 and self._captured:
            body = bytearray(random.choice(self._captured))
            body[random.randrange(len(body))] ^= 1 << random.randrange(8)
            return [bytes(body)]
        if choice == 2:
            return [random.randbytes(random.randint(0, 60))]
        if choice == 3:  # in a client's name, as if it had come to this replica and were passed on
            client = random.choice(sorted(self._group.clients))
            forged = operations_body(client, 1 << 16 | random.randrange(3), random.randint(1, 60), 0, 255, [FORGED])
            return [encode(Request(forged, random.choice((b"\x01" + bytes(160), b"\x00" + random.randbytes(96)))))]
        messages: list[Message] = [
            Prepare(0, number, junk),
            Commit(0, number, junk),
            PrePrepare(0, number, junk, b""),
            Committed(number, (junk, junk)),
            Body(number, junk, random.randbytes(40)),
            self._checkpoint(number - number % k + k, junk),
        ]
        return [encode(random.choice(messages)) for _ in range(random.choice((1, 1, 5)))]

    def _checkpoint(self, number: int, state: bytes) -> Checkpoint:
        unsigned = Checkpoint(self._me, 0, number, state, 1, 1, b"")
        body = unsigned.signed_body(self._group.cluster, self._group.epoch)
        return unsigned._replace(seal=signature(self._me, body, 160))


class BadClient:
    """A configured client that breaks every rule it can: reused ids, huge ids, forged senders, opens in masses.

    It does not send authenticators that only the primary can verify: until a faulty client can cost a view change
    (rule 1.17) that would stop the group, and is tried in the tests of the core instead.
    """

    def __init__(self, world: World, network: Network, group: Group, principal: int, victim: int) -> None:
        self._world, self._network, self._group = world, network, group
        self._principal, self._victim = principal, victim
        self._opened = 0
        self.active = True
        network.attach(principal, lambda sender, body: None)

    def begin(self) -> None:
        """Act now and then."""
        self._world.after(self._world.adversary.expovariate(30), self._act)

    def _act(self) -> None:
        if not self.active:
            return
        random = self._world.adversary
        choice = random.randrange(6)
        if choice == 0:
            body = open_body(
                self._principal, random.getrandbits(63), random.choice((self._opened, self._opened, 1 << 50))
            )
            self._opened += 1
            self._send(body, self._signed(body), everybody=True)
        elif choice == 1:  # in another client's name
            body = operations_body(self._victim, 1 << 16, random.randint(1, 60), 0, 255, [FORGED])
            self._send(body, self._macs(body), everybody=random.random() < 0.5)
        elif choice == 2:
            self._send(random.randbytes(random.randint(1, 80)), b"\x00" * 97)
        else:
            session = random.choice((1 << 16, 2 << 16, 5 << 16 | 1, 1 << 60))
            request_id = random.choice((1, 2, 3, 1 << 40, (1 << 64) - 1))
            floor = random.choice((0, 0, request_id - 1))
            body = operations_body(self._principal, session, request_id, floor, 255, [b"get", random.randbytes(5)])
            self._send(body, self._macs(body) if random.random() < 0.7 else self._signed(body))
        self.begin()

    def _macs(self, body: bytes) -> bytes:
        n = len(self._group.replicas)
        keys = [shared_key(self._principal, i) for i in range(n)]
        return b"\x00" + make_authenticator(keys, digest(b"request", body))

    def _signed(self, body: bytes) -> bytes:
        text = signature_body(self._group.cluster, self._group.epoch, digest(b"request", body))
        return b"\x01" + signature(self._principal, text)

    def _send(self, body: bytes, authenticator: bytes, everybody: bool = False) -> None:
        message = encode(Request(body, authenticator))
        n = len(self._group.replicas)
        for replica in range(n) if everybody else [self._world.adversary.choice((0, 0, n - 1))]:
            self._network.send(self._principal, replica, message)
