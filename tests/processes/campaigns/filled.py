"""A counter beside a store that one operation fills: sending each key would take longer than what is measured."""

from __future__ import annotations

import hashlib

from pbft.application import Context
from pbft.apps.counter import Counter

_FILL = b"fill "
_PAD = b"pad "


def fill(first: int, last: int, size: int, salt: int = 0, step: int = 1) -> bytes:
    """Operation: give every `step`-th key of a range a value of so many bytes that no compression makes smaller."""
    return _FILL + b"%d %d %d %d %d" % (first, last, size, salt, step)


def pad(size: int) -> bytes:
    """Operation: nothing, in so many bytes of everybody's log."""
    return _PAD + bytes(size)


def key(number: int) -> bytes:
    """Of the store."""
    return b"key %09d" % number


class Filled(Counter):
    """`inc`, `get`, `fill` and `pad`."""

    def execute(self, operation: bytes, context: Context) -> bytes:
        """See `fill` and `pad`."""
        if operation.startswith(_PAD):
            return b""
        if not operation.startswith(_FILL):
            return super().execute(operation, context)
        first, last, size, salt, step = map(int, operation.removeprefix(_FILL).split())
        state = self.state
        for number in range(first, last, step):
            state[key(number)] = hashlib.shake_128(b"%d %d" % (salt, number)).digest(size)
        return b""
