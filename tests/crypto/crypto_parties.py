"""Parties of handshakes for the tests: fixed keys, deterministic randomness."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import blake2b

from pbft.crypto import (
    HandshakeConfig,
    Initiator,
    PrivateKey,
    Responder,
    Session,
    SigningIdentity,
    client_id,
)

CLUSTER = b"c" * 32
REPLICA_KEYS = [PrivateKey.from_seed(bytes([number + 1]) * 32) for number in range(4)]
CLIENT_KEY = PrivateKey.from_seed(b"\x77" * 32)
CLIENT = client_id(CLIENT_KEY.public)
PUBLIC = {number: key.public for number, key in enumerate(REPLICA_KEYS)} | {CLIENT: CLIENT_KEY.public}
FIELDS = {"cluster.app": b"a" * 8, "protocol.log_window": b"w" * 8}


def entropy(seed: int) -> Callable[[int], bytes]:
    """Bytes that follow from `seed`, new ones with each call."""
    calls = 0

    def draw(size: int) -> bytes:
        nonlocal calls
        calls += 1
        return blake2b(b"%d/%d" % (seed, calls), digest_size=size).digest()

    return draw


def identity(principal: int, cluster: bytes = CLUSTER, incarnation: int = 0) -> SigningIdentity:
    """The signing identity of a known principal."""
    key = CLIENT_KEY if principal == CLIENT else REPLICA_KEYS[principal]
    return SigningIdentity(key, cluster, principal, incarnation)


def config(
    principal: int,
    *,
    cluster: bytes = CLUSTER,
    epoch: int = 0,
    incarnation: int = 0,
    signer: SigningIdentity | None = None,
    versions: tuple[int, int] = (1, 1),
    fields: Mapping[str, bytes] | None = None,
    seed: int | None = None,
) -> HandshakeConfig:
    """The configuration of one side; a client has no fields."""
    if fields is None:
        fields = {} if principal == CLIENT else FIELDS
    return HandshakeConfig(
        cluster=cluster,
        epoch=epoch,
        principal=principal,
        identity=signer or identity(principal, cluster, incarnation),
        instance=b"instance" + (principal % 1000).to_bytes(8, "big"),
        lookup=PUBLIC.get,
        version_min=versions[0],
        version_max=versions[1],
        fields=fields,
        entropy=entropy(principal if seed is None else seed),
    )


def connect(left: HandshakeConfig, right: HandshakeConfig) -> tuple[Session, Session]:
    """The sessions of both sides after an undisturbed handshake that `left` initiates."""
    initiator, responder = Initiator(left, right.principal), Responder(right)
    third, own = initiator.receive(responder.receive_hello(initiator.hello()))
    return own, responder.finish(third)
