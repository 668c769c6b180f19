"""Locks that end by themselves, with fencing tokens: what agreed time and agreed randomness are for.

    $ pbft call cluster.toml acquire printer 30     ->  granted, token 1, until 2023-11-14T22:13:50Z
    $ pbft call cluster.toml renew printer 1 30     ->  granted, token 1, until ...
    $ pbft call cluster.toml look printer           ->  held by client ..., token 1, until ...
    $ pbft call cluster.toml release printer 1      ->  free

A lease is held while the agreed time is below its end. That time is ordered with the operation, so all replicas decide
alike, across view changes and restarts, and there are never two holders. What agreed time cannot do: a holder that was
paused may act after its lease ended without knowing. Therefore every grant has a **token**, higher than all before it;
hand it to whatever the lease protects, and let that refuse tokens below the highest it has seen.

Who is refused gets an advice when to try again: the end of the lease, plus a random share of its length, so that those
who wait for one lease do not all come back in the same moment.

What to see here: `context.time` and `context.random` are the only sources of time and chance; time is whole
microseconds; a second index in the state (by end) lets each grant clear away a few ended leases, so the state stays
small without a timer; a query sees the time of the last executed batch.

Formats: all numbers are unsigned, high byte first; the name takes the rest, 1 to 255 bytes.

| operation | bytes |
|---|---|
| acquire | 1, u32 milliseconds, name |
| renew | 2, u64 token, u32 milliseconds, name |
| release | 3, u64 token, name |
| look | 4, name |

Results: 0 FREE; 1 GRANTED, u64 token, u64 end; 2 HELD, u64 token, u64 end, u64 client, u64 when to try again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pbft.application import AgreedRandom, Application, Context, OperationError
from pbft.apps.words import to_bytes, whole_number

MAX_NAME_BYTES = 255
MAX_MILLISECONDS = 86_400_000
"""A lease lasts at most a day; renew it."""
_CLEARED_PER_GRANT = 4

_ACQUIRE, _RENEW, _RELEASE = struct.Struct(">I"), struct.Struct(">QI"), struct.Struct(">Q")
_LEASE, _GRANTED, _HELD = struct.Struct(">QQQ"), struct.Struct(">BQQ"), struct.Struct(">BQQQQ")
_LAST_TOKEN = b"last token"
_BY_NAME, _BY_END = b"name/", b"end/"


class Granted(NamedTuple):
    """The lease is yours."""

    token: int
    """Higher than every token granted before, of whatever name."""
    end: int
    """Microseconds since 1970, agreed time."""


class Held(NamedTuple):
    """Somebody holds the lease (perhaps you, by another call)."""

    token: int
    end: int
    client: int
    retry: int
    """When to try again, microseconds since 1970; for `look` the same as `end`."""


# ---- for clients: operations and results


def acquire(name: bytes, seconds: float) -> bytes:
    """Take the lease `name` if it is free. Result: `Granted` or `Held`."""
    return b"\x01" + _ACQUIRE.pack(_milliseconds(seconds)) + _named(name)


def renew(name: bytes, token: int, seconds: float) -> bytes:
    """Let a lease that is still held last until `seconds` from now. Result: `Granted`; refused if it has ended."""
    return b"\x02" + _RENEW.pack(token, _milliseconds(seconds)) + _named(name)


def release(name: bytes, token: int) -> bytes:
    """Give a lease back before its end. Result: None; refused if it has ended or the token is another."""
    return b"\x03" + _RELEASE.pack(token) + _named(name)


def look(name: bytes) -> bytes:
    """Who holds `name`. Result: `Held`, or None if it is free. May be sent as a query."""
    return b"\x04" + _named(name)


def read_result(result: bytes) -> Granted | Held | None:
    """The result of any operation; None: the lease is free. ValueError if it is none."""
    if result == b"\x00":
        return None
    if len(result) == _GRANTED.size and result[0] == 1:
        return Granted(*_GRANTED.unpack(result)[1:])
    if len(result) == _HELD.size and result[0] == 2:
        return Held(*_HELD.unpack(result)[1:])
    raise ValueError("not a result of leases")


def _milliseconds(seconds: float) -> int:
    milliseconds = round(seconds * 1000)  # at the client; replicas see the whole number only
    if not 1 <= milliseconds <= MAX_MILLISECONDS:
        raise ValueError(f"a lease lasts 0.001 to {MAX_MILLISECONDS // 1000} seconds, not {seconds}")
    return milliseconds


def _named(name: bytes) -> bytes:
    if not 1 <= len(name) <= MAX_NAME_BYTES:
        raise ValueError(f"the name of a lease has 1 to {MAX_NAME_BYTES} bytes, not {len(name)}")
    return bytes(name)


# ---- the service


class _Lease(NamedTuple):
    token: int
    client: int
    end: int


class Leases(Application):
    """State: "name/" + name -> token, client, end; "end/" + end + name -> nothing; "last token" -> token."""

    def execute(self, operation: bytes, context: Context) -> bytes:
        """Any operation."""
        kind, token, duration, name = _parse(operation)
        if kind == 4:
            return self.query(operation, context)
        lease = self._held(name, context)
        if kind == 1:
            if lease is not None:
                wait = context.random.below(duration) if duration else 0
                return _HELD.pack(2, lease.token, lease.end, lease.client, lease.end + wait)
            return self._grant(name, self._next_token(), duration, context)
        if lease is None or lease.token != token or lease.client != context.client:
            raise OperationError("this lease is not yours, or not any more")
        if kind == 2:
            return self._grant(name, token, duration, context)
        self._drop(name, lease)
        return b"\x00"

    def query(self, operation: bytes, context: Context) -> bytes:
        """`look`."""
        kind, _, _, name = _parse(operation)
        if kind != 4:
            raise OperationError("only look is a query: send the others as ordered operations")
        lease = self._held(name, context)
        return b"\x00" if lease is None else _HELD.pack(2, lease.token, lease.end, lease.client, lease.end)

    def _stored(self, name: bytes) -> _Lease | None:
        entry = self.state.get(_BY_NAME + name)
        return None if entry is None else _Lease(*_LEASE.unpack(entry))

    def _held(self, name: bytes, context: Context) -> _Lease | None:
        """The lease of that name unless its end has come; nothing but agreed time decides that."""
        lease = self._stored(name)
        return lease if lease is not None and context.time < lease.end else None

    def _grant(self, name: bytes, token: int, duration: int, context: Context) -> bytes:
        self._clear(context)
        before = self._stored(name)
        if before is not None:
            self._drop(name, before)
        lease = _Lease(token, context.client, context.time + duration)
        self.state[_BY_NAME + name] = _LEASE.pack(*lease)
        self.state[_by_end(name, lease)] = b""
        return _GRANTED.pack(1, token, lease.end)

    def _next_token(self) -> int:
        token = int.from_bytes(self.state.get(_LAST_TOKEN, b""), "big") + 1
        self.state[_LAST_TOKEN] = token.to_bytes(8, "big")
        return token

    def _drop(self, name: bytes, lease: _Lease) -> None:
        del self.state[_BY_NAME + name]
        del self.state[_by_end(name, lease)]

    def _clear(self, context: Context) -> None:
        """Remove a few leases whose end has come: more than a grant adds, so they do not pile up."""
        for key in self.state.keys(_BY_END, limit=_CLEARED_PER_GRANT):
            if int.from_bytes(key[len(_BY_END) : len(_BY_END) + 8], "big") > context.time:
                return
            del self.state[_BY_NAME + key[len(_BY_END) + 8 :]]
            del self.state[key]

    @classmethod
    def check(cls, operation: bytes) -> None:
        """Raises OperationError for what `execute` would refuse in any state."""
        _parse(operation)

    @classmethod
    def read_only(cls, operation: bytes) -> bool:
        """`look` changes nothing."""
        return operation[:1] == b"\x04"

    @classmethod
    def parse(cls, words: list[str]) -> bytes:
        """`acquire NAME SECONDS`, `renew NAME TOKEN SECONDS`, `release NAME TOKEN`, `look NAME`."""
        day = MAX_MILLISECONDS // 1000
        try:
            match words:
                case ["acquire", name, seconds]:
                    return acquire(to_bytes(name), whole_number(seconds, "SECONDS", 1, day))
                case ["renew", name, token, seconds]:
                    number = whole_number(token, "TOKEN", 1, (1 << 64) - 1)
                    return renew(to_bytes(name), number, whole_number(seconds, "SECONDS", 1, day))
                case ["release", name, token]:
                    return release(to_bytes(name), whole_number(token, "TOKEN", 1, (1 << 64) - 1))
                case ["look", name]:
                    return look(to_bytes(name))
        except ValueError as error:
            raise OperationError(str(error)) from None
        raise OperationError("usage: acquire NAME SECONDS, renew NAME TOKEN SECONDS, release NAME TOKEN or look NAME")

    @classmethod
    def render(cls, operation_result: bytes) -> str:
        """One line, times in UTC."""
        match read_result(operation_result):
            case Granted(token, end):
                return f"granted, token {token}, until {_utc(end)}"
            case Held(token, end, client, retry):
                again = "" if retry == end else f"; try again at {_utc(retry)}"
                return f"held by client {client:x}, token {token}, until {_utc(end)}{again}"
        return "free"

    @classmethod
    def samples(cls, seed: int) -> Iterator[bytes]:
        """300 operations for `pbft apps check`, the same for the same seed."""
        random = AgreedRandom(b"%d" % seed, 0, 0)
        for _ in range(300):
            name, token, seconds = b"lease %d" % random.below(6), 1 + random.below(60), 1 + random.below(20)
            yield random.choice(
                (
                    acquire(name, seconds),
                    acquire(name, seconds),
                    renew(name, token, seconds),
                    release(name, token),
                    look(name),
                    random.bytes(random.below(16)),
                )
            )


def _by_end(name: bytes, lease: _Lease) -> bytes:
    return _BY_END + lease.end.to_bytes(8, "big") + name


def _utc(microseconds: int) -> str:
    """For people; a time beyond the calendar is given as the number it is."""
    try:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    except OverflowError:
        return f"{microseconds} us"
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _parse(operation: bytes) -> tuple[int, int, int, bytes]:
    """(operation, token, duration in microseconds, name); OperationError for what the helpers would not build."""
    kind = operation[:1]
    sizes = {b"\x01": _ACQUIRE.size, b"\x02": _RENEW.size, b"\x03": _RELEASE.size, b"\x04": 0}
    if kind not in sizes:
        raise OperationError("an operation begins with its number, 1 to 4")
    name = operation[1 + sizes[kind] :]
    if not 1 <= len(name) <= MAX_NAME_BYTES:
        raise OperationError(f"the name of a lease has 1 to {MAX_NAME_BYTES} bytes")
    token, milliseconds = 0, 1
    if kind == b"\x01":
        (milliseconds,) = _ACQUIRE.unpack_from(operation, 1)
    elif kind == b"\x02":
        token, milliseconds = _RENEW.unpack_from(operation, 1)
    elif kind == b"\x03":
        (token,) = _RELEASE.unpack_from(operation, 1)
    if not 1 <= milliseconds <= MAX_MILLISECONDS:
        raise OperationError(f"a lease lasts 1 to {MAX_MILLISECONDS} milliseconds")
    return kind[0], token, milliseconds * 1000, name
