"""The three messages of a handshake, undisturbed and under attack (rules 1.2, 1.9, 1.18)."""

from collections.abc import Callable
from dataclasses import replace

import cbor2
import pytest
from crypto_parties import CLIENT, CLUSTER, FIELDS, PUBLIC, REPLICA_KEYS, config, connect, identity
from hypothesis import given
from hypothesis import strategies as st

from pbft.crypto import (
    MESSAGE_MAX_BYTES,
    CryptoError,
    HandshakeConfig,
    HandshakeError,
    Initiator,
    Responder,
    Session,
    SigningIdentity,
    handshake,
    refusal,
)
from pbft.crypto.derivation import x25519_public

FIRST = Initiator(config(0), 1).hello()
RECORDED_SECOND = Responder(config(1)).receive_hello(FIRST)


def refused(kind: str, call: Callable[..., object], *args: object) -> HandshakeError:
    """The HandshakeError of this kind that the call raises."""
    with pytest.raises(HandshakeError) as caught:
        call(*args)
    assert caught.value.kind == kind, caught.value
    assert str(caught.value) == caught.value.text
    return caught.value


def talk(left: Session, right: Session) -> None:
    for sender, receiver in ((left, right), (right, left)):
        assert receiver.open(b"header", b"body", sender.seal(b"header", b"body"))


def opened(left: HandshakeConfig, right: HandshakeConfig) -> tuple[Initiator, Responder, bytes]:
    initiator, responder = Initiator(left, right.principal), Responder(right)
    return initiator, responder, responder.receive_hello(initiator.hello())


def test_two_replicas_agree_on_a_session() -> None:
    """Each learns who the other is; each direction has one key, known to both; frames open."""
    left, right = connect(config(0, incarnation=3), config(1, incarnation=9))
    assert (left.peer, left.peer_incarnation, left.peer_identity) == (1, 9, PUBLIC[1])
    assert (right.peer, right.peer_incarnation, right.peer_identity) == (0, 3, PUBLIC[0])
    assert left.peer_instance == b"instance" + (1).to_bytes(8, "big")
    assert left.version == right.version == 1
    assert left.send_key == right.receive_key != left.receive_key == right.send_key
    assert left.authenticator_key == right.authenticator_key
    assert left.epoch_of_keys == right.epoch_of_keys == 0
    talk(left, right)


def test_a_client_and_a_replica_agree_on_a_session() -> None:
    """A client needs no configuration fields; either side may connect, expecting somebody or anybody."""
    talk(*connect(config(CLIENT), config(2)))
    talk(*connect(config(2), config(CLIENT)))
    initiator, responder = Initiator(config(CLIENT)), Responder(config(3))
    third, session = initiator.receive(responder.receive_hello(initiator.hello()))
    assert session.peer == 3
    assert responder.claimed_principal == CLIENT
    assert responder.finish(third).peer == CLIENT


def test_every_handshake_gives_other_keys() -> None:
    """Fresh randomness of either side changes all keys; the same randomness gives the same."""
    first = connect(config(0), config(1))[0]
    same = connect(config(0), config(1))[0]
    other_left = connect(config(0, seed=50), config(1))[0]
    other_right = connect(config(0), config(1, seed=51))[0]
    assert first.send_key == same.send_key
    keys = [
        key
        for session in (first, other_left, other_right)
        for key in (session.send_key, session.receive_key, session.authenticator_key.key)
    ]
    assert len(set(keys)) == 9


def test_the_default_randomness_is_the_systems() -> None:
    """Without `entropy` two HELLOs of one configuration differ."""
    base = config(0)
    plain = HandshakeConfig(
        base.cluster, base.epoch, base.principal, base.identity, base.instance, base.lookup, fields=FIELDS
    )
    assert Initiator(plain).hello() != Initiator(plain).hello()


def test_the_highest_common_version_is_spoken() -> None:
    """Ranges that overlap meet at the highest common version; others name both ranges."""
    left, right = connect(config(0, versions=(1, 3)), config(1, versions=(2, 7)))
    assert left.version == right.version == 3
    _, responder = Initiator(config(0)), Responder(config(1, versions=(2, 3)))
    error = refused("version", responder.receive_hello, FIRST)
    assert "1 to 1" in error.text
    assert "2 to 3" in error.text
    later = dumps_hello(FIRST, lambda row: [*row[:1], 4, 9, "fields", "of", "later"])
    refused("version", Responder(config(1)).receive_hello, later)


@pytest.mark.scenario("G22")
def test_another_cluster_is_refused_before_any_key_is_used() -> None:
    """Same keys, same numbers, other cluster id: both sides refuse the HELLO, naming both clusters."""
    other = config(1, cluster=b"d" * 32)
    error = refused("wrong-cluster", Responder(other).receive_hello, FIRST)
    assert (b"c" * 8).hex() in error.text
    assert (b"d" * 8).hex() in error.text
    initiator = Initiator(config(0), 1)
    initiator.hello()
    second = Responder(other).receive_hello(Initiator(config(0, cluster=b"d" * 32), 1).hello())
    refused("wrong-cluster", initiator.receive, second)


@pytest.mark.scenario("G22")
def test_a_seal_of_the_same_identity_in_another_cluster_does_not_pass() -> None:
    """A HELLO of this cluster, sealed with the keys that the replica uses in another one, is refused."""
    signer = identity(1, b"d" * 32)
    initiator = Initiator(config(0), 1)
    first = initiator.hello()
    _, own, _ = cbor2.loads(Responder(config(1)).receive_hello(first))
    row = tuple(tuple(map(tuple, item)) if isinstance(item, list) else item for item in own)
    seal = signer.sign(b"handshake", handshake._sealed(b"responder", first, cbor2.dumps(row)))
    refused("bad-signature", initiator.receive, cbor2.dumps((2, row, seal)))


def test_another_epoch_is_refused() -> None:
    """Both epochs are named."""
    error = refused("wrong-epoch", Responder(config(1, epoch=7)).receive_hello, FIRST)
    assert "epoch 0" in error.text
    assert "in 7" in error.text


@pytest.mark.scenario("G23")
def test_speaking_with_oneself_is_refused() -> None:
    """A replica that reaches its own address, or a second process with its key, hears of it on both sides."""
    refused("self-connection", Responder(config(0, seed=60)).receive_hello, FIRST)
    initiator = Initiator(config(0))
    initiator.hello()
    mirrored = dumps_hello(RECORDED_SECOND, lambda row: [2, [*row[1][:4], 0, *row[1][5:]], row[2]])
    refused("self-connection", initiator.receive, mirrored)


@pytest.mark.scenario("G23")
def test_ones_own_messages_sent_back_are_refused() -> None:
    """The first message is no second; and the own seal does not do as the peer's third."""
    initiator = Initiator(config(0), 1)
    refused("malformed", initiator.receive, initiator.hello())
    _, responder, second = opened(config(0), config(1))
    refused("malformed", responder.finish, second)
    _, responder, second = opened(config(0), config(1))
    own_seal = cbor2.loads(second)[2]
    refused("bad-signature", responder.finish, cbor2.dumps((3, own_seal)))


@pytest.mark.scenario("G23")
def test_the_roles_sign_different_statements() -> None:
    """Over the same transcript initiator and responder sign different bytes."""
    assert handshake._sealed(b"initiator", FIRST) != handshake._sealed(b"responder", FIRST)


def test_the_expected_replica_has_to_answer() -> None:
    """Replica 2 at the address of replica 1 is refused by name, although it proves to be replica 2."""
    initiator = Initiator(config(0), 1)
    second = Responder(config(2)).receive_hello(initiator.hello())
    error = refused("wrong-principal", initiator.receive, second)
    assert "replica 2" in error.text
    assert "replica 1" in error.text


def test_who_is_not_in_the_configuration_is_refused() -> None:
    """An unknown number has no key to check with; both sides say so."""
    lonely = replace(config(1), lookup=lambda principal: None)
    error = refused("unknown-principal", Responder(lonely).receive_hello, FIRST)
    assert "replica 0" in error.text
    initiator = Initiator(replace(config(0), lookup=lambda principal: None), 1)
    initiator.hello()
    refused("unknown-principal", initiator.receive, RECORDED_SECOND)
    stranger = replace(config(3), lookup=lambda principal: None)
    error = refused("unknown-principal", Responder(stranger).receive_hello, Initiator(config(CLIENT)).hello())
    assert f"client {CLIENT:016x}" in error.text


def test_differing_configuration_fields_are_named() -> None:
    """Changed, missing and additional fields are listed; a long list is cut and counted."""
    changed = {**FIELDS, "protocol.log_window": b"x" * 8}
    error = refused("config-mismatch", Responder(config(1, fields=changed)).receive_hello, FIRST)
    assert "protocol.log_window" in error.text
    assert "cluster.app" not in error.text
    error = refused("config-mismatch", Responder(config(1, fields={})).receive_hello, FIRST)
    assert "cluster.app, protocol.log_window" in error.text
    many = {**FIELDS, **{f"extra.{number:02}": b"e" * 8 for number in range(12)}}
    error = refused("config-mismatch", Responder(config(1, fields=many)).receive_hello, FIRST)
    assert error.text.count("extra.") == 8
    assert "and 4 more" in error.text
    initiator = Initiator(config(0, fields={}), 1)
    second = Responder(config(1)).receive_hello(Initiator(config(0, seed=70), 1).hello())
    initiator.hello()
    refused("config-mismatch", initiator.receive, second)


@pytest.mark.scenario("G10")
def test_who_has_not_the_key_cannot_take_the_number() -> None:
    """Replica 3 claiming to be 1 fails, as responder at once and as initiator before a session exists."""
    signer = SigningIdentity(REPLICA_KEYS[3], CLUSTER, 1, 0)
    initiator = Initiator(config(0), 1)
    second = Responder(config(1, signer=signer)).receive_hello(initiator.hello())
    error = refused("bad-signature", initiator.receive, second)
    assert "replica 1" in error.text
    liar, responder = Initiator(config(1, signer=signer), 2), Responder(config(2))
    third, _ = liar.receive(responder.receive_hello(liar.hello()))
    refused("bad-signature", responder.finish, third)


@pytest.mark.scenario("G10")
def test_a_claimed_incarnation_has_to_be_the_one_that_signed() -> None:
    """A HELLO with incarnation 1 and a seal of incarnation 0 is refused."""
    right = config(1)
    object.__setattr__(right, "identity", _MixedIdentity(identity(1), 1))
    initiator = Initiator(config(0), 1)
    refused("bad-signature", initiator.receive, Responder(right).receive_hello(initiator.hello()))


class _MixedIdentity:
    """Says one incarnation and signs as another."""

    def __init__(self, signer: SigningIdentity, incarnation: int) -> None:
        self.sign = signer.sign
        self.incarnation = incarnation


def test_a_recorded_handshake_cannot_be_replayed() -> None:
    """Old second and third messages do not fit new nonces and ephemeral keys."""
    initiator, responder, second = opened(config(0), config(1))
    third, _ = initiator.receive(second)
    responder.finish(third)
    again = Responder(config(1, seed=80))
    assert again.receive_hello(FIRST) != second
    refused("bad-signature", again.finish, third)
    fresh = Initiator(config(0, seed=81), 1)
    fresh.hello()
    refused("bad-signature", fresh.receive, second)


def test_a_seal_for_one_peer_does_not_serve_another() -> None:
    """Misbinding: what replica 0 proves to Byzantine replica 2 cannot be forwarded to replica 1 as proof."""
    honest = Initiator(config(0), 2)
    victim = Responder(config(1))
    first = honest.hello()
    to_victim = victim.receive_hello(first)
    # Replica 2 answers with the victim's ephemeral key and nonce in a HELLO of its own.
    _, row, _ = cbor2.loads(to_victim)
    own = (*row[:4], 2, *row[5:9], tuple(map(tuple, row[9])))
    seal = identity(2).sign(b"handshake", handshake._sealed(b"responder", first, cbor2.dumps(own)))
    third, session = honest.receive(cbor2.dumps((2, own, seal)))
    assert session.peer == 2
    refused("bad-signature", victim.finish, third)


def dumps_hello(message: bytes, change: Callable[[list[object]], object]) -> bytes:
    """A message re-encoded after a change to its fields."""
    return cbor2.dumps(change(cbor2.loads(message)))


def test_every_byte_of_the_first_message_is_bound() -> None:
    """With any one byte changed on the way, no session comes into being."""
    for position in range(len(FIRST)):
        broken = bytearray(FIRST)
        broken[position] ^= 1
        initiator, responder = Initiator(config(0), 1), Responder(config(1))
        assert initiator.hello() == FIRST
        with pytest.raises(HandshakeError):
            initiator.receive(responder.receive_hello(bytes(broken)))


def test_every_byte_of_the_second_message_is_bound() -> None:
    """With any one byte changed the initiator refuses."""
    for position in range(len(RECORDED_SECOND)):
        broken = bytearray(RECORDED_SECOND)
        broken[position] ^= 1
        initiator = Initiator(config(0), 1)
        initiator.hello()
        with pytest.raises(HandshakeError):
            initiator.receive(bytes(broken))


def test_every_byte_of_the_third_message_is_bound() -> None:
    """With any one byte changed the responder refuses."""
    initiator, _, second = opened(config(0), config(1))
    third, _ = initiator.receive(second)
    for position in range(len(third)):
        broken = bytearray(third)
        broken[position] ^= 1
        _, responder, same = opened(config(0), config(1))
        assert same == second
        with pytest.raises(HandshakeError):
            responder.finish(bytes(broken))


def test_truncated_and_extended_messages_are_malformed() -> None:
    """No prefix of a message is a message, nor is a message with a byte more."""
    initiator, _, second = opened(config(0), config(1))
    third, _ = initiator.receive(second)
    for size in range(len(FIRST)):
        refused("malformed", Responder(config(1)).receive_hello, FIRST[:size])
    refused("malformed", Responder(config(1)).receive_hello, FIRST + b"\0")
    for whole in (second[:-1], second + b"\0", second[: len(second) // 2]):
        fresh = Initiator(config(0), 1)
        fresh.hello()
        refused("malformed", fresh.receive, whole)
    for whole in (third[:-1], third + b"\0", b""):
        _, responder, _ = opened(config(0), config(1))
        refused("malformed", responder.finish, whole)


HELLO_ROW: list[object] = cbor2.loads(FIRST)


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0, 7),
        (0, -1),
        (0, True),
        (0, "1"),
        (1, 1.0),
        (1, -1),
        (1, 1 << 16),
        (1, 2),
        (2, b"1"),
        (2, 1 << 16),
        (3, b""),
        (3, b"c" * 65),
        (3, "c" * 32),
        (4, -1),
        (4, 1 << 64),
        (4, None),
        (5, 1 << 64),
        (5, False),
        (6, -1),
        (6, []),
        (7, b"i" * 15),
        (7, b"i" * 17),
        (8, b"e" * 31),
        (8, b"e" * 33),
        (9, b"n" * 15),
        (9, 0),
        (10, {}),
        (10, [["a"]]),
        (10, [["a", b"1" * 7]]),
        (10, [["a", "1" * 8]]),
        (10, [[b"a", b"1" * 8]]),
        (10, [["", b"1" * 8]]),
        (10, [["a" * 65, b"1" * 8]]),
        (10, [["a\n", b"1" * 8]]),
        (10, [["\u202e", b"1" * 8]]),
        (10, [["b", b"1" * 8], ["a", b"1" * 8]]),
        (10, [["a", b"1" * 8], ["a", b"1" * 8]]),
        (10, [[f"{number:04}", b"1" * 8] for number in range(257)]),
    ],
)
def test_each_field_of_a_hello_is_checked(index: int, value: object) -> None:
    """Wrong types, lengths, ranges and orders are malformed, whatever field they are in."""
    changed = [*HELLO_ROW[:index], value, *HELLO_ROW[index + 1 :]]
    refused("malformed", Responder(config(1)).receive_hello, cbor2.dumps(changed))


@pytest.mark.parametrize(
    "message",
    [
        b"",
        cbor2.dumps([]),
        cbor2.dumps([1]),
        cbor2.dumps([1, 1]),
        cbor2.dumps({}),
        cbor2.dumps(1),
        cbor2.dumps([*HELLO_ROW, 1]),
        cbor2.dumps(HELLO_ROW[:-1]),
        b"\x9f" + FIRST[1:] + b"\xff",
        b"\x98\x0b" + FIRST[1:],
        b"\x81" * 4000,
        b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x5b\x7f\xff\xff\xff\xff\xff\xff\xff",
        cbor2.dumps(cbor2.CBORTag(28, HELLO_ROW)),
        bytes(MESSAGE_MAX_BYTES + 1),
    ],
)
def test_other_shapes_are_malformed(message: bytes) -> None:
    """Indefinite or long-winded encodings, tags, deep nesting, huge announced lengths, oversize: refused."""
    refused("malformed", Responder(config(1)).receive_hello, message)
    initiator = Initiator(config(0), 1)
    initiator.hello()
    refused("malformed", initiator.receive, message)
    _, responder, _ = opened(config(0), config(1))
    refused("malformed", responder.finish, message)


@pytest.mark.parametrize("row", [[2, 5, bytes(160)], [2, [], bytes(160)], [2, HELLO_ROW[1:], bytes(159)]])
def test_second_messages_of_wrong_shape_are_malformed(row: list[object]) -> None:
    """A second message has a HELLO and a seal of 160 bytes."""
    initiator = Initiator(config(0), 1)
    initiator.hello()
    refused("malformed", initiator.receive, cbor2.dumps(row))


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_handshake_errors(data: bytes) -> None:
    """Any bytes, in any place of the conversation, are refused as malformed, version or refusal."""
    _, responder, _ = opened(config(0), config(1))
    initiator = Initiator(config(0), 1)
    initiator.hello()
    for call in (responder.finish, initiator.receive, Responder(config(1)).receive_hello):
        with pytest.raises(HandshakeError):
            call(data)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 70), 1 << 70) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.slow
@given(st.integers(0, 10), PLAIN)
def test_any_cbor_in_any_field_raises_nothing_but_handshake_errors(index: int, value: object) -> None:
    """A HELLO with any value in one field is either answered or refused with a HandshakeError."""
    changed = [*HELLO_ROW[:index], value, *HELLO_ROW[index + 1 :]]
    try:
        answer = Responder(config(1)).receive_hello(cbor2.dumps(changed))
    except HandshakeError as error:
        assert error.kind
    else:
        assert cbor2.loads(answer)[0] == 2


def test_an_ephemeral_key_of_low_order_is_refused() -> None:
    """A replica that contributes the key zero gets no session, although its seal is right."""
    initiator = Initiator(config(0), 1)
    first = initiator.hello()
    _, row, _ = cbor2.loads(Responder(config(1)).receive_hello(first))
    own = (*row[:7], bytes(32), row[8], tuple(map(tuple, row[9])))
    seal = identity(1).sign(b"handshake", handshake._sealed(b"responder", first, cbor2.dumps(own)))
    refused("malformed", initiator.receive, cbor2.dumps((2, own, seal)))


@pytest.mark.scenario("G19")
def test_the_responder_uses_no_key_before_the_cheap_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused HELLOs cost no key generation and no signature; a bad proof costs no key exchange."""
    used: list[str] = []
    monkeypatch.setattr(handshake, "x25519_public", lambda secret: used.append("generate") or x25519_public(secret))
    monkeypatch.setattr(handshake, "x25519_shared", lambda *keys: used.append("exchange") or bytes(32))
    refused("wrong-epoch", Responder(config(1, epoch=1)).receive_hello, FIRST)
    refused("malformed", Responder(config(1)).receive_hello, FIRST[:-1])
    refused("config-mismatch", Responder(config(1, fields={})).receive_hello, FIRST)
    assert used == []
    responder = Responder(config(1))
    responder.receive_hello(FIRST)
    assert used == ["generate"]
    refused("bad-signature", responder.finish, cbor2.dumps((3, bytes(160))))
    assert used == ["generate"]


def test_the_other_side_hears_why() -> None:
    """A refusal arrives as "refused" with kind and text, wherever in the conversation it comes."""
    error = refused("wrong-epoch", Responder(config(1, epoch=7)).receive_hello, FIRST)
    initiator = Initiator(config(0), 1)
    initiator.hello()
    heard = refused("refused", initiator.receive, refusal(error))
    assert "wrong-epoch" in heard.text
    assert error.text[:60] in heard.text
    _, responder, _ = opened(config(0), config(1))
    refused("refused", responder.finish, refusal(error))


def test_a_refusal_is_bounded_and_printable() -> None:
    """Control characters and length of a received text do no harm; what is no refusal is malformed."""
    sent = refusal(HandshakeError("k" * 99, "\x1b[31m\n" + "x" * 5000))
    assert len(sent) < 300
    hostile = cbor2.dumps((0, "kind", "\x1b]0;\u202eevil\r\n" + "y" * 4000))
    initiator = Initiator(config(0), 1)
    initiator.hello()
    heard = refused("refused", initiator.receive, hostile)
    assert heard.text.isprintable()
    assert heard.text.isascii()
    assert len(heard.text) < 300
    for row in (
        (0,),
        (0, "k"),
        (0, "K\n", "t"),
        (0, "k", b"t"),
        (0, 1, "t"),
        (0, "k", "t", 1),
        (0, "k" * 33, "t"),
    ):
        refused("malformed", Responder(config(1)).receive_hello, cbor2.dumps(row))


def test_a_conversation_is_used_once() -> None:
    """Methods out of turn, twice, or after an error are the caller's mistake: CryptoError, not HandshakeError."""
    initiator, responder, second = opened(config(0), config(1))
    third, _ = initiator.receive(second)
    responder.finish(third)
    failed = Responder(config(1))
    refused("malformed", failed.receive_hello, b"")
    calls: list[tuple[Callable[..., object], tuple[bytes, ...]]] = [
        (initiator.hello, ()),
        (initiator.receive, (second,)),
        (responder.receive_hello, (FIRST,)),
        (responder.finish, (third,)),
        (failed.receive_hello, (FIRST,)),
        (Responder(config(1)).finish, (third,)),
        (Initiator(config(0)).receive, (second,)),
    ]
    for call, arguments in calls:
        with pytest.raises(CryptoError) as caught:
            call(*arguments)
        assert not isinstance(caught.value, HandshakeError)


def test_an_unusable_configuration_is_refused_when_it_is_made() -> None:
    """A signing identity of somebody else, or parts out of bounds, are found before the first handshake."""
    good = config(0)
    for change in (
        {"principal": 1},
        {"cluster": b"x" * 32},
        {"instance": b"short"},
        {"epoch": -1},
        {"version_min": 2, "version_max": 1},
        {"fields": {"name": b"short"}},
        {"fields": {"": bytes(8)}},
    ):
        with pytest.raises(CryptoError):
            replace(good, **change)
