"""Keys that cost nothing: keyed hashes stand for signatures and MACs. Nobody here can compute another's."""

from __future__ import annotations

import hashlib

from pbft.batch import AuthKind, ClientRequest, Kind, signature_body
from pbft.config import CLIENT_PRINCIPAL, Group, Tunables
from pbft.crypto import AuthenticatorKey, check_authenticator
from pbft.messages import Sealed

CLUSTER = b"simulated cluster".ljust(32, b".")


def client_principal(index: int) -> int:
    """Principal of the index-th client."""
    return CLIENT_PRINCIPAL | (index + 1)


def group_of(n: int, clients: int, tunables: Tunables) -> Group:
    """The shared configuration of a run."""
    return Group(
        cluster=CLUSTER,
        app="simulation",
        replicas=tuple(b"replica key %2d" % i for i in range(n)),
        clients={client_principal(i): b"client key %2d" % i for i in range(clients)},
        tunables=tunables,
    )


def signature(principal: int, body: bytes, size: int = 64) -> bytes:
    """What only `principal` can compute."""
    key = b"secret of %d" % principal
    first = hashlib.blake2b(body, digest_size=64, key=key).digest()
    return (first * 3)[:size]


def shared_key(client: int, replica: int) -> AuthenticatorKey:
    """The key of the link between a client and a replica."""
    raw = hashlib.blake2b(b"%d/%d" % (client, replica), digest_size=40).digest()
    return AuthenticatorKey(raw[:8], raw[8:])


class SimulatedAuthentication:
    """`pbft.protocol.inbound.Authentication` over these keys."""

    def __init__(self, group: Group, me: int) -> None:
        self._group = group
        self._me = me

    def request_is_authentic(self, request: ClientRequest) -> bool:
        """As `pbft.authentication`."""
        authenticator = request.authenticator
        if request.kind is Kind.RECOVER:
            body = signature_body(self._group.cluster, self._group.epoch, request.digest)
            return authenticator == bytes([AuthKind.SEAL]) + signature(request.client, body, 160)
        if authenticator[:1] == bytes([AuthKind.MACS]) and self._group.tunables.signed_requests:
            return False
        if authenticator[:1] == bytes([AuthKind.MACS]):
            key = shared_key(request.client, self._me)
            return check_authenticator(
                authenticator[1:], self._me, request.digest, lambda key_id: key.key if key_id == key.key_id else None
            )
        body = signature_body(self._group.cluster, self._group.epoch, request.digest)
        return authenticator == bytes([AuthKind.SIGNATURE]) + signature(request.client, body)

    def seal_is_authentic(self, message: Sealed) -> bool:
        """As `pbft.authentication`."""
        body = message.signed_body(self._group.cluster, self._group.epoch)
        return message.seal == signature(message.sender, body, 160)
