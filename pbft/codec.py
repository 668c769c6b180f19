"""Canonical CBOR both ways: strict and bounded. [RFC 8949 §4.2]

Rules of this file: knows no message. A class declares one check per field with `register`; a value is an array
`[type, field, ...]`. Decoding accepts exactly the bytes that encoding produces: no tags, floats, maps, indefinite
lengths, long headers, or trailing bytes. A check returns the number of bytes that the canonical encoding of the value
takes; if the sum differs from what arrived, something was encoded the long way round or follows the value.

Decoding builds an object for every item, so what is long, or looks like many arrays, is counted first: no more items
than its checks allow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import cbor2

MAX_MESSAGE_BYTES = 80 << 20
_MAX_DEPTH = 8
_SHORT = 128
_COUNTED_FROM = 16 << 10
"""Bytes from which on items are always counted before they are decoded."""
_ARRAY_HEADS = bytes(range(0x80, 0xA0))
"""Arrays cost most to decode: 0.3 microseconds for each byte like these."""

Check = Callable[[Any], int]
T = TypeVar("T")

_MOST: dict[Check, int] = {}
"""Check -> how many CBOR items a value that passes it can have; 1 for those that are not listed."""


class CodecError(ValueError):
    """Bytes that are no message. The only exception that decoding raises; `kind` is a stable counter name."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


def head_size(value: int) -> int:
    """Bytes of the shortest CBOR head that carries `value`. [RFC 8949 §3]"""
    if value < 24:
        return 1
    if value < 256:
        return 2
    if value < 65536:
        return 3
    return 5 if value < 1 << 32 else 9


def uint(maximum: int = (1 << 64) - 1, minimum: int = 0) -> Check:
    """A whole number between `minimum` and `maximum`, both included."""

    def check(value: Any) -> int:
        if type(value) is not int:
            raise CodecError("type", f"expected a whole number, found {type(value).__name__}")
        if value < 24:
            if value < minimum:
                raise CodecError("range", f"a number is below {minimum}")
            if value <= maximum:
                return 1
        if value > maximum or value < minimum:
            raise CodecError("range", f"a number lies outside {minimum}..{maximum}")
        return head_size(value)

    return check


def blob(maximum: int, minimum: int = 0) -> Check:
    """A byte string of `minimum` to `maximum` bytes."""

    def check(value: Any) -> int:
        if type(value) is not bytes:
            raise CodecError("type", f"expected a byte string, found {type(value).__name__}")
        size = len(value)
        if size > maximum or size < minimum:
            raise CodecError("length", f"{size} bytes lie outside {minimum}..{maximum}")
        return size + (1 if size < 24 else 2 if size < 256 else 3 if size < 65536 else 5)

    return check


def flag(value: Any) -> int:
    """True or false, and nothing that merely counts as such."""
    if value is not True and value is not False:
        raise CodecError("type", f"expected true or false, found {type(value).__name__}")
    return 1


def text(maximum: int) -> Check:
    """A UTF-8 text of at most `maximum` encoded bytes."""

    def check(value: Any) -> int:
        if type(value) is not str:
            raise CodecError("type", f"expected a text, found {type(value).__name__}")
        size = len(value.encode("utf-8", "surrogatepass"))
        if size > maximum:
            raise CodecError("length", f"a text of {size} bytes exceeds {maximum}")
        return size + head_size(size)

    return check


def array(item: Check, maximum: int, minimum: int = 0) -> Check:
    """An array of `minimum` to `maximum` values which all pass `item`."""

    def check(value: Any) -> int:
        if not isinstance(value, (list, tuple)):
            raise CodecError("type", f"expected an array, found {type(value).__name__}")
        count = len(value)
        if count > maximum or count < minimum:
            raise CodecError("length", f"{count} elements lie outside {minimum}..{maximum}")
        return head_size(count) + sum(map(item, value))

    _MOST[check] = 1 + maximum * most_items(item)
    return check


def row(*items: Check) -> Check:
    """An array with exactly one value for each of `items`."""

    def check(value: Any) -> int:
        if not isinstance(value, (list, tuple)):
            raise CodecError("type", f"expected an array, found {type(value).__name__}")
        if len(value) != len(items):
            raise CodecError("length", f"expected {len(items)} elements, found {len(value)}")
        size = head_size(len(items))
        for item, field in zip(items, value, strict=True):
            size += item(field)
        return size

    _MOST[check] = 1 + sum(map(most_items, items))
    return check


def most_items(check: Check) -> int:
    """CBOR items of the largest value that passes a check."""
    return _MOST.get(check, 1)


class _NoTags(dict[int, Any]):
    """Claims a decoder for every tag. An empty mapping would leave the library's own ones in place, which compile
    regular expressions, parse mail, build unbounded whole numbers and look through references."""

    def get(self, key: int, default: Any = None) -> Any:
        return self._refuse

    def __getitem__(self, key: int) -> Any:
        return self._refuse

    def __contains__(self, key: object) -> bool:
        return True

    @staticmethod
    def _refuse(decoder: Any) -> Any:
        raise CodecError("tag", "a tag has no meaning here")


_NO_TAGS = _NoTags()


def _no_maps(found: object, immutable: bool = True) -> NoReturn:
    """No message holds a map; refused at the first one, since an empty map takes 100 times its size in memory."""
    raise CodecError("cbor", "maps are not allowed")


_FEW = 16
_LENGTH_BYTES = {24: 1, 25: 2, 26: 4, 27: 8}


def _count(data: bytes, most: int) -> None:
    """Raises `CodecError` if there are more than about `most` CBOR items; a few more, and what is no CBOR, are for the
    decoder and the checks to refuse."""
    position, end = 0, len(data)
    for _ in range(most + _FEW):
        if position >= end:
            return
        head = data[position]
        value = head & 31
        position += 1
        if value >= 24:
            size = _LENGTH_BYTES.get(value, 0)
            value = int.from_bytes(data[position : position + size])
            position += size
        if head >> 5 in (2, 3):
            position += value
    if position < end:
        raise CodecError("items", f"more than {most} items")


def loads(data: bytes, most: int = 1 << 20, short: int = _SHORT) -> Any:
    """One CBOR value of no more than about `most` items; up to `short` bytes are decoded at once, whatever they are.
    Raises `CodecError` for everything that is not plain CBOR of bounded depth and size."""
    size = len(data)
    if size > short:
        if size > MAX_MESSAGE_BYTES:
            raise CodecError("length", f"{size} bytes exceed {MAX_MESSAGE_BYTES}")
        is_counted = most <= _FEW or size > _COUNTED_FROM
        if is_counted or size - len(data.translate(None, _ARRAY_HEADS)) > size // 4 + 32:
            _count(data, most)
    try:
        return cbor2.loads(
            data,
            max_depth=_MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            immutable=True,
            semantic_decoders=_NO_TAGS,
            object_hook=_no_maps,
        )
    except CodecError:
        raise
    except Exception as error:  # it documents CBORDecodeError; hostile input must not find the one it forgot
        raise CodecError("cbor", str(error)[:120]) from None


def decode_row(data: bytes, check: Check) -> tuple[Any, ...]:
    """Decode one array whose fields pass `check`, canonical to the last byte."""
    value = loads(data, most_items(check))
    if check(value) != len(data):
        raise CodecError("canonical", "the value is not in its shortest encoding, or bytes follow it")
    return tuple(value)


def dumps(value: Any) -> bytes:
    """Canonical encoding of nested tuples, byte strings, texts, booleans and whole numbers below 2^64."""
    return cbor2.dumps(value)


class Family:
    """A set of frozen types that share one number space: the wire messages, or the records of the log."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._by_number: dict[int, tuple[type[Any], Check]] = {}
        self._numbers: dict[type[Any], int] = {}
        self._nested: dict[int, tuple[int, type[Any]]] = {}

    def register(
        self, number: int, *checks: Check, nested: tuple[int, type[Any]] | None = None
    ) -> Callable[[type[T]], type[T]]:
        """Class decorator: gives a NamedTuple its number and one check per field.

        `nested` = (index of a field, class): that field holds an array of values of another registered class.
        """

        def decorate(cls: type[T]) -> type[T]:
            if number in self._by_number or len(checks) != len(cls._fields):  # type: ignore[attr-defined]
                raise TypeError(f"{cls.__name__}: number {number} is taken, or its checks do not match its fields")
            self._by_number[number] = (cls, row(uint(255), *checks))
            self._numbers[cls] = number
            if nested is not None:
                self._nested[number] = nested
            return cls

        return decorate

    def types(self) -> dict[int, type[Any]]:
        """Number -> class, for documentation and tests."""
        return {number: cls for number, (cls, _) in sorted(self._by_number.items())}

    def encode(self, value: Any) -> bytes:
        """Canonical bytes of a registered value. A value of another type is a bug: KeyError."""
        return cbor2.dumps((self._numbers[type(value)], *value))

    def peek(self, data: bytes) -> type[Any] | None:
        """The class that `data` claims to be of, without a look at the rest; None if there is none."""
        is_short = len(data) > 1 and 0x80 < data[0] < 0x98 and data[1] < 24
        return self._by_number.get(data[1], (None,))[0] if is_short else None

    def decode(self, data: bytes) -> Any:
        """The value that encodes to exactly `data`; raises `CodecError` and nothing else."""
        value = loads(data, self._most_of(data) if len(data) > _SHORT else 0)
        if type(value) is not tuple or not value or type(value[0]) is not int:
            raise CodecError("shape", "expected an array that starts with a number")
        known = self._by_number.get(value[0])
        if known is None:
            raise CodecError("unknown", f"no {self.name} has number {value[0]}")
        cls, check = known
        if check(value) != len(data):
            raise CodecError("canonical", "the value is not in its shortest encoding, or bytes follow it")
        nested = self._nested.get(value[0])
        if nested is None:
            return cls(*value[1:])
        index, inner = nested
        fields = list(value[1:])
        fields[index] = tuple(inner(*entry) for entry in fields[index])
        return cls(*fields)

    def _most_of(self, data: bytes) -> int:
        """Items of the largest value of the class that `data` claims to be of."""
        cls = self.peek(data)
        return 0 if cls is None else most_items(self._by_number[self._numbers[cls]][1])

    def sized(self, cls: type[Any]) -> Check:
        """A check for a value of `cls` nested in another one, without its number."""
        _, check = self._by_number[self._numbers[cls]]
        number = self._numbers[cls]

        def nested(value: Any) -> int:
            if not isinstance(value, (list, tuple)):
                raise CodecError("type", f"expected an array, found {type(value).__name__}")
            return check((number, *value)) - head_size(number) - head_size(len(value) + 1) + head_size(len(value))

        _MOST[nested] = most_items(check)
        return nested
