"""Client requests and batches of them: parsed once, digested by content. Rules 1.14, 1.15, 1.17, 2.1.

A batch is a byte string of concatenated requests, not a tree of objects, since what costs is the number of steps per
operation (DESIGN 4). Its digest covers the requests' digests, the agreed time and the seed; neither view nor
authenticators, so a batch keeps its digest in a later view and when a request was retransmitted with a signature.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

from pbft.codec import CodecError, array, blob, decode_row, dumps, head_size, loads, most_items, row, uint
from pbft.config import CLIENT_PRINCIPAL, PROTOCOL_VERSION
from pbft.crypto.digests import digest
from pbft.messages import Request

EVERYBODY = 255
"""`replier` of a request that wants the full result from every replica."""

MAX_REQUESTS = 2048
"""Requests in a batch: parsed, small ones take several times the bytes that they have in it, and a window of batches is
held. A session is numbered (sequence number << 16) | position (rule 1.15)."""


class Kind(IntEnum):
    """What a request asks for."""

    OPERATIONS = 1
    OPEN = 2
    QUERIES = 3
    """Like OPERATIONS, but each is run by `Application.query`, which cannot write: an ordered read (rule 1.16)."""
    RECOVER = 4
    """Of a replica that has lost its past: ends its incarnation (rule 1.7 a)."""


class AuthKind(IntEnum):
    """First byte of `Request.authenticator`."""

    MACS = 0
    SIGNATURE = 1
    SEAL = 2
    """Of a replica, for RECOVER."""


_u64 = uint()
_client = uint(minimum=CLIENT_PRINCIPAL)
_operations = row(uint(255), _client, uint(minimum=1), uint(minimum=1), _u64, uint(255), array(blob(64 << 20), 4096, 1))
_MOST_ITEMS = most_items(_operations)
_SHORT = 2048
"""Bytes of a body that are decoded at once: whoever sends what is no request rests after the first."""
_open = row(uint(255), _client, _u64, _u64)
_recover = row(uint(255), uint(CLIENT_PRINCIPAL - 1), _u64, _u64)


class ClientRequest:
    """A parsed REQUEST. `session`, `id`: for OPEN and RECOVER 0 and the nonce. `floor`: for OPEN the client's open
    count, for RECOVER the incarnation that it ends; then `client` is the replica."""

    __slots__ = (
        "authenticator",
        "body",
        "client",
        "digest",
        "floor",
        "id",
        "kind",
        "operations",
        "replier",
        "session",
    )

    def __init__(self, body: bytes, authenticator: bytes) -> None:
        """Parse the body of a request. Raises `CodecError`."""
        self.body = body
        self.authenticator = authenticator
        value = loads(body, _MOST_ITEMS, _SHORT)
        self.operations: Sequence[bytes] = ()
        if type(value) is not tuple or not value:
            raise CodecError("shape", "a request is an array that starts with its kind")
        if value[0] == Kind.OPERATIONS or value[0] == Kind.QUERIES:
            size = _operations(value)
            self.kind = Kind(value[0])
            _, self.client, self.session, self.id, self.floor, self.replier, self.operations = value
            if self.floor >= self.id:
                raise CodecError("range", "a request lies at or below the floor that it names itself")
        elif value[0] == Kind.OPEN:
            size = _open(value)
            self.kind = Kind.OPEN
            _, self.client, self.id, self.floor = value
            self.session, self.replier = 0, EVERYBODY
        elif value[0] == Kind.RECOVER:
            size = _recover(value)
            self.kind = Kind.RECOVER
            _, self.client, self.id, self.floor = value
            self.session, self.replier = 0, EVERYBODY
        else:
            raise CodecError("unknown", "no request has this kind")
        if size != len(body):
            raise CodecError("canonical", "the request is not in its shortest encoding, or bytes follow it")
        self.digest = digest(b"request", body)

    @property
    def size(self) -> int:
        """Bytes that this request takes in a batch."""
        return _ENTRY.size + len(self.body) + len(self.authenticator)

    @property
    def is_signed(self) -> bool:
        """Whether a signature came with it (not whether it verifies)."""
        return self.authenticator[:1] in (b"\x01", b"\x02")

    def without_operations(self) -> ClientRequest:
        """What says which request it was, and not what it asked for."""
        other = ClientRequest.__new__(ClientRequest)
        for name in ("client", "digest", "floor", "id", "kind", "replier", "session"):
            setattr(other, name, getattr(self, name))
        other.body, other.authenticator, other.operations = b"", b"", ()
        return other

    def message(self) -> Request:
        """The wire message."""
        return Request(self.body, self.authenticator)

    def __repr__(self) -> str:
        return f"<{self.kind.name} {self.client & 0xFFFF:04x}/{self.session:x}/{self.id} {self.digest.hex()[:8]}>"


def operations_body(
    client: int,
    session: int,
    request_id: int,
    floor: int,
    replier: int,
    operations: Sequence[bytes],
    kind: Kind = Kind.OPERATIONS,
) -> bytes:
    """Body of a REQUEST with several operations (or queries), which execute in their order, one after the other."""
    return dumps((int(kind), client, session, request_id, floor, replier, tuple(operations)))


def open_body(client: int, nonce: int, count: int) -> bytes:
    """Body of OPEN(nonce, count): opens a session iff `count` is the client's open count. Rule 1.15."""
    return dumps((int(Kind.OPEN), client, nonce, count))


def recover_body(replica: int, nonce: int, incarnation: int) -> bytes:
    """Body of RECOVER(i, k): ends incarnation k of replica i. The nonce tells the RECOVERs of different lives of one
    replica apart: whoever has signed one waits for the execution of that very one. Rule 1.7 a."""
    return dumps((int(Kind.RECOVER), replica, nonce, incarnation))


def request_overhead(operations: Sequence[bytes]) -> int:
    """Upper bound of the bytes that a REQUEST with these operations takes in a batch, without its authenticator."""
    return 64 + sum(len(o) + head_size(len(o)) for o in operations)


def signature_body(cluster: bytes, epoch: int, request_digest: bytes) -> bytes:
    """What a client, or a replica that recovers, signs: it names version, cluster and epoch, so that the signature
    means nothing elsewhere (1.9)."""
    return dumps((PROTOCOL_VERSION, cluster, epoch, "request", request_digest))


_HEADER = struct.Struct(">Q16s")
_ENTRY = struct.Struct(">IH")
SEED_SIZE = 16


class Batch(NamedTuple):
    """What one sequence number orders: agreed time (microseconds), agreed seed and requests in execution order."""

    digest: bytes
    encoded: bytes
    time: int
    seed: bytes
    requests: tuple[ClientRequest, ...]

    @property
    def is_null(self) -> bool:
        """A NULL batch: fills a gap, executes as nothing, carries no time (rules 1.14, 2.6)."""
        return not self.encoded


def batch_digest(time: int, seed: bytes, requests: Iterable[ClientRequest]) -> bytes:
    """Digest by content: order-dependent, free of view and authenticators (rule 1.14)."""
    return digest(b"batch", _HEADER.pack(time, seed) + b"".join([r.digest for r in requests]))


NULL_DIGEST = digest(b"batch", b"")
NULL_BATCH = Batch(NULL_DIGEST, b"", 0, bytes(SEED_SIZE), ())


def encode_batch(time: int, seed: bytes, requests: Sequence[ClientRequest]) -> Batch:
    """Build a batch of at least one request."""
    parts = [_HEADER.pack(time, seed)]
    pack = _ENTRY.pack
    for r in requests:
        parts += (pack(len(r.body), len(r.authenticator)), r.body, r.authenticator)
    return Batch(batch_digest(time, seed, requests), b"".join(parts), time, seed, tuple(requests))


def decode_batch(encoded: bytes) -> Batch:
    """Parse a batch strictly; `b""` is NULL. Raises `CodecError`."""
    if not encoded:
        return NULL_BATCH
    size = len(encoded)
    if size < _HEADER.size + _ENTRY.size:
        raise CodecError("batch", "a batch is shorter than its header and one request")
    time, seed = _HEADER.unpack_from(encoded)
    offset = _HEADER.size
    requests: list[ClientRequest] = []
    while offset < size:
        if size - offset < _ENTRY.size or len(requests) >= MAX_REQUESTS:
            raise CodecError("batch", "a batch ends inside a request, or holds too many")
        body_size, authenticator_size = _ENTRY.unpack_from(encoded, offset)
        offset += _ENTRY.size
        end = offset + body_size + authenticator_size
        if end > size:
            raise CodecError("batch", "a request reaches beyond the end of its batch")
        requests.append(ClientRequest(encoded[offset : offset + body_size], encoded[offset + body_size : end]))
        offset = end
    return Batch(batch_digest(time, seed, requests), encoded, time, seed, tuple(requests))


# ---- results


class Answer(IntEnum):
    """First element of a result: how the replicated table answered a request. Deterministic, rule 1.15."""

    DONE = 0
    """[0, [[outcome, bytes], ...]]: executed; one row per operation."""
    OPENED = 1
    """[1, session]: the session that this OPEN opened, while it lives."""
    OPEN_STALE = 2
    """[2, count]: the OPEN named another open count than the client's present one."""
    TOO_OLD = 3
    """[3, floor]: the id lies at or below the floor; the client itself said it no longer needs it."""
    UNKNOWN_SESSION = 4
    """[4, session]: never opened, or evicted. To the client: outcome unknown."""
    BEYOND_WINDOW = 5
    """[5, floor]: the id lies above floor + W."""
    FORGOTTEN = 6
    """[6, id]: executed, but its result was too much to remember."""
    RECOVERED = 7
    """[7, incarnation]: that of the replica after this RECOVER, whether or not it has changed anything."""


class Outcome(IntEnum):
    """How one operation of a request ended."""

    OK = 0
    REFUSED = 1
    """The application raised `OperationError`; the bytes are its text."""
    FAILED = 2
    """The application raised anything else: no text, since texts differ between machines."""
    TOO_LARGE = 3
    """The result exceeds `result_max_bytes`; its writes were undone."""
    CROWDED = 4
    """The results before it in the same REQUEST left no room for its own; its writes were undone. The client asks again
    with less company: the results of one REQUEST have a bound, whoever sends it."""


_RESULTS = {
    Answer.DONE: row(uint(255), array(row(uint(4), blob(64 << 20)), 4096)),
    Answer.OPENED: row(uint(255), _u64),
    Answer.OPEN_STALE: row(uint(255), _u64),
    Answer.TOO_OLD: row(uint(255), _u64),
    Answer.UNKNOWN_SESSION: row(uint(255), _u64),
    Answer.BEYOND_WINDOW: row(uint(255), _u64),
    Answer.FORGOTTEN: row(uint(255), _u64),
    Answer.RECOVERED: row(uint(255), _u64),
}


def encode_done(outcomes: Sequence[tuple[int, bytes]]) -> bytes:
    """Result of an executed request: (outcome, bytes) per operation."""
    return dumps((0, tuple(outcomes)))


def encode_answer(answer: Answer, value: int) -> bytes:
    """Result of a request that did not execute, or of OPEN."""
    return dumps((int(answer), value))


def decode_result(result: bytes) -> tuple[Answer, object]:
    """(answer, rows | number). Raises `CodecError`."""
    value = loads(result, most_items(_RESULTS[Answer.DONE]))
    if type(value) is not tuple or len(value) != 2 or value[0] not in _RESULTS or type(value[0]) is not int:
        raise CodecError("shape", "a result is an array of two that starts with its kind")
    answer = Answer(value[0])
    fields = decode_row(result, _RESULTS[answer])
    return answer, fields[1]


def result_digest(result: bytes) -> bytes:
    """Digest by which replies are compared and named."""
    return digest(b"result", result)
