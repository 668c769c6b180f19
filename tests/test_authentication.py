"""Whether a replica believes a request or a seal, with real keys. Rules 1.2, 1.9, 1.17, 1.18."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import pytest

from pbft.authentication import KeyAuthentication, signer
from pbft.batch import AuthKind, ClientRequest, operations_body, recover_body, signature_body
from pbft.config import Group
from pbft.crypto import AuthenticatorKey, PrivateKey, SigningIdentity, client_id, make_authenticator
from pbft.messages import Checkpoint

ALICE, BOB, STRANGER = (PrivateKey.from_seed(hashlib.sha256(name).digest()) for name in (b"alice", b"bob", b"eve"))
REPLICAS = [PrivateKey.from_seed(hashlib.sha256(b"%d" % i).digest()) for i in range(4)]
GROUP = Group(
    cluster=b"c" * 32,
    app="test",
    replicas=tuple(key.public.raw for key in REPLICAS),
    clients={client_id(key.public): key.public.raw for key in (ALICE, BOB)},
)
OTHER = replace(GROUP, cluster=b"d" * 32)
KEYS = [AuthenticatorKey(bytes([0x80 + i]) * 8, bytes([i]) * 32) for i in range(4)]
"""What Alice shares with each replica."""


def body(key: PrivateKey, number: int = 1) -> bytes:
    return operations_body(client_id(key.public), 1 << 16, number, 0, 255, [b"op"])


def signed(key: PrivateKey, group: Group = GROUP, name: PrivateKey | None = None) -> ClientRequest:
    """A request in the name of a client, signed by some key."""
    bare = ClientRequest(body(name or key), b"")
    signature = key.sign(signature_body(group.cluster, group.epoch, bare.digest))
    return ClientRequest(bare.body, bytes([AuthKind.SIGNATURE]) + signature)


def with_macs(keys: list[AuthenticatorKey | None], number: int = 1) -> ClientRequest:
    bare = ClientRequest(body(ALICE, number), b"")
    return ClientRequest(bare.body, bytes([AuthKind.MACS]) + make_authenticator(keys, bare.digest))


def replicas(group: Group = GROUP) -> list[KeyAuthentication]:
    """What each replica believes; they know Alice's keys."""
    found = [KeyAuthentication(group, i) for i in range(4)]
    for i, authentication in enumerate(found):
        authentication.add_key(client_id(ALICE.public), KEYS[i])
    return found


def believers(request: ClientRequest) -> set[int]:
    return {i for i, a in enumerate(replicas()) if a.request_is_authentic(request)}


EVERYBODY = {0, 1, 2, 3}


@pytest.mark.scenario("G07")
def test_each_replica_judges_its_own_entry_of_an_authenticator() -> None:
    """Good for one receiver only, for none, for swapped receivers: exactly those believe it for whom it is good."""
    whole: list[AuthenticatorKey | None] = list(KEYS)
    assert believers(with_macs(whole)) == EVERYBODY
    for i in range(4):
        assert believers(with_macs([key if j == i else None for j, key in enumerate(KEYS)])) == {i}
        assert believers(with_macs([None if j == i else key for j, key in enumerate(KEYS)])) == EVERYBODY - {i}
    assert believers(with_macs([KEYS[1], KEYS[0], KEYS[2], KEYS[3]])) == {2, 3}
    assert believers(with_macs([KEYS[1], KEYS[2], KEYS[3], KEYS[0]])) == set()
    right, wrong = with_macs(whole), with_macs(whole, number=2)
    assert believers(ClientRequest(right.body, wrong.authenticator)) == set()
    assert believers(ClientRequest(right.body, right.authenticator[:-1])) == set()


@pytest.mark.scenario("E24", "G14")
def test_a_request_needs_a_proof_of_the_client_that_it_names() -> None:
    """Signed by its client it passes everywhere; else nowhere, whatever stands for a proof."""
    assert believers(signed(ALICE)) == EVERYBODY
    assert believers(signed(BOB, name=ALICE)) == set()
    assert believers(signed(REPLICAS[0], name=ALICE)) == set()
    assert believers(signed(STRANGER)) == set()
    genuine = signed(ALICE)
    for proof in (b"", b"\x00", b"\x01", b"\x02" + genuine.authenticator[1:], genuine.authenticator[:-1], bytes(65)):
        assert believers(ClientRequest(genuine.body, proof)) == set()
    assert believers(ClientRequest(body(ALICE, 2), genuine.authenticator)) == set(), (
        "the signature covers the operations"
    )


@pytest.mark.scenario("G22")
def test_what_was_said_in_another_cluster_is_not_believed() -> None:
    """With the same keys and numbers: neither a signed request nor a sealed checkpoint passes."""
    here = KeyAuthentication(GROUP, 1)
    request = signed(ALICE, OTHER)
    assert not here.request_is_authentic(request)
    assert KeyAuthentication(OTHER, 1).request_is_authentic(request)
    assert not here.request_is_authentic(signed(ALICE, replace(GROUP, epoch=1)))
    unsigned = Checkpoint(2, 0, 128, b"d" * 32, 1, 1, (), bytes(160))
    for group, name, believed in (
        (GROUP, GROUP, True),
        (OTHER, OTHER, False),
        (OTHER, GROUP, False),
        (GROUP, OTHER, False),
    ):
        sign = signer(SigningIdentity(REPLICAS[2], group.cluster, 2, 0))
        seal = sign(unsigned.signed_body(name.cluster, 0))
        assert here.seal_is_authentic(unsigned._replace(seal=seal)) is believed


@pytest.mark.scenario("G10")
def test_a_seal_passes_for_its_signer_alone() -> None:
    """Under another number, incarnation or content it does not; a number that is nobody's is no exception."""
    here = KeyAuthentication(GROUP, 1)
    unsigned = Checkpoint(2, 0, 128, b"d" * 32, 1, 1, (), bytes(160))
    sign = signer(SigningIdentity(REPLICAS[2], GROUP.cluster, 2, 0))
    good = unsigned._replace(seal=sign(unsigned.signed_body(GROUP.cluster, 0)))
    assert here.seal_is_authentic(good)
    changes: list[dict[str, Any]] = [
        {"sender": 3},
        {"sender": 4},
        {"sender": 65535},
        {"incarnation": 1},
        {"number": 256},
        {"digest": bytes(32)},
        {"boot": 2},
        {"position": 2},
        {"seal": bytes(160)},
        {"seal": b""},
    ]
    for change in changes:
        assert not here.seal_is_authentic(good._replace(**change))


def test_keys_of_ended_links_are_good_for_a_while_and_then_for_nothing() -> None:
    """A request that was relayed is still believed after its client's link is gone, until the overlap ends."""
    here = KeyAuthentication(GROUP, 1)
    alice = client_id(ALICE.public)
    here.add_key(alice, KEYS[1])
    here.now = 10.0
    here.retire_key(alice, KEYS[1])
    request = with_macs(list(KEYS))
    assert here.request_is_authentic(request)
    here.now = 10.0 + 599
    here.expire()
    assert here.request_is_authentic(request)
    here.now = 10.0 + 601
    here.expire()
    assert not here.request_is_authentic(request)


@pytest.mark.parametrize("size", [0, 1, 63, 65, 1 << 14, (1 << 16) - 2])
def test_a_signature_of_another_size_is_refused_and_not_remembered(size: int) -> None:
    """What is remembered is bounded by count: junk of any length would be half a gigabyte."""
    one = replicas()[0]
    assert one.request_is_authentic(ClientRequest(body(ALICE), b"\x01" + bytes(size))) is False
    assert not one._verdicts
    assert one.request_is_authentic(ClientRequest(body(ALICE), b"\x01" + bytes(64))) is False
    assert len(one._verdicts) == 1


def test_a_longer_authenticator_is_refused() -> None:
    """One entry for each replica and no more, however good the entries are."""
    good = with_macs(list(KEYS))
    assert believers(ClientRequest(good.body, good.authenticator + good.authenticator[1:])) == set()


def test_a_recover_is_sealed_by_the_replica_itself_in_the_incarnation_that_it_ends() -> None:
    """Nobody else can end it, and no client's signature will do; the verdict may be given in another thread."""
    here = KeyAuthentication(GROUP, 1)
    body = recover_body(2, 77, 3)
    digest = ClientRequest(body, b"").digest
    said = signature_body(GROUP.cluster, GROUP.epoch, digest)

    def sealed(who: int, incarnation: int) -> ClientRequest:
        sign = signer(SigningIdentity(REPLICAS[who], GROUP.cluster, who, incarnation))
        return ClientRequest(body, bytes([AuthKind.SEAL]) + sign(said))

    assert here.request_is_authentic(sealed(2, 3))
    for wrong in (sealed(3, 3), sealed(2, 2), sealed(2, 4)):
        assert not here.request_is_authentic(wrong)
    seal = sealed(2, 3).authenticator
    for authenticator in (b"", b"\x01" + seal[1:], b"\x00" + seal[1:], b"\x01" + seal[1:65], seal[:-1], seal + b"\0"):
        assert not here.request_is_authentic(ClientRequest(body, authenticator))
    stranger = ClientRequest(recover_body(4, 77, 3), seal)
    assert not here.request_is_authentic(stranger)
    operations = signed(ALICE)
    assert not here.request_is_authentic(ClientRequest(operations.body, b"\x02" + operations.authenticator[1:]))
    here.defers = True
    assert KeyAuthentication(GROUP, 1).signature_verifies(sealed(2, 3))


def test_the_key_of_a_link_is_told_of_when_a_request_verifies_under_it() -> None:
    """Once, and not before: who only connects leaves nothing in the log."""
    here = KeyAuthentication(GROUP, 1)
    told: list[tuple[int, bytes, bytes]] = []
    here.on_use = lambda client, key_id, key: told.append((client, key_id, key))
    alice = client_id(ALICE.public)
    for i in range(1000):
        here.add_key(alice, AuthenticatorKey(i.to_bytes(8), bytes(32)))
    here.add_key(alice, KEYS[1])
    wrong = [*KEYS[:1], AuthenticatorKey(KEYS[1].key_id, b"w" * 32), *KEYS[2:]]
    assert not here.request_is_authentic(with_macs(wrong)) and not told
    assert here.request_is_authentic(with_macs(KEYS)) and here.request_is_authentic(with_macs(KEYS, 2))
    assert told == [(alice, KEYS[1].key_id, KEYS[1].key)]
    assert here.request_is_authentic(signed(ALICE)) and len(told) == 1
