"""The tutorial: a counter that every replica agrees on.

    $ pbft call cluster.toml inc 5      ->  5
    $ pbft call cluster.toml inc        ->  6
    $ pbft call cluster.toml get        ->  6

What to see here: an operation is bytes, checked completely before anything is written; what is kept lies in
`self.state`; a deliberate no is an `OperationError`. The words of the command line, joined by spaces, are the
operation already, so `parse` and `render` need not be written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pbft.application import AgreedRandom, Application, Context, OperationError

_INC = re.compile(rb"inc(?: (-?[0-9]{1,18}))?")
_TOTAL = b"total"


def inc(step: int = 1) -> bytes:
    """Operation: add `step` (up to 18 digits, may be negative). Result: the new total."""
    return b"inc %d" % step


def get() -> bytes:
    """Operation or query. Result: the total."""
    return b"get"


class Counter(Application):
    """One number, 0 at first, written in decimal digits."""

    def execute(self, operation: bytes, context: Context) -> bytes:
        """`inc [N]` or `get`."""
        match = _INC.fullmatch(operation)
        if match is None:
            return self.query(operation, context)
        total = b"%d" % (int(self.state.get(_TOTAL, b"0")) + int(match[1] or b"1"))
        self.state[_TOTAL] = total
        return total

    def query(self, operation: bytes, context: Context) -> bytes:
        """`get`."""
        if operation != b"get":
            raise OperationError("usage: inc [N] (ordered only), or get; N has at most 18 digits")
        return self.state.get(_TOTAL, b"0")

    @classmethod
    def read_only(cls, operation: bytes) -> bool:
        """`get` changes nothing."""
        return operation == b"get"

    @classmethod
    def samples(cls, seed: int) -> Iterator[bytes]:
        """300 operations for `pbft apps check`, the same for the same seed."""
        random = AgreedRandom(b"%d" % seed, 0, 0)
        yield from (random.choice((get(), inc(), inc(random.below(2001) - 1000), b"dec", b"")) for _ in range(300))
