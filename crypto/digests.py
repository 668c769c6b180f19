"""Digests: BLAKE2b-256, separated by domain. [RFC 7693]

Rules of this file: pure functions of bytes. A *domain* names what is hashed ("batch", "request", ...), so
that a value of one kind can never pass for a value of another kind: it becomes BLAKE2b's personalisation, at
most 16 bytes, and does not end in a zero byte (BLAKE2b pads with zeros, so `b"a"` and `b"a\\0"` are one
domain).
"""

from __future__ import annotations

from hashlib import blake2b

DIGEST_SIZE = 32
"""Bytes of every digest."""


def digest(domain: bytes, data: bytes | memoryview) -> bytes:
    """The 32-byte digest of `data` in `domain` (at most 16 bytes, else ValueError)."""
    return blake2b(data, digest_size=32, person=domain).digest()


def encode_parts(*parts: bytes) -> bytes:
    """All parts, each after its length in 8 bytes, so that no two sequences of parts look alike."""
    return b"".join([piece for part in parts for piece in (len(part).to_bytes(8, "big"), part)])


def digest_parts(domain: bytes, *parts: bytes) -> bytes:
    """The 32-byte digest of a sequence of parts in `domain`.

    The lengths are hashed with the parts, so `(b"ab", b"c")` and `(b"a", b"bc")` differ; a fixed salt keeps
    it apart from `digest` in the same domain.
    """
    return blake2b(encode_parts(*parts), digest_size=32, person=domain, salt=b"parts").digest()
