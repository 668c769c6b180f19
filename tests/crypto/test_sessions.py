"""Sealing and opening frames of a link, and changing its keys while it runs (rules 1.9 and 1.18)."""

import hmac
import random
from dataclasses import replace

import cbor2
import pytest
from crypto_parties import CLIENT, REPLICA_KEYS, config, connect, entropy, identity
from hypothesis import given
from hypothesis import strategies as st

from pbft.crypto import (
    AuthenticatorKey,
    CryptoError,
    HandshakeError,
    KeyRing,
    Refresh,
    Session,
    SigningIdentity,
    check_authenticator,
    digest,
    make_authenticator,
    sessions,
)
from pbft.crypto.sessions import SessionContext, derive_keys

HEADER, BODY = b"header", b"body of a frame"


def pair() -> tuple[Session, Session]:
    return connect(config(0), config(1))


def passes(sender: Session, receiver: Session) -> bool:
    return receiver.open(HEADER, BODY, sender.seal(HEADER, BODY))


def test_frames_open_in_their_order() -> None:
    """Both directions, many frames, empty ones and memoryviews included."""
    left, right = pair()
    for number in range(20):
        body = b"x" * number
        assert right.open(HEADER, memoryview(body), memoryview(left.seal(HEADER, body)))
        assert left.open(b"", body, right.seal(b"", memoryview(body)))
    assert left.sent == left.received == right.sent == right.received == 20


def test_a_tag_has_16_bytes_and_never_repeats() -> None:
    """The same frame twice has two tags, for the counter is part of it."""
    left, _ = pair()
    tags = {left.seal(HEADER, BODY) for _ in range(10)}
    assert len(tags) == 10
    assert {len(tag) for tag in tags} == {16}


def test_a_replayed_frame_does_not_open() -> None:
    """The same bytes a second time are refused, the next genuine frame is not."""
    left, right = pair()
    tag = left.seal(HEADER, BODY)
    assert right.open(HEADER, BODY, tag)
    assert not right.open(HEADER, BODY, tag)
    assert passes(left, right)


def test_after_a_dropped_frame_nothing_opens() -> None:
    """A gap in the sequence shows at once, as does a change of order."""
    left, right = pair()
    first, second, third = (left.seal(HEADER, BODY) for _ in range(3))
    assert not right.open(HEADER, BODY, second)
    assert right.open(HEADER, BODY, first)
    assert not right.open(HEADER, BODY, third)
    assert right.open(HEADER, BODY, second)


@given(st.permutations(range(5)))
def test_only_the_order_of_sending_opens_everything(order: list[int]) -> None:
    """Of all orders of five frames exactly the right one opens all five."""
    left, right = pair()
    tags = [left.seal(HEADER, bytes([number])) for number in range(5)]
    opened = [right.open(HEADER, bytes([number]), tags[number]) for number in order]
    assert all(opened) == (order == sorted(order))


def test_every_bit_of_a_frame_counts() -> None:
    """A bit turned in header, body or tag, or another length of either, does not open."""
    left, right = pair()
    frame = [HEADER, BODY, left.seal(HEADER, BODY)]
    for part in range(3):
        for position in range(len(frame[part]) * 8):
            broken = bytearray(frame[part])
            broken[position // 8] ^= 1 << position % 8
            assert not right.open(*[*frame[:part], bytes(broken), *frame[part + 1 :]])
        assert not right.open(*[*frame[:part], frame[part] + b"\0", *frame[part + 1 :]])
        assert not right.open(*[*frame[:part], frame[part][:-1], *frame[part + 1 :]])
        assert not right.open(*[*frame[:part], b"", *frame[part + 1 :]])
    assert right.open(*frame)


def test_header_and_body_cannot_be_shifted_into_each_other() -> None:
    """The border between header and body is authenticated."""
    left, right = pair()
    tag = left.seal(b"ab", b"c")
    assert not right.open(b"a", b"bc", tag)
    assert right.open(b"ab", b"c", tag)


@pytest.mark.scenario("G23")
def test_a_frame_sent_back_does_not_open() -> None:
    """Each direction has its own key, so a reflected frame is refused by who sealed it."""
    left, right = pair()
    tag = left.seal(HEADER, BODY)
    assert not left.open(HEADER, BODY, tag)
    assert right.open(HEADER, BODY, tag)


@pytest.mark.scenario("G10")
def test_a_frame_of_another_link_does_not_open() -> None:
    """What replica 2 sealed for replica 1 opens neither as replica 0's nor in another session of its own."""
    left, right = pair()
    liar, other = connect(config(2), config(1))
    assert not right.open(HEADER, BODY, liar.seal(HEADER, BODY))
    again, _ = connect(config(0, seed=90), config(1))
    assert not right.open(HEADER, BODY, again.seal(HEADER, BODY))
    assert other.peer == 2
    assert passes(left, right)


@pytest.mark.scenario("G22")
def test_all_keys_depend_on_cluster_epoch_version_and_ends() -> None:
    """From one shared secret, a change of any of them or of the generation gives other keys for everything."""
    left, _ = pair()
    base = left.context

    def keys(context: SessionContext, generation: int = 0, salt: bytes = b"salt") -> set[bytes]:
        made = derive_keys(context, generation, b"secret", salt)
        return {
            made.send_key,
            made.receive_key,
            made.authenticator_key.key,
            made.authenticator_key.key_id,
            made.confirmation_key,
            made.chain,
        }

    variants = [
        keys(base),
        keys(base, generation=1),
        keys(base, salt=b"other"),
        keys(replace(base, cluster=b"d" * 32)),
        keys(replace(base, epoch=1)),
        keys(replace(base, version=2)),
        keys(replace(base, principal=2)),
        keys(replace(base, peer=2)),
    ]
    assert len(set().union(*variants)) == 6 * len(variants)


def test_tags_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """`open` compares by `hmac.compare_digest`."""
    assert sessions.compare_digest is hmac.compare_digest
    seen: list[bytes] = []
    monkeypatch.setattr(sessions, "compare_digest", lambda own, tag: seen.append(tag) or own == tag)
    left, right = pair()
    tag = left.seal(HEADER, BODY)
    assert right.open(HEADER, BODY, tag)
    assert seen == [tag]


def test_a_session_shows_no_key() -> None:
    """Neither the repr of a session nor that of its keys has a secret in it."""
    left, _ = pair()
    shown = repr(left) + repr(left._keys)
    for secret in (left.send_key, left.receive_key, left._keys.chain, left.authenticator_key.key):
        assert secret.hex() not in shown
        assert repr(secret)[2:-1] not in shown


@given(st.binary(max_size=40), st.binary(max_size=40), st.binary(max_size=40))
def test_random_frames_do_not_open(header: bytes, body: bytes, tag: bytes) -> None:
    """Whatever arrives, the answer is False and the session goes on."""
    left, right = pair()
    assert not right.open(header, body, tag)
    assert passes(left, right)


class Link:
    """Both ends of an ordered link with a refresh machine each; frames are sealed when they are sent."""

    def __init__(self, left: int = 0, right: int = 1) -> None:
        self.sessions = connect(config(left), config(right))
        self.refreshes = tuple(
            Refresh(session, identity(session.context.principal), entropy(100 + end))
            for end, session in enumerate(self.sessions)
        )
        self.wires: tuple[list[tuple[bytes, bytes, bytes]], ...] = ([], [])
        self.bodies: tuple[list[bytes], ...] = ([], [])

    def send(self, end: int, kind: bytes, body: bytes) -> None:
        self.wires[end].append((kind, body, self.sessions[end].seal(kind, body)))

    def start(self, end: int) -> None:
        self.send(end, b"refresh", self.refreshes[end].start())

    def deliver(self, end: int) -> None:
        """The other end takes the oldest frame that `end` has sent."""
        kind, body, tag = self.wires[end].pop(0)
        other = 1 - end
        assert self.sessions[other].open(kind, body, tag)
        if kind == b"payload":
            self.bodies[other].append(body)
            return
        answer = self.refreshes[other].on_message(body)
        if answer is not None:
            self.send(other, b"refresh", answer)
            self.refreshes[other].sent()

    def settle(self) -> None:
        while self.wires[0] or self.wires[1]:
            self.deliver(0 if self.wires[0] else 1)


@pytest.mark.parametrize("starter", [0, 1])
def test_a_refresh_gives_both_sides_the_same_new_keys(starter: int) -> None:
    """Either side may start; afterwards all keys are new, equal on both sides, and the count is 1."""
    link = Link()
    left, right = link.sessions
    old = {left.send_key, left.receive_key, left.authenticator_key.key, left._keys.chain}
    old_id = left.authenticator_key.key_id
    link.start(starter)
    link.settle()
    assert left.epoch_of_keys == right.epoch_of_keys == 1
    assert left.send_key == right.receive_key
    assert left.receive_key == right.send_key
    assert left.authenticator_key == right.authenticator_key
    assert left.authenticator_key.key_id != old_id
    assert not old & {left.send_key, left.receive_key, left.authenticator_key.key, left._keys.chain}
    assert not any(refresh.in_progress for refresh in link.refreshes)
    assert passes(left, right)
    assert passes(right, left)


def test_old_keys_are_forgotten() -> None:
    """After a refresh no attribute of session or refresh machine still refers to a key of before."""
    link = Link()
    old = [(session.send_key, session._keys) for session in link.sessions]
    link.start(0)
    link.settle()
    for end, (send_key, keys) in enumerate(old):
        session, refresh = link.sessions[end], link.refreshes[end]
        held = [getattr(session, name) for name in Session.__slots__] + list(vars(refresh).values())
        assert not any(value is send_key or value is keys for value in held)
        assert refresh._secret is None
        assert refresh._keys is None


@given(st.integers(0, 2**32))
def test_nothing_is_lost_or_reordered_by_refreshes(seed: int) -> None:
    """Random traffic and refreshes from both sides, any interleaving: each frame opens, once, in order."""
    chance = random.Random(seed)
    link = Link()
    sent: tuple[list[bytes], ...] = ([], [])
    for number in range(60):
        end = chance.randrange(2)
        action = chance.random()
        if action < 0.4:
            body = b"%d" % number
            link.send(end, b"payload", body)
            sent[end].append(body)
        elif action < 0.5:
            if not link.refreshes[end].in_progress:
                link.start(end)
        elif link.wires[end]:
            link.deliver(end)
    link.settle()
    assert link.bodies == (sent[1], sent[0])
    assert link.sessions[0].epoch_of_keys == link.sessions[1].epoch_of_keys
    assert not any(refresh.in_progress for refresh in link.refreshes)


def test_new_keys_depend_on_the_old_ones() -> None:
    """Who could foresee the fresh secret would still need the keys of before."""
    left, right = pair()
    context = left.context
    other = Session(context, derive_keys(context, 0, b"another secret", b"salt"))
    fresh = [session.rekeyed(b"s" * 32, b"salt").chain for session in (left, right, other)]
    assert fresh[0] == fresh[1] != fresh[2]


def test_two_refreshes_at_once_become_one() -> None:
    """Both start before either hears of the other: one new generation of keys, then another refresh works."""
    link = Link()
    link.start(0)
    link.start(1)
    link.settle()
    assert [session.epoch_of_keys for session in link.sessions] == [1, 1]
    link.start(1)
    link.settle()
    assert [session.epoch_of_keys for session in link.sessions] == [2, 2]


def test_each_direction_changes_behind_its_marker() -> None:
    """Frames sealed before the answer use old keys, the frame after it new ones; the other way behind DONE."""
    link = Link()
    left, right = link.sessions
    before = right.send_key
    link.send(1, b"payload", b"old")
    link.start(0)
    assert right.send_key == before
    link.deliver(0)
    assert right.send_key != before
    assert right.receive_key == left.send_key
    assert right.epoch_of_keys == 0
    link.deliver(1)
    link.deliver(1)
    assert left.receive_key == right.send_key
    assert left.epoch_of_keys == 1
    link.settle()
    assert right.epoch_of_keys == 1


@pytest.mark.parametrize("starter", [0, 1])
def test_a_replica_knows_the_new_authenticator_key_before_the_client_uses_it(starter: int) -> None:
    """At every step the client's key is one that the replica already accepts."""
    link = Link(CLIENT, 1)
    client, replica = link.sessions
    accepted = {replica.newest_authenticator_key}
    link.start(starter)
    while link.wires[0] or link.wires[1]:
        link.deliver(0 if link.wires[0] else 1)
        accepted.add(replica.newest_authenticator_key)
        assert client.authenticator_key in accepted
    assert len(accepted) == 2


def _refused(kind: str, refresh: Refresh, message: bytes) -> None:
    with pytest.raises(HandshakeError) as caught:
        refresh.on_message(message)
    assert caught.value.kind == kind


def test_an_offer_has_to_be_signed_by_the_peer() -> None:
    """Who holds the link's keys only, and not the signing key, cannot bring in keys of its own."""
    link = Link()
    thief = Refresh(connect(config(0), config(1))[0], identity(0), entropy(5))
    thief._identity = SigningIdentity(REPLICA_KEYS[3], identity(0).cluster, 0, 0)
    _refused("bad-signature", link.refreshes[1], thief.start())
    assert link.sessions[1].epoch_of_keys == 0
    assert not link.refreshes[1].in_progress


@pytest.mark.scenario("G23")
def test_refresh_messages_are_bound_to_session_generation_and_sender() -> None:
    """An offer does not pass in another session, a later generation, or back at its sender."""
    link = Link()
    offer = link.refreshes[0].start()
    other = connect(config(0, seed=91), config(1))[1]
    _refused("bad-signature", Refresh(other, identity(1)), offer)
    reflected = Link()
    _refused("bad-signature", reflected.refreshes[0], offer)
    link.send(0, b"refresh", offer)
    link.settle()
    _refused("malformed", link.refreshes[1], offer)


@pytest.mark.slow
def test_every_byte_of_a_refresh_counts() -> None:
    """Offer, answer and DONE with any byte changed are refused, and no side has switched by it."""
    offer = Link().refreshes[0].start()
    for position in range(len(offer)):
        link = Link()
        broken = bytearray(offer)
        broken[position] ^= 1
        with pytest.raises(HandshakeError):
            link.refreshes[1].on_message(bytes(broken))
    link = Link()
    answer = link.refreshes[1].on_message(offer)
    assert answer is not None
    for position in range(len(answer)):
        link = Link()
        assert link.refreshes[0].start() == offer
        broken = bytearray(answer)
        broken[position] ^= 1
        key = link.sessions[0].receive_key
        with pytest.raises(HandshakeError):
            link.refreshes[0].on_message(bytes(broken))
        assert link.sessions[0].receive_key == key


def test_a_done_that_does_not_prove_the_new_keys_is_refused() -> None:
    """DONE with another tag, generation or shape does not switch the receiving direction."""
    link = Link()
    link.start(0)
    link.deliver(0)
    key = link.sessions[1].receive_key
    _refused("bad-signature", link.refreshes[1], cbor2.dumps((3, 1, bytes(16))))
    _refused("malformed", link.refreshes[1], cbor2.dumps((3, 2, bytes(16))))
    _refused("malformed", link.refreshes[1], cbor2.dumps((3, 1, bytes(15))))
    _refused("malformed", link.refreshes[1], cbor2.dumps((3, 1)))
    assert link.sessions[1].receive_key == key
    link.settle()
    assert link.sessions[1].epoch_of_keys == 1


def test_refresh_messages_out_of_turn_are_malformed() -> None:
    """Answer and DONE to nothing, a second offer, unknown kinds: refused, nothing changes."""
    link = Link()
    offer = link.refreshes[0].start()
    answer = link.refreshes[1].on_message(offer)
    assert answer is not None
    _refused("malformed", link.refreshes[1], offer)
    for message in (answer, cbor2.dumps((3, 1, bytes(16))), cbor2.dumps((4, 1)), cbor2.dumps(()), b"", b"\xff"):
        _refused("malformed", Link().refreshes[0], message)


@given(st.binary(max_size=200))
def test_random_bytes_are_no_refresh(data: bytes) -> None:
    """Any bytes are refused with a HandshakeError."""
    link = Link()
    with pytest.raises(HandshakeError):
        link.refreshes[0].on_message(data)


def test_misuse_of_a_refresh_is_told_from_a_fault_of_the_peer() -> None:
    """Starting twice, `sent` without a message, a foreign identity, switching to no keys: CryptoError."""
    link = Link()
    with pytest.raises(CryptoError, match="waiting to be sent"):
        link.refreshes[0].sent()
    link.refreshes[0].start()
    with pytest.raises(CryptoError, match="under way"):
        link.refreshes[0].start()
    with pytest.raises(CryptoError, match="another principal"):
        Refresh(link.sessions[0], identity(1))
    with pytest.raises(CryptoError, match="no new keys"):
        link.sessions[0].switch_sending()
    link.sessions[0].rekeyed(b"s" * 32, b"salt")
    with pytest.raises(CryptoError, match="under way"):
        link.sessions[0].rekeyed(b"s" * 32, b"salt")


KEY_A, KEY_B, KEY_C = (AuthenticatorKey(bytes([0x80 + n]) * 8, bytes([n]) * 32) for n in range(3))


def test_a_key_ring_gives_a_key_until_it_expires() -> None:
    """Known to its own principal only, before its expiry only."""
    ring = KeyRing(2)
    ring.add(CLIENT, KEY_A, expiry=10.0)
    assert ring.lookup(CLIENT, KEY_A.key_id, 9.9) == KEY_A.key
    assert ring.lookup(CLIENT, KEY_A.key_id, 10.0) is None
    assert ring.lookup(CLIENT, KEY_B.key_id, 0.0) is None
    assert ring.lookup(CLIENT + 1, KEY_A.key_id, 0.0) is None


def test_a_retired_key_overlaps_with_its_successor() -> None:
    """Old and new key are valid for the overlap, then only the new one; retiring never prolongs."""
    ring = KeyRing(4)
    ring.add(CLIENT, KEY_A, expiry=100.0)
    ring.add(CLIENT, KEY_B, expiry=200.0)
    ring.retire(CLIENT, KEY_A.key_id, now=50.0, overlap=5.0)
    assert ring.lookup(CLIENT, KEY_A.key_id, 54.0) == KEY_A.key
    assert ring.lookup(CLIENT, KEY_A.key_id, 55.0) is None
    assert ring.lookup(CLIENT, KEY_B.key_id, 55.0) == KEY_B.key
    ring.retire(CLIENT, KEY_A.key_id, now=54.0, overlap=100.0)
    assert ring.lookup(CLIENT, KEY_A.key_id, 55.0) is None
    ring.retire(CLIENT, KEY_C.key_id, now=0.0, overlap=1.0)
    ring.retire(CLIENT + 1, KEY_A.key_id, now=0.0, overlap=1.0)
    assert len(ring) == 2


def test_a_key_ring_is_bounded_per_principal() -> None:
    """The third key of a principal pushes out its own first, and nobody else's."""
    ring = KeyRing(2)
    ring.add(7, KEY_A, expiry=10.0)
    for key in (KEY_A, KEY_B, KEY_B, KEY_C):
        ring.add(CLIENT, key, expiry=10.0)
    assert ring.lookup(CLIENT, KEY_A.key_id, 0.0) is None
    assert ring.lookup(CLIENT, KEY_B.key_id, 0.0) == KEY_B.key
    assert ring.lookup(CLIENT, KEY_C.key_id, 0.0) == KEY_C.key
    assert ring.lookup(7, KEY_A.key_id, 0.0) == KEY_A.key
    with pytest.raises(CryptoError):
        KeyRing(0)


def test_expired_and_dropped_keys_leave_no_trace() -> None:
    """`expire` says how many went; `drop` forgets a principal at once."""
    ring = KeyRing(4)
    ring.add(CLIENT, KEY_A, expiry=10.0)
    ring.add(CLIENT, KEY_B, expiry=20.0)
    ring.add(7, KEY_C, expiry=10.0)
    assert ring.expire(9.0) == 0
    assert ring.expire(10.0) == 2
    assert len(ring) == 1
    ring.drop(CLIENT)
    ring.drop(CLIENT)
    assert len(ring) == 0
    assert ring._keys == {}


def test_an_authenticator_from_real_sessions_satisfies_all_replicas() -> None:
    """A client with a session to each of four replicas makes one authenticator that each of them accepts."""
    request = digest(b"request", b"inc")
    links = [connect(config(CLIENT), config(replica)) for replica in range(4)]
    authenticator = make_authenticator([client.authenticator_key for client, _ in links], request)
    for number, (_, replica) in enumerate(links):
        ring = KeyRing(4)
        ring.add(replica.peer, replica.newest_authenticator_key, expiry=10.0)
        for entry in range(4):
            accepted = check_authenticator(
                authenticator, entry, request, lambda key_id, ring=ring: ring.lookup(CLIENT, key_id, 0.0)
            )
            assert accepted == (entry == number)
