"""The key-value store against a dict, its formats, its bounds."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pbft.state
from pbft.application import Context, OperationError
from pbft.apps import kv
from pbft.apps.kv import KeyValue, cas, delete, get, put, scan
from pbft.state import State

CONTEXT = Context(1, 0, 1 << 63, 1_700_000_000_000_000, b"s" * 16)
keys = st.binary(max_size=3) | st.sampled_from([b"a", b"ab", b"b"])
values = st.none() | st.binary(max_size=3)


def run(app: KeyValue, operation: bytes) -> bytes:
    return app.execute(operation, CONTEXT)


def test_the_bounds_are_those_of_the_state() -> None:
    """Whatever passes the store's own checks, the state takes."""
    assert (kv.MAX_KEY_BYTES, kv.MAX_VALUE_BYTES) == (pbft.state.MAX_KEY_BYTES, pbft.state.MAX_VALUE_BYTES)


@given(st.lists(st.tuples(st.sampled_from(["put", "get", "delete", "cas", "scan"]), keys, values, values), max_size=30))
def test_it_is_a_sorted_dict(steps: list[tuple[str, bytes, bytes | None, bytes | None]]) -> None:
    """Every operation does and answers what it would on a dict, sorted by key."""
    app, model = KeyValue(State()), dict[bytes, bytes]()
    for what, key, one, two in steps:
        if what == "put":
            assert kv.done_result(run(app, put(key, one or b"")))
            model[key] = one or b""
        elif what == "get":
            assert kv.get_result(run(app, get(key))) == model.get(key) == kv.get_result(app.query(get(key), CONTEXT))
        elif what == "delete":
            assert kv.done_result(run(app, delete(key))) is (model.pop(key, None) is not None)
        elif what == "cas":
            found = model.get(key)
            swapped = found == one
            assert kv.cas_result(run(app, cas(key, one, two))) == (swapped, None if swapped else found)
            if swapped:
                model.pop(key, None)
                if two is not None:
                    model[key] = two
        else:
            page = kv.scan_result(run(app, scan(key, 2)))
            expected = sorted(item for item in model.items() if item[0].startswith(key))
            assert page == (tuple(expected[:2]), len(expected) > 2)
    assert dict(app.state.items()) == model


@pytest.mark.scenario("J09")
@pytest.mark.parametrize("data", [b"", b"\x00", bytes(range(256)), b"\x00" * 1024, b"\xff" * 1024])
def test_any_bytes_are_keys_and_values(data: bytes) -> None:
    """Empty, binary and longest keys come back exactly; an empty value is not an absent one."""
    app = KeyValue(State())
    assert kv.get_result(run(app, get(data))) is None
    run(app, put(data, data))
    assert kv.get_result(run(app, get(data))) == data
    assert kv.scan_result(run(app, scan(data))).rows == ((data, data),)
    assert kv.cas_result(run(app, cas(data, None, b"x"))) == (False, data)
    assert kv.cas_result(run(app, cas(data, data, b""))) == (True, None)
    assert kv.get_result(run(app, get(data))) == b""
    assert kv.done_result(run(app, delete(data))) and not kv.done_result(run(app, delete(data)))


def test_pages_of_a_scan_give_every_row_once() -> None:
    """A scan stops at its bounds, by rows and by bytes, says so, and goes on after the last key; prefixes hold."""
    app = KeyValue(State())
    rows = [(b"k%03d" % i, bytes(40_000 if i % 3 == 0 else 10)) for i in range(40)]
    for key, value in [*rows, (b"j", b""), (b"l", b"")]:
        run(app, put(key, value))
    found: list[tuple[bytes, bytes]] = []
    start = b""
    pages = 0
    while True:
        result = run(app, scan(b"k", 10, start))
        assert len(result) <= kv.SCAN_MAX_BYTES + 2
        page = kv.scan_result(result)
        assert 1 <= len(page.rows) <= 10
        found += page.rows
        pages += 1
        if not page.more:
            break
        start = page.rows[-1][0] + b"\x00"
    assert found == rows and pages > 4


def test_a_scan_gives_at_least_one_row() -> None:
    """A value above the bound of a page comes alone instead of never."""
    app = KeyValue(State())
    big = bytes(kv.SCAN_MAX_BYTES + 1)
    run(app, put(b"a", big))
    run(app, put(b"b", b""))
    page = kv.scan_result(run(app, scan()))
    assert page == (((b"a", big),), True)


MALFORMED = {
    "empty": b"",
    "operation 0": b"\x00a",
    "operation 6": b"\x06a",
    "operation 255": b"\xff",
    "put without a key's length": b"\x01",
    "put with half a length": b"\x01\x00",
    "put that ends inside its key": b"\x01\x00\x02a",
    "put with too long a key": b"\x01\x04\x01" + bytes(1025),
    "put with too long a value": b"\x01\x00\x01a" + bytes((16 << 20) + 1),
    "get with too long a key": b"\x02" + bytes(1025),
    "delete with too long a key": b"\x03" + bytes(1025),
    "cas without fields": b"\x04\x00\x01a",
    "cas that ends before its second flag": b"\x04\x00\x01a\x01\x00\x00\x00\x01o",
    "cas whose old value is said to be longer": b"\x04\x00\x01a\x01\xff\xff\xff\xffold\x01new",
    "cas with flag 2": b"\x04\x00\x01a\x02\x00\x00\x00\x00\x01n",
    "cas with second flag 2": b"\x04\x00\x01a\x00\x00\x00\x00\x00\x02n",
    "cas with an absent value that is there": b"\x04\x00\x01a\x00\x00\x00\x00\x01o\x01n",
    "cas with bytes after absent": b"\x04\x00\x01a\x00\x00\x00\x00\x00\x00n",
    "scan without a limit": b"\x05\x00",
    "scan of 0 rows": b"\x05\x00\x00\x00\x00",
    "scan of 1001 rows": b"\x05\x03\xe9\x00\x00",
    "scan that ends inside its prefix": b"\x05\x00\x01\x00\x02a",
    "scan from too long a key": b"\x05\x00\x01\x00\x00" + bytes(1025),
}


@pytest.mark.parametrize("operation", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_operations_are_refused(operation: bytes) -> None:
    """Each is refused by `execute`, `query` and `check`, and nothing is written."""
    app = KeyValue(State())
    for call in (lambda: run(app, operation), lambda: app.query(operation, CONTEXT), lambda: app.check(operation)):
        with pytest.raises(OperationError):
            call()
    assert len(app.state) == 0
    assert KeyValue.keys(operation) == (frozenset(), frozenset())


@given(st.binary(max_size=30))
def test_an_operation_can_be_written_in_one_way_only(operation: bytes) -> None:
    """What parses is what the helper function builds from the parsed fields."""
    try:
        parsed = kv._parse(operation)
    except OperationError:
        return
    match parsed:
        case kv._Put(key, value):
            assert put(key, value) == operation
        case kv._Get(key):
            assert get(key) == operation
        case kv._Delete(key):
            assert delete(key) == operation
        case kv._Cas(key, old, new):
            assert cas(key, old, new) == operation
        case kv._Scan(prefix, limit, start):
            assert scan(prefix, limit, start) == operation


def test_writes_are_no_queries() -> None:
    """A query that would write is refused with a hint."""
    for operation in (put(b"a", b""), delete(b"a"), cas(b"a", None, b"")):
        with pytest.raises(OperationError, match="ordered"):
            KeyValue(State()).query(operation, CONTEXT)


def test_keys_name_what_is_read_and_written() -> None:
    """`keys` covers what `execute` touches; a scan may touch anything."""
    a = frozenset((b"a",))
    assert KeyValue.keys(get(b"a")) == (a, frozenset())
    for operation in (put(b"a", b"v"), delete(b"a"), cas(b"a", None, b"v")):
        assert KeyValue.keys(operation) == (a, a)
    assert KeyValue.keys(scan(b"a")) is None


def test_words_are_operations() -> None:
    """Each form of the command line is what its helper builds; other words say what can be written."""
    assert KeyValue.parse(["put", "k", "v"]) == put(b"k", b"v")
    assert KeyValue.parse(["put", "", ""]) == put(b"", b"")
    assert KeyValue.parse(["get", "kö"]) == get("kö".encode())
    assert KeyValue.parse(["get", "\udcff"]) == get(b"\xff")
    assert KeyValue.parse(["delete", "k"]) == delete(b"k")
    assert KeyValue.parse(["cas", "k", "a", "b"]) == cas(b"k", b"a", b"b")
    assert KeyValue.parse(["scan", "p"]) == scan(b"p") and KeyValue.parse(["scan"]) == scan()
    assert KeyValue.parse(["scan", "p", "7"]) == scan(b"p", 7)
    wrong = ([], ["put", "k"], ["scan", "p", "0"], ["scan", "p", "x"], ["get", "k" * 1025], ["scan", "k" * 70000],
             ["put", "k" * 70000, ""], ["get", "\ud800"], ["fetch", "k"])  # fmt: skip
    for words in wrong:
        with pytest.raises(OperationError):
            KeyValue.parse(words)


def test_results_are_readable() -> None:
    """The command line shows values as text and escapes what a terminal would obey."""
    app = KeyValue(State())
    assert KeyValue.render(run(app, get(b"k"))) == "(absent)"
    assert KeyValue.render(run(app, put(b"k", b"v"))) == "ok"
    assert KeyValue.render(run(app, get(b"k"))) == "v"
    assert KeyValue.render(run(app, cas(b"k", b"x", b"y"))) == "not changed, there is: v"
    run(app, put(b"l", b"\x1b[31m"))
    assert KeyValue.render(run(app, scan())) == "k\tv\nl\t\\x1b[31m"
    assert KeyValue.render(run(app, scan(b"", 1))) == "k\tv\n(there is more)"


@given(st.binary(max_size=30))
def test_client_side_readers_raise_only_value_error(result: bytes) -> None:
    """A result that is none is a ValueError for each of the readers."""
    for reader in (kv.done_result, kv.get_result, kv.cas_result, kv.scan_result):
        with contextlib.suppress(ValueError):
            reader(result)


def test_too_long_a_key_is_refused_at_the_client() -> None:
    """Helper functions with a length field raise ValueError instead of writing a length that does not fit."""
    for build in (lambda k: put(k, b""), lambda k: cas(k, None, b""), scan):
        with pytest.raises(ValueError):
            build(bytes(1025))
