"""Keys from secrets: HKDF-SHA256 [RFC 5869] and X25519 [RFC 7748]. Pure functions of bytes."""

from __future__ import annotations

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand
from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.exceptions import CryptoError as NaclError

from pbft.crypto.errors import HandshakeError

X25519_SIZE = 32
"""Bytes of an X25519 public or secret key and of the secret that two of them share."""


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF-SHA256, extract and expand: `length` bytes from `secret`."""
    return HKDF(algorithm=SHA256(), length=length, salt=salt, info=info).derive(secret)


def hkdf_expand(key: bytes, info: bytes, length: int = 32) -> bytes:
    """HKDF-SHA256, expand only: `key` is uniformly random already, such as an output of `hkdf`."""
    return HKDFExpand(algorithm=SHA256(), length=length, info=info).derive(key)


def x25519_public(secret: bytes) -> bytes:
    """The public key of an X25519 secret of 32 random bytes."""
    return crypto_scalarmult_base(secret)


def x25519_shared(secret: bytes, peer_public: bytes) -> bytes:
    """The shared secret; raises `HandshakeError` ("malformed") for a public key of low order.

    Such a key would give a secret that everybody knows.
    """
    try:
        return crypto_scalarmult(secret, peer_public)
    except (NaclError, RuntimeError):
        raise HandshakeError("malformed", "the peer's ephemeral key has low order") from None
