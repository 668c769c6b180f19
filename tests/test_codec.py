"""The codec by itself: what each check takes, what plain CBOR is, and that one value has one encoding."""

from __future__ import annotations

import tracemalloc
from typing import Any, NamedTuple

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft import codec
from pbft.codec import (
    MAX_MESSAGE_BYTES,
    Check,
    CodecError,
    Family,
    array,
    blob,
    decode_row,
    dumps,
    flag,
    head_size,
    loads,
    most_items,
    row,
    text,
    uint,
)

# ---- checks

ACCEPTED: list[tuple[Check, Any]] = [
    *((uint(), v) for v in (0, 23, 24, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, (1 << 64) - 1)),
    (uint(5, 5), 5),
    (uint(1 << 20, 24), 24),
    *((blob(1 << 20), bytes(n)) for n in (0, 1, 23, 24, 255, 256, 65535, 65536)),
    (blob(3, 3), b"abc"),
    (flag, True),
    (flag, False),
    *((text(1 << 20), "x" * n) for n in (0, 1, 23, 24, 255, 256, 65536)),
    (text(2), "ö"),
    (array(uint(), 300), ()),
    (array(uint(), 300), tuple(range(300))),
    (array(blob(2), 1, 1), (b"ab",)),
    (row(uint(), flag), (7, True)),
    (row(uint(), array(row(flag), 2)), (0, ((True,), (False,)))),
]

REFUSED: list[tuple[Check, Any, str]] = [
    *((uint(), v, "type") for v in (True, False, 1.0, "1", b"1", None, (1,))),
    (uint(), -1, "range"),
    (uint(), 1 << 64, "range"),
    (uint(), -(1 << 64), "range"),
    (uint(5), 6, "range"),
    (uint(30), 31, "range"),
    (uint(minimum=1), 0, "range"),
    (uint(1 << 20, 1 << 10), (1 << 10) - 1, "range"),
    *((blob(9), v, "type") for v in ("a", None, 1, bytearray(b"a"), memoryview(b"a"), (97,))),
    (blob(2), b"abc", "length"),
    (blob(2, 2), b"a", "length"),
    *((flag, v, "type") for v in (0, 1, None, b"", "true")),
    *((text(9), v, "type") for v in (b"a", None, 1)),
    (text(1), "ö", "length"),
    *((array(uint(), 9), v, "type") for v in (b"", "", None, 0, {}, frozenset())),
    (array(uint(), 2), (1, 2, 3), "length"),
    (array(uint(), 2, 1), (), "length"),
    (array(uint(), 2), (1, True), "type"),
    *((row(uint()), v, "type") for v in (b"\x01", {1: 1}, None, "a")),
    (row(uint()), (), "length"),
    (row(uint()), (1, 1), "length"),
    (row(uint(), flag), (1, 1), "type"),
]


@pytest.mark.parametrize(("check", "value"), ACCEPTED)
def test_a_check_returns_the_size_of_the_encoding(check: Check, value: Any) -> None:
    """Every accepted value takes exactly as many bytes as its check says; decoding gives it back."""
    data = dumps(value)
    assert check(value) == len(data)
    assert loads(data) == value and type(loads(data)) is type(value)


@pytest.mark.scenario("G16")
@pytest.mark.parametrize(("check", "value", "kind"), REFUSED)
def test_a_check_refuses_with_its_kind(check: Check, value: Any, kind: str) -> None:
    """What is of another type, out of range or of wrong length is refused; True is not 1, 1.0 is not 1."""
    with pytest.raises(CodecError) as caught:
        check(value)
    assert caught.value.kind == kind and str(caught.value).startswith(kind)


@given(st.integers(0, (1 << 64) - 1))
def test_head_size_is_that_of_the_library(value: int) -> None:
    """The arithmetic of heads agrees with the encoder."""
    assert head_size(value) == len(dumps(value))


@given(st.integers(1 << 64, 1 << 20_000) | st.integers(-(1 << 20_000), -1))
def test_no_whole_number_is_too_long_to_be_refused(value: int) -> None:
    """Refusing a number never fails itself, however many digits it would have."""
    with pytest.raises(CodecError):
        uint()(value)


# ---- plain CBOR

D32 = b"\x58\x20" + bytes(32)
NOT_PLAIN: dict[str, bytes] = {
    "nothing": b"",
    "head without its number": b"\x18",
    "half of a number": b"\x1a\x00\x00\x00",
    "byte string that ends early": b"\x44abc",
    "byte string said to be 2^63 long": b"\x5b\x7f" + b"\xff" * 7,
    "byte string said to be 2^64-1 long": b"\x5b" + b"\xff" * 8,
    "text that ends early": b"\x64abc",
    "text that is no UTF-8": b"\x62\xc3\x28",
    "text with half of a surrogate pair": b"\x63\xed\xa0\x80",
    "array that ends early": b"\x82\x01",
    "array said to have 2^32-1 elements": b"\x9a\xff\xff\xff\xff\x01",
    "array said to have 2^64-1 elements": b"\x9b" + b"\xff" * 8,
    "map said to have 2^64-1 entries": b"\xbb" + b"\xff" * 8,
    "map with one key twice": b"\xa2\x01\x00\x01\x00",
    "indefinite array": b"\x9f\x01\xff",
    "indefinite byte string": b"\x5f\x41a\xff",
    "indefinite text": b"\x7f\x61a\xff",
    "indefinite map": b"\xbf\x01\x02\xff",
    "break alone": b"\xff",
    "break inside an array": b"\x82\x01\xff",
    "reserved length 28": b"\x1c",
    "reserved length 30 of a byte string": b"\x5e\x00",
    "reserved simple value": b"\xfc",
    "simple value the long way": b"\xf8\x14",
    "nested 9 deep": b"\x81" * 9 + b"\x00",
    "nested 10,000 deep": b"\x81" * 10_000 + b"\x00",
    "maps nested 10,000 deep": b"\xa1\x00" * 10_000 + b"\x00",
    "tags nested 10,000 deep": b"\xc1" * 10_000 + b"\x00",
}


@pytest.mark.scenario("G16")
@pytest.mark.parametrize("data", NOT_PLAIN.values(), ids=NOT_PLAIN.keys())
def test_what_is_not_plain_cbor_is_refused(data: bytes) -> None:
    """Malformed, indefinite, too deep or overstated data raises CodecError("cbor")."""
    with pytest.raises(CodecError) as caught:
        loads(data)
    assert caught.value.kind == "cbor"


@pytest.mark.scenario("G16")
@pytest.mark.parametrize("head", [b"\x9a", b"\x5a", b"\x7a", b"\xba", b"\x9b\x00\x00\x00\x00"])
def test_an_overstated_size_takes_no_memory(head: bytes) -> None:
    """A few bytes which say that gigabytes follow do not make the decoder reserve them."""
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            loads(head + b"\xff\xff\xff\xff" + b"\x00" * 100)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def _tag(number: int) -> bytes:
    head = dumps(number)
    return bytes([head[0] | 0xC0]) + head[1:]


TAGS = {
    0: dumps("2013-03-21T20:04:00Z"), 1: b"\x00", 2: b"\x58\x20" + b"\xff" * 32, 3: b"\x41\x00", 4: b"\x82\x21\x01",
    5: b"\x82\x01\x01", 25: b"\x00", 28: b"\x80", 29: b"\x00", 30: b"\x82\x01\x03", 35: dumps("a+"),
    36: dumps("From: a\n\nb"), 37: dumps(bytes(16)), 100: b"\x01", 256: b"\x80", 258: b"\x81\x01",
    260: dumps(bytes(4)), 261: b"\xa1\x44\x7f\x00\x00\x01\x18\x20", 1004: dumps("2013-03-21"), 43000: b"\x01",
    55799: b"\x00", 6: b"\x00", 24: b"\x40", 65536: b"\x00", (1 << 64) - 1: b"\x00",
}  # fmt: skip


@pytest.mark.scenario("G24")
@pytest.mark.parametrize("number", TAGS)
def test_no_tag_is_interpreted(number: int) -> None:
    """No tag, known to the library or not, builds an object or disappears: all are refused as such."""
    for data in (_tag(number) + TAGS[number], b"\x82\x00" + _tag(number) + TAGS[number]):
        with pytest.raises(CodecError) as caught:
            loads(data)
        assert caught.value.kind == "cbor"


@pytest.mark.slow
def test_what_is_larger_than_any_message_is_not_looked_at() -> None:
    """Above MAX_MESSAGE_BYTES the length alone decides."""
    with pytest.raises(CodecError) as caught:
        loads(bytes(MAX_MESSAGE_BYTES + 1))
    assert caught.value.kind == "length"


PLAIN = (int, bytes, str, bool, tuple)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return type(value) is tuple and all(map(_is_plain, value))
    return type(value) in PLAIN


@given(st.binary(max_size=60))
def test_any_bytes_are_a_value_or_a_codec_error(data: bytes) -> None:
    """`loads` returns or raises CodecError, whatever it is given."""
    try:
        loads(data)
    except CodecError as error:
        assert error.kind in ("cbor", "length")


anything = st.recursive(
    st.integers(0, (1 << 64) - 1) | st.binary(max_size=30) | st.text(max_size=30) | st.booleans(),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=20,
)
LONG = {1: 24, 2: 25, 4: 26, 8: 27}


@given(anything)
def test_plain_values_survive(value: Any) -> None:
    """Nested tuples, byte strings, texts, booleans and whole numbers come back as they were, and nothing else does."""
    data = dumps(value)
    try:
        back = loads(data)
    except CodecError as error:
        assert "depth" in str(error)
        return
    assert back == value and _is_plain(back) and dumps(back) == data


# ---- canonical to the last byte

PAIR = row(uint(), blob(300))
LONG_FORMS: dict[str, bytes] = {
    "number in 2 bytes instead of 1": b"\x82\x18\x05\x41a",
    "number in 3 bytes": b"\x82\x19\x00\x05\x41a",
    "number in 5 bytes": b"\x82\x1a\x00\x00\x00\x05\x41a",
    "number in 9 bytes": b"\x82\x1b" + bytes(7) + b"\x05\x41a",
    "length in 2 bytes": b"\x82\x05\x58\x01a",
    "length in 3 bytes": b"\x82\x05\x59\x00\x01a",
    "length in 9 bytes": b"\x82\x05\x5b" + bytes(7) + b"\x01a",
    "array's length in 2 bytes": b"\x98\x02\x05\x41a",
    "array's length in 9 bytes": b"\x9b" + bytes(7) + b"\x02\x05\x41a",
    "a byte follows": b"\x82\x05\x41a\x00",
    "another value follows": b"\x82\x05\x41a" * 2,
}


@pytest.mark.parametrize("data", LONG_FORMS.values(), ids=LONG_FORMS.keys())
def test_there_is_one_encoding_of_a_value(data: bytes) -> None:
    """The long way round, or anything after the value, is refused though the value itself would pass."""
    assert decode_row(b"\x82\x05\x41a", PAIR) == (5, b"a")
    with pytest.raises(CodecError) as caught:
        decode_row(data, PAIR)
    assert caught.value.kind == "canonical"


@given(st.integers(0, (1 << 64) - 1), st.binary(max_size=300), st.sampled_from([1, 2, 4, 8]))
def test_every_longer_head_is_refused(number: int, data: bytes, width: int) -> None:
    """Whatever number, written with a head wider than needed it is not canonical; with the right one it is."""
    if number >= 1 << (8 * width):
        return
    encoded = b"\x82" + bytes([LONG[width]]) + number.to_bytes(width, "big") + dumps(data)
    if encoded == dumps((number, data)):
        assert decode_row(encoded, PAIR) == (number, data)
        return
    with pytest.raises(CodecError) as caught:
        decode_row(encoded, PAIR)
    assert caught.value.kind == "canonical"


# ---- families


class Point(NamedTuple):
    x: int
    y: int


class Line(NamedTuple):
    points: tuple[Point, ...]


def _family() -> Family:
    family = Family("shape")
    family.register(1, uint(99), uint(99))(Point)
    family.register(30, array(family.sized(Point), 3, 1), nested=(0, Point))(Line)
    return family


def test_nested_types_come_back_as_themselves() -> None:
    """A field that holds values of another registered class has them again after decoding."""
    family = _family()
    line = Line((Point(1, 30), Point(3, 4)))
    back = family.decode(family.encode(line))
    assert back == line and type(back) is Line and [type(p) for p in back.points] == [Point, Point]
    assert family.types() == {1: Point, 30: Line}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ((30, ((1, 2), (3,))), "length"),
        ((30, ((1, 2, 3),)), "length"),
        ((30, ()), "length"),
        ((30, ((1, 100),)), "range"),
        ((30, ((1, True),)), "type"),
        ((30, (1,)), "type"),
        ((30, (b"ab",)), "type"),
        ((30, 7), "type"),
        ((30, ((1, 2),), 0), "length"),
        ((30,), "length"),
        ((2, 1, 1), "unknown"),
        ((255, 1), "unknown"),
        ((1 << 40, 1), "unknown"),
        ((True, 1, 2), "shape"),
        ((b"\x01", 1, 2), "shape"),
        (("1", 1, 2), "shape"),
        (((1,), 1, 2), "shape"),
        ((), "shape"),
        (1, "shape"),
        (b"\x83\x01\x02\x03", "shape"),
        ("Point", "shape"),
        (True, "shape"),
        ((1, -1, 2), "range"),
        ((-1, 1, 2), "unknown"),
        ((1, 1.0, 2), "type"),
        ((1.0, 1, 2), "shape"),
        ((1, None, 2), "type"),
        ((None, 1, 2), "shape"),
        ({1: 1}, "cbor"),
        ((1, {}, 2), "cbor"),
        (({}, 1, 2), "cbor"),
    ],
)
def test_a_family_refuses_what_is_none_of_its_values(value: Any, kind: str) -> None:
    """Wrong number, wrong arity, wrong type at each place: refused with the kind that says so."""
    with pytest.raises(CodecError) as caught:
        _family().decode(cbor2.dumps(value))
    assert caught.value.kind == kind


def test_a_family_does_not_take_a_number_twice_or_a_wrong_number_of_checks() -> None:
    """Both are mistakes of the programmer and seen at import."""
    family = _family()
    with pytest.raises(TypeError):
        family.register(1, uint(), uint())(Point)
    with pytest.raises(TypeError):
        family.register(2, uint())(Point)


def test_only_registered_values_are_encoded() -> None:
    """Encoding a value of another type is a bug and says so, even if it looks like a registered one."""
    with pytest.raises(KeyError):
        _family().encode((1, 2))


@pytest.mark.parametrize("size", [200, 15_000, 3_000_000])
@pytest.mark.parametrize("unit", [b"\x81\x81\x81\x81\x81\x81\x80", b"\x81\x80", b"\x80"])
def test_masses_of_items_are_refused_before_they_are_decoded(
    monkeypatch: pytest.MonkeyPatch, size: int, unit: bytes
) -> None:
    """An array of arrays takes 300 times as long to decode as a byte string of its length."""
    monkeypatch.setattr(codec.cbor2, "loads", lambda *_, **__: pytest.fail("it was decoded"))
    count = size // len(unit)
    with pytest.raises(CodecError, match="items"):
        loads(b"\x9a" + count.to_bytes(4) + unit * count, 20)


@given(st.recursive(st.integers(0, 2**64 - 1) | st.binary(max_size=300), lambda inner: st.lists(inner, max_size=5)))
def test_items_are_counted_as_the_encoding_has_them(value: object) -> None:
    """Many too few allowed, and it is refused; just enough, and it is not."""

    def items(value: object) -> int:
        return 1 + sum(map(items, value)) if isinstance(value, list) else 1

    data = dumps(value)
    codec._count(data, items(value) - codec._FEW)
    with pytest.raises(CodecError, match="items"):
        codec._count(data, items(value) - codec._FEW - 1)


def test_the_largest_value_that_its_checks_allow_is_decoded() -> None:
    """Whatever it looks like: all of it arrays, or longer than what is always counted."""
    check = row(uint(), array(row(array(uint(), 3)), 5000))
    largest = (7, tuple(((1, 2, 3),) for _ in range(5000)))
    assert most_items(check) == 2 + 1 + 5000 * 5
    assert decode_row(dumps(largest), check) == largest
    hollow = (7, tuple(((),) for _ in range(5000)))
    assert decode_row(dumps(hollow), check) == hollow
