"""MACs and client authenticators: keyed BLAKE2b, 16-byte tags. Rule 1.1, [CL99 §5.2]

A client's REQUEST is relayed by the primary, so it carries an *authenticator*: one entry per replica, each
under the key that the client shares with that replica. An entry is 24 bytes: key id (8) | tag (16) over the
request digest. An entry of zeros means: no key with that replica at present.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from hmac import compare_digest
from typing import NamedTuple

MAC_SIZE = 16
KEY_ID_SIZE = 8
AUTHENTICATOR_ENTRY_SIZE = KEY_ID_SIZE + MAC_SIZE

_NO_KEY = bytes(KEY_ID_SIZE)
_NO_ENTRY = bytes(AUTHENTICATOR_ENTRY_SIZE)
_DOMAIN = b"authenticator"


class AuthenticatorKey(NamedTuple):
    """A key that one client shares with one replica: `key_id` 8 bytes, never all zero; `key` 32 bytes."""

    key_id: bytes
    key: bytes

    def __repr__(self) -> str:
        return f"AuthenticatorKey(key_id={self.key_id.hex()})"


def mac(key: bytes, data: bytes | memoryview) -> bytes:
    """The 16-byte tag of `data` under `key` (at most 64 bytes)."""
    return blake2b(data, digest_size=MAC_SIZE, key=key).digest()


def mac_equal(first: bytes, second: bytes) -> bool:
    """Whether two tags are equal; the time taken tells nothing about where they differ."""
    return compare_digest(first, second)


def _authenticator_tag(key: bytes, digest: bytes) -> bytes:
    return blake2b(digest, digest_size=MAC_SIZE, key=key, person=_DOMAIN).digest()


def make_authenticator(keys: Sequence[AuthenticatorKey | None], digest: bytes) -> bytes:
    """The authenticator of a request digest: entry i under `keys[i]`, zeros where that is None."""
    return b"".join([_NO_ENTRY if key is None else key.key_id + _authenticator_tag(key.key, digest) for key in keys])


def check_authenticator(
    authenticator: bytes, replica: int, digest: bytes, lookup: Callable[[bytes], bytes | None]
) -> bool:
    """Whether the entry of `replica` vouches for `digest` under the key `lookup(key_id)`. Never raises."""
    start = replica * AUTHENTICATOR_ENTRY_SIZE
    end = start + AUTHENTICATOR_ENTRY_SIZE
    if replica < 0 or len(authenticator) < end or len(authenticator) % AUTHENTICATOR_ENTRY_SIZE:
        return False
    middle = start + KEY_ID_SIZE
    key_id = bytes(authenticator[start:middle])
    if key_id == _NO_KEY:
        return False
    key = lookup(key_id)
    return key is not None and compare_digest(authenticator[middle:end], _authenticator_tag(key, digest))
