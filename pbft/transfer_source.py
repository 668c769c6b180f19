"""The side of state transfer that gives: whom it serves, with which state, and how fast. Rule 2.9.

Rules of this file: pure; time is handed in. What it gives is verified by whoever takes it.
"""

from __future__ import annotations

import contextlib
import zlib
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from pbft.execution import ExecutionSnapshot
from pbft.messages import PIECE_MAX_BYTES, FetchState, Message, StatePiece, StateRoots
from pbft.state import StateError, Want, piece

RATE = 32 << 20
"""Bytes a second that a source gives to one peer, at most, while nothing is ordered; else `transfer_rate` holds."""

_BURST = 1 << 20
_PINNED = 10.0
"""Seconds for which a state that was asked for is kept."""
_PINNED_MOST = 3600.0
"""Seconds for which it is kept in all: who needs longer goes on with a newer one, and keeps what it has of this."""
_WAITING = 64
"""Pieces that one peer may have waiting at a source."""
_AT_ONCE = 4
"""Wants of one job."""
_WANT_BYTES = 128
"""What a want counts for beside its piece."""
_LEAST = 256
"""Bytes of a piece below which packing it is not tried."""
_TRIED_AGAIN = 64
"""Pieces, at most, that are sent as they are after some that packing made hardly smaller."""


class UnpackError(Exception):
    """A piece that was said to be packed, and is not, or not to what was said."""


class Packer:
    """Makes pieces small for the wire, unless it finds that this kind of state does not become smaller."""

    def __init__(self) -> None:
        self._pause = 0
        self._passed = 0

    def pack(self, number: int, want: Want, data: bytes) -> StatePiece:
        """The message that carries a piece."""
        if len(data) >= _LEAST:
            if self._passed < self._pause:
                self._passed += 1
            else:
                self._passed = 0
                packed = zlib.compress(data, 1)
                if len(packed) < len(data) * 7 // 8:
                    self._pause = 0
                    return StatePiece(number, want, packed, len(data))
                self._pause = min(_TRIED_AGAIN, 2 * self._pause + 1)
        return StatePiece(number, want, data, 0)


def unpacked(message: StatePiece) -> bytes:
    """The piece that a message carries. Makes no more bytes than a piece may have. Raises UnpackError."""
    if not message.size:
        return message.data
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(message.data, min(message.size, PIECE_MAX_BYTES) + 1)
    except zlib.error as error:
        raise UnpackError(str(error)) from error
    if len(data) != message.size or not unpacking.eof or unpacking.unused_data:
        raise UnpackError(f"{len(data)} bytes instead of {message.size}")
    return data


class Job(NamedTuple):
    """Wants of one peer, to be answered by `answers`, in whatever thread."""

    peer: int
    snapshot: ExecutionSnapshot
    wants: tuple[Want, ...]
    room: float
    """Bytes after which it is enough."""
    packer: Packer


class Answers(NamedTuple):
    """What came of a job."""

    pieces: tuple[StatePiece, ...]
    done: int
    """How many wants were looked at; some have no piece."""
    bytes: int
    """Of the pieces, before they were packed."""


def answers(job: Job) -> Answers:
    """Make the pieces that a job asks for. May read from a disk, and takes up to some tens of milliseconds."""
    pieces: list[StatePiece] = []
    done = size = 0
    with contextlib.suppress(StateError):  # a page that has rotted: there is no such piece here
        for want in job.wants:
            if size >= job.room:
                return Answers(tuple(pieces), done, size)
            done += 1
            data = piece(job.snapshot.spaces, want)
            size += _WANT_BYTES + len(data or b"")
            if data is not None:
                pieces.append(job.packer.pack(job.snapshot.number, want, data))
    return Answers(tuple(pieces), done, size)


class Source:
    """Serves states that the executor keeps, and keeps the one that a peer fetches a while longer."""

    def __init__(
        self,
        send: Callable[[int, Message], None],
        kept: Callable[[int], ExecutionSnapshot | None],
        serve: Callable[[Job], None],
        busy_rate: float = RATE,
    ) -> None:
        """`kept`: the state after this number, if the executor has it still. `serve`: wants `on_served` with what
        `answers` makes of a job. `busy_rate`: bytes a second for one peer while requests are ordered, so that ordering
        goes on beside it; all counted before they are packed."""
        self._send = send
        self._kept = kept
        self._start = serve
        self._busy_rate = min(busy_rate, RATE)
        self._pins: dict[int, tuple[ExecutionSnapshot, float, float]] = {}
        """Peer -> (the state that it fetches, since when, when it last asked): one each, so that they bound it."""
        self._waiting: dict[int, deque[Want]] = {}
        self._room: dict[int, float] = {}
        self._packer = Packer()
        self._is_serving = False
        self._now = 0.0

    def on_fetch(self, sender: int, message: FetchState) -> None:
        """FETCH-STATE of a replica."""
        snapshot = self._snapshot(sender, message.number)
        if snapshot is None:
            self._send(sender, StateRoots(message.number, (), bytes(32)))
            return
        pinned = self._pins.get(sender)
        since = pinned[1] if pinned is not None and pinned[0] is snapshot else self._now
        self._pins[sender] = (snapshot, since, self._now)
        if not message.wanted:
            roots = tuple(space.digest for space in snapshot.spaces)
            self._send(sender, StateRoots(message.number, roots, snapshot.history))
        waiting = self._waiting.setdefault(sender, deque())
        for want in message.wanted[: _WAITING - len(waiting)]:
            waiting.append(Want(*want))
        self._serve()

    def _snapshot(self, peer: int, number: int) -> ExecutionSnapshot | None:
        pinned = self._pins.get(peer)
        if pinned is not None and pinned[0].number == number:
            return pinned[0]
        self._waiting.pop(peer, None)
        return self._kept(number)

    def on_tick(self, now: float, is_busy: bool = False) -> None:
        """Time has passed: there is room to serve again. `is_busy`: requests are ordered at present."""
        passed, self._now = now - self._now, now
        rate = self._busy_rate if is_busy else RATE
        over = [p for p, (_, since, asked) in self._pins.items() if now - asked > _PINNED or now - since > _PINNED_MOST]
        for peer in over:
            del self._pins[peer]
            self._waiting.pop(peer, None)
            self._room.pop(peer, None)
        for peer in self._pins:
            self._room[peer] = min(_BURST, self._room.get(peer, _BURST) + passed * rate)
        self._serve()

    def on_served(self, job: Job, made: Answers, seconds: float = 0.0) -> None:
        """A job is done, by so many seconds of a processor: its peer has had as much as could be given in that time."""
        self._is_serving = False
        pinned = self._pins.get(job.peer)
        if pinned is not None:
            self._room[job.peer] = self._room.get(job.peer, _BURST) - max(made.bytes, seconds * RATE)
            if pinned[0] is job.snapshot:
                waiting = self._waiting.pop(job.peer, deque())  # behind those of the other peers
                waiting.extendleft(reversed(job.wants[made.done :]))
                self._waiting[job.peer] = waiting
                for message in made.pieces:
                    self._send(job.peer, message)
        self._serve()

    def _serve(self) -> None:
        if self._is_serving:
            return
        for peer, waiting in self._waiting.items():
            room = self._room.get(peer, _BURST)
            if waiting and room > 0:
                wants = tuple(waiting.popleft() for _ in range(min(_AT_ONCE, len(waiting))))
                self._is_serving = True
                self._start(Job(peer, self._pins[peer][0], wants, room, self._packer))
                return
