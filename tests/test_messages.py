"""Every wire message and every record of the log: both ways, golden bytes, and what is refused, by its exact kind.

The strategies are built from the checks that the classes are registered with, so a new message is covered too.
"""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.codec import Check, CodecError, Family, flag
from pbft.messages import (
    Body,
    Checkpoint,
    Commit,
    Committed,
    Fetch,
    FetchState,
    Hello,
    Message,
    Nack,
    NewView,
    Position,
    Prepare,
    PrePrepare,
    Refusal,
    Reply,
    Request,
    Shown,
    Stable,
    StatePiece,
    StateRoots,
    Status,
    Suspect,
    ViewChange,
    decode,
    encode,
    signed_body,
    wire,
)
from pbft.protocol.records import log_record

FAMILIES = {"message": wire, "record": log_record}
EDGES = [0, 1, 23, 24, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, (1 << 63), (1 << 64) - 1]


def values_of(check: Check) -> st.SearchStrategy[Any]:
    """Values that pass a check, read off the bounds that it closes over; the edges are drawn often."""
    if check is flag:
        return st.booleans()
    bounds = inspect.getclosurevars(check).nonlocals
    match check.__qualname__.split(".")[0], bounds:
        case "uint", {"minimum": low, "maximum": high}:
            edges = [e for e in (*EDGES, low, high) if low <= e <= high]
            return st.sampled_from(edges) | st.integers(low, high)
        case "blob", bounds:
            low, high = bounds.get("minimum", 0), bounds["maximum"]
            long = [bytes([7]) * n for n in (23, 24, 255, 256, 65536) if low <= n <= high]
            short = st.binary(min_size=low, max_size=min(high, low + 40))
            return short | st.sampled_from(long) if long else short
        case "text", {"maximum": high}:
            return st.text(max_size=high // 4)
        case "array", {"item": item, "maximum": high, "minimum": low}:
            return st.lists(values_of(item), min_size=low, max_size=min(high, low + 4)).map(tuple)
        case "row", {"items": items}:
            return st.tuples(*map(values_of, items))
        case "Family", {"number": number, "check": inner}:  # a nested registered class
            cls = wire.types()[number]
            fields = inspect.getclosurevars(inner).nonlocals["items"][1:]
            return st.tuples(*map(values_of, fields)).map(lambda row: cls(*row))
    raise AssertionError(f"no strategy for {check.__qualname__}; write one")


def instances_of(family: Family, number: int) -> st.SearchStrategy[Any]:
    cls, check = family._by_number[number]
    items = inspect.getclosurevars(check).nonlocals["items"]
    return st.tuples(*map(values_of, items[1:])).map(lambda row: cls(*row))


everything = pytest.mark.parametrize(
    ("family", "number"),
    [pytest.param(f, n, id=cls.__name__) for f in FAMILIES.values() for n, cls in f.types().items()],
)


@everything
@given(data=st.data())
def test_encode_then_decode_is_identity(family: Family, number: int, data: st.DataObject) -> None:
    """Every value that passes its checks comes back equal, of the same types all the way down."""
    value = data.draw(instances_of(family, number))
    encoded = family.encode(value)
    back = family.decode(encoded)
    assert back == value and type(back) is type(value)
    assert repr(back) == repr(value)  # True is not 1 here
    assert family.encode(back) == encoded


@everything
@given(data=st.data())
def test_damaged_bytes_are_refused_or_mean_themselves(family: Family, number: int, data: st.DataObject) -> None:
    """Whatever is cut out of, put into or changed in a message: CodecError, or a value that encodes to these bytes."""
    encoded = family.encode(data.draw(instances_of(family, number)))
    for _ in range(3):
        at = data.draw(st.integers(0, min(len(encoded), 80)))
        cut = data.draw(st.integers(0, 3))
        damaged = encoded[:at] + data.draw(st.binary(max_size=3)) + encoded[at + cut :]
        try:
            value = family.decode(damaged)
        except CodecError:
            continue
        assert family.encode(value) == damaged


@everything
@given(data=st.data())
def test_every_truncation_is_refused(family: Family, number: int, data: st.DataObject) -> None:
    """A message that lacks its end is none, wherever it ends; one with a byte more is none either."""
    encoded = family.encode(data.draw(instances_of(family, number)))
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(CodecError) as caught:
        family.decode(encoded[:cut])
    assert caught.value.kind == "cbor"
    with pytest.raises(CodecError) as caught:
        family.decode(encoded + data.draw(st.binary(min_size=1, max_size=3)))
    assert caught.value.kind == "canonical"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
@given(data=st.binary(max_size=80))
def test_any_bytes_are_refused_or_mean_themselves(family: Family, data: bytes) -> None:
    """Random bytes give CodecError or a value that encodes to them."""
    try:
        value = family.decode(data)
    except CodecError:
        return
    assert family.encode(value) == data


confused = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats()
    | st.binary(max_size=33)
    | st.text(max_size=5)
    | st.just(cbor2.undefined)
    | st.just(bytes(32)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.integers(0, 5), inner, max_size=2),
    max_leaves=10,
)


@everything
@pytest.mark.scenario("G16")
@given(data=st.data())
def test_type_confusion_is_refused(family: Family, number: int, data: st.DataObject) -> None:
    """One field replaced by a value of any other type, one left out, one added: CodecError unless it is as good."""
    value = data.draw(instances_of(family, number))
    fields = [number, *value]
    at = data.draw(st.integers(0, len(fields) - 1))
    how = data.draw(st.sampled_from(["replace", "drop", "insert"]))
    if how == "replace":
        fields[at] = data.draw(confused)
    elif how == "drop":
        del fields[at]
    else:
        fields.insert(at, data.draw(confused))
    encoded = cbor2.dumps(fields)
    try:
        back = family.decode(encoded)
    except CodecError:
        return
    assert family.encode(back) == encoded


# ---- refused, by exact kind

D = bytes(32)
SEAL = bytes(160)
CP = (1, 2, 128, D, 3, 4, (), SEAL)
VC = (1, 2, 5, 128, ((128, D),), ((129, D, 4),), ((129, D, 4),), SEAL)
NV = (1, 2, 5, ((1, D),), SEAL, (VC,))


def _cbor(*fields: Any) -> bytes:
    return cbor2.dumps(fields)


MALFORMED: dict[str, tuple[bytes, str]] = {
    # arity
    "array without fields": (_cbor(3), "length"),
    "Prepare with a field too few": (_cbor(3, 0, 1), "length"),
    "Prepare with a field too many": (_cbor(3, 0, 1, D, 0), "length"),
    "Commit with its fields in an array": (_cbor(4, (0, 1, D)), "length"),
    "empty array": (_cbor(), "shape"),
    # number
    "message 0": (_cbor(0, 0, 1, D), "unknown"),
    "message 23": (_cbor(23, 0, 1, D), "unknown"),
    "message 255": (_cbor(255), "unknown"),
    "message 256": (_cbor(256), "unknown"),
    "message 2^64-1": (_cbor((1 << 64) - 1), "unknown"),
    "message -3": (_cbor(-3, 0, 1, D), "unknown"),
    "number is True": (_cbor(True, b"", b""), "shape"),
    "number is a float": (_cbor(3.0, 0, 1, D), "shape"),
    "number is a text": (_cbor("3", 0, 1, D), "shape"),
    "number is bytes": (_cbor(b"\x03", 0, 1, D), "shape"),
    "number is null": (_cbor(None, 0, 1, D), "shape"),
    "number is an array": (_cbor((3,), 0, 1, D), "shape"),
    # not an array
    "a number": (b"\x03", "shape"),
    "bytes": (b"\x43\x84\x03\x00", "shape"),
    "text": (b"\x63abc", "shape"),
    "null": (b"\xf6", "shape"),
    "undefined": (b"\xf7", "shape"),
    "true": (b"\xf5", "shape"),
    "a float": (b"\xf9\x3c\x00", "shape"),
    "a map": (b"\xa1\x00\x03", "cbor"),
    # type of a field
    "view is True": (_cbor(3, True, 1, D), "type"),
    "view is False": (_cbor(3, False, 1, D), "type"),
    "view is null": (_cbor(3, None, 1, D), "type"),
    "view is undefined": (_cbor(3, cbor2.undefined, 1, D), "type"),
    "view is 1.0": (_cbor(3, 1.0, 1, D), "type"),
    "view is NaN": (_cbor(3, float("nan"), 1, D), "type"),
    "view is infinite": (_cbor(3, float("inf"), 1, D), "type"),
    "view is a text": (_cbor(3, "0", 1, D), "type"),
    "view is bytes": (_cbor(3, b"\x00", 1, D), "type"),
    "view is an array": (_cbor(3, (), 1, D), "type"),
    "view is a map": (_cbor(3, {}, 1, D), "cbor"),
    "view is a simple value": (b"\x84\x03\xe0\x01\x58\x20" + D, "type"),
    "digest is a text": (_cbor(3, 0, 1, "x" * 32), "type"),
    "digest is an array of numbers": (_cbor(3, 0, 1, (0,) * 32), "type"),
    "digest is null": (_cbor(3, 0, 1, None), "type"),
    "batch is a text": (_cbor(2, 0, 1, D, ""), "type"),
    "flag is 1": (_cbor(12, 0, 1, ((1, 1, D, b""),)), "type"),
    "flag is 0": (_cbor(12, 0, 1, ((1, 0, D, b""),)), "type"),
    "flag is null": (_cbor(12, 0, 1, ((1, None, D, b""),)), "type"),
    "reason is bytes": (_cbor(13, 0, 1, 1, b"busy"), "type"),
    "rows is bytes": (_cbor(12, 0, 1, b""), "type"),
    "rows is a map": (_cbor(12, 0, 1, {0: 1}), "cbor"),
    "row is a number": (_cbor(8, (1,)), "type"),
    "checkpoint is a number": (_cbor(10, (1,)), "type"),
    "checkpoints is bytes": (_cbor(10, b""), "type"),
    # range
    "view is -1": (_cbor(3, -1, 1, D), "range"),
    "view is -2^64": (_cbor(3, -(1 << 64), 1, D), "range"),
    "sender is 65536": (_cbor(5, 65536, *CP[1:]), "range"),
    "sender inside a certificate is 65536": (_cbor(10, ((65536, *CP[1:]),)), "range"),
    # length
    "digest of 31 bytes": (_cbor(3, 0, 1, D[:31]), "length"),
    "digest of 33 bytes": (_cbor(3, 0, 1, D + b"\0"), "length"),
    "no digest": (_cbor(3, 0, 1, b""), "length"),
    "seal of 159 bytes": (_cbor(5, *CP[:7], SEAL[1:]), "length"),
    "seal of 161 bytes": (_cbor(5, 1, 0, 4, D, 1, 1, (), SEAL + b"\0"), "length"),
    "authenticator of 16,385 bytes": (_cbor(1, b"", bytes((1 << 14) + 1)), "length"),
    "STATUS without what is known of views": (_cbor(7, 0, 0, 0, 0, b"", b""), "length"),
    "bitmap of 16,385 bytes": (_cbor(7, 0, 0, 0, 0, 0, b"", bytes((1 << 14) + 1), b""), "length"),
    "bitmap of VIEW-CHANGEs of 16,385 bytes": (_cbor(7, 0, 0, 0, 0, 0, b"", b"", bytes((1 << 14) + 1)), "length"),
    "reason of 65 bytes": (_cbor(13, 0, 1, 1, "x" * 65), "length"),
    "reason of 33 letters of 2 bytes": (_cbor(13, 0, 1, 1, "ö" * 33), "length"),
    "COMMITTED of nothing": (_cbor(6, 1, ()), "length"),
    "COMMITTED of 257 digests": (_cbor(6, 1, (D,) * 257), "length"),
    "FETCH of nothing": (_cbor(8, ()), "length"),
    "FETCH of 257": (_cbor(8, ((1, D),) * 257), "length"),
    "FETCH row with three": (_cbor(8, ((1, D, 0),)), "length"),
    "FETCH row with one": (_cbor(8, ((1,),)), "length"),
    "certificate of nothing": (_cbor(10, ()), "length"),
    "checkpoint without a seal": (_cbor(10, (CP[:7],)), "length"),
    "checkpoint with its number": (_cbor(10, ((5, *CP),)), "length"),
    "certificate of 4,097": (_cbor(10, ((),) * 4097), "length"),
    "REPLY without rows": (_cbor(12, 0, 1, ()), "length"),
    "REPLY of 16,385 rows": (_cbor(12, 0, 1, ((),) * 16385), "length"),
    # of view changes
    "SUSPECT of nothing": (_cbor(14), "length"),
    "SUSPECT with a number": (_cbor(14, 1, 2), "length"),
    "SUSPECT of True": (_cbor(14, True), "type"),
    "SUSPECT of -1": (_cbor(14, -1), "range"),
    "VIEW-CHANGE without a seal": (_cbor(15, *VC[:7]), "length"),
    "VIEW-CHANGE with a seal of 159 bytes": (_cbor(15, *VC[:7], SEAL[1:]), "length"),
    "VIEW-CHANGE of sender 65536": (_cbor(15, 65536, *VC[1:]), "range"),
    "VIEW-CHANGE with no checkpoint": (_cbor(15, *VC[:4], (), *VC[5:]), "length"),
    "VIEW-CHANGE with 4,097 checkpoints": (_cbor(15, *VC[:4], ((),) * 4097, *VC[5:]), "length"),
    "VIEW-CHANGE with a checkpoint of three": (_cbor(15, *VC[:4], ((128, D, 0),), *VC[5:]), "length"),
    "VIEW-CHANGE with 131,073 P entries": (_cbor(15, *VC[:5], ((),) * 131_073, *VC[6:]), "length"),
    "VIEW-CHANGE with a P entry of two": (_cbor(15, *VC[:5], ((129, D),), *VC[6:]), "length"),
    "VIEW-CHANGE with a P entry of a short digest": (_cbor(15, *VC[:5], ((129, D[1:], 4),), *VC[6:]), "length"),
    "VIEW-CHANGE with a P entry of view null": (_cbor(15, *VC[:5], ((129, D, None),), *VC[6:]), "type"),
    "VIEW-CHANGE with a P that is bytes": (_cbor(15, *VC[:5], b"", *VC[6:]), "type"),
    "VIEW-CHANGE with 262,145 Q entries": (_cbor(15, *VC[:6], ((),) * 262_145, SEAL), "length"),
    "VIEW-CHANGE with a Q entry of four": (_cbor(15, *VC[:6], ((129, D, 4, 5),), SEAL), "length"),
    "VIEW-CHANGE with a Q entry of number -1": (_cbor(15, *VC[:6], ((-1, D, 4),), SEAL), "range"),
    "NEW-VIEW without what it names": (_cbor(16, *NV[:5]), "length"),
    "NEW-VIEW that names nothing": (_cbor(16, *NV[:3], (), *NV[4:]), "length"),
    "NEW-VIEW that brings nothing": (_cbor(16, *NV[:5], ()), "length"),
    "NEW-VIEW that names 4,097": (_cbor(16, *NV[:3], ((),) * 4097, *NV[4:]), "length"),
    "NEW-VIEW that brings 4,097": (_cbor(16, *NV[:5], ((),) * 4097), "length"),
    "NEW-VIEW that names a stranger by text": (_cbor(16, *NV[:3], (("1", D),), *NV[4:]), "type"),
    "NEW-VIEW with a seal of 161 bytes": (_cbor(16, *NV[:4], SEAL + b"\0", NV[5]), "length"),
    "NEW-VIEW with a VIEW-CHANGE's number inside": (_cbor(16, *NV[:5], ((15, *VC),)), "length"),
    "NEW-VIEW with a VIEW-CHANGE without a seal": (_cbor(16, *NV[:5], (VC[:7],)), "length"),
    "NEW-VIEW with bytes for a VIEW-CHANGE": (_cbor(16, *NV[:5], (b"",)), "type"),
    # canonical
    "number in 2 bytes": (b"\x84\x18\x03\x00\x01\x58\x20" + D, "canonical"),
    "view in 9 bytes": (b"\x84\x03\x1b" + bytes(8) + b"\x01\x58\x20" + D, "canonical"),
    "digest's length in 3 bytes": (b"\x84\x03\x00\x01\x59\x00\x20" + D, "canonical"),
    "array's length in 2 bytes": (b"\x98\x04\x03\x00\x01\x58\x20" + D, "canonical"),
    "nested array's length in 2 bytes": (b"\x82\x08\x98\x01\x82\x01\x58\x20" + D, "canonical"),
    "a byte follows": (_cbor(3, 0, 1, D) + b"\x00", "canonical"),
    "the same message follows": (_cbor(3, 0, 1, D) * 2, "canonical"),
    # plain CBOR
    "nothing": (b"", "cbor"),
    "ends inside the digest": (_cbor(3, 0, 1, D)[:-1], "cbor"),
    "indefinite array": (b"\x9f\x03\x00\x01\x58\x20" + D + b"\xff", "cbor"),
    "indefinite digest": (b"\x84\x03\x00\x01\x5f\x58\x20" + D + b"\xff", "cbor"),
    "view of 2^64, a tag": (_cbor(3, 1 << 64, 1, D), "cbor"),
    "view of 2^70, a tag": (_cbor(3, 1 << 70, 1, D), "cbor"),
    "view of 2^20000, a tag": (_cbor(3, 1 << 20_000, 1, D), "cbor"),
    "view of -2^20000, a tag": (_cbor(3, -(1 << 20_000), 1, D), "cbor"),
    "number of 2^20000, a tag": (_cbor(1 << 20_000, 0, 1, D), "cbor"),
    "sequence number as a date": (b"\x84\x03\x00\xc1\x01\x58\x20" + D, "cbor"),
    "self-described CBOR": (b"\xd9\xd9\xf7" + _cbor(3, 0, 1, D), "cbor"),
    "a field marked for sharing": (b"\x84\x03\xd8\x1c\x00\x01\x58\x20" + D, "cbor"),
    "nested 10,000 deep": (b"\x84\x03" + b"\x81" * 10_000, "items"),
    "said to have 2^64-1 fields": (b"\x9b" + b"\xff" * 8 + b"\x03", "cbor"),
    "digest said to have 2^63 bytes": (b"\x84\x03\x00\x01\x5b\x7f" + b"\xff" * 7, "cbor"),
    "reason that is no UTF-8": (b"\x85\x0d\x00\x01\x01\x62\xc3\x28", "cbor"),
}


@pytest.mark.scenario("G16")
@pytest.mark.parametrize(("data", "kind"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_messages_are_refused_by_kind(data: bytes, kind: str) -> None:
    """Each row is refused with exactly this kind, the name under which it is counted."""
    with pytest.raises(CodecError) as caught:
        decode(data)
    assert caught.value.kind == kind


@pytest.mark.slow
@pytest.mark.scenario("G15")
def test_oversized_messages_are_refused() -> None:
    """A batch, a body or a result beyond 64 MiB is refused by its length; beyond 80 MiB nothing is parsed."""
    big = bytes((64 << 20) + 1)
    for data in (
        _cbor(2, 0, 1, D, big),
        _cbor(9, 1, D, big),
        _cbor(1, big, b""),
        _cbor(12, 0, 1, ((1, True, D, big),)),
    ):
        with pytest.raises(CodecError) as caught:
            decode(data)
        assert caught.value.kind == "length"
    with pytest.raises(CodecError) as caught:
        decode(bytes((80 << 20) + 1))
    assert caught.value.kind == "length"


# ---- data only


class _Trap:
    sprung = False

    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, (f"import sys; sys.modules[{__name__!r}]._Trap.sprung = True",))


EXECUTABLE = {
    "pickle 0": pickle.dumps(_Trap(), 0),
    "pickle 2": pickle.dumps(_Trap(), 2),
    "pickle 5": pickle.dumps(_Trap(), 5),
    "yaml": b"!!python/object/apply:os.system ['true']",
    "python": b"__import__('os').system('true')",
    "json": b'{"py/object": "os.system"}',
    "regular expression": b"\x84\x03\xd8\x23\x62a+\x01\x58\x20" + D,
    "mail": b"\x84\x03\xd8\x24\x61a\x01\x58\x20" + D,
    "set": b"\x84\x03\xd9\x01\x02\x80\x01\x58\x20" + D,
    "reference": b"\x84\x03\xd8\x1d\x00\x01\x58\x20" + D,
}


@pytest.mark.scenario("G24")
@pytest.mark.parametrize("payload", EXECUTABLE.values(), ids=EXECUTABLE.keys())
def test_no_payload_is_executed(payload: bytes) -> None:
    """Pickles, YAML, source and objects under tags are no messages; inside a byte string they stay bytes."""
    for family in FAMILIES.values():
        with pytest.raises(CodecError):
            family.decode(payload)
    inside = PrePrepare(0, 1, D, payload)
    assert decode(encode(inside)) == inside and type(decode(encode(inside)).batch) is bytes  # type: ignore[union-attr]
    assert _Trap.sprung is False


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_plain, value))
    return type(value) in (int, bytes, str, bool)


@everything
@pytest.mark.scenario("G24")
@given(data=st.data())
def test_decoded_messages_hold_plain_values_only(family: Family, number: int, data: st.DataObject) -> None:
    """Whole numbers, bytes, texts, booleans and tuples of those, nothing mutable: nothing can change afterwards."""
    value = family.decode(family.encode(data.draw(instances_of(family, number))))
    assert _is_plain(value)
    hash(value)


@pytest.mark.scenario("J09")
@pytest.mark.parametrize("payload", [b"", b"\x00", bytes(range(256)), b"\xf6"])
def test_empty_and_binary_payloads_survive(payload: bytes) -> None:
    """Empty stays empty and does not become absent; every byte value passes."""
    for message in (
        Request(payload, b""),
        PrePrepare(0, 1, D, payload),
        Body(1, D, payload),
        Reply(0, 1, ((1, False, D, payload),)),
    ):
        assert decode(encode(message)) == message


# ---- golden bytes

ONE, TWO = bytes(range(32)), bytes(range(32, 64))
CHECKPOINT = Checkpoint(2, 7, 128, ONE, 3, 1000, (0, 2), b"\x5e" * 160)
_ONE, _TWO, _SEAL = "5820" + ONE.hex(), "5820" + TWO.hex(), "58a0" + "5e" * 160
VIEW_CHANGE = ViewChange(
    2, 7, 300, 128, ((128, ONE), (256, TWO)), ((129, ONE, 1),), ((129, ONE, 1), (130, TWO, 299)), b"\x5e" * 160
)
_VIEW_CHANGE = (
    f"020719012c188082821880{_ONE}82190100{_TWO}81831881{_ONE}0182831881{_ONE}01831882{_TWO}19012b{_SEAL}"  # no number
)

POSITION = Position(2, 7, 3, 1000, b"\x5e" * 160)
_POSITION = f"02070319 03e8{_SEAL}".replace(" ", "")

GOLDEN: list[tuple[Message, str]] = [
    (Request(b"body", b"\x01sig"), "830144626f64794401736967"),
    (PrePrepare(1, 300, ONE, b"batch"), f"85020119012c{_ONE}456261746368"),
    (Prepare(1, 300, ONE), f"84030119012c{_ONE}"),
    (Commit(23, 24, ONE), f"8404171818{_ONE}"),
    (CHECKPOINT, f"890502071880{_ONE}031903e8820002{_SEAL}"),
    (Committed(65536, (ONE, TWO)), f"83061a0001000082{_ONE}{_TWO}"),
    (Status(1, 2, 128, 200, 1, b"\x05", b"", b"\x07"), "8907010218801 8c80141054041 07".replace(" ", "")),
    (Fetch(((5, ONE), (6, TWO))), f"8208828205{_ONE}8206{_TWO}"),
    (Body(5, ONE, b""), f"840905{_ONE}40"),
    (Stable((CHECKPOINT,)), f"820a818802071880{_ONE}031903e8820002{_SEAL}"),
    (Nack(9, 1 << 63, ONE), f"840b091b8000000000000000{_ONE}"),
    (Reply(0, 1 << 32, ((1, True, ONE, b"r"), (2, False, TWO, b""))),
     f"840c001b0000000100000000828401f5{_ONE}41728402f4{_TWO}40"),
    (Refusal(0, 1, 2, "busy"), "850d0001026462757379"),
    (Suspect(300), "820e19012c"),
    (VIEW_CHANGE, f"890f{_VIEW_CHANGE}"),
    (NewView(1, 0, 300, ((2, TWO),), b"\x5e" * 160, (VIEW_CHANGE,)),
     f"8710010019012c818202{_TWO}{_SEAL}8188{_VIEW_CHANGE}"),
    (FetchState(128, ((0, 2, b"key", 16),)), "831118808184000 2436b657910".replace(" ", "")),
    (StateRoots(128, (ONE, TWO), ONE), f"8412188082{_ONE}{_TWO}{_ONE}"),
    (StatePiece(128, (1, 0, b"\x06\x0b", 0), b"data", 0), "8513188084010042060b00446461746100"),
    (POSITION, f"8614{_POSITION}"),
    (Hello(3), "821503"),
    (Shown(3, (POSITION,)), f"8316038185{_POSITION}"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "expected"), GOLDEN, ids=[type(m).__name__ for m, _ in GOLDEN])
def test_golden_bytes(message: Message, expected: str) -> None:
    """The bytes of each message, for other implementations and against changes by mistake."""
    assert encode(message).hex() == expected
    assert decode(bytes.fromhex(expected)) == message


def test_each_message_has_golden_bytes() -> None:
    """The table above knows every registered message."""
    assert {type(message) for message, _ in GOLDEN} == set(wire.types().values())


# ---- what is signed


def test_signed_bytes_are_canonical_and_name_their_context() -> None:
    """Version, cluster, epoch, type, sender and incarnation come first, then the fields without the seal."""
    cluster = b"c" * 32
    assert cbor2.loads(CHECKPOINT.signed_body(cluster, 6)) == [1, cluster, 6, 5, 2, 7, 128, ONE, 3, 1000, [0, 2]]
    assert CHECKPOINT._replace(seal=SEAL).signed_body(cluster, 6) == CHECKPOINT.signed_body(cluster, 6)


def test_a_new_view_signs_what_it_names_and_not_what_it_brings() -> None:
    """So that a relay which attaches something else is to blame, and not the primary; the digest that it is named by
    covers a VIEW-CHANGE's seal too, so that one with a bad seal is the primary's fault (1.3)."""
    cluster = b"c" * 32
    new_view = NewView(1, 0, 300, ((2, VIEW_CHANGE.digest),), SEAL, (VIEW_CHANGE,))
    assert cbor2.loads(new_view.signed_body(cluster, 6)) == [1, cluster, 6, 16, 1, 0, 300, [[2, VIEW_CHANGE.digest]]]
    other = VIEW_CHANGE._replace(seal=SEAL)
    assert new_view._replace(view_changes=(other,)).signed_body(cluster, 6) == new_view.signed_body(cluster, 6)
    assert other.signed_body(cluster, 6) == VIEW_CHANGE.signed_body(cluster, 6) and other.digest != VIEW_CHANGE.digest


@pytest.mark.parametrize(("number", "signed"), [(5, 7), (15, 7), (16, 4)], ids=["Checkpoint", "ViewChange", "NewView"])
@given(data=st.data())
def test_two_signed_bodies_are_equal_only_if_everything_is(number: int, signed: int, data: st.DataObject) -> None:
    """Changing cluster, epoch, or any field before the seal changes the bytes under the seal."""
    one, two = (data.draw(instances_of(wire, number)) for _ in range(2))
    contexts = st.tuples(st.binary(min_size=1, max_size=2), st.integers(0, 2))
    first, second = data.draw(contexts), data.draw(contexts)
    same = one[:signed] == two[:signed] and first == second
    assert (one.signed_body(*first) == two.signed_body(*second)) is same
    assert signed_body(*first, number, *one[:signed]) == one.signed_body(*first)
