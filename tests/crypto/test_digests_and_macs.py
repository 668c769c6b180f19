"""Digests, MACs and client authenticators."""

from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.crypto import (
    AUTHENTICATOR_ENTRY_SIZE,
    AuthenticatorKey,
    check_authenticator,
    digest,
    digest_parts,
    encode_parts,
    mac,
    mac_equal,
    macs,
    make_authenticator,
)

KEYS = [AuthenticatorKey(bytes([0x80, i] + [7] * 6), bytes([i] * 32)) for i in range(4)]
LOOKUP = {key.key_id: key.key for key in KEYS}.get
REQUEST = digest(b"request", b"inc 1")


def test_the_hash_is_blake2b_of_rfc_7693() -> None:
    """The installed BLAKE2b gives the value of RFC 7693, appendix A, for "abc"."""
    assert blake2b(b"abc").hexdigest() == (
        "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
        "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"
    )


def test_the_keyed_hash_gives_the_published_known_answers() -> None:
    """Keyed BLAKE2b gives the first entries of the authors' known-answer file (key 00..3f, inputs "", 00)."""
    key = bytes(range(64))
    assert blake2b(b"", key=key).hexdigest() == (
        "10ebb67700b1868efb4417987acf4690ae9d972fb7a590c2f02871799aaa4786"
        "b5e996e8f0f4eb981fc214b005f42d2ff4233499391653df7aefcbc13fc51568"
    )
    assert blake2b(b"\0", key=key).hexdigest() == (
        "961f6dd1e4dd30f63901690c512e78e4b45e4742ed197c3c5e45c549fd25f2e4"
        "187b0bc9fe30492b16b0d0bc4ef9b0f34c7003fac09a5ef1532e69430234cebd"
    )


def test_mac_is_keyed_blake2b_of_16_bytes() -> None:
    """`mac` is BLAKE2b with the key as key and a 16-byte digest, nothing else."""
    assert mac(b"k" * 32, b"data") == blake2b(b"data", key=b"k" * 32, digest_size=16).digest()
    assert mac(b"k" * 32, memoryview(b"data")) == mac(b"k" * 32, b"data")
    assert mac_equal(mac(b"k", b"x"), mac(b"k", b"x"))
    assert not mac_equal(mac(b"k", b"x"), mac(b"k", b"y"))
    assert not mac_equal(mac(b"k", b"x"), mac(b"k", b"x")[:-1])


def test_domains_are_apart() -> None:
    """The same bytes have another digest in another domain, and as parts than as one piece."""
    parts = encode_parts(b"x")
    values = [digest(b"a", parts), digest(b"b", parts), digest_parts(b"a", b"x"), digest_parts(b"b", b"x")]
    assert len(set(values)) == 4
    assert all(len(value) == 32 for value in values)
    assert digest(b"a", memoryview(b"x")) == digest(b"a", b"x")


def test_a_domain_longer_than_16_bytes_is_a_mistake_of_the_caller() -> None:
    """Domains are never cut silently."""
    with pytest.raises(ValueError, match="person"):
        digest(b"d" * 17, b"")


@given(st.lists(st.binary(max_size=12), max_size=4), st.lists(st.binary(max_size=12), max_size=4))
def test_parts_are_unambiguous(first: list[bytes], second: list[bytes]) -> None:
    """Two sequences of parts have equal encodings and digests only if they are equal."""
    assert (encode_parts(*first) == encode_parts(*second)) == (first == second)
    assert (digest_parts(b"t", *first) == digest_parts(b"t", *second)) == (first == second)


def test_moving_a_boundary_between_parts_changes_the_digest() -> None:
    """(ab, c) and (a, bc) differ."""
    assert digest_parts(b"t", b"ab", b"c") != digest_parts(b"t", b"a", b"bc")


def test_each_replica_checks_its_own_entry() -> None:
    """An authenticator made for four replicas satisfies each of them, for this digest only."""
    authenticator = make_authenticator(KEYS, REQUEST)
    assert len(authenticator) == 4 * AUTHENTICATOR_ENTRY_SIZE
    for replica in range(4):
        assert check_authenticator(authenticator, replica, REQUEST, LOOKUP)
        assert not check_authenticator(authenticator, replica, digest(b"request", b"inc 2"), LOOKUP)


def test_every_bit_of_an_entry_matters() -> None:
    """An entry with any byte changed does not pass; the others still do."""
    authenticator = make_authenticator(KEYS, REQUEST)
    for position in range(AUTHENTICATOR_ENTRY_SIZE):
        broken = bytearray(authenticator)
        broken[AUTHENTICATOR_ENTRY_SIZE + position] ^= 1
        assert not check_authenticator(bytes(broken), 1, REQUEST, LOOKUP)
        assert check_authenticator(bytes(broken), 2, REQUEST, LOOKUP)


def test_no_key_is_an_entry_of_zeros_that_never_passes() -> None:
    """A missing key gives zeros, which are refused without asking for a key of that id."""
    authenticator = make_authenticator([None, KEYS[1]], REQUEST)
    assert authenticator[:AUTHENTICATOR_ENTRY_SIZE] == bytes(AUTHENTICATOR_ENTRY_SIZE)
    asked: list[bytes] = []

    def lookup(key_id: bytes) -> bytes | None:
        asked.append(key_id)
        return bytes(32)

    assert not check_authenticator(authenticator, 0, REQUEST, lookup)
    assert asked == []


def test_unknown_keys_and_wrong_shapes_are_refused() -> None:
    """No key, no entry for the replica, a cut entry, a negative number: False, never an exception."""
    authenticator = make_authenticator(KEYS, REQUEST)
    assert not check_authenticator(authenticator, 0, REQUEST, lambda key_id: None)
    assert not check_authenticator(authenticator, 4, REQUEST, LOOKUP)
    assert not check_authenticator(authenticator, -1, REQUEST, LOOKUP)
    assert not check_authenticator(authenticator[:-1], 0, REQUEST, LOOKUP)
    assert not check_authenticator(b"", 0, REQUEST, LOOKUP)


def test_an_authenticator_tag_is_no_plain_mac() -> None:
    """A tag under an authenticator key never passes for a MAC of the same bytes."""
    entry = make_authenticator([KEYS[0]], REQUEST)
    assert entry[8:] != mac(KEYS[0].key, REQUEST)


@given(st.binary(max_size=200), st.integers(-2, 9))
def test_any_bytes_are_judged_without_an_exception(authenticator: bytes, replica: int) -> None:
    """Random bytes are no authenticator."""
    assert not check_authenticator(authenticator, replica, REQUEST, lambda key_id: KEYS[0].key)


def test_tags_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both comparisons of tags go through `hmac.compare_digest`."""
    import hmac

    assert macs.compare_digest is hmac.compare_digest
    seen: list[bytes] = []

    def compare(first: bytes, second: bytes) -> bool:
        seen.append(first)
        return hmac.compare_digest(first, second)

    monkeypatch.setattr(macs, "compare_digest", compare)
    assert mac_equal(b"a", b"a")
    authenticator = make_authenticator(KEYS, REQUEST)
    assert check_authenticator(authenticator, 0, REQUEST, LOOKUP)
    assert seen == [b"a", authenticator[8:24]]


def test_a_key_is_not_shown() -> None:
    """The repr of an authenticator key names its id only."""
    assert KEYS[2].key.hex() not in repr(KEYS[2])
    assert repr(KEYS[2].key) not in repr(KEYS[2])
    assert KEYS[2].key_id.hex() in repr(KEYS[2])
