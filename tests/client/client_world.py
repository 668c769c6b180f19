"""A group with keys, replicas that say what a test tells them to, and a driver for the pure client core."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from pbft.batch import (
    Answer,
    AuthKind,
    ClientRequest,
    Kind,
    Outcome,
    encode_answer,
    encode_done,
    result_digest,
    signature_body,
)
from pbft.client import Call, ClientCore, ClientError
from pbft.config import Group, Tunables
from pbft.crypto import AuthenticatorKey, PrivateKey, check_authenticator, client_id
from pbft.messages import Refusal, Reply, Request, decode, encode

CLUSTER = b"client tests".ljust(32, b".")
ALICE = PrivateKey.from_seed(hashlib.sha256(b"alice").digest())
PRINCIPAL = client_id(ALICE.public)
SESSION = (7 << 16) | 3


def replica_key(replica: int) -> PrivateKey:
    return PrivateKey.from_seed(hashlib.sha256(b"replica %d" % replica).digest())


def group_of(n: int = 4, **tunables: int) -> Group:
    replicas = tuple(replica_key(i).public.raw for i in range(n))
    return Group(CLUSTER, "test", replicas, {PRINCIPAL: ALICE.public.raw}, Tunables(**tunables))


def shared_key(replica: int) -> AuthenticatorKey:
    return AuthenticatorKey(bytes((0x80 + replica,)) * 8, hashlib.sha256(b"shared %d" % replica).digest())


def done(request: ClientRequest, prefix: bytes = b"r:") -> bytes:
    """What correct replicas answer in these tests: each operation with a prefix."""
    return encode_done([(Outcome.OK, prefix + operation) for operation in request.operations])


def reply(
    session: int, request_id: int, result: bytes, *, view: int = 0, tentative: bool = False, full: bool = True
) -> bytes:
    row = (request_id, tentative, result_digest(result), result if full else b"")
    return encode(Reply(view, session, (row,)))


class Driver:
    """A core with links to all replicas; remembers what it sent, to whom, and how calls ended."""

    def __init__(self, n: int = 4, *, links: Sequence[int] | None = None, window: int = 4, **tunables: int) -> None:
        self.group = group_of(n, **tunables)
        self.n = n
        entropy = random.Random(1)
        self.core = ClientCore(self.group, PRINCIPAL, ALICE.sign, entropy.randbytes, random.Random(2), window)
        self.now = 100.0
        self.sent: list[tuple[int, ClientRequest]] = []
        self.ended: dict[Call, bytes | ClientError] = {}
        for replica in range(n) if links is None else links:
            self.core.on_link_up(replica, shared_key(replica), self.now)

    def settle(self) -> list[tuple[int, ClientRequest]]:
        """End of a sweep: what was sent in it."""
        sent = []
        for replica, body, _ in self.core.take_sends():
            message = decode(body)
            assert type(message) is Request
            request = ClientRequest(message.body, message.authenticator)
            assert self.is_authentic(replica, request)
            sent.append((replica, request))
        for call, result in self.core.take_completions():
            assert call not in self.ended, "a call ends once"
            self.ended[call] = result
        self.sent += sent
        return sent

    def is_authentic(self, replica: int, request: ClientRequest) -> bool:
        """As the replica judges it."""
        how, proof = request.authenticator[0], request.authenticator[1:]
        if how == AuthKind.SIGNATURE:
            return ALICE.public.verify(signature_body(CLUSTER, 0, request.digest), proof)
        return check_authenticator(proof, replica, request.digest, lambda key_id: shared_key(replica).key)

    def invoke(self, operation: bytes, timeout: float = 5.0, query: bool = False) -> Call:
        return self.core.invoke(operation, self.now, self.now + timeout, query)

    def hear(self, replica: int, body: bytes) -> None:
        self.core.on_message(replica, body, self.now)

    def answer(self, replicas: Sequence[int], request: ClientRequest, result: bytes, **options: bool | int) -> None:
        for replica in replicas:
            self.hear(replica, reply(request.session, request.id, result, **options))  # type: ignore[arg-type]

    def refuse(self, replicas: Sequence[int], request: ClientRequest, reason: str) -> None:
        for replica in replicas:
            self.hear(replica, encode(Refusal(0, request.session, request.id, reason)))

    def wait(self, seconds: float, step: float = 0.01) -> list[tuple[int, ClientRequest]]:
        """Let time pass; what was sent meanwhile."""
        sent = []
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + step)
            self.core.on_tick(self.now)
            sent += self.settle()
        return sent

    def open(self, session: int = SESSION) -> None:
        """Answer the OPEN that was sent last."""
        opening = [request for _, request in self.sent if request.kind is Kind.OPEN][-1]
        self.answer(range(self.n), opening, encode_answer(Answer.OPENED, session))

    def send(self, *operations: bytes, query: bool = False, timeout: float = 5.0) -> tuple[list[Call], ClientRequest]:
        """Calls that share one REQUEST, in an open session; and that REQUEST."""
        calls = [self.invoke(operation, timeout, query) for operation in operations]
        sent = self.settle()
        if sent and sent[0][1].kind is Kind.OPEN:
            self.open()
            sent = self.settle()
        assert len({request.digest for _, request in sent}) == 1
        return calls, sent[0][1]

    def outcome(self, call: Call) -> bytes | ClientError:
        self.settle()
        return self.ended[call]

    def has_ended(self, call: Call) -> bool:
        self.settle()
        return call in self.ended
