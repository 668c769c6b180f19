"""A service that does nothing, at a chosen size: what is measured is the protocol.

An operation is the size of the reply in 4 bytes, high byte first, and then any filler that brings the request to its
size; the reply is that many zero bytes. The empty operation has the empty reply. `echo(0, 0)` is the papers' 0/0
benchmark, `echo(4096, 0)` their 4/0. [CL99 §7.2]

    $ pbft call cluster.toml 1024 16    # 1024 bytes there, 16 bytes back
"""

from __future__ import annotations

from collections.abc import Iterator

from pbft.application import AgreedRandom, Application, Context, OperationError
from pbft.apps.words import whole_number

MAX_REPLY_BYTES = 64 << 20
"""Above what any cluster allows as a result, so that its own bound can be tried too; keeps one operation from taking
4 GiB of a replica's memory."""


def echo(request_bytes: int, reply_bytes: int) -> bytes:
    """Operation or query of exactly `request_bytes` that asks for `reply_bytes`.

    The size itself takes 4 bytes; a shorter request is made only for echo(0, 0). Raises ValueError.
    """
    if request_bytes == reply_bytes == 0:
        return b""
    if request_bytes < 4 or not 0 <= reply_bytes <= MAX_REPLY_BYTES:
        raise ValueError(
            f"echo({request_bytes}, {reply_bytes}): a request takes at least 4 bytes, a reply at most {MAX_REPLY_BYTES}"
        )
    return reply_bytes.to_bytes(4, "big") + bytes(request_bytes - 4)


class Echo(Application):
    """Stateless: every operation may be sent as a query too."""

    def execute(self, operation: bytes, context: Context) -> bytes:
        """As many zero bytes as asked for."""
        return bytes(_reply_bytes(operation))

    def query(self, operation: bytes, context: Context) -> bytes:
        """As `execute`."""
        return bytes(_reply_bytes(operation))

    @classmethod
    def parse(cls, words: list[str]) -> bytes:
        """`REQUEST_BYTES REPLY_BYTES`."""
        if len(words) != 2:
            raise OperationError("usage: REQUEST_BYTES REPLY_BYTES")
        request_bytes = whole_number(words[0], "REQUEST_BYTES", 0, 32 << 20)
        reply_bytes = whole_number(words[1], "REPLY_BYTES", 0, MAX_REPLY_BYTES)
        try:
            return echo(request_bytes, reply_bytes)
        except ValueError as error:
            raise OperationError(str(error)) from None

    @classmethod
    def render(cls, operation_result: bytes) -> str:
        """How much came back."""
        return f"{len(operation_result)} bytes"

    @classmethod
    def check(cls, operation: bytes) -> None:
        """Raises OperationError for what `execute` would refuse."""
        _reply_bytes(operation)

    @classmethod
    def keys(cls, operation: bytes) -> tuple[frozenset[bytes], frozenset[bytes]] | None:
        """None are read or written."""
        return frozenset(), frozenset()

    @classmethod
    def samples(cls, seed: int) -> Iterator[bytes]:
        """300 operations for `pbft apps check`, the same for the same seed."""
        random = AgreedRandom(b"%d" % seed, 0, 0)
        for _ in range(300):
            yield random.choice((b"", echo(4 + random.below(200), random.below(2000)), random.bytes(random.below(4))))


def _reply_bytes(operation: bytes) -> int:
    if not operation:
        return 0
    size = int.from_bytes(operation[:4], "big")
    if len(operation) < 4 or size > MAX_REPLY_BYTES:
        raise OperationError(f"an operation begins with the reply's size in 4 bytes, at most {MAX_REPLY_BYTES}")
    return size
