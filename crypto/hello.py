"""What each side says of itself when a link opens, and what is judged before any key is used."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pbft.crypto.certificates import SigningIdentity
from pbft.crypto.derivation import X25519_SIZE
from pbft.crypto.errors import CryptoError, HandshakeError
from pbft.crypto.keys import PublicKey
from pbft.crypto.wire import blob, malformed, number, printable, sanitized

INSTANCE_SIZE = 16
NONCE_SIZE = 16
FIELD_DIGEST_SIZE = 8

_CLUSTER_MAX_BYTES = 64
_FIELDS_MAX = 256
_FIELD_NAME_MAX = 64
_FIELDS_NAMED_MAX = 8
_VERSION_MAX = (1 << 16) - 1
_CLIENT_BIT = 1 << 63


def principal_name(principal: int) -> str:
    """`replica 2` or `client 8f…`, for error texts."""
    return f"client {principal:016x}" if principal >= _CLIENT_BIT else f"replica {principal}"


@dataclass(frozen=True, slots=True)
class HandshakeConfig:
    """What one side brings to every handshake.

    `cluster`: cluster id, 1..64 bytes. `instance`: 16 random bytes per process start. `lookup(principal)`:
    identity key of a replica or client, None if unknown. `fields`: name -> 8-byte digest of each
    configuration field that replicas share; clients leave it empty and are not compared. `entropy(n)`: n
    random bytes. CryptoError if the parts do not fit together.
    """

    cluster: bytes
    epoch: int
    principal: int
    identity: SigningIdentity
    instance: bytes
    lookup: Callable[[int], PublicKey | None]
    version_min: int = 1
    version_max: int = 1
    fields: Mapping[str, bytes] = field(default_factory=dict)
    entropy: Callable[[int], bytes] = os.urandom

    def __post_init__(self) -> None:
        if self.identity.principal != self.principal or self.identity.cluster != self.cluster:
            raise CryptoError("the signing identity belongs to another principal or cluster than the handshake")
        try:
            hello = self.hello(bytes(X25519_SIZE), bytes(NONCE_SIZE), with_fields=True)
            Hello.from_row(hello.row())
        except HandshakeError as error:
            raise CryptoError(f"the handshake configuration is out of bounds: {error.text}") from None

    def hello(self, ephemeral: bytes, nonce: bytes, with_fields: bool) -> Hello:
        """The HELLO of this side with a fresh ephemeral public key and nonce."""
        return Hello(
            version_min=self.version_min,
            version_max=self.version_max,
            cluster=self.cluster,
            epoch=self.epoch,
            principal=self.principal,
            incarnation=self.identity.incarnation,
            instance=self.instance,
            ephemeral=ephemeral,
            nonce=nonce,
            fields=tuple(sorted(self.fields.items())) if with_fields else (),
        )


@dataclass(frozen=True, slots=True)
class Hello:
    """One side's HELLO. Claims only, until a seal over the transcript that contains them has verified."""

    version_min: int
    version_max: int
    cluster: bytes
    epoch: int
    principal: int
    incarnation: int
    instance: bytes
    ephemeral: bytes
    nonce: bytes
    fields: tuple[tuple[str, bytes], ...]

    def row(self) -> tuple[Any, ...]:
        """The HELLO as nested tuples for encoding."""
        return (
            self.version_min,
            self.version_max,
            self.cluster,
            self.epoch,
            self.principal,
            self.incarnation,
            self.instance,
            self.ephemeral,
            self.nonce,
            self.fields,
        )

    @classmethod
    def from_row(cls, row: tuple[Any, ...]) -> Hello:
        """Check types and bounds of a decoded row of our own version; HandshakeError ("malformed")."""
        if len(row) != 10:
            raise malformed(f"a HELLO has 10 fields, this one has {len(row)}")
        version_min, version_max = version_range(row)
        return cls(
            version_min=version_min,
            version_max=version_max,
            cluster=blob(row[2], 1, _CLUSTER_MAX_BYTES),
            epoch=number(row[3]),
            principal=number(row[4]),
            incarnation=number(row[5]),
            instance=blob(row[6], INSTANCE_SIZE, INSTANCE_SIZE),
            ephemeral=blob(row[7], X25519_SIZE, X25519_SIZE),
            nonce=blob(row[8], NONCE_SIZE, NONCE_SIZE),
            fields=_checked_fields(row[9]),
        )


def version_range(row: tuple[Any, ...]) -> tuple[int, int]:
    """(lowest, highest) version that a HELLO offers: its first two fields in every version of the format."""
    if len(row) < 2:
        raise malformed("a HELLO starts with its range of versions")
    low, high = number(row[0], _VERSION_MAX), number(row[1], _VERSION_MAX)
    if low > high:
        raise malformed("the range of versions is empty")
    return low, high


def _checked_fields(value: Any) -> tuple[tuple[str, bytes], ...]:
    if type(value) is not tuple or len(value) > _FIELDS_MAX:
        raise malformed(f"the configuration fields are not an array of at most {_FIELDS_MAX}")
    previous = ""
    for entry in value:
        if type(entry) is not tuple or len(entry) != 2:
            raise malformed("a configuration field is not a pair")
        name = printable(entry[0], _FIELD_NAME_MAX)
        blob(entry[1], FIELD_DIGEST_SIZE, FIELD_DIGEST_SIZE)
        if name <= previous:
            raise malformed("the configuration fields are not sorted by name")
        previous = name
    return value


def judge_hello(config: HandshakeConfig, row: tuple[Any, ...], expected: int | None) -> tuple[Hello, PublicKey, int]:
    """The peer's HELLO, its identity key and the version to speak; HandshakeError if it has to be refused.

    Nothing here costs more than comparing bytes. The version comes first: a later version may have other
    fields.
    """
    low, high = version_range(row)
    version = min(high, config.version_max)
    if version < max(low, config.version_min):
        raise HandshakeError(
            "version",
            f"the peer speaks protocol versions {low} to {high}, this side {config.version_min} to "
            f"{config.version_max}; upgrade the older side",
        )
    hello = Hello.from_row(row)
    name = principal_name(hello.principal)
    if hello.cluster != config.cluster:
        raise HandshakeError(
            "wrong-cluster",
            f"{name} belongs to cluster {hello.cluster[:8].hex()}, this side to {config.cluster[:8].hex()}; "
            "check addresses and cluster.toml",
        )
    if hello.epoch != config.epoch:
        raise HandshakeError(
            "wrong-epoch",
            f"{name} is in configuration epoch {hello.epoch}, this side in {config.epoch}; "
            "the one behind has to catch up",
        )
    if hello.principal == config.principal:
        raise HandshakeError(
            "self-connection",
            f"{name} was reached by itself or by a second process with its key; check addresses and keys",
        )
    if expected is not None and hello.principal != expected:
        raise HandshakeError(
            "wrong-principal",
            f"{name} answered where {principal_name(expected)} was expected; check addresses in cluster.toml",
        )
    identity = config.lookup(hello.principal)
    if identity is None:
        raise HandshakeError(
            "unknown-principal", f"{name} is not in the configuration; add its public key to cluster.toml"
        )
    if config.principal < _CLIENT_BIT and hello.principal < _CLIENT_BIT:
        _compare_fields(config.fields, dict(hello.fields), name)
    return hello, identity, version


def _compare_fields(own: Mapping[str, bytes], other: Mapping[str, bytes], name: str) -> None:
    different = sorted(key for key in own.keys() | other.keys() if own.get(key) != other.get(key))
    if different:
        listed = ", ".join(sanitized(key, _FIELD_NAME_MAX) for key in different[:_FIELDS_NAMED_MAX])
        more = len(different) - _FIELDS_NAMED_MAX
        suffix = f" and {more} more" if more > 0 else ""
        raise HandshakeError(
            "config-mismatch",
            f"{name} has another value of {listed}{suffix}; use the same cluster.toml on all replicas",
        )
