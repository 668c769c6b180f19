"""What an application does wrong stays with the operation that did it, and is the same on every replica."""

from __future__ import annotations

import pytest
from execution_probe import Bench, Probe, outcomes, request

from pbft.application import Context, OperationError
from pbft.batch import Kind, Outcome, decode_result


class Mute(OperationError):
    """Forgets its text."""

    def __init__(self) -> None:
        pass


class Unruly(Probe):
    """Breaks every promise; fails locally as often as `flaky` says, after it has used what it was given."""

    flaky = 0
    error: type[Exception] = OSError

    def _local_trouble(self) -> None:
        if self.flaky:
            self.flaky -= 1
            raise self.error("this machine alone")

    def execute(self, operation: bytes, context: Context) -> bytes:
        state = self.state
        if operation == b"roll":
            state[b"rolls"] = state.get(b"rolls", b"") + b"."
            value = context.random.below(1 << 30)
            self._local_trouble()
            return b"%d" % value
        if operation == b"commit":
            state.commit()
        if operation == b"rollback":
            state.rollback()
            raise ValueError
        if operation == b"begin":
            state.begin()
        if operation == b"mute":
            raise Mute
        if operation in (b"text", b"long"):
            error = OperationError("x")
            error.message = "text" if operation == b"text" else b"x" * 5000  # type: ignore[assignment]
            raise error
        if operation == b"exit":
            state[b"half"] = b"written"
            raise SystemExit
        if operation == b"keep":
            self.__dict__["kept"] = [b"first"]
            return b"".join(self.__dict__["kept"])
        if operation == b"change":
            self.__dict__["kept"].append(b"second")
        return super().execute(operation, context)

    def query(self, operation: bytes, context: Context) -> bytes:
        self._local_trouble()
        return super().query(operation, context)


def bench() -> tuple[Bench, Unruly, int]:
    made: list[Unruly] = []

    def build(state):  # type: ignore[no-untyped-def]
        made.append(Unruly(state))
        return made[0]

    b = Bench(build)
    return b, made[0], b.open()


@pytest.mark.scenario("E23")
@pytest.mark.parametrize("operation", [b"commit", b"rollback", b"begin", b"mute", b"text", b"long"])
def test_an_application_cannot_raise_through_the_executor(operation: bytes) -> None:
    """Ending the bracket itself, or an OperationError without usable text, is FAILED; what follows executes."""
    b, _, s = bench()
    bad, after = outcomes(b.run(request(s, 1, operation, b"put a"))[0])
    assert bad == (Outcome.FAILED, b"") and after == (Outcome.OK, b"ok")
    assert outcomes(b.run(request(s, 2, b"a", kind=Kind.QUERIES))[0]) == ((0, b"a"),)


@pytest.mark.scenario("J07")
@pytest.mark.parametrize("kind", [Kind.OPERATIONS, Kind.QUERIES])
@pytest.mark.parametrize("error", [OSError, MemoryError])
def test_a_replica_with_passing_trouble_ends_as_the_others(kind: Kind, error: type[Exception]) -> None:
    """Same result and digest, though the first attempt had written and drawn random numbers."""
    ends = []
    for flaky in (0, 1):
        b, application, s = bench()
        application.flaky, application.error = flaky, error
        [answer] = b.run(request(s, 1, b"roll", kind=kind))
        assert outcomes(answer)[0][0] == Outcome.OK and application.flaky == 0
        ends.append((answer, b.executor.snapshot().digest))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("kind", [Kind.OPERATIONS, Kind.QUERIES])
def test_trouble_that_stays_is_tried_twice_and_no_more(kind: Kind) -> None:
    """The second failure counts, its writes are undone, and the next operation has two attempts of its own."""
    b, application, s = bench()
    application.flaky = 3
    first, second = outcomes(b.run(request(s, 1, b"roll", b"roll", kind=kind))[0])
    assert first == (Outcome.FAILED, b"") and second[0] == Outcome.OK and application.flaky == 0
    rolls = b"." if kind is Kind.OPERATIONS else b"absent"
    assert decode_result(b.executor.query([b"rolls"], 1))[1] == ((0, rolls),)


def test_an_exception_that_is_not_for_us_passes_with_the_writes_undone() -> None:
    """SystemExit and the like end the executor; they do not leave half an operation behind."""
    b, _, s = bench()
    with pytest.raises(SystemExit):
        b.run(request(s, 1, b"exit"))
    assert decode_result(b.executor.query([b"half"], 1))[1] == ((0, b"absent"),)


@pytest.mark.scenario("J10")
def test_a_remembered_result_does_not_change_with_the_application() -> None:
    """A retransmission gets the bytes of the first time, whatever the application did to its objects since."""
    b, _, s = bench()
    [first] = b.run(request(s, 1, b"keep"))
    b.run(request(s, 2, b"change", b"array"))
    assert b.run(request(s, 1, b"keep")) == [first]
    assert outcomes(first) == ((0, b"first"),)


@pytest.mark.scenario("J09")
@pytest.mark.parametrize("result", [b"", b"\x00", bytes(range(256))])
def test_any_bytes_are_a_result(result: bytes) -> None:
    """Also none at all: remembered and repeated exactly, not taken for a missing one."""

    class Fixed(Probe):
        def execute(self, operation: bytes, context: Context) -> bytes:
            return result

    b = Bench(Fixed)
    s = b.open()
    assert [outcomes(b.run(request(s, 1))[0]) for _ in range(2)] == [((0, result),)] * 2


@pytest.mark.scenario("J12")
def test_each_operation_has_a_context_of_its_own() -> None:
    """Positions count over all requests of the batch; random numbers differ; number and time are the batch's."""
    b, _, s = bench()
    answers = b.run(request(s, 1, b"context", b"context"), request(s, 2, b"context"))
    rows = [tuple(map(int, text.split())) for a in answers for _, text in outcomes(a)]
    assert [r[1] for r in rows] == [0, 1, 2]
    assert {(r[0], r[2]) for r in rows} == {(b.executor.last_executed, b.time)}
    assert len({r[3] for r in rows}) == 3


def test_results_of_one_request_have_a_common_bound() -> None:
    """Whoever sends it, and however many operations it carries: what has no room is undone, and so is what follows,
    since operations of a request execute in their order."""
    bench = Bench(result_max_bytes=1000, result_cache_bytes=20_000)
    session = bench.open()
    big = b"big 1000"
    [answer] = bench.run(request(session, 1, big, b"big 2000", big, big, b"put a", b"big 1"))
    rows = outcomes(answer)
    assert [o for o, _ in rows] == [Outcome.OK, Outcome.TOO_LARGE, Outcome.OK, *[Outcome.CROWDED] * 3]
    assert sum(len(r) for _, r in rows) <= 2500
    [answer] = bench.run(request(session, 2, b"a", kind=Kind.QUERIES))
    assert outcomes(answer) == ((Outcome.OK, b"absent"),)


def test_where_an_application_failed_is_told_once_for_each_place() -> None:
    """For the operator, whose log has the traceback, however often clients repeat it. A refusal is no failure."""
    told: list[tuple[str, str]] = []

    class Failing(Probe):
        def execute(self, operation: bytes, context: Context) -> bytes:
            if operation == b"refuse":
                raise OperationError("no")
            if operation == b"text":
                return "text"  # type: ignore[return-value]
            return b"%d" % (1 // 0)

    b = Bench(Failing)
    b.executor.tell_failures(lambda text, error: told.append((text, type(error).__name__)))
    s = b.open()
    for number in range(1, 4):
        b.run(request(s, number, b"refuse", b"text", b"divide"))
    assert told == [
        ("Failing: a result must be bytes, and this is a str", "NoneType"),
        ("Failing: an operation failed, and its writes are undone", "ZeroDivisionError"),
    ]
