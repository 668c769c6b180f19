"""Leases: time is agreed time, never two holders, tokens only grow."""

from __future__ import annotations

import ast
import inspect

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.application import Context, OperationError
from pbft.apps import leases
from pbft.apps.leases import Granted, Held, Leases, acquire, look, read_result, release, renew
from pbft.state import State

ALICE, BOB = (1 << 63) + 1, (1 << 63) + 2
T0 = 1_700_000_000_000_000
SECOND = 1_000_000


def at(time: int, client: int = ALICE, number: int = 1, position: int = 0) -> Context:
    return Context(number, position, client, time, b"s" * 16)


def test_the_life_of_a_lease() -> None:
    """Granted, refused to another, renewed, looked at, released, granted again with a higher token."""
    app = Leases(State())
    assert read_result(app.execute(acquire(b"x", 10), at(T0))) == Granted(1, T0 + 10 * SECOND)
    held = read_result(app.execute(acquire(b"x", 10), at(T0 + SECOND, BOB)))
    assert isinstance(held, Held) and held[:3] == (1, T0 + 10 * SECOND, ALICE)
    assert T0 + 10 * SECOND <= held.retry < T0 + 20 * SECOND
    renewed = read_result(app.execute(renew(b"x", 1, 10), at(T0 + 5 * SECOND)))
    assert renewed == Granted(1, T0 + 15 * SECOND)
    end = T0 + 15 * SECOND
    assert read_result(app.query(look(b"x"), at(T0 + 5 * SECOND))) == Held(1, end, ALICE, end)
    assert read_result(app.execute(release(b"x", 1), at(T0 + 6 * SECOND))) is None
    assert read_result(app.execute(look(b"x"), at(T0 + 6 * SECOND))) is None
    assert read_result(app.execute(acquire(b"x", 1), at(T0 + 6 * SECOND, BOB))) == Granted(2, T0 + 7 * SECOND)


@pytest.mark.scenario("J12")
def test_the_end_is_decided_by_agreed_time_to_the_microsecond() -> None:
    """One microsecond before its end a lease is held, at its end it is free; whatever any clock says."""
    app = Leases(State())
    app.execute(acquire(b"x", 1), at(T0))
    assert isinstance(read_result(app.execute(acquire(b"x", 1), at(T0 + SECOND - 1, BOB))), Held)
    with pytest.raises(OperationError):
        app.execute(renew(b"x", 1, 1), at(T0 + SECOND))
    assert read_result(app.execute(acquire(b"x", 1), at(T0 + SECOND, BOB))) == Granted(2, T0 + 2 * SECOND)


@pytest.mark.scenario("J12")
def test_two_clients_around_the_end_in_one_batch() -> None:
    """Of two that ask in the same batch, with the same agreed time, the first in order gets it."""
    app = Leases(State())
    app.execute(acquire(b"x", 1), at(T0))
    first = app.execute(acquire(b"x", 1), at(T0 + SECOND, BOB, 2, 0))
    second = app.execute(acquire(b"x", 1), at(T0 + SECOND, ALICE, 2, 1))
    assert isinstance(read_result(first), Granted)
    assert isinstance(answer := read_result(second), Held) and answer.client == BOB


@pytest.mark.scenario("J12")
def test_the_module_knows_no_clock_and_no_chance_of_its_own() -> None:
    """The source reads neither a clock nor a random generator other than those of the context."""
    tree = ast.parse(inspect.getsource(leases))
    imported = {
        name for node in ast.walk(tree) for name in (
            [a.name for a in node.names] if isinstance(node, ast.Import)
            else [node.module] if isinstance(node, ast.ImportFrom) else [])
    }  # fmt: skip
    assert not imported & {"time", "random", "secrets", "os", "uuid", "threading"}
    called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not called & {"now", "utcnow", "today", "monotonic", "fromtimestamp"}


steps = st.lists(
    st.tuples(
        st.sampled_from(["acquire", "renew", "release", "look"]),
        st.sampled_from([b"x", b"y", b"z"]),
        st.sampled_from([ALICE, BOB]),
        st.integers(1, 4),
        st.integers(0, 3),
        st.integers(1, 8),
    ),
    max_size=40,
)


@pytest.mark.scenario("J12")
@given(steps)
def test_never_two_holders_and_tokens_only_grow(
    operations: list[tuple[str, bytes, int, int, int, int]],
) -> None:
    """Against a plain model: who holds what until when; every new token is higher than all before."""
    app = Leases(State())
    model: dict[bytes, tuple[int, int, int]] = {}  # name -> token, client, end
    now, last = T0, 0
    for number, (what, name, client, seconds, passed, token) in enumerate(operations, 1):
        now += passed * SECOND
        model = {n: lease for n, lease in model.items() if now < lease[2]}
        held = model.get(name)
        context = at(now, client, number)
        if what == "acquire":
            answer = read_result(app.execute(acquire(name, seconds), context))
            if held is not None:
                assert isinstance(answer, Held) and (answer.token, answer.client, answer.end) == held
                assert held[2] <= answer.retry < held[2] + seconds * SECOND
            else:
                last += 1
                assert answer == Granted(last, now + seconds * SECOND)
                model[name] = (last, client, now + seconds * SECOND)
        elif what == "look":
            answer = read_result(app.query(look(name), context))
            assert answer == (None if held is None else Held(held[0], held[2], held[1], held[2]))
        else:
            operation = renew(name, token, seconds) if what == "renew" else release(name, token)
            if held is None or held[:2] != (token, client):
                with pytest.raises(OperationError):
                    app.execute(operation, context)
            elif what == "renew":
                assert read_result(app.execute(operation, context)) == Granted(token, now + seconds * SECOND)
                model[name] = (token, client, now + seconds * SECOND)
            else:
                assert read_result(app.execute(operation, context)) is None
                del model[name]
        by_name = [key[len(b"name/") :] for key in app.state.keys(b"name/")]
        by_end = [key[len(b"end/") + 8 :] for key in app.state.keys(b"end/")]
        assert sorted(by_end) == by_name and set(model) <= set(by_name)  # the two indexes tell the same


def test_ended_leases_do_not_pile_up() -> None:
    """A thousand names, each held for a second and never again, leave a bounded state without any timer."""
    app = Leases(State())
    for i in range(1000):
        app.execute(acquire(b"name %d" % i, 1), at(T0 + i * SECOND, number=i + 1))
    assert len(app.state) <= 1 + 2 * 2


def test_those_who_wait_come_back_at_different_times() -> None:
    """The advice when to try again is drawn by agreed randomness: the same on every replica, different for each."""
    answers = []
    for _ in range(2):
        app = Leases(State())
        app.execute(acquire(b"x", 10), at(T0))
        answers.append([app.execute(acquire(b"x", 10), at(T0, BOB, 2, i)) for i in range(50)])
    assert answers[0] == answers[1]
    retries = {a.retry for r in answers[0] if isinstance(a := read_result(r), Held)}
    assert len(retries) > 45


def test_a_token_of_another_is_worth_nothing() -> None:
    """Renewing and releasing take the holder and the token, not one of them."""
    app = Leases(State())
    app.execute(acquire(b"x", 10), at(T0))
    for operation, context in (
        (release(b"x", 1), at(T0, BOB)),
        (release(b"x", 2), at(T0)),
        (renew(b"x", 1, 1), at(T0, BOB)),
        (renew(b"x", 0, 1), at(T0)),
        (release(b"y", 1), at(T0)),
    ):
        with pytest.raises(OperationError):
            app.execute(operation, context)


@pytest.mark.scenario("J09")
@pytest.mark.parametrize("name", [b"\x00", bytes(range(255)), b"n" * 255])
def test_any_name_of_the_right_length(name: bytes) -> None:
    """Names are bytes, up to 255 of them; a name that looks like another index is only a name."""
    app = Leases(State())
    assert read_result(app.execute(acquire(name, 1), at(T0))) == Granted(1, T0 + SECOND)
    assert isinstance(read_result(app.execute(look(name), at(T0))), Held)


@pytest.mark.parametrize(
    "operation",
    [b"", b"\x00n", b"\x05n", b"\x01", b"\x01\x00\x00\x00\x01", b"\x01\x00\x00\x00\x00n", b"\x01\xff\xff\xff\xffn",
     b"\x02" + bytes(11), b"\x02" + bytes(12) + b"n", b"\x03" + bytes(8), b"\x04", b"\x04" + b"n" * 256],
)  # fmt: skip
def test_malformed_operations_are_refused(operation: bytes) -> None:
    """Too short, too long, durations out of range, unknown numbers: OperationError, nothing written."""
    app = Leases(State())
    with pytest.raises(OperationError):
        app.execute(operation, at(T0))
    with pytest.raises(OperationError):
        Leases.check(operation)
    assert len(app.state) == 0


def test_words_are_operations_and_results_are_readable() -> None:
    """The four forms of the command line, and what it prints."""
    app = Leases(State())
    assert Leases.parse(["renew", "x", "7", "30"]) == renew(b"x", 7, 30)
    assert Leases.parse(["release", "x", "7"]) == release(b"x", 7) and Leases.parse(["look", "x"]) == look(b"x")
    granted = app.execute(Leases.parse(["acquire", "printer", "30"]), at(T0))
    assert Leases.render(granted) == "granted, token 1, until 2023-11-14T22:13:50Z"
    assert Leases.render(app.query(look(b"printer"), at(T0))).startswith(f"held by client {ALICE:x}, token 1, until")
    assert "try again at" in Leases.render(app.execute(acquire(b"printer", 30), at(T0)))
    assert Leases.render(b"\x00") == "free"
    assert Leases.render(b"\x01" + bytes(8) + b"\xff" * 8).endswith("until 18446744073709551615 us")
    for words in ([], ["acquire", "x"], ["acquire", "x", "0"], ["acquire", "", "1"], ["look", "\ud800"],
                  ["renew", "x", "18446744073709551616", "1"]):  # fmt: skip
        with pytest.raises(OperationError):
            Leases.parse(words)


@pytest.mark.parametrize("seconds", [0, -1, 86_401, 0.0001])
def test_impossible_durations_are_refused_at_the_client(seconds: float) -> None:
    """A duration that no replica would take is a ValueError before anything is sent."""
    with pytest.raises(ValueError):
        acquire(b"x", seconds)
