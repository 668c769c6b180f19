"""The counter of the tutorial."""

from __future__ import annotations

import inspect

import pytest

from pbft.application import Context, OperationError
from pbft.apps import counter
from pbft.apps.counter import Counter, get, inc
from pbft.state import State

CONTEXT = Context(1, 0, 1 << 63, 1_700_000_000_000_000, b"s" * 16)


def test_it_counts() -> None:
    """`inc` adds one, `inc N` adds N, also negative, `get` says how much it is; the state begins at 0."""
    app = Counter(State())
    assert app.query(get(), CONTEXT) == b"0"
    assert [app.execute(o, CONTEXT) for o in (inc(), inc(41), inc(-50), get())] == [b"1", b"42", b"-8", b"-8"]
    assert app.execute(b"inc", CONTEXT) == b"-7" == app.query(b"get", CONTEXT)


def test_words_are_operations() -> None:
    """What is typed on the command line is what the helper functions build."""
    assert Counter.parse(["inc", "5"]) == inc(5) and Counter.parse(["get"]) == get()
    assert Counter.render(b"42") == "42" and Counter.read_only(get()) and not Counter.read_only(inc())


@pytest.mark.scenario("J09")
@pytest.mark.parametrize(
    "operation",
    [b"", b"\x00", bytes(range(256)), b"inc ", b"inc 1_0", b"inc +1", b"inc 1.0", b"inc 1 1", b" get", b"get\n",
     b"inc " + b"9" * 19, b"inc " + b"9" * 5000, "inc ٣".encode(), b"dec"],
)  # fmt: skip
def test_everything_else_is_refused(operation: bytes) -> None:
    """Only the two forms are operations; what Python's `int` would take beyond plain digits is none."""
    app = Counter(State())
    with pytest.raises(OperationError):
        app.execute(operation, CONTEXT)
    assert len(app.state) == 0


def test_inc_is_no_query() -> None:
    """A query cannot count."""
    with pytest.raises(OperationError):
        Counter(State()).query(inc(), CONTEXT)


def test_it_stays_a_tutorial() -> None:
    """The module fits on one screen."""
    assert len(inspect.getsource(counter).splitlines()) <= 60
