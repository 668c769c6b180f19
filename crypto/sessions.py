"""Sessions: the keys of one authenticated link, and the MAC of every frame on it. Rules 1.1, 1.9, 1.18.

Rules of this file: knows no socket and no handshake message. Each direction has its own key and a 64-bit
counter that is authenticated but not sent: the link is ordered and reliable, so a replayed, dropped or
reordered frame does not open. After a frame that did not open the link is of no use and should be closed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b
from hmac import compare_digest
from struct import Struct

from pbft.crypto.derivation import hkdf, hkdf_expand
from pbft.crypto.digests import encode_parts
from pbft.crypto.errors import CryptoError
from pbft.crypto.keys import PublicKey
from pbft.crypto.macs import KEY_ID_SIZE, MAC_SIZE, AuthenticatorKey

_prefix = Struct(">QI").pack
"""Counter and length of the header: what follows the prefix splits into header and body in one way only."""


@dataclass(frozen=True, slots=True)
class SessionContext:
    """What a session's keys are bound to, and who is at the other end. All of it was authenticated.

    `principal` is the own one; instances are random 16 bytes per process start, so a restarted peer is told
    from one that reconnects.
    """

    version: int
    cluster: bytes
    epoch: int
    principal: int
    peer: int
    peer_identity: PublicKey
    peer_incarnation: int
    peer_instance: bytes
    initiated: bool


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """One generation of keys, derived together. `chain` goes into the next generation."""

    generation: int
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    authenticator_key: AuthenticatorKey = field(repr=False)
    confirmation_key: bytes = field(repr=False)
    chain: bytes = field(repr=False)


def derive_keys(context: SessionContext, generation: int, secret: bytes, salt: bytes) -> SessionKeys:
    """All keys of one generation from a shared secret. [RFC 5869]

    The info of each names protocol version, cluster, epoch, from, to, purpose and generation. What both sides
    use alike is named from initiator to responder.
    """
    root = hkdf(secret, salt, b"pbft session root")

    def derived(sender: int, receiver: int, purpose: bytes, length: int = 32) -> bytes:
        info = encode_parts(
            b"pbft session",
            context.version.to_bytes(2, "big"),
            context.cluster,
            context.epoch.to_bytes(8, "big"),
            sender.to_bytes(8, "big"),
            receiver.to_bytes(8, "big"),
            purpose,
            generation.to_bytes(8, "big"),
        )
        return hkdf_expand(root, info, length)

    own, peer = context.principal, context.peer
    ends = (own, peer) if context.initiated else (peer, own)
    key_id = derived(*ends, b"authenticator id", KEY_ID_SIZE)
    return SessionKeys(
        generation=generation,
        send_key=derived(own, peer, b"link"),
        receive_key=derived(peer, own, b"link"),
        # The highest bit is set because an id of zeros means "no entry".
        authenticator_key=AuthenticatorKey(bytes((key_id[0] | 0x80,)) + key_id[1:], derived(*ends, b"authenticator")),
        confirmation_key=derived(*ends, b"confirmation"),
        chain=derived(*ends, b"chain"),
    )


class Session:
    """One end of an authenticated link: `seal` what is sent, `open` what arrives, in the link's order."""

    __slots__ = (
        "_keys",
        "_next_keys",
        "_received",
        "_receiving",
        "_sending",
        "_sent",
        "context",
        "peer",
        "peer_incarnation",
        "peer_instance",
        "receive_key",
        "send_key",
        "version",
    )

    def __init__(self, context: SessionContext, keys: SessionKeys) -> None:
        self.context = context
        self.peer = context.peer
        self.peer_incarnation = context.peer_incarnation
        self.peer_instance = context.peer_instance
        self.version = context.version
        self._keys = keys
        self._next_keys: SessionKeys | None = None
        self._sent = 0
        self._received = 0
        self._use_for_sending(keys)
        self._use_for_receiving(keys)

    def seal(self, header: bytes, body: bytes | memoryview) -> bytes:
        """The 16-byte tag of the next frame to be sent. Frames must be sent in the order of their seals."""
        self._sent = counter = self._sent + 1
        state = self._sending.copy()  # a copy of the keyed state costs half of keying anew
        state.update(_prefix(counter, len(header)) + header)
        state.update(body)
        return state.digest()

    def open(self, header: bytes, body: bytes | memoryview, tag: bytes | memoryview) -> bool:
        """Whether this is exactly the next frame that the peer sealed. No peer can make it raise."""
        counter = self._received + 1
        state = self._receiving.copy()
        state.update(_prefix(counter, len(header)) + header)
        state.update(body)
        if compare_digest(state.digest(), tag):
            self._received = counter
            return True
        return False

    @property
    def peer_identity(self) -> PublicKey:
        """The long-lived key that the peer proved to have."""
        return self.context.peer_identity

    @property
    def sent(self) -> int:
        """Frames sealed so far, over all generations of keys."""
        return self._sent

    @property
    def received(self) -> int:
        """Frames opened so far, over all generations of keys."""
        return self._received

    @property
    def epoch_of_keys(self) -> int:
        """How often both directions have changed to new keys: 0 after the handshake."""
        return self._keys.generation

    @property
    def authenticator_key(self) -> AuthenticatorKey:
        """The key for client authenticators, the same on both sides: what a client makes them with."""
        return self._keys.authenticator_key

    @property
    def newest_authenticator_key(self) -> AuthenticatorKey:
        """What a replica must accept: during a refresh the coming key already, which the client uses later.

        The request may come through another replica and so overtake the last message of the refresh.
        """
        return (self._next_keys or self._keys).authenticator_key

    def binding(self) -> bytes:
        """A value that differs for every session and generation of keys; the seals of a refresh name it."""
        return hkdf_expand(self._keys.chain, b"pbft session binding")

    def rekeyed(self, secret: bytes, salt: bytes) -> SessionKeys:
        """The next generation of keys, from a fresh shared secret and the present keys; switches nothing yet.

        Who knows all old keys does not know `secret`; who breaks the fresh exchange does not know the chain.
        """
        if self._next_keys is not None:
            raise CryptoError("a key refresh is already under way on this session")
        keys = derive_keys(self.context, self._keys.generation + 1, self._keys.chain + secret, salt)
        self._next_keys = keys
        return keys

    def switch_sending(self) -> None:
        """Use the keys of `rekeyed` from the next `seal` on; the frame before it was the peer's marker."""
        self._use_for_sending(self._coming())
        self._finish()

    def switch_receiving(self) -> None:
        """From the next `open` on use the keys of `rekeyed`; the peer's marker has just arrived."""
        self._use_for_receiving(self._coming())
        self._finish()

    def _coming(self) -> SessionKeys:
        if self._next_keys is None:
            raise CryptoError("there are no new keys to switch to")
        return self._next_keys

    def _finish(self) -> None:
        keys = self._coming()
        if self.send_key is keys.send_key and self.receive_key is keys.receive_key:
            # No reference to the old generation is left; an interpreter cannot promise more about memory.
            self._keys, self._next_keys = keys, None

    def _use_for_sending(self, keys: SessionKeys) -> None:
        self.send_key = keys.send_key
        self._sending = blake2b(digest_size=MAC_SIZE, key=keys.send_key)

    def _use_for_receiving(self, keys: SessionKeys) -> None:
        self.receive_key = keys.receive_key
        self._receiving = blake2b(digest_size=MAC_SIZE, key=keys.receive_key)

    def __repr__(self) -> str:
        return f"Session(peer={self.peer}, epoch_of_keys={self.epoch_of_keys})"
