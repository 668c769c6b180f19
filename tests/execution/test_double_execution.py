"""Every batch twice: what is a function of the batch agrees with itself, and what is not is named."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from execution_probe import ALICE, Bench, Probe, opening, request, workload

from pbft.application import Application, Context
from pbft.batch import decode_result
from pbft.double_execution import Shadow
from pbft.executor_thread import ExecutorThread
from pbft.state import State

_calls = itertools.count()


class Odd(Probe):
    """Counts in this process, not in the state."""

    def execute(self, operation: bytes, context: Context) -> bytes:
        if operation == b"result":
            return b"%d" % next(_calls)
        if operation == b"state":
            self.state[b"odd"] = b"%d" % next(_calls)
            return b"ok"
        return super().execute(operation, context)


class Objects(Probe):
    """Keeps what it has outside of its state between checkpoints."""

    def __init__(self, state: State) -> None:
        super().__init__(state)
        self.count = 0

    def load(self) -> None:
        self.count = int(self.state.get(b"count", b"0"))

    def save(self) -> None:
        self.state[b"count"] = b"%d" % self.count

    def execute(self, operation: bytes, context: Context) -> bytes:
        self.count += 1
        return b"%d" % self.count


def twice(application: Callable[[State], Application]) -> tuple[Bench, Shadow]:
    """An executor whose batches are executed once more."""
    b = Bench(application)
    return b, Shadow(b.group, application, b.executor)


def run(b: Bench, shadow: Shadow, *operations: bytes) -> None:
    """A batch with one request of these, in a session of its own."""
    count = dict(b.executor.start().counts).get(ALICE, 0)
    opened = b.execute(opening(ALICE, 7, count))
    shadow.execute(b.executor.last_executed, b.batch, opened)
    session = decode_result(opened.results[0].result)[1]
    assert isinstance(session, int)
    done = b.execute(request(session, 1, *operations))
    shadow.execute(b.executor.last_executed, b.batch, done)


@pytest.mark.parametrize("application", [Probe, Objects])
def test_what_is_deterministic_agrees_with_itself(application: Callable[[State], Application]) -> None:
    """Sessions, results and states of a long workload."""
    b, shadow = twice(application)
    for number, batch in enumerate(workload(60), 1):
        shadow.execute(number, batch, b.executor.execute(number, batch))
    assert shadow.compared > 20 and shadow.differing == 0 and not shadow.last


@pytest.mark.scenario("J03")
def test_a_result_that_differs_is_found_at_once_and_names_its_request() -> None:
    """Execution goes on with the first; the next batch is compared again."""
    b, shadow = twice(Odd)
    run(b, shadow, b"log x")
    assert shadow.differing == 0
    run(b, shadow, b"result")
    assert shadow.differing == 1 and "batch 4 executed twice gives other results: of requests [0]" in shadow.last
    run(b, shadow, b"log y")
    assert shadow.differing == 1 and shadow.compared == 6


@pytest.mark.scenario("J03")
def test_a_state_that_differs_is_found_at_the_checkpoint_and_names_the_key() -> None:
    """Though every result was the same."""
    b, shadow = twice(Odd)
    run(b, shadow, b"state")
    assert shadow.differing == 0
    run(b, shadow, b"log x")
    assert shadow.differing == 1 and "b'odd'" in shadow.last and "batch 4" in shadow.last
    run(b, shadow, b"log y")
    run(b, shadow, b"log z")
    assert shadow.differing == 1


def test_it_follows_an_executor_that_takes_the_place_of_the_first() -> None:
    """As after a state came from others."""
    b, shadow = twice(Probe)
    thread = ExecutorThread(b.executor, 4, lambda: None)
    thread.shadow = shadow
    other = Bench(Probe)
    for _ in range(4):
        other.open()
    thread.replace(other.executor)
    done = other.execute()
    shadow.execute(5, other.batch, done)
    assert shadow.compared == 1 and shadow.differing == 0
    thread.close()
