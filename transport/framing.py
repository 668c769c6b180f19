"""Frames: length (4 bytes, of all that follows) | kind (1) | body | tag (16). Rules 1.1, 1.9.

The tag covers header and body and, through the session's counter, the place of the frame in the link; frames
of the handshake and refusals have none. Length and kind are judged from the first five bytes, before anything
is buffered for the frame, the tag before anything is delivered.

A message longer than a fragment travels in several frames, all but the last of a kind with MORE. Control and
bulk are put together apart, so a control message can overtake a bulk message between two of its fragments,
but within a class one message ends before the next begins.
"""

from __future__ import annotations

from struct import Struct

from pbft.crypto import MAC_SIZE, MESSAGE_MAX_BYTES

HANDSHAKE, REFUSAL, CONTROL, BULK, PING, PONG, REKEY, GOODBYE = 1, 2, 3, 4, 5, 6, 7, 8
MORE = 0x40
"""Flag on CONTROL and BULK: the message goes on in the next frame of this class."""

FRAGMENT_MAX_BYTES = 64 * 1024
PING_BYTES = 8
GOODBYE_MAX_BYTES = 200

HEADER_SIZE = 5
OVERHEAD = HEADER_SIZE + MAC_SIZE
LENGTH_BEYOND = 1 + MAC_SIZE
"""What the length field counts in an authenticated frame besides the body."""

_header = Struct(">IB")
pack_header = _header.pack
unpack_header = _header.unpack_from


def _longest(bodies: dict[int, int]) -> tuple[int, ...]:
    return tuple(bodies[kind] + LENGTH_BEYOND if kind in bodies else 0 for kind in range(256))


_CONFIRMING = {PING: PING_BYTES, GOODBYE: GOODBYE_MAX_BYTES}
_LINKED = {
    **_CONFIRMING,
    CONTROL: FRAGMENT_MAX_BYTES,
    CONTROL | MORE: FRAGMENT_MAX_BYTES,
    BULK: FRAGMENT_MAX_BYTES,
    BULK | MORE: FRAGMENT_MAX_BYTES,
    PONG: PING_BYTES,
    REKEY: MESSAGE_MAX_BYTES,
}

LONGEST_LINKED = _longest(_LINKED)
"""kind -> largest length field on a link that is up; 0 for kinds that do not belong there."""
LONGEST_CONFIRMING = _longest(_CONFIRMING)
"""The same for a link that the other side has not confirmed yet."""


def plain_frame(kind: int, body: bytes) -> bytes:
    """A frame without tag: HANDSHAKE or REFUSAL."""
    return pack_header(1 + len(body), kind) + body


def split_plain_frame(data: bytes) -> tuple[int, bytes, bytes] | str | None:
    """(kind, body, rest) of the first frame without tag; None: incomplete; a text: the kind of refusal."""
    if len(data) < HEADER_SIZE:
        return None
    length, kind = unpack_header(data)
    if kind not in (HANDSHAKE, REFUSAL):
        return "bad-kind"
    if not 1 < length <= 1 + MESSAGE_MAX_BYTES:
        return "bad-length"
    end = 4 + length
    if len(data) < end:
        return None
    return kind, data[HEADER_SIZE:end], data[end:]


class Reassembly:
    """Fragments of one class until their message is complete. However small they are, they take what they are long."""

    __slots__ = ("_maximum", "_pieces")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._pieces = bytearray()

    def add(self, piece: bytes) -> bool:
        """Keep a fragment; False if the message has become too long."""
        if not piece or self.held + len(piece) > self._maximum:  # an empty one has no sense
            return False
        self._pieces += piece
        return True

    @property
    def held(self) -> int:
        """Bytes of the fragments so far."""
        return len(self._pieces)

    def finish(self, last: bytes) -> bytes | None:
        """The whole message, None if it is too long."""
        if self.held + len(last) > self._maximum:
            return None
        if not self._pieces:
            return last
        message = bytes(self._pieces + last)
        self._pieces = bytearray()
        return message
