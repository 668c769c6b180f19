"""Proofs of presence and absence, chunk lists, and what hostile bytes do to them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.state import (
    CHUNK_BYTES,
    EMPTY_DIGEST,
    Proof,
    ProofError,
    Snapshot,
    State,
    StateBoundError,
    entry_digest,
    parse_chunk_list,
    parse_node,
    verify_chunk,
    verify_proof,
)


def of(items: dict[bytes, bytes]) -> Snapshot:
    state = State()
    state.load(items.items())
    return state.checkpoint()


SMALL = {b"k%d" % i: b"v%d" % i for i in range(5)}
LARGE = {b"key/%d" % i: b"v%d" % i for i in range(700)} | {b"key/": b"own", b"big": bytes(9000)}

keys = st.lists(st.sampled_from([b"a", b"b", b"\x61\x10", b"\x00"]), max_size=5).map(b"".join)


@pytest.mark.slow
@given(st.dictionaries(keys, st.binary(max_size=3) | st.just(b"x" * 5000), max_size=60), st.lists(keys, max_size=9))
def test_presence_and_absence_are_provable(items: dict[bytes, bytes], others: list[bytes]) -> None:
    """Whatever a state holds or does not hold has a proof, which survives encoding."""
    snapshot = of(items)
    for key in [*items, *others]:
        proof = snapshot.prove(key)
        assert verify_proof(snapshot.digest, key, proof) == items.get(key)
        assert Proof.decode(proof.encode()) == proof
        assert verify_proof(snapshot.digest, key, proof.encode()) == items.get(key)


def mutants(proof: Proof, chosen: random.Random) -> Iterator[Proof]:
    """Proofs with a bit, a node or the value changed."""
    nodes, value = proof.nodes, proof.value
    for i, node in enumerate(nodes):
        for position in {0, len(node) - 1, chosen.randrange(len(node)), chosen.randrange(len(node))}:
            changed = bytearray(node)
            changed[position] ^= 1 << chosen.randrange(8)
            yield Proof((*nodes[:i], bytes(changed), *nodes[i + 1 :]), value)
        yield Proof((*nodes[:i], *nodes[i + 1 :]), value)
        yield Proof((*nodes[:i], node, *nodes[i:]), value)
        yield Proof((*nodes[:i], node + b"\0", *nodes[i + 1 :]), value)
        yield Proof((*nodes[:i], node[:-1], *nodes[i + 1 :]), value)
    yield Proof((*nodes, b""), value)
    yield Proof((*nodes, *nodes), value)
    if value is None:
        yield Proof(nodes, b"")
        yield Proof(nodes, b"v1")
    else:
        yield Proof(nodes, None)
        yield Proof(nodes, value + b"\0")
        yield Proof(nodes, value[:-1])


@pytest.mark.parametrize("items", [{}, {b"": b"only"}, SMALL, LARGE], ids=["empty", "one", "bucket", "deep"])
@pytest.mark.parametrize("key", [b"", b"k1", b"absent", b"key/", b"key/12", b"key/zz", b"ke", b"big", b"\xff"])
def test_every_changed_proof_fails(items: dict[bytes, bytes], key: bytes) -> None:
    """A proof with any bit, node or value changed, or held against another key or state, is refused."""
    snapshot = of(items)
    proof = snapshot.prove(key)
    assert verify_proof(snapshot.digest, key, proof) == items.get(key)
    if not items:
        mutated = [Proof((b"",), None), Proof((), b"")]
    else:
        mutated = [m for m in mutants(proof, random.Random(1)) if m != proof]
    for mutant in mutated:
        with pytest.raises(ProofError):
            verify_proof(snapshot.digest, key, mutant)
    other = of(items | {b"one more": b"entry"})
    with pytest.raises(ProofError):
        verify_proof(other.digest, key, proof)
    if items:
        with pytest.raises(ProofError):
            verify_proof(EMPTY_DIGEST, key, proof)


def test_a_proof_does_not_serve_another_key_falsely() -> None:
    """Held against any other key a proof never yields a wrong answer: it fails, or shows a true absence."""
    snapshot = of(LARGE)
    for key in (b"key/12", b"key/", b"big"):
        proof = snapshot.prove(key)
        for wrong in [*LARGE, b"", b"key", b"nothing"]:
            if wrong != key:
                try:
                    assert verify_proof(snapshot.digest, wrong, Proof(proof.nodes, None)) == LARGE.get(wrong)
                except ProofError:
                    continue


@given(st.binary(max_size=200), st.integers(0, 10_000))
def test_any_bytes_are_a_proof_or_a_proof_error(noise: bytes, position: int) -> None:
    """Decoding raises ProofError and nothing else; bytes around a proof, or another way to write it, are refused."""
    snapshot = of(SMALL)
    encoded = snapshot.prove(b"k1").encode()
    position %= len(encoded)
    for data in (noise, encoded[:position], encoded + noise + b"\0", encoded[:position] + b"\xff" + encoded[position:]):
        with pytest.raises(ProofError):
            verify_proof(snapshot.digest, b"k1", data)


@pytest.mark.parametrize("position", range(0, 250, 7))
def test_flipped_bits_of_an_encoded_proof(position: int) -> None:
    """Each flipped bit of the encoded form makes the proof fail."""
    snapshot = of(SMALL)
    encoded = bytearray(snapshot.prove(b"k1").encode())
    encoded[position % len(encoded)] ^= 1 << position % 8
    with pytest.raises(ProofError):
        verify_proof(snapshot.digest, b"k1", bytes(encoded))


def test_wrong_arguments_are_proof_errors() -> None:
    """A key that no state could hold, and what is not bytes, is refused in the same way."""
    snapshot = of(SMALL)
    with pytest.raises(ProofError):
        verify_proof(snapshot.digest, b"k" * 1025, snapshot.prove(b"k1"))
    with pytest.raises(ProofError):
        Proof.decode("text")  # type: ignore[arg-type]
    with pytest.raises(ProofError):
        parse_node(bytes(100_000), snapshot.digest)


def test_large_values_are_transferred_in_pieces() -> None:
    """A value above 4 KiB is verified by chunk, starting from the entry digest that its bucket names."""
    value = random.Random(1).randbytes(3 * CHUNK_BYTES + 1)
    snapshot = of({b"big": value, b"small": b"x" * CHUNK_BYTES, b"": b""})
    listed = snapshot.chunk_list(b"big")
    assert listed is not None and snapshot.chunk_list(b"small") is None and snapshot.chunk_list(b"no") is None
    size, digests = parse_chunk_list(listed, b"big", entry_digest(b"big", value))
    pieces = [snapshot.chunk(b"big", i) for i in range(len(digests))]
    for piece, expected in zip(pieces, digests, strict=True):
        assert piece is not None
        verify_chunk(piece, expected)
        with pytest.raises(ProofError):
            verify_chunk(piece + b"\0", expected)
    assert b"".join([piece or b"" for piece in pieces]) == value and size == len(value)
    assert snapshot.chunk(b"big", 4) is None and snapshot.chunk(b"big", -1) is None
    assert snapshot.chunk(b"", 0) == b"" and snapshot.chunk(b"", 1) is None
    for data, key in ((listed[:-1], b"big"), (listed, b"gib"), (b"", b"big")):
        with pytest.raises(ProofError):
            parse_chunk_list(data, key, entry_digest(b"big", value))


def test_a_path_has_one_nibble_per_byte() -> None:
    """A path with anything above 15 is refused."""
    with pytest.raises(StateBoundError):
        of(SMALL).node(b"\x10")
