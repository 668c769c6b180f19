"""Signing keys per incarnation and the seals made with them (rules 1.9 and 1.18)."""

import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.crypto import (
    SEAL_SIZE,
    CertificateCache,
    CryptoError,
    PrivateKey,
    PublicKey,
    SigningIdentity,
    certificates,
    verify_seal,
)

CLUSTER = b"c" * 32
KEY = PrivateKey.from_seed(b"\1" * 32)
OTHER = PrivateKey.from_seed(b"\2" * 32)
ALICE = SigningIdentity(KEY, CLUSTER, 1, 5)
SEAL = ALICE.sign(b"checkpoint", b"body")


@pytest.fixture
def verifications(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """Messages whose Ed25519 verification was asked for, with an empty certificate cache."""
    seen: list[bytes] = []
    real = PublicKey.verify

    def count(self: PublicKey, message: bytes, signature: bytes) -> bool:
        seen.append(message)
        return real(self, message, signature)

    monkeypatch.setattr(PublicKey, "verify", count)
    monkeypatch.setattr(certificates, "_known_certificates", CertificateCache())
    yield seen


def check(
    identity: PublicKey = KEY.public,
    cluster: bytes = CLUSTER,
    principal: int = 1,
    incarnation: int = 5,
    domain: bytes = b"checkpoint",
    body: bytes = b"body",
    seal: bytes = SEAL,
) -> bool:
    return verify_seal(identity, cluster, principal, incarnation, domain, body, seal)


def test_a_seal_verifies_with_the_identity_key_alone() -> None:
    """160 bytes, deterministic, verifiable by who knows only the identity's public key."""
    assert len(SEAL) == SEAL_SIZE == 160
    assert SigningIdentity(PrivateKey.from_seed(b"\1" * 32), CLUSTER, 1, 5).sign(b"checkpoint", b"body") == SEAL
    assert check()
    assert ALICE.public == KEY.public
    assert ALICE.signing_public != KEY.public


def test_a_seal_holds_for_exactly_what_it_names() -> None:
    """Another key, principal, incarnation, domain or body: refused."""
    assert not check(identity=OTHER.public)
    assert not check(principal=2)
    assert not check(incarnation=4)
    assert not check(incarnation=6)
    assert not check(domain=b"view-change")
    assert not check(body=b"bodY")


@pytest.mark.scenario("G22")
def test_a_seal_of_another_cluster_is_refused() -> None:
    """The same key with the same replica number in another cluster signs with another key, and names it."""
    twin = SigningIdentity(KEY, b"d" * 32, 1, 5)
    assert twin.signing_public != ALICE.signing_public
    assert not check(seal=twin.sign(b"checkpoint", b"body"))
    assert not check(cluster=b"d" * 32)
    assert check(cluster=b"d" * 32, seal=twin.sign(b"checkpoint", b"body"))


@pytest.mark.scenario("G10")
def test_a_seal_never_counts_for_another_sender() -> None:
    """What replica 3 sealed passes neither as replica 1's nor with replica 1's certificate attached."""
    liar = SigningIdentity(OTHER, CLUSTER, 3, 5)
    forged = liar.sign(b"checkpoint", b"body")
    assert not check(seal=forged)
    assert not check(seal=forged[:96] + ALICE.certificate)
    assert not check(seal=forged[:64] + SEAL[64:])
    pretender = SigningIdentity(OTHER, CLUSTER, 1, 5)
    assert not check(seal=pretender.sign(b"checkpoint", b"body"))


def test_domain_and_body_cannot_be_shifted_into_each_other() -> None:
    """(ab, c) and (a, bc) are different statements."""
    seal = ALICE.sign(b"ab", b"c")
    assert check(domain=b"ab", body=b"c", seal=seal)
    assert not check(domain=b"a", body=b"bc", seal=seal)


def test_every_byte_of_a_seal_counts() -> None:
    """A seal with any bit turned, cut or extended is refused, before and after the genuine one was seen."""
    assert check()
    for position in range(SEAL_SIZE):
        broken = bytearray(SEAL)
        broken[position] ^= 1
        assert not check(seal=bytes(broken))
    assert not check(seal=SEAL[:-1])
    assert not check(seal=SEAL + b"\0")
    assert not check(seal=b"")


@given(st.binary(min_size=SEAL_SIZE, max_size=SEAL_SIZE))
@pytest.mark.scenario("G19")
def test_random_seals_are_refused_without_an_exception(seal: bytes) -> None:
    """160 random bytes are no seal."""
    assert not check(seal=seal)


def test_arguments_out_of_range_are_refused_without_an_exception() -> None:
    """Numbers that do not fit 64 bits give False when they come from a message; as one's own they raise."""
    assert not check(principal=1 << 64)
    assert not check(incarnation=-1)
    assert not check(seal=None)  # type: ignore[arg-type]
    for principal, incarnation in ((-1, 0), (1 << 64, 0), (0, -1), (0, 1 << 64)):
        with pytest.raises(CryptoError):
            SigningIdentity(KEY, CLUSTER, principal, incarnation)


def test_a_new_incarnation_signs_with_a_new_key() -> None:
    """`for_incarnation` changes the signing key; an old seal does not verify as the new incarnation."""
    reborn = ALICE.for_incarnation(6)
    assert (reborn.incarnation, reborn.principal, reborn.cluster) == (6, 1, CLUSTER)
    assert reborn.signing_public != ALICE.signing_public
    assert check(incarnation=6, seal=reborn.sign(b"checkpoint", b"body"))
    assert not check(incarnation=5, seal=reborn.sign(b"checkpoint", b"body"))


def test_the_identity_key_signs_no_statements() -> None:
    """A statement signed by the identity key itself is no seal, and a certificate is no signature."""
    body = b"body"
    assert not check(seal=KEY.sign(body) + KEY.public.raw + ALICE.certificate)
    assert not check(seal=ALICE.certificate + KEY.public.raw + ALICE.certificate)


@pytest.mark.scenario("G19")
def test_the_steady_cost_is_one_verification(verifications: list[bytes]) -> None:
    """Two verifications at first sight of a certificate, one for each further seal of that incarnation."""
    assert check()
    assert len(verifications) == 2
    for number in range(3):
        verifications.clear()
        body = b"%d" % number
        assert check(body=body, seal=ALICE.sign(b"checkpoint", body))
        assert len(verifications) == 1


@pytest.mark.scenario("G19")
def test_a_forged_certificate_costs_one_verification_and_no_memory(verifications: list[bytes]) -> None:
    """What does not verify is not remembered, and a wrong length costs nothing."""
    for number in range(20):
        forged = SEAL[:96] + bytes([number]) * 64
        assert not check(seal=forged)
        assert len(verifications) == number + 1
    assert len(certificates._known_certificates) == 0
    verifications.clear()
    assert not check(seal=SEAL[:159])
    assert verifications == []


@pytest.mark.scenario("G19")
def test_a_principal_evicts_only_its_own_certificates(verifications: list[bytes]) -> None:
    """Who certifies ever new keys fills its own few places; the others stay at one verification."""
    assert check()
    for incarnation in range(50):
        liar = SigningIdentity(OTHER, CLUSTER, 2, incarnation)
        assert check(
            identity=OTHER.public,
            principal=2,
            incarnation=incarnation,
            seal=liar.sign(b"checkpoint", b"body"),
        )
    assert len(certificates._known_certificates) == 1 + 4
    verifications.clear()
    assert check()
    assert len(verifications) == 1


def test_the_cache_is_bounded_and_forgets_the_least_recently_used(verifications: list[bytes]) -> None:
    """With room for two principals the one not used for longest goes."""
    cache = CertificateCache(principals=2)

    def use(principal: int) -> int:
        verifications.clear()
        identity = SigningIdentity(KEY, CLUSTER, principal, 0)
        scope = certificates._scope(CLUSTER, principal, 0)
        assert cache.is_valid(KEY.public, CLUSTER, principal, scope, identity.signing_public, identity.certificate)
        return len(verifications)

    assert [use(1), use(2), use(1), use(3), use(1), use(2)] == [1, 1, 0, 1, 0, 1]
    assert len(cache) == 2


def test_seals_may_be_checked_in_several_threads() -> None:
    """Four threads that share a cache too small for their keys all get right answers."""
    wrong: list[int] = []
    identities = [SigningIdentity(KEY, CLUSTER, number, 0) for number in range(4)]

    def work(number: int) -> None:
        for turn in range(8):
            identity = identities[(number + turn) % 4]
            seal = identity.sign(b"d", b"b")
            if not verify_seal(KEY.public, CLUSTER, identity.principal, 0, b"d", b"b", seal):
                wrong.append(number)
            if verify_seal(KEY.public, CLUSTER, identity.principal, 1, b"d", b"b", seal):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_signing_identity_shows_no_secret() -> None:
    """Its repr has the numbers only."""
    assert repr(ALICE) == "SigningIdentity(principal=1, incarnation=5)"
