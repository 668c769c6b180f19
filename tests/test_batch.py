"""Requests, batches and results: both ways, what digests cover, and what is refused at each point of the bytes."""

from __future__ import annotations

import struct
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.batch import (
    EVERYBODY,
    MAX_REQUESTS,
    NULL_BATCH,
    NULL_DIGEST,
    Answer,
    ClientRequest,
    Kind,
    Outcome,
    batch_digest,
    decode_batch,
    decode_result,
    encode_answer,
    encode_batch,
    encode_done,
    open_body,
    operations_body,
    request_overhead,
    result_digest,
    signature_body,
)
from pbft.codec import CodecError

CLIENT = 1 << 63
u64 = st.integers(0, (1 << 64) - 1)
clients = st.integers(CLIENT, (1 << 64) - 1)
operations = st.lists(st.binary(max_size=40), min_size=1, max_size=5)
authenticators = st.binary(max_size=80)


@st.composite
def requests(draw: st.DrawFn) -> ClientRequest:
    if draw(st.booleans()):
        body = open_body(draw(clients), draw(u64), draw(u64))
    else:
        request_id = draw(st.integers(1, (1 << 64) - 1))
        kind = draw(st.sampled_from([Kind.OPERATIONS, Kind.QUERIES]))
        session, floor = draw(st.integers(1, (1 << 64) - 1)), draw(st.integers(0, request_id - 1))
        replier = draw(st.integers(0, 255))
        body = operations_body(draw(clients), session, request_id, floor, replier, draw(operations), kind)
    return ClientRequest(body, draw(authenticators))


batches = st.builds(
    encode_batch, u64, st.binary(min_size=16, max_size=16), st.lists(requests(), min_size=1, max_size=5)
)


# ---- requests


@given(clients, st.integers(1, 1 << 60), st.integers(1, 1 << 60), operations, st.integers(0, 255), authenticators)
def test_a_request_is_what_its_body_says(
    client: int, session: int, request_id: int, ops: list[bytes], replier: int, authenticator: bytes
) -> None:
    """All fields come back; the digest is that of the body and free of the authenticator; sizes add up."""
    body = operations_body(client, session, request_id, request_id - 1, replier, ops)
    request = ClientRequest(body, authenticator)
    assert (request.kind, request.client, request.session, request.id) == (Kind.OPERATIONS, client, session, request_id)
    assert (request.floor, request.replier, request.operations) == (request_id - 1, replier, tuple(ops))
    assert request.digest == ClientRequest(body, b"other").digest
    assert request.message() == (body, authenticator)
    assert request.is_signed is authenticator.startswith((b"\x01", b"\x02"))
    assert request.size - len(authenticator) <= request_overhead(ops)


@given(clients, u64, u64)
def test_open_names_nonce_and_count(client: int, nonce: int, count: int) -> None:
    """OPEN carries no operations and is answered in full by everybody."""
    request = ClientRequest(open_body(client, nonce, count), b"")
    assert (request.kind, request.client, request.id, request.floor) == (Kind.OPEN, client, nonce, count)
    assert (request.session, request.replier, tuple(request.operations)) == (0, EVERYBODY, ())


@pytest.mark.scenario("J09")
@pytest.mark.parametrize("operation", [b"", b"\x00", bytes(range(256)), b"\xf6"])
def test_empty_and_binary_operations_survive(operation: bytes) -> None:
    """An empty operation is one operation, not none."""
    request = ClientRequest(operations_body(CLIENT, 1, 1, 0, 0, [operation, operation]), b"")
    batch = decode_batch(encode_batch(1, bytes(16), [request]).encoded)
    assert batch.requests[0].operations == (operation, operation)
    done = encode_done([(Outcome.OK, operation)])
    assert decode_result(done) == (Answer.DONE, ((0, operation),))


def _body(*fields: Any) -> bytes:
    return cbor2.dumps(fields)


GOOD = (1, CLIENT, 5, 7, 6, 255, (b"op",))
BAD_REQUESTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "cbor"),
    "a number": (b"\x01", "shape"),
    "bytes": (b"\x41\x01", "shape"),
    "null": (b"\xf6", "shape"),
    "a map": (b"\xa1\x01\x01", "cbor"),
    "empty array": (_body(), "shape"),
    "kind 0": (_body(0, *GOOD[1:]), "unknown"),
    "kind 5": (_body(5, *GOOD[1:]), "unknown"),
    "kind is a text": (_body("1", *GOOD[1:]), "unknown"),
    "kind is null": (_body(None, *GOOD[1:]), "unknown"),
    "kind is NaN": (_body(float("nan"), *GOOD[1:]), "unknown"),
    "kind is an array": (_body((1,), *GOOD[1:]), "unknown"),
    "kind is True": (_body(True, *GOOD[1:]), "type"),
    "kind is 1.0": (_body(1.0, *GOOD[1:]), "type"),
    "kind of OPEN is 2.0": (_body(2.0, CLIENT, 1, 0), "type"),
    "kind is 2^20000": (_body(1 << 20_000, *GOOD[1:]), "cbor"),
    "a field too few": (_body(*GOOD[:6]), "length"),
    "a field too many": (_body(*GOOD, 0), "length"),
    "OPEN with the fields of operations": (_body(2, *GOOD[1:]), "length"),
    "operations with the fields of OPEN": (_body(1, CLIENT, 1, 0), "length"),
    "client is a replica": (_body(1, 3, *GOOD[2:]), "range"),
    "client is just below the clients": (_body(1, CLIENT - 1, *GOOD[2:]), "range"),
    "client is 2^64": (_body(1, 1 << 64, *GOOD[2:]), "cbor"),
    "client is True": (_body(1, True, *GOOD[2:]), "type"),
    "OPEN of a replica": (_body(2, 3, 1, 0), "range"),
    "OPEN with a negative nonce": (_body(2, CLIENT, -1, 0), "range"),
    "session 0": (_body(1, CLIENT, 0, 7, 6, 255, (b"",)), "range"),
    "id 0": (_body(1, CLIENT, 5, 0, 0, 255, (b"",)), "range"),
    "id at its own floor": (_body(1, CLIENT, 5, 7, 7, 255, (b"",)), "range"),
    "id below its own floor": (_body(1, CLIENT, 5, 7, 8, 255, (b"",)), "range"),
    "replier 256": (_body(1, CLIENT, 5, 7, 6, 256, (b"",)), "range"),
    "replier -1": (_body(1, CLIENT, 5, 7, 6, -1, (b"",)), "range"),
    "no operations": (_body(1, CLIENT, 5, 7, 6, 255, ()), "length"),
    "4,097 operations": (_body(1, CLIENT, 5, 7, 6, 255, (b"",) * 4097), "length"),
    "operations is bytes": (_body(1, CLIENT, 5, 7, 6, 255, b"op"), "type"),
    "operation is a text": (_body(1, CLIENT, 5, 7, 6, 255, ("op",)), "type"),
    "operation is null": (_body(1, CLIENT, 5, 7, 6, 255, (None,)), "type"),
    "operation is an array": (_body(1, CLIENT, 5, 7, 6, 255, ((),)), "type"),
    "a byte follows": (_body(*GOOD) + b"\0", "canonical"),
    "kind in 2 bytes": (b"\x87\x18\x01" + _body(*GOOD)[2:], "canonical"),
    "indefinite": (b"\x9f" + _body(*GOOD)[1:] + b"\xff", "cbor"),
    "ends early": (_body(*GOOD)[:-1], "cbor"),
}


@pytest.mark.scenario("G16")
@pytest.mark.parametrize(("body", "kind"), BAD_REQUESTS.values(), ids=BAD_REQUESTS.keys())
def test_malformed_requests_are_refused_by_kind(body: bytes, kind: str) -> None:
    """By itself and inside a batch, each is refused with exactly this kind."""
    assert ClientRequest(_body(*GOOD), b"").operations == (b"op",)
    with pytest.raises(CodecError) as caught:
        ClientRequest(body, b"")
    assert caught.value.kind == kind
    with pytest.raises(CodecError) as caught:
        decode_batch(struct.pack(">Q16sIH", 1, bytes(16), len(body), 0) + body)
    assert caught.value.kind == kind


# ---- batches


@given(batches)
def test_a_batch_comes_back_as_it_was(batch: Any) -> None:
    """Decoding gives the same digest, time, seed and requests in their order."""
    back = decode_batch(batch.encoded)
    assert (back.digest, back.encoded, back.time, back.seed) == batch[:4]
    assert [(r.body, r.authenticator) for r in back.requests] == [(r.body, r.authenticator) for r in batch.requests]
    assert encode_batch(back.time, back.seed, back.requests)[:4] == batch[:4]
    assert sum(r.size for r in back.requests) + 24 == len(batch.encoded)


@given(batches, st.data())
def test_damaged_batches_are_refused_or_mean_themselves(batch: Any, data: st.DataObject) -> None:
    """Whatever is cut out, put in or changed: CodecError, or a batch that encodes to exactly these bytes."""
    at, cut = data.draw(st.integers(0, len(batch.encoded))), data.draw(st.integers(0, 3))
    damaged = batch.encoded[:at] + data.draw(st.binary(max_size=3)) + batch.encoded[at + cut :]
    try:
        back = decode_batch(damaged)
    except CodecError:
        return
    if back is not NULL_BATCH:
        assert encode_batch(back.time, back.seed, back.requests).encoded == damaged


@given(st.binary(max_size=120))
def test_any_bytes_are_a_batch_or_a_codec_error(data: bytes) -> None:
    """Random bytes raise CodecError and nothing else."""
    try:
        batch = decode_batch(data)
    except CodecError as error:
        assert error.kind
        return
    assert batch.encoded == data


REQUEST = ClientRequest(_body(*GOOD), b"\x00" + bytes(64))
TWO_REQUESTS = encode_batch(9, b"s" * 16, [REQUEST, REQUEST]).encoded
_ENTRY_AT = 24
_SECOND_AT = _ENTRY_AT + REQUEST.size


@pytest.mark.parametrize("size", range(1, len(TWO_REQUESTS)))
def test_a_batch_can_end_only_after_a_request(size: int) -> None:
    """Cut at any byte it is refused, except after the first request, where it is another, complete batch."""
    if size == _SECOND_AT:
        assert len(decode_batch(TWO_REQUESTS[:size]).requests) == 1
        return
    with pytest.raises(CodecError) as caught:
        decode_batch(TWO_REQUESTS[:size])
    assert caught.value.kind == "batch"


def _with(at: int, new: bytes) -> bytes:
    return TWO_REQUESTS[:at] + new + TWO_REQUESTS[at + len(new) :]


BAD_BATCHES: dict[str, tuple[bytes, str]] = {
    "header alone": (TWO_REQUESTS[:24], "batch"),
    "header and an empty entry": (TWO_REQUESTS[:24] + bytes(6), "cbor"),
    "body said to have 4 GiB": (_with(_ENTRY_AT, b"\xff\xff\xff\xff"), "batch"),
    "authenticator said to have 64 KiB": (_with(_ENTRY_AT + 4, b"\xff\xff"), "batch"),
    "body one byte too long": (_with(_ENTRY_AT, (len(REQUEST.body) + 1).to_bytes(4, "big")), "canonical"),
    "body one byte too short": (_with(_ENTRY_AT, (len(REQUEST.body) - 1).to_bytes(4, "big")), "cbor"),
    "second body of no bytes": (TWO_REQUESTS[:_SECOND_AT] + bytes(6), "cbor"),
    "second body is said to have one byte that is missing": (TWO_REQUESTS[:_SECOND_AT] + b"\0\0\0\1\0\0", "batch"),
    "a byte follows": (TWO_REQUESTS + b"\x00", "batch"),
    "an entry without its sizes follows": (TWO_REQUESTS + bytes(5), "batch"),
    "kind of the second request changed": (_with(_SECOND_AT + 7, b"\x09"), "unknown"),
}  # fmt: skip


@pytest.mark.scenario("G16")
@pytest.mark.parametrize(("data", "kind"), BAD_BATCHES.values(), ids=BAD_BATCHES.keys())
def test_malformed_batches_are_refused_by_kind(data: bytes, kind: str) -> None:
    """Each structural point of a batch, with the exact kind."""
    with pytest.raises(CodecError) as caught:
        decode_batch(data)
    assert caught.value.kind == kind


@pytest.mark.slow
@pytest.mark.scenario("G15")
def test_a_batch_holds_a_bounded_number_of_requests() -> None:
    """65,536 requests, so that a session's number has room for the position; one more is refused."""
    request = ClientRequest(open_body(CLIENT, 0, 0), b"")
    entry = struct.pack(">IH", len(request.body), 0) + request.body
    head = struct.pack(">Q16s", 1, bytes(16))
    assert len(decode_batch(head + entry * MAX_REQUESTS).requests) == MAX_REQUESTS
    with pytest.raises(CodecError) as caught:
        decode_batch(head + entry * (MAX_REQUESTS + 1))
    assert caught.value.kind == "batch"


def test_null_is_the_empty_batch() -> None:
    """b"" is NULL; its digest is that of no other batch."""
    assert decode_batch(b"") is NULL_BATCH and NULL_BATCH.digest == NULL_DIGEST and NULL_BATCH.requests == ()
    assert batch_digest(0, bytes(16), []) != NULL_DIGEST


def test_the_digest_covers_time_seed_requests_and_their_order() -> None:
    """It changes with each of these; it does not change with the authenticators (rule 1.14)."""
    a = ClientRequest(open_body(CLIENT, 1, 0), b"")
    b = ClientRequest(open_body(CLIENT, 2, 0), b"")
    base = encode_batch(1, bytes(16), [a, b])
    others = [
        encode_batch(2, bytes(16), [a, b]),
        encode_batch(1, b"\x01" * 16, [a, b]),
        encode_batch(1, bytes(16), [b, a]),
        encode_batch(1, bytes(16), [a]),
        encode_batch(1, bytes(16), [a, b, b]),
    ]
    assert len({base.digest, *[other.digest for other in others]}) == 6
    signed = ClientRequest(a.body, b"\x01" + bytes(64))
    assert encode_batch(1, bytes(16), [signed, b]).digest == base.digest


def test_golden_digests() -> None:
    """Bytes and digests of one batch, one result and one signature body, for other implementations."""
    request = ClientRequest(operations_body(CLIENT, 5, 7, 6, 255, [b"op"]), b"\x00mac")
    batch = encode_batch(1_700_000_000_000_000, bytes(range(16)), [request])
    assert request.body.hex() == "87011b8000000000000000050706" + "18ff" + "81426f70"
    assert batch.encoded.hex() == (
        "00060a24181e4000" + bytes(range(16)).hex() + "00000014" + "0004" + request.body.hex() + "006d6163"
    )
    assert request.digest.hex() == "cd923074f7382407107afb43cb662c82275fabc244dfc37817320c826e5b7f3c"
    assert batch.digest.hex() == "3c5bdc7f0d769e2ea6f7bf3c1099775e2add0cf31cb1994fd339b952c96d900d"
    assert NULL_DIGEST.hex() == "269f95a5ff33af9668bb0431a61de262dfc045554474aafb582faac2a86a61ea"
    assert result_digest(b"r").hex() == "a3f4d657cc7fd3654159fa752ce5001867ae92437e9d51782755cf82ce0a9bf1"
    assert signature_body(b"c" * 32, 3, bytes(32)).hex() == (
        "85015820" + "63" * 32 + "03" + "6772657175657374" + "5820" + "00" * 32
    )


# ---- results

outcomes = st.lists(st.tuples(st.sampled_from(list(Outcome)), st.binary(max_size=40)), max_size=5)


@given(outcomes)
def test_done_comes_back(rows: list[tuple[Outcome, bytes]]) -> None:
    """One row per operation, in order."""
    assert decode_result(encode_done(rows)) == (Answer.DONE, tuple(rows))


@given(st.sampled_from([a for a in Answer if a is not Answer.DONE]), u64)
def test_answers_come_back(answer: Answer, value: int) -> None:
    """Each answer with its number."""
    assert decode_result(encode_answer(answer, value)) == (answer, value)


BAD_RESULTS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "cbor"),
    "a number": (b"\x00", "shape"),
    "one field": (_body(0), "shape"),
    "three fields": (_body(1, 2, 3), "shape"),
    "answer 8": (_body(8, 0), "shape"),
    "answer is False": (_body(False, ()), "shape"),
    "answer is True": (_body(True, 5), "shape"),
    "answer is 1.0": (_body(1.0, 5), "shape"),
    "answer is an array": (_body((), 0), "shape"),
    "answer is a map": (_body({}, 0), "cbor"),
    "number instead of rows": (_body(0, 5), "type"),
    "rows instead of a number": (_body(1, ()), "type"),
    "row of one": (_body(0, ((0,),)), "length"),
    "outcome 5": (_body(0, ((5, b""),)), "range"),
    "outcome is True": (_body(0, ((True, b""),)), "type"),
    "result is a text": (_body(0, ((0, "x"),)), "type"),
    "result is null": (_body(0, ((0, None),)), "type"),
    "4,097 rows": (_body(0, ((0, b""),) * 4097), "length"),
    "session is True": (_body(1, True), "type"),
    "session is negative": (_body(1, -1), "range"),
    "session is 2^64": (_body(1, 1 << 64), "cbor"),
    "a byte follows": (_body(1, 5) + b"\0", "canonical"),
    "session in 9 bytes": (b"\x82\x01\x1b" + bytes(7) + b"\x05", "canonical"),
}


@pytest.mark.scenario("G16")
@pytest.mark.parametrize(("data", "kind"), BAD_RESULTS.values(), ids=BAD_RESULTS.keys())
def test_malformed_results_are_refused_by_kind(data: bytes, kind: str) -> None:
    """What a lying replica may send as a result: each refused with exactly this kind."""
    with pytest.raises(CodecError) as caught:
        decode_result(data)
    assert caught.value.kind == kind


@given(st.binary(max_size=60))
def test_any_bytes_are_a_result_or_a_codec_error(data: bytes) -> None:
    """Random bytes raise CodecError, or are the one encoding of what they say."""
    try:
        answer, value = decode_result(data)
    except CodecError:
        return
    again = encode_done(value) if answer is Answer.DONE else encode_answer(answer, value)  # type: ignore[arg-type]
    assert again == data
