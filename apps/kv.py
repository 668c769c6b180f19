"""An ordered key-value store with compare-and-swap.

    $ pbft call cluster.toml put greeting hello     ->  ok
    $ pbft call cluster.toml get greeting           ->  hello
    $ pbft call cluster.toml cas greeting hello hi  ->  ok
    $ pbft call cluster.toml scan gre 10            ->  greeting<TAB>hi

In Python, build operations with the functions below and read results with the `*_result` functions:

    found = get_result(await client.query(get(b"greeting")))        # bytes, or None if absent

Keys have up to 1024 bytes, values up to 16 MiB, any bytes, also none: absent and empty are different things. Keys are
the keys of `State` as they are, so that a value can be proven against a checkpoint.

What to see here: operations and results are small strict binary formats, so a malformed operation is refused before
anything is touched, and two ways of writing the same operation do not exist; every result is bounded (`scan` stops and
says that there is more); `keys` and `check` are given.

Formats. A field with length is u16 or u32, high byte first, and the bytes; the last field takes the rest.

| operation | bytes | result |
|---|---|---|
| put | 1, u16 key, value | DONE |
| get | 2, key | VALUE or ABSENT |
| delete | 3, key | DONE or ABSENT |
| cas | 4, u16 key, u8 old is there, u32 old, u8 new is there, new | DONE, or OTHER and what is there |
| scan | 5, u16 limit, u16 prefix, start | ROWS |
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from pbft.application import AgreedRandom, Application, Context, OperationError
from pbft.apps.words import to_bytes, whole_number

MAX_KEY_BYTES = 1024
MAX_VALUE_BYTES = 16 << 20
SCAN_MAX_ROWS = 1000
SCAN_MAX_BYTES = 128 << 10
"""A scan stops before its rows take more than this, so that its result fits into a reply; one row always fits in."""

_U16, _U32, _ROW = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">HI")


class Op(IntEnum):
    """First byte of an operation."""

    PUT = 1
    GET = 2
    DELETE = 3
    CAS = 4
    SCAN = 5


class Answer(IntEnum):
    """First byte of a result."""

    ABSENT = 0
    VALUE = 1
    """The value follows."""
    DONE = 2
    OTHER = 3
    """`cas` changed nothing, since this is there: an ABSENT or VALUE answer follows."""
    ROWS = 4
    """u8 whether there is more, then rows of u16 key length, u32 value length, key, value."""


class Page(NamedTuple):
    """Result of `scan`."""

    rows: tuple[tuple[bytes, bytes], ...]
    more: bool
    """The scan stopped at a bound; go on with `start=rows[-1][0] + b"\\0"`."""


# ---- for clients: operations


def put(key: bytes, value: bytes) -> bytes:
    """Store `value` under `key`."""
    return b"\x01" + _short(key) + bytes(value)


def get(key: bytes) -> bytes:
    """The value of `key`. May be sent as a query."""
    return b"\x02" + bytes(key)


def delete(key: bytes) -> bytes:
    """Remove `key`."""
    return b"\x03" + bytes(key)


def cas(key: bytes, old: bytes | None, new: bytes | None) -> bytes:
    """If the value of `key` is `old`, make it `new`. None stands for absent: create only, or delete only."""
    was, becomes = old or b"", new or b""
    flags = bytes([old is not None]), bytes([new is not None])
    return b"\x04" + _short(key) + flags[0] + _U32.pack(len(was)) + bytes(was) + flags[1] + bytes(becomes)


def scan(prefix: bytes = b"", limit: int = SCAN_MAX_ROWS, start: bytes = b"") -> bytes:
    """Up to `limit` keys that begin with `prefix`, in the order of their bytes, from `start` on (itself included).
    May be sent as a query."""
    return b"\x05" + _U16.pack(limit) + _short(prefix) + bytes(start)


def _short(field: bytes) -> bytes:
    if len(field) > MAX_KEY_BYTES:
        raise ValueError(f"a key of {len(field)} bytes is longer than {MAX_KEY_BYTES}")
    return _U16.pack(len(field)) + bytes(field)


# ---- for clients: results. ValueError if this is no such result.


def done_result(result: bytes) -> bool:
    """Of `put` (always True) and `delete`: False if there was nothing to delete."""
    if result not in (b"\x00", b"\x02"):
        raise ValueError("not a result of put or delete")
    return result == b"\x02"


def get_result(result: bytes) -> bytes | None:
    """Of `get`: the value, None if there is none."""
    if result == b"\x00":
        return None
    if result[:1] != b"\x01":
        raise ValueError("not a result of get")
    return result[1:]


def cas_result(result: bytes) -> tuple[bool, bytes | None]:
    """Of `cas`: (True, None) if it changed the value; else False and the value that is there, None if there is none."""
    if result == b"\x02":
        return True, None
    if result[:1] != b"\x03":
        raise ValueError("not a result of cas")
    return False, get_result(result[1:])


def scan_result(result: bytes) -> Page:
    """Of `scan`."""
    if result[:2] not in (b"\x04\x00", b"\x04\x01"):
        raise ValueError("not a result of scan")
    rows: list[tuple[bytes, bytes]] = []
    at = 2
    while at < len(result):
        if len(result) - at < _ROW.size:
            raise ValueError("the result of a scan ends inside a row")
        key_size, value_size = _ROW.unpack_from(result, at)
        middle = at + _ROW.size + key_size
        end = middle + value_size
        if end > len(result):
            raise ValueError("the result of a scan ends inside a row")
        rows.append((result[at + _ROW.size : middle], result[middle:end]))
        at = end
    return Page(tuple(rows), result[1] == 1)


# ---- the service


class _Put(NamedTuple):
    key: bytes
    value: bytes


class _Get(NamedTuple):
    key: bytes


class _Delete(NamedTuple):
    key: bytes


class _Cas(NamedTuple):
    key: bytes
    old: bytes | None
    new: bytes | None


class _Scan(NamedTuple):
    prefix: bytes
    limit: int
    start: bytes


class KeyValue(Application):
    """Every entry of the state is an entry of the store."""

    def execute(self, operation: bytes, context: Context) -> bytes:
        """Any operation."""
        state = self.state
        match _parse(operation):
            case _Put(key, value):
                state[key] = value
                return b"\x02"
            case _Delete(key):
                if key not in state:
                    return b"\x00"
                del state[key]
                return b"\x02"
            case _Cas(key, old, new):
                found = state.get(key)
                if found != old:
                    return b"\x03" + _found(found)
                if new is not None:
                    state[key] = new
                elif old is not None:
                    del state[key]
                return b"\x02"
        return self.query(operation, context)

    def query(self, operation: bytes, context: Context) -> bytes:
        """`get` or `scan`."""
        match _parse(operation):
            case _Get(key):
                return _found(self.state.get(key))
            case _Scan(prefix, limit, start):
                return self._scan(prefix, limit, start)
        raise OperationError("put, delete and cas change the store: send them as ordered operations")

    def _scan(self, prefix: bytes, limit: int, start: bytes) -> bytes:
        parts = [b"\x04\x00"]
        left = SCAN_MAX_BYTES
        for count, (key, value) in enumerate(self.state.items(prefix, start, limit + 1)):
            left -= _ROW.size + len(key) + len(value)
            if count == limit or (left < 0 and count):
                parts[0] = b"\x04\x01"
                break
            parts += (_ROW.pack(len(key), len(value)), key, value)
        return b"".join(parts)

    @classmethod
    def check(cls, operation: bytes) -> None:
        """Raises OperationError for what `execute` would refuse in any state."""
        _parse(operation)

    @classmethod
    def keys(cls, operation: bytes) -> tuple[frozenset[bytes], frozenset[bytes]] | None:
        """The one key, or None for a scan and for what is malformed."""
        try:
            parsed = _parse(operation)
        except OperationError:
            return frozenset(), frozenset()
        match parsed:
            case _Get(key):
                return frozenset((key,)), frozenset()
            case _Put(key) | _Delete(key) | _Cas(key):
                return frozenset((key,)), frozenset((key,))
        return None

    @classmethod
    def read_only(cls, operation: bytes) -> bool:
        """`get` and `scan` change nothing."""
        return operation[:1] in (b"\x02", b"\x05")

    @classmethod
    def parse(cls, words: list[str]) -> bytes:
        """`put K V`, `get K`, `delete K`, `cas K OLD NEW`, `scan [PREFIX [LIMIT]]`."""
        match words:
            case ["scan", prefix, limit]:
                operation = b"\x05" + _U16.pack(whole_number(limit, "LIMIT", 1, SCAN_MAX_ROWS))
                field = to_bytes(prefix)
                return _checked(operation + _U16.pack(min(len(field), 0xFFFF)) + field)
            case ["scan", prefix]:
                return cls.parse(["scan", prefix, str(SCAN_MAX_ROWS)])
            case ["scan"]:
                return scan()
        match [to_bytes(word) for word in words]:
            case [b"get", key]:
                return _checked(get(key))
            case [b"delete", key]:
                return _checked(delete(key))
            case [b"put", key, value] if len(key) <= MAX_KEY_BYTES:
                return _checked(put(key, value))
            case [b"cas", key, old, new] if len(key) <= MAX_KEY_BYTES:
                return _checked(cas(key, old, new))
        raise OperationError(
            "usage: put K V, get K, delete K, cas K OLD NEW or scan [PREFIX [LIMIT]]; "
            f"a key has at most {MAX_KEY_BYTES} bytes"
        )

    @classmethod
    def render(cls, operation_result: bytes) -> str:
        """A value as text, rows one a line, and short words for the rest."""
        match operation_result[:1]:
            case b"\x00":
                return "(absent)"
            case b"\x01":
                return super().render(operation_result[1:])
            case b"\x02":
                return "ok"
            case b"\x03":
                return "not changed, there is: " + cls.render(operation_result[1:])
            case b"\x04":
                page = scan_result(operation_result)
                lines = [f"{super(KeyValue, cls).render(k)}\t{super(KeyValue, cls).render(v)}" for k, v in page.rows]
                return "\n".join([*lines, "(there is more)"] if page.more else lines)
        return super().render(operation_result)

    @classmethod
    def samples(cls, seed: int) -> Iterator[bytes]:
        """300 operations for `pbft apps check`, the same for the same seed."""
        random = AgreedRandom(b"%d" % seed, 0, 0)
        for _ in range(300):
            key, value = b"key/%d" % random.below(20), random.bytes(random.below(40))
            maybe = random.choice((None, b"", value))
            yield random.choice(
                (
                    put(key, value),
                    get(key),
                    delete(key),
                    cas(key, None, value),
                    cas(key, maybe, None),
                    scan(b"key/", 1 + random.below(10), key),
                    random.bytes(random.below(12)),
                )
            )


def _found(value: bytes | None) -> bytes:
    return b"\x00" if value is None else b"\x01" + value


def _checked(operation: bytes) -> bytes:
    _parse(operation)
    return operation


def _parse(operation: bytes) -> _Put | _Get | _Delete | _Cas | _Scan:
    """The fields of an operation; OperationError for everything that the helper functions would not build."""
    rest = operation[1:]
    match operation[:1]:
        case b"\x01":
            key, value = _split(rest)
            return _Put(_key(key), _value(value))
        case b"\x02":
            return _Get(_key(rest))
        case b"\x03":
            return _Delete(_key(rest))
        case b"\x04":
            return _parse_cas(rest)
        case b"\x05":
            if len(rest) < 2:
                raise OperationError("a scan begins with its limit in 2 bytes")
            limit = _U16.unpack_from(rest)[0]
            if not 1 <= limit <= SCAN_MAX_ROWS:
                raise OperationError(f"the limit of a scan is 1 to {SCAN_MAX_ROWS} rows")
            prefix, start = _split(rest[2:])
            return _Scan(_key(prefix), limit, _key(start))
    raise OperationError("an operation begins with its number, 1 to 5")


def _parse_cas(rest: bytes) -> _Cas:
    key, rest = _split(rest)
    if len(rest) < 6:
        raise OperationError("a cas ends inside its fields")
    old_size = _U32.unpack_from(rest, 1)[0]
    old, rest, has_old = rest[5 : 5 + old_size], rest[5 + old_size :], rest[0]
    if len(old) != old_size or not rest:
        raise OperationError("a cas ends inside its fields")
    has_new, new = rest[0], rest[1:]
    if has_old > 1 or has_new > 1 or (old and not has_old) or (new and not has_new):
        raise OperationError("a flag of a cas is 0 or 1, and without it the value is empty")
    return _Cas(_key(key), _value(old) if has_old else None, _value(new) if has_new else None)


def _split(data: bytes) -> tuple[bytes, bytes]:
    """A field after its u16 length, and what follows it."""
    if len(data) < 2 or len(data) < 2 + (size := _U16.unpack_from(data)[0]):
        raise OperationError("an operation ends inside its key")
    return data[2 : 2 + size], data[2 + size :]


def _key(key: bytes) -> bytes:
    if len(key) > MAX_KEY_BYTES:
        raise OperationError(f"a key of {len(key)} bytes is longer than {MAX_KEY_BYTES}")
    return key


def _value(value: bytes) -> bytes:
    if len(value) > MAX_VALUE_BYTES:
        raise OperationError(f"a value of {len(value)} bytes is longer than {MAX_VALUE_BYTES}")
    return value
