"""Client sessions as replicated state: exactly once, bounded, deterministic eviction. Rule 1.15.

The hot form is Python objects; rows in the sessions `State` are written lazily, only for what was touched since the
last checkpoint, so that the digest covers them (rule 1.8) and normal execution pays nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pbft.batch import ClientRequest
from pbft.codec import array, blob, decode_row, dumps, row, uint
from pbft.config import Tunables
from pbft.state import MAX_VALUE_BYTES, State

_COUNT_ROW = row(uint())
_SESSION_ROW = row(
    uint(), uint(), uint(), uint(), uint(), array(row(uint(), blob(64 << 20)), 1 << 16), array(uint(), 1 << 16)
)

PIECE_BYTES = MAX_VALUE_BYTES
"""A session with many results may be longer than a value may be: then its row continues under numbered keys."""

_KEY_BYTES = 11
"""Bytes of the key of a session: b"s" and its number. Further pieces of its row have two more."""


class Session:
    """One live session. Invariant: every id in `results` and `forgotten` lies above `floor`."""

    __slots__ = ("bytes", "client", "count", "floor", "forgotten", "nonce", "number", "results", "used")

    def __init__(self, number: int, client: int, nonce: int, count: int, used: int) -> None:
        self.number = number
        self.client = client
        self.nonce = nonce
        self.count = count
        self.used = used
        """Sequence number of the last request that it executed: the least recent goes first."""
        self.floor = 0
        self.results: dict[int, bytes] = {}
        """Id -> result, in order of execution."""
        self.forgotten: set[int] = set()
        """Ids executed whose results were dropped to stay within `result_cache_bytes`."""
        self.bytes = 0

    def raise_floor(self, floor: int) -> None:
        """The client needs no result at or below `floor` any more. `floor` must lie above the present one."""
        results = self.results
        if floor - self.floor <= len(results):
            passed: Iterable[int] = range(self.floor + 1, floor + 1)
        else:  # it may jump by any 64-bit number
            passed = [i for i in results if i <= floor]
        for request_id in passed:
            result = results.pop(request_id, None)
            if result is not None:
                self.bytes -= len(result)
        if self.forgotten:
            self.forgotten = {i for i in self.forgotten if i > floor}
        self.floor = floor

    def remember(self, request_id: int, result: bytes, limit: int) -> None:
        """Keep a result; the oldest ones are dropped, but never forgotten to have executed."""
        self.results[request_id] = result
        self.bytes += len(result)
        while self.bytes > limit:
            oldest = next(iter(self.results))
            self.bytes -= len(self.results.pop(oldest))
            self.forgotten.add(oldest)

    def encode(self) -> bytes:
        """Its row in the replicated state; the order of results is part of it."""
        return dumps(
            (
                self.client,
                self.nonce,
                self.count,
                self.used,
                self.floor,
                tuple(self.results.items()),
                tuple(sorted(self.forgotten)),
            )
        )

    @classmethod
    def decode(cls, number: int, data: bytes) -> Session:
        """The session that encodes to `data`. Raises `pbft.codec.CodecError`."""
        client, nonce, count, used, floor, results, forgotten = decode_row(data, _SESSION_ROW)
        session = cls(number, client, nonce, count, used)
        session.floor = floor
        session.results = dict(results)
        session.forgotten = set(forgotten)
        session.bytes = sum(map(len, session.results.values()))
        return session


class Sessions:
    """The client table: open counts and live sessions of all clients."""

    def __init__(self, tunables: Tunables, state: State) -> None:
        """Raises `pbft.codec.CodecError` if `state` holds anything but what `write` has written."""
        self._tunables = tunables
        self._state = state
        self._counts: dict[int, int] = {}
        self._by_number: dict[int, Session] = {}
        self._by_client: dict[int, list[Session]] = {}
        self._touched: set[int] = set()
        self._touched_counts: set[int] = set()
        for key, value in state.items(b"c"):
            (self._counts[int.from_bytes(key[1:], "big")],) = decode_row(value, _COUNT_ROW)
        rows: dict[int, list[bytes]] = {}
        for key, value in state.items(b"s"):  # in key order: a row before its further pieces
            rows.setdefault(int.from_bytes(key[1:_KEY_BYTES], "big"), []).append(value)
        for number, pieces in rows.items():
            session = self._by_number[number] = Session.decode(number, b"".join(pieces))
            self._by_client.setdefault(session.client, []).append(session)

    def find(self, number: int, client: int) -> Session | None:
        """The live session of that client with that number."""
        session = self._by_number.get(number)
        return session if session is not None and session.client == client else None

    def count(self, client: int) -> int:
        """How many sessions the client has ever opened."""
        return self._counts.get(client, 0)

    def opened_by(self, request: ClientRequest) -> Session | None:
        """The live session that this OPEN(nonce, count) has opened."""
        for session in self._by_client.get(request.client, ()):
            if (session.nonce, session.count) == (request.id, request.floor):
                return session
        return None

    def open(self, number: int, request: ClientRequest, used: int) -> tuple[Session, int]:
        """Open a session; returns it and the number of the one that made room for it, 0 if none."""
        client = request.client
        mine = self._by_client.setdefault(client, [])
        evicted = 0
        if len(mine) >= self._tunables.sessions_per_client:
            victim = min(mine, key=lambda s: (s.used, s.number))
            mine.remove(victim)
            del self._by_number[victim.number]
            evicted = victim.number
            self._touched.add(evicted)
        session = Session(number, client, request.id, request.floor, used)
        mine.append(session)
        self._by_number[number] = session
        self._counts[client] = request.floor + 1
        self._touched.add(number)
        self._touched_counts.add(client)
        return session, evicted

    def touch(self, session: Session) -> None:
        """It changed: its row is written at the next checkpoint."""
        self._touched.add(session.number)

    def write(self) -> None:
        """Bring the rows up to date, before a checkpoint."""
        state = self._state
        for client in sorted(self._touched_counts):
            state[b"c" + client.to_bytes(8, "big")] = dumps((self._counts[client],))
        for number in sorted(self._touched):
            session = self._by_number.get(number)
            self._write_row(b"s" + number.to_bytes(_KEY_BYTES - 1, "big"), b"" if session is None else session.encode())
        self._touched_counts.clear()
        self._touched.clear()

    def _write_row(self, key: bytes, row: bytes) -> None:
        """Write a row in pieces, and remove those that it no longer has; an empty one has none."""
        state, index = self._state, 0
        for start in range(0, len(row), PIECE_BYTES):
            state[key + index.to_bytes(2, "big") if index else key] = row[start : start + PIECE_BYTES]
            index += 1
        while (surplus := key + index.to_bytes(2, "big") if index else key) in state:
            del state[surplus]
            index += 1

    def counts(self) -> tuple[tuple[int, int], ...]:
        """(client, open count), ordered."""
        return tuple(sorted(self._counts.items()))

    def __iter__(self) -> Iterator[Session]:
        """Live sessions in order of their numbers."""
        for number in sorted(self._by_number):
            yield self._by_number[number]
