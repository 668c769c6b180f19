"""The executor in its own thread: what may wait for it, and what comes back at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pbft.batch import NULL_BATCH, ClientRequest, operations_body
from pbft.config import CLIENT_PRINCIPAL
from pbft.execution.results import Executed, Result
from pbft.executor_thread import ANSWERS, ANSWERS_OF_CLIENT, ExecutorThread


class Slow:
    """An executor whose batches take until they may end."""

    last_executed = 0

    def __init__(self) -> None:
        self.may_end = threading.Event()
        self.asked: list[ClientRequest] = []

    def execute(self, number: int, batch: object) -> Executed:
        self.may_end.wait(20)
        return Executed(number, b"", (), (), b"")

    def answer(self, request: ClientRequest) -> Result | None:
        self.asked.append(request)
        return None if request.id == 1 else Result(request.client, 1, request.id, request.digest, 255, b"", b"")


@pytest.fixture
def slow() -> Iterator[tuple[Slow, ExecutorThread]]:
    executor: Any = Slow()
    thread = ExecutorThread(executor, 128, lambda: None)
    yield executor, thread
    executor.may_end.set()
    thread.close()


def question(client: int, number: int) -> ClientRequest:
    body = operations_body(CLIENT_PRINCIPAL + client, 1 << 16, number, 0, 255, [bytes(100_000)])
    return ClientRequest(body, b"\x01" + bytes(64))


def collected(thread: ExecutorThread, enough: Callable[[int], bool]) -> list[Executed | Result]:
    found: list[Executed | Result] = []
    for _ in range(2000):
        found += thread.collect()
        if enough(thread.outstanding):
            return found
        threading.Event().wait(0.005)
    raise AssertionError("the executor does not come to an end")


def test_questions_that_wait_for_a_busy_executor_are_bounded(slow: tuple[Slow, ExecutorThread]) -> None:
    """Of one client, and in all; they wait without what they asked for, which may be long."""
    executor, thread = slow
    assert thread.submit(1, NULL_BATCH) is None
    for i in range(50):
        assert thread.answer(question(0, i + 1)) is None
    assert thread.outstanding == 1 + ANSWERS_OF_CLIENT
    for client in range(1, 200):
        for i in range(ANSWERS_OF_CLIENT):
            thread.answer(question(client, i + 1))
    assert thread.outstanding == 1 + ANSWERS
    executor.may_end.set()
    found = collected(thread, lambda outstanding: outstanding == 0)
    assert len(found) == 1 + ANSWERS - ANSWERS // ANSWERS_OF_CLIENT, "one of each client had no answer"
    assert all(not r.body and not r.operations for r in executor.asked)
    assert thread.answer(question(0, 7)) is not None, "and then it is idle"


def test_many_results_are_given_out_in_parts(slow: tuple[Slow, ExecutorThread]) -> None:
    """One sweep must not have to send all of them."""
    executor, thread = slow
    thread.submit(1, NULL_BATCH)
    for client in range(64):
        for i in range(ANSWERS_OF_CLIENT):
            thread.answer(question(client, i + 2))
    executor.may_end.set()
    while len(executor.asked) < 64 * ANSWERS_OF_CLIENT:
        threading.Event().wait(0.005)
    assert len(thread.collect()) <= 128
    collected(thread, lambda outstanding: outstanding == 0)
