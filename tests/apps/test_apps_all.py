"""What holds for every service that ships: registered, deterministic, refuses nonsense, never changes what it said."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.application import Application, Context, OperationError
from pbft.apps import APPLICATIONS
from pbft.state import ReadOnlyError, State

CLIENT = 1 << 63
START = 1_700_000_000_000_000


def load(name: str) -> Any:
    module, _, cls = APPLICATIONS[name].partition(":")
    return getattr(importlib.import_module(module), cls)


every_app = pytest.mark.parametrize("name", sorted(APPLICATIONS))


def run(app: Application, operations: Iterator[bytes]) -> list[bytes | str]:
    """Execute in order as an executor does: an OperationError undoes its writes. Anything else is a failed test."""
    results: list[bytes | str] = []
    for count, operation in enumerate(operations):
        context = Context(1 + count // 3, count % 3, CLIENT + count % 4, START + count // 3 * 700_000, b"s" * 16)
        app.state.begin()
        try:
            results.append(app.execute(operation, context))
        except OperationError as error:
            app.state.rollback()
            results.append(error.message.decode())
        else:
            app.state.commit()
    return results


def any_operation(cls: Any) -> st.SearchStrategy[bytes]:
    """Random bytes, and real operations with a few bytes changed, removed or added."""
    real = list(islice(cls.samples(5), 60))

    @st.composite
    def damaged(draw: st.DrawFn) -> bytes:
        operation = draw(st.sampled_from(real))
        at = draw(st.integers(0, len(operation)))
        cut = draw(st.integers(0, 4))
        return operation[:at] + draw(st.binary(max_size=4)) + operation[at + cut :]

    # The first byte small: that is where the services have their operation numbers.
    small = st.tuples(st.integers(0, 6), st.binary(max_size=40)).map(lambda pair: bytes([pair[0]]) + pair[1])
    return st.one_of(st.binary(max_size=40), small, damaged())


@every_app
def test_the_registry_names_applications(name: str) -> None:
    """Each short name stands for an Application with a docstring and at least 200 sample operations."""
    cls = load(name)
    assert issubclass(cls, Application) and sys.modules[cls.__module__].__doc__
    assert sum(1 for _ in cls.samples(1)) >= 200


@every_app
def test_samples_depend_on_the_seed_alone(name: str) -> None:
    """The same seed gives the same operations, another seed others; some succeed and some are refused."""
    cls = load(name)
    assert list(cls.samples(1)) == list(cls.samples(1)) != list(cls.samples(2))
    assert all(type(operation) is bytes for operation in cls.samples(1))
    kinds = {type(result) for result in run(cls(State()), cls.samples(1))}
    assert kinds == {bytes, str}


@every_app
def test_two_replicas_end_alike(name: str) -> None:
    """The same operations give the same results and the same state digest, also when a third starts in the middle
    from the state alone."""
    cls = load(name)
    operations = list(cls.samples(7))
    a, b = cls(State()), cls(State())
    results = run(a, iter(operations))
    assert results == run(b, iter(operations))
    late = State()
    late.load(b.state.items())
    c = cls(late)
    tail = list(cls.samples(8))
    assert run(a, iter(tail)) == run(c, iter(tail))
    assert a.state.checkpoint().digest == c.state.checkpoint().digest


@every_app
@given(data=st.data())
def test_any_bytes_give_bytes_or_an_operation_error(name: str, data: st.DataObject) -> None:
    """Whatever the operation, `execute`, `query` and `check` return or raise OperationError, and nothing else."""
    cls = load(name)
    app = cls(State())
    results = run(app, islice(cls.samples(3), 40))
    assert len(results) == 40
    operation = data.draw(any_operation(cls))
    context = Context(99, 0, CLIENT, START, b"s" * 16)
    refused = False
    try:
        cls.check(operation)
    except OperationError:
        refused = True
    with app.state.read_only():
        try:
            assert type(app.query(operation, context)) is bytes
            assert not refused
        except OperationError:
            pass
    try:
        assert type(app.execute(operation, context)) is bytes
        assert not refused  # what no state makes sense of, `execute` refuses by itself too
    except OperationError:
        pass
    assert type(cls.read_only(operation)) is bool


@every_app
@given(
    words=st.lists(st.text(max_size=12) | st.sampled_from(["put", "cas", "scan", "acquire", "look", "1"]), max_size=5)
)
def test_any_words_give_an_operation_or_an_operation_error(name: str, words: list[str]) -> None:
    """`parse` of any words returns bytes or raises OperationError."""
    try:
        assert type(load(name).parse(words)) is bytes
    except OperationError as error:
        assert str(error)


@every_app
def test_read_only_operations_are_queries(name: str) -> None:
    """What `read_only` is true for changes nothing when executed, and is answered by `query` alike."""
    cls = load(name)
    app = cls(State())
    run(app, islice(cls.samples(3), 100))
    context = Context(99, 0, CLIENT, START, b"s" * 16)
    for operation in cls.samples(4):
        if not cls.read_only(operation):
            continue
        with app.state.read_only():
            answers = []
            for call in (app.query, app.execute):
                try:
                    answers.append(call(operation, context))
                except OperationError as error:
                    answers.append(error.message)
            assert answers[0] == answers[1]


@every_app
def test_queries_never_write(name: str) -> None:
    """`query` refuses operations that write by OperationError, before the state has to."""
    cls = load(name)
    app = cls(State())
    context = Context(1, 0, CLIENT, START, b"s" * 16)
    for operation in cls.samples(9):
        with app.state.read_only():
            try:
                app.query(operation, context)
            except OperationError:
                pass
            except ReadOnlyError:
                pytest.fail(f"{name}: query({operation!r}) tried to write")


@every_app
@pytest.mark.scenario("J10")
def test_results_never_change_afterwards(name: str) -> None:
    """A result is exactly `bytes`, so what was remembered for a retransmission stays what it was."""
    cls = load(name)
    app = cls(State())
    kept: list[bytes] = []
    copies: list[bytearray] = []
    for operation in cls.samples(11):
        for result in run(app, iter([operation])):
            if not isinstance(result, str):
                assert type(result) is bytes
                kept.append(result)
                copies.append(bytearray(result))
    assert kept == copies and len(kept) > 50


@every_app
def test_every_result_can_be_printed(name: str) -> None:
    """`render` gives text without control characters for every result that occurs."""
    cls = load(name)
    for result in run(cls(State()), cls.samples(12)):
        if isinstance(result, bytes):
            text = cls.render(result)
            assert all(c.isprintable() or c in "\n\t" for c in text)


@every_app
@pytest.mark.slow
def test_results_do_not_depend_on_the_process(name: str) -> None:
    """Another process with another hash seed comes to the same results and state."""
    script = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from test_apps_all import *;"
        "app = load(sys.argv[2])(State());"
        "print(run(app, type(app).samples(13)), app.state.checkpoint().digest.hex())"
    )
    folder = str(Path(__file__).parent)
    outputs = {
        subprocess.run(
            [sys.executable, "-c", script, folder, name],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1 and len(outputs.pop()) > 1000
