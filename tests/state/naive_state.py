"""The digest of a state computed from scratch, straight from its definition in `pbft/state/nodes.py`.

Deliberately naive and independent: strings of hexadecimal digits for paths, recursion, `hashlib` itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def h(domain: bytes, *parts: bytes) -> bytes:
    return hashlib.blake2b(b"".join(parts), digest_size=32, person=domain).digest()


def number(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def entry(key: bytes, value: bytes) -> bytes:
    head = number(len(key), 2) + key
    if len(value) <= 4096:
        return h(b"state-entry", head, value)
    chunks = [h(b"state-chunk", value[i : i + 4096]) for i in range(0, len(value), 4096)]
    return h(b"state-chunked", head, number(len(value), 8), *chunks)


def naive_digest(items: Mapping[bytes, bytes]) -> bytes:
    """Root digest of a state with these entries."""
    if not items:
        return h(b"state-empty")
    keys = sorted(items)
    if len(keys) <= 16:
        return h(b"state-bucket", *[number(len(k), 2) + k + entry(k, items[k]) for k in keys])
    path = keys[0].hex()
    while not all(k.hex().startswith(path) for k in keys):
        path = path[:-1]
    bitmap = 0
    own = b""
    refs = []
    for slot, digit in enumerate("0123456789abcdef"):
        child = {k: items[k] for k in keys if k.hex().startswith(path + digit)}
        if child:
            bitmap |= 1 << slot
            refs.append(number(len(child), 8) + naive_digest(child))
    for k in keys:
        if k.hex() == path:
            bitmap |= 1 << 16
            own = entry(k, items[k])
    packed = bytes.fromhex(path + "0" * (len(path) % 2))
    head = number(len(path), 2) + number(len(keys), 8) + number(bitmap, 4)
    return h(b"state-inner", head, packed, own, *refs)
