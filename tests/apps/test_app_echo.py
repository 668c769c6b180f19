"""The service of the benchmarks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.application import Context, OperationError
from pbft.apps.echo import MAX_REPLY_BYTES, Echo, echo
from pbft.state import State

CONTEXT = Context(1, 0, 1 << 63, 0, bytes(16))


@given(st.integers(4, 5000), st.integers(0, 5000))
def test_sizes_are_exact(request_bytes: int, reply_bytes: int) -> None:
    """The request and the reply have exactly the sizes asked for, ordered and as a query."""
    app = Echo(State())
    operation = echo(request_bytes, reply_bytes)
    assert len(operation) == request_bytes
    assert app.execute(operation, CONTEXT) == app.query(operation, CONTEXT) == bytes(reply_bytes)
    assert Echo.parse([str(request_bytes), str(reply_bytes)]) == operation
    assert Echo.render(bytes(reply_bytes)) == f"{reply_bytes} bytes"


@pytest.mark.scenario("J09")
def test_the_empty_operation_has_the_empty_reply() -> None:
    """0/0 of the papers: nothing there, nothing back."""
    assert echo(0, 0) == b"" == Echo(State()).execute(b"", CONTEXT)


def test_replies_up_to_the_bound_and_no_further() -> None:
    """64 MiB, above every cluster's own bound, can be asked for; more is refused before memory is taken."""
    app = Echo(State())
    assert len(app.execute(echo(4, MAX_REPLY_BYTES), CONTEXT)) == MAX_REPLY_BYTES
    for operation in (b"\xff\xff\xff\xff", (MAX_REPLY_BYTES + 1).to_bytes(4, "big"), b"\x00", b"\x00\x00\x00"):
        with pytest.raises(OperationError):
            app.execute(operation, CONTEXT)


@pytest.mark.parametrize("sizes", [(3, 0), (0, 1), (4, -1), (4, MAX_REPLY_BYTES + 1), (-1, 0)])
def test_impossible_sizes_are_refused_at_the_client(sizes: tuple[int, int]) -> None:
    """A request that cannot carry its own size, or asks for too much, is not built."""
    with pytest.raises(ValueError):
        echo(*sizes)
    with pytest.raises(OperationError):
        Echo.parse([str(size) for size in sizes])


@pytest.mark.parametrize("words", [[], ["1"], ["4", "x"], ["4", "1", "1"], ["9" * 5000, "1"], ["٤", "1"]])
def test_other_words_are_refused(words: list[str]) -> None:
    """Two plain numbers, or an error that says so."""
    with pytest.raises(OperationError):
        Echo.parse(words)


def test_operations_touch_no_key() -> None:
    """All operations may run side by side."""
    assert Echo.keys(echo(4, 4)) == (frozenset(), frozenset())
