"""A configured client that breaks every rule it can."""

from __future__ import annotations

from collections import deque

from pbft.batch import Answer, decode_result, open_body, operations_body, signature_body
from pbft.codec import CodecError
from pbft.config import Group, is_client
from pbft.crypto import AuthenticatorKey, digest, make_authenticator
from pbft.messages import Reply, Request, decode, encode
from pbft.simulation.keys import shared_key, signature
from pbft.simulation.network import Network
from pbft.simulation.world import World

FORGED = b"inc 1000000"
"""What no correct client asks for: only somebody else says it in its name."""

_FLOOD = 120


class BadClient:
    """Reused and huge ids, forged senders, opens in masses, authenticators that only some replicas can verify, two
    bodies under one id, replays of what others sent, floods. Its keys are its own."""

    def __init__(self, world: World, network: Network, group: Group, principal: int, victim: int) -> None:
        self._world, self._network, self._group = world, network, group
        self._principal, self._victim = principal, victim
        self._random = world.stream("bad client")
        self._count = 0
        """Its open count, as the replies tell."""
        self._view = 0
        self._sessions: deque[int] = deque(maxlen=4)
        self._next_id: dict[int, int] = {}
        self._captured: deque[bytes] = deque(maxlen=100)
        self.active = True
        network.attach(principal, self._arrived)
        network.tap = self._overheard

    def begin(self) -> None:
        """Act now and then."""
        self._open(self._count)
        self._world.after(self._random.expovariate(30), self._act)

    # ---- what it learns

    def _arrived(self, sender: int, body: bytes) -> None:
        try:
            message = decode(body)
            if not isinstance(message, Reply):
                return
            self._view = max(self._view, message.view) if message.view < self._view + 100 else self._view
            for _, _, _, result in message.rows:
                answer, value = decode_result(result) if result else (Answer.DONE, 0)
                if answer is Answer.OPENED and isinstance(value, int) and value not in self._next_id:
                    self._sessions.append(value)
                    self._next_id[value] = 1
                    self._count += 1
                elif answer is Answer.OPEN_STALE and isinstance(value, int):
                    self._count = value
        except CodecError:
            return  # a faulty replica says anything

    def _overheard(self, sender: int, receiver: int, body: bytes) -> None:
        if is_client(sender) and sender != self._principal and self._random.random() < 0.2:
            self._captured.append(body)

    # ---- what it does

    def _act(self) -> None:
        if not self.active:
            return
        random = self._random
        acts = (
            *(self._open_again, self._forge, self._say_anything, self._number_wildly, self._number_wildly),
            *(self._convince_some, self._convince_some, self._tell_two_things, self._tell_two_things),
            *(self._replay, self._flood),
        )
        random.choice(acts)()
        self._world.after(random.expovariate(30), self._act)

    def _open_again(self) -> None:
        self._open(self._random.choice((self._count, self._count, max(0, self._count - 1), 1 << 50)))

    def _open(self, count: int) -> None:
        body = open_body(self._principal, self._random.getrandbits(63), count)
        self._to_all(body, self._signed(body))

    def _forge(self) -> None:
        """In another client's name."""
        body = operations_body(self._victim, 1 << 16, self._random.randint(1, 60), 0, 255, [FORGED])
        if self._random.random() < 0.5:
            self._to_all(body, self._macs(body))
        else:
            self._send(self._some_replica(), body, self._macs(body))

    def _say_anything(self) -> None:
        self._send(self._some_replica(), self._random.randbytes(self._random.randint(1, 80)), b"\x00" * 97)

    def _number_wildly(self) -> None:
        random = self._random
        session = random.choice((1 << 16, 2 << 16, 5 << 16 | 1, 1 << 60, *self._sessions))
        request_id = random.choice((1, 2, 3, 1 << 40, (1 << 64) - 1))
        floor = random.choice((0, 0, request_id - 1))
        body = operations_body(self._principal, session, request_id, floor, 255, [b"get", random.randbytes(5)])
        self._send(self._some_replica(), body, self._macs(body) if random.random() < 0.7 else self._signed(body))

    def _convince_some(self) -> None:
        """An authenticator that only some replicas can verify; later, maybe, a signature for all. (4 #1)"""
        random, n = self._random, len(self._group.replicas)
        body = self._proper()
        convinced = random.sample(range(n), random.randint(0, n - 1))
        authenticator = self._macs(body, [*convinced, self._primary] if random.random() < 0.7 else convinced)
        for replica in range(n) if random.random() < 0.3 else [self._primary]:
            self._send(replica, body, authenticator)
        if random.random() < 0.7:
            self._world.after(random.uniform(0.01, 0.8), lambda: self._to_all(body, self._signed(body)))

    def _tell_two_things(self) -> None:
        """Two bodies under one id, each to its own replicas; signed or not, and again."""
        random = self._random
        first = self._proper()
        self._next_id[self._session] -= 1
        second = self._proper()
        prove = self._signed if random.random() < 0.5 else self._macs
        for _ in range(random.randint(1, 2)):
            for replica in range(len(self._group.replicas)):
                body = random.choice((first, second))
                self._send(replica, body, prove(body))

    def _replay(self) -> None:
        """What other clients sent, over its own link."""
        for _ in range(min(5, len(self._captured))):
            self._network.send(self._principal, self._some_replica(), self._random.choice(self._captured))

    def _flood(self) -> None:
        """Valid requests in masses."""
        signs, to_all = self._random.random() < 0.3, self._random.random() < 0.3
        for _ in range(self._random.randint(10, _FLOOD)):
            body = self._proper()
            proof = self._signed(body) if signs else self._macs(body)
            if to_all:
                self._to_all(body, proof)
            else:
                self._send(self._primary, body, proof)

    # ---- how it does it

    @property
    def _session(self) -> int:
        return self._sessions[-1] if self._sessions else 1 << 16

    @property
    def _primary(self) -> int:
        return self._group.quorums.primary(self._view)

    def _some_replica(self) -> int:
        return self._random.choice((self._primary, self._primary, self._random.randrange(len(self._group.replicas))))

    def _proper(self) -> bytes:
        """A request with the next id in a session that exists, if it has one."""
        session = self._session
        request_id = self._next_id.get(session, 1)
        self._next_id[session] = request_id + 1
        floor = max(0, request_id - self._random.choice((1, 8, 60)))
        operation = b"get" if self._random.random() < 0.5 else self._random.randbytes(5)
        return operations_body(self._principal, session, request_id, floor, 255, [operation])

    def _macs(self, body: bytes, convinced: list[int] | None = None) -> bytes:
        keys = [shared_key(self._principal, i) for i in range(len(self._group.replicas))]
        if convinced is not None:
            keys = [k if i in convinced else AuthenticatorKey(k.key_id, bytes(32)) for i, k in enumerate(keys)]
        return b"\x00" + make_authenticator(keys, digest(b"request", body))

    def _signed(self, body: bytes) -> bytes:
        text = signature_body(self._group.cluster, self._group.epoch, digest(b"request", body))
        return b"\x01" + signature(self._principal, text)

    def _to_all(self, body: bytes, authenticator: bytes) -> None:
        for replica in range(len(self._group.replicas)):
            self._send(replica, body, authenticator)

    def _send(self, replica: int, body: bytes, authenticator: bytes) -> None:
        self._network.send(self._principal, replica, encode(Request(body, authenticator)))
