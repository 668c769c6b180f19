"""How handshakes and key refreshes are encoded: CBOR arrays, strict, at most 8 KiB. [RFC 8949 §4.2]"""

from __future__ import annotations

from typing import Any

import cbor2

from pbft.crypto.errors import HandshakeError

MESSAGE_MAX_BYTES = 8192
"""Size of the largest handshake or refresh message."""

NUMBER_MAX = (1 << 64) - 1


def malformed(text: str) -> HandshakeError:
    """The error for bytes that are no message."""
    return HandshakeError("malformed", text)


def dumps(value: Any) -> bytes:
    """Canonical bytes of nested tuples of whole numbers, byte strings and texts."""
    return cbor2.dumps(value)


def loads(data: bytes) -> tuple[Any, ...]:
    """The array that encodes to exactly `data`; HandshakeError ("malformed") for everything else.

    The elements still have any type: check each with the functions below.
    """
    if not 0 < len(data) <= MESSAGE_MAX_BYTES:
        raise malformed(f"a message of {len(data)} bytes; 1 to {MESSAGE_MAX_BYTES} are allowed")
    data = bytes(data)
    try:
        value = cbor2.loads(
            data,
            max_depth=4,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            immutable=True,
            semantic_decoders={},
        )
        canonical = cbor2.dumps(value) == data
    except Exception:  # hostile input must not find the exception that the library forgot to document
        raise malformed("the message is not plain CBOR") from None
    if type(value) is not tuple or not canonical:
        raise malformed("the message is not an array in its shortest encoding, or bytes follow it")
    return value


def number(value: Any, maximum: int = NUMBER_MAX) -> int:
    """A whole number of 0..maximum."""
    if type(value) is not int or not 0 <= value <= maximum:
        raise malformed("a field that should be a number is not, or is out of range")
    return value


def blob(value: Any, minimum: int, maximum: int) -> bytes:
    """A byte string of minimum..maximum bytes."""
    if type(value) is not bytes or not minimum <= len(value) <= maximum:
        raise malformed("a field that should be a byte string is not, or has a wrong length")
    return value


def printable(value: Any, maximum: int) -> str:
    """A text of 1..maximum printable ASCII characters."""
    if type(value) is not str or not 0 < len(value) <= maximum or sanitized(value, maximum) != value:
        raise malformed("a field that should be a printable text is not, or has a wrong length")
    return value


def sanitized(value: str, maximum: int) -> str:
    """`value` cut to `maximum` characters, ? for what is not printable ASCII; safe for terminals."""
    return "".join([c if " " <= c <= "~" else "?" for c in value[:maximum]])
