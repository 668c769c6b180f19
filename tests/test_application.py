"""What app authors rely on: errors, context, agreed randomness, defaults, and services with objects of their own."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pbft.application as application
from pbft.application import AgreedRandom, Application, Context, OperationError, OwnState, OwnStateError
from pbft.state import ReadOnlyError, State


def context(number: int = 7, position: int = 2, seed: bytes = b"s" * 16) -> Context:
    return Context(number, position, 1 << 63, 1_700_000_000_999_999, seed)


class Echo(Application):
    def execute(self, operation: bytes, context: Context) -> bytes:
        self.state[b"last"] = operation
        return operation

    def query(self, operation: bytes, context: Context) -> bytes:
        return self.execute(operation, context)


def test_the_example_in_the_manual_works() -> None:
    """The service shown at the head of the module counts, refuses nonsense and answers queries."""
    text = inspect.getdoc(application) or ""
    start = text.index("    from pbft.application import")
    lines = text[start:].split("\n\n**Not allowed")[0].splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 16
    namespace: dict[str, Any] = {}
    exec("\n".join(line[4:] for line in lines), namespace)
    counter: Application = namespace["Counter"](State())
    assert counter.query(b"", context()) == b"0"
    assert counter.execute(b"5", context()) == b"5" and counter.execute(b"-2", context()) == b"3"
    with pytest.raises(OperationError):
        counter.execute(b"x", context())
    with counter.state.read_only():
        assert counter.query(b"", context()) == b"3"


def test_an_application_must_say_what_it_does() -> None:
    """Without `execute` and `query` there is no application; everything else has a default."""

    class Half(Application):
        def execute(self, operation: bytes, context: Context) -> bytes:
            return b""

    with pytest.raises(TypeError):
        Half(State())  # type: ignore[abstract]
    assert Echo.keys(b"x") is None and Echo.read_only(b"x") is False
    Echo.check(b"x")
    echo = Echo(State())
    echo.save()
    echo.load()
    assert len(echo.state) == 0


def test_a_query_cannot_write() -> None:
    """A query that tries to write fails with a typed error and changes nothing."""
    echo = Echo(State())
    with echo.state.read_only(), pytest.raises(ReadOnlyError):
        echo.query(b"x", context())
    assert len(echo.state) == 0


@pytest.mark.parametrize(
    ("message", "wanted"),
    [
        ("no", b"no"),
        (b"\xff\0", b"\xff\0"),
        ("", b""),
        ("é" * 600, ("é" * 512).encode()),
        ("x" + "é" * 600, b"x" + ("é" * 511).encode()),
        (b"x" * 2000, b"x" * 1024),
        ("\ud800", b"\\ud800"),
    ],
)
def test_operation_error_carries_a_bounded_text(message: str | bytes, wanted: bytes) -> None:
    """The text of a refusal is at most 1 KiB, cut between characters, and never fails to encode."""
    error = OperationError(message)
    assert error.message == wanted and type(error.message) is bytes
    assert str(error) == wanted.decode("utf-8", "backslashreplace")


def test_operation_error_takes_text_only() -> None:
    """Anything but str and bytes as the text of a refusal is a mistake of the application."""
    for wrong in (None, 3, bytearray(b"x")):
        with pytest.raises(TypeError):
            OperationError(wrong)  # type: ignore[arg-type]


@pytest.mark.scenario("J09")
def test_command_line_defaults() -> None:
    """Words go in as UTF-8; a result comes out as text in which nothing can command a terminal."""
    assert Echo.parse(["put", "ä", "1"]) == "put ä 1".encode()
    assert Echo.parse([]) == b""
    assert Echo.parse(["\udcff"]) == b"\xff"
    assert Echo.render("ä\n\tx".encode()) == "ä\n\tx"
    assert Echo.render(b"\xff\x00\x1b[2J") == "\\xff\\x00\\x1b[2J"
    assert Echo.render("\u202e".encode()) == "\\u202e" and Echo.render(b"") == ""


def test_context_is_read_only_and_exact() -> None:
    """A context tells number, position, client and time in whole numbers, and cannot be changed."""
    c = context()
    assert (c.number, c.position, c.client) == (7, 2, 1 << 63)
    assert c.time == 1_700_000_000_999_999 and c.seconds == 1_700_000_000 and type(c.seconds) is int
    for name in ("number", "position", "client", "time", "seconds", "random", "anything"):
        with pytest.raises(AttributeError):
            setattr(c, name, 1)
    assert c.random is c.random


def test_golden_random() -> None:
    """The agreed random numbers are part of what replicas agree on: other values are another protocol."""
    r = AgreedRandom(bytes(range(16)), 42, 3)
    assert r.bytes(0) == b""
    assert r.bytes(40).hex() == "f5d88e697eceb06032a2764cf957eb04fff0aa024e2d5700aa31f537e088001755905722b2c69cbe"
    assert [r.below(6) for _ in range(12)] == [4, 0, 0, 3, 2, 3, 5, 0, 1, 5, 3, 1]
    assert [r.bits(k) for k in (0, 1, 7, 8, 9, 64)] == [0, 0, 68, 218, 217, 7004146191026335340]
    assert r.choice("abcdefgh") == "d"
    deck = list(range(10))
    r.shuffle(deck)
    assert deck == [2, 4, 5, 8, 6, 7, 9, 1, 0, 3]


def test_random_is_the_specified_stream() -> None:
    """However it is drawn, the stream is one; seed, sequence number and position each give another."""
    whole = AgreedRandom(b"seed", 1, 0).bytes(100)
    parts = AgreedRandom(b"seed", 1, 0)
    assert b"".join([parts.bytes(n) for n in (1, 31, 0, 33, 35)]) == whole
    others = {AgreedRandom(*a).bytes(100) for a in ((b"seed", 1, 1), (b"seed", 2, 0), (b"Seed", 1, 0))}
    assert len(others | {whole}) == 4
    assert context(seed=b"a").random.bytes(8) != context(seed=b"b").random.bytes(8)
    assert context().random.bytes(8) == context().random.bytes(8)


@given(st.integers(1, 1 << 70), st.integers(0, 1 << 30))
def test_below_stays_below(n: int, number: int) -> None:
    """`below(n)` lies in 0..n-1, `bits(k)` below 2**k, and a shuffle loses nothing."""
    r = AgreedRandom(b"", number, 0)
    assert 0 <= r.below(n) < n and r.below(1) == 0
    k = n.bit_length()
    assert 0 <= r.bits(k) < 1 << k
    items = list(range(n % 20))
    r.shuffle(items)
    assert sorted(items) == list(range(n % 20))


def test_below_and_shuffle_are_even() -> None:
    """Of 6000 draws from 0..2 and of 6000 shuffles of three each outcome comes about equally often."""
    r = AgreedRandom(b"even", 0, 0)
    draws = Counter(r.below(3) for _ in range(6000))
    assert all(1850 < draws[i] < 2150 for i in range(3))
    shuffles: Counter[tuple[int, ...]] = Counter()
    for _ in range(6000):
        items = [0, 1, 2]
        r.shuffle(items)
        shuffles[tuple(items)] += 1
    assert len(shuffles) == 6 and all(850 < count < 1150 for count in shuffles.values())


def test_impossible_draws_are_refused() -> None:
    """Nothing can be chosen from nothing."""
    r = AgreedRandom(b"", 0, 0)
    for call in (lambda: r.below(0), lambda: r.bytes(-1), lambda: r.bits(-1)):
        with pytest.raises(ValueError):
            call()
    with pytest.raises(IndexError):
        r.choice([])


class Pages(OwnState):
    """Pages of text in a list of its own; the last one may be made to fail."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.pages: list[bytes] = []
        self.broken: BaseException | None = None

    def execute(self, operation: bytes, context: Context) -> bytes:
        self.pages.append(operation)
        return b""

    def query(self, operation: bytes, context: Context) -> bytes:
        return b"".join(self.pages)

    def snapshot(self) -> Iterable[bytes]:
        yield from self.pages
        if self.broken is not None:
            raise self.broken

    def restore(self, chunks: Iterable[bytes]) -> None:
        if self.broken is not None:
            raise self.broken
        self.pages = list(chunks)


sizes = st.sampled_from([0, 1, 4095, 4096, 4097, 8192, 12289])
pages = st.lists(st.tuples(sizes, st.integers(0, 255)).map(lambda p: bytes([p[1]]) * p[0]), max_size=6)


@given(pages, pages)
def test_own_state_comes_back_chunk_by_chunk(before: list[bytes], after: list[bytes]) -> None:
    """What `snapshot` gave is what `restore` gets, empty chunks too; history leaves no trace in the digest."""
    app = Pages(State())
    app.state[b"kept"] = b"by the service itself"
    for app.pages in (before, after):
        app.save()
    transferred = State()
    transferred.load(app.state.checkpoint().items())
    copy = Pages(transferred)
    copy.load()
    assert copy.pages == after
    copy.save()
    assert transferred.dirty_count == len(transferred)  # loaded, and not one piece written again
    assert all(transferred[k] == v for k, v in app.state.items())
    assert transferred.checkpoint().digest == app.state.checkpoint().digest
    assert app.state[b"kept"] == b"by the service itself"


def test_own_state_writes_only_changed_pieces() -> None:
    """A byte in one of a hundred pieces makes one key dirty; a chunk that grows does not shift the others."""
    app = Pages(State())
    app.pages = [bytes(4096 * 50), bytes(4096 * 50)]
    app.save()
    app.state.checkpoint()
    app.save()
    assert app.state.dirty_count == 0
    app.pages[0] = app.pages[0][:5000] + b"x" + app.pages[0][5001:]
    app.save()
    assert app.state.dirty_count == 1
    app.state.checkpoint()
    app.pages[0] += b"more"
    app.save()
    assert app.state.dirty_count == 1
    app.pages.pop()
    app.save()
    assert app.state.dirty_count == 51 and len(app.state) == 51


@pytest.mark.scenario("J08")
def test_failing_snapshot_or_restore_is_a_clear_error() -> None:
    """A failing `snapshot` leaves the state as it was; it and a failing `restore` are named in the error."""
    app = Pages(State())
    app.pages = [b"one", b"two"]
    app.save()
    before = app.state.checkpoint().digest
    app.pages, app.broken = [b"other"], RuntimeError("boom")
    with pytest.raises(OwnStateError, match=r"Pages.snapshot.*boom"):
        app.save()
    assert app.state.checkpoint().digest == before
    with pytest.raises(OwnStateError, match=r"Pages.restore.*boom"):
        app.load()
    app.broken = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        app.save()
    app.broken = None
    app.pages = [bytearray(b"x")]  # type: ignore[list-item]
    with pytest.raises(OwnStateError, match="bytearray"):
        app.save()
    assert app.state.checkpoint().digest == before
    app.load()
    assert app.pages == [b"one", b"two"]
