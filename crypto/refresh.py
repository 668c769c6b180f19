"""New keys for a running link, and the ring of client keys that replicas accept. Rule 1.18.

    starter -> other     OFFER   ephemeral key, seal
    other   -> starter   ANSWER  ephemeral key, seal over both; marker: its next frame uses the new keys
    starter -> other     DONE    proof of the new keys; marker: its next frame uses the new keys

The messages travel as ordinary frames of the link, and each direction changes right behind a message, so on
an ordered link nothing is lost and no frame can be read under two keys. If both sides start at once, the
offer of the lower principal counts.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum, auto
from typing import Any

from pbft.crypto.certificates import SEAL_SIZE, SigningIdentity, verify_seal
from pbft.crypto.derivation import X25519_SIZE, x25519_public, x25519_shared
from pbft.crypto.digests import digest_parts, encode_parts
from pbft.crypto.errors import CryptoError, HandshakeError
from pbft.crypto.macs import MAC_SIZE, AuthenticatorKey, mac, mac_equal
from pbft.crypto.sessions import Session, SessionKeys
from pbft.crypto.wire import blob, dumps, loads, malformed, number

_OFFER, _ANSWER, _DONE = 1, 2, 3
_SEAL_DOMAIN = b"refresh"
_TRANSCRIPT = b"refresh"


class _Phase(Enum):
    IDLE = auto()
    OFFERED = auto()
    """Our offer is on its way."""
    ANSWERING = auto()
    """Our answer was handed out; `sent` is awaited."""
    AWAITING_DONE = auto()
    FINISHING = auto()
    """Our DONE was handed out; `sent` is awaited."""


class Refresh:
    """Key refresh of one session. One object serves all refreshes of the session, one at a time.

    The transport seals and sends what `start` or `on_message` returns as the next frame, **and calls `sent`
    right after it has sealed an answer of `on_message`**, before it seals anything else: from there on the
    new keys are in use. A `HandshakeError` means that the link has to be closed.
    """

    def __init__(
        self, session: Session, identity: SigningIdentity, entropy: Callable[[int], bytes] = os.urandom
    ) -> None:
        if identity.principal != session.context.principal or identity.cluster != session.context.cluster:
            raise CryptoError("the signing identity belongs to another principal or cluster than the session")
        self._session = session
        self._identity = identity
        self._entropy = entropy
        self._phase = _Phase.IDLE
        self._secret: bytes | None = None
        self._offer = b""
        self._keys: SessionKeys | None = None

    @property
    def in_progress(self) -> bool:
        """Whether a refresh is under way; `start` is then not allowed."""
        return self._phase is not _Phase.IDLE

    def start(self) -> bytes:
        """The OFFER to send. CryptoError while a refresh is under way."""
        if self.in_progress:
            raise CryptoError("a key refresh is already under way on this session")
        self._secret = self._entropy(X25519_SIZE)
        public = x25519_public(self._secret)
        self._offer = self._message(_OFFER, public, self._sealed(_OFFER, public))
        self._phase = _Phase.OFFERED
        return self._offer

    def on_message(self, data: bytes) -> bytes | None:
        """Take a message of the peer's; returns what to send next, if anything (see `sent`)."""
        row = loads(data)
        kind = number(row[0], _DONE) if row else 0
        if kind == _OFFER:
            return self._on_offer(bytes(data), row)
        if kind == _ANSWER:
            return self._on_answer(bytes(data), row)
        if kind == _DONE:
            self._on_done(row)
            return None
        raise malformed("no message of a key refresh")

    def sent(self) -> None:
        """The message that `on_message` returned is sealed: switch the sending direction to the new keys."""
        if self._phase is _Phase.ANSWERING:
            self._phase = _Phase.AWAITING_DONE
        elif self._phase is _Phase.FINISHING:
            self._phase = _Phase.IDLE
        else:
            raise CryptoError("no message of a key refresh is waiting to be sent")
        self._session.switch_sending()
        if self._phase is _Phase.IDLE:
            self._keys = None

    def _on_offer(self, data: bytes, row: tuple[Any, ...]) -> bytes | None:
        context = self._session.context
        peer_public, seal = self._checked(row)
        if self._phase is _Phase.OFFERED:
            if context.principal < context.peer:
                return None  # both started: the peer drops its offer when it sees ours
            self._secret, self._offer, self._phase = None, b"", _Phase.IDLE
        if self._phase is not _Phase.IDLE:
            raise malformed("an offer of new keys in the middle of a refresh")
        self._check_seal(self._sealed(_OFFER, peer_public), seal)
        secret = self._entropy(X25519_SIZE)
        public = x25519_public(secret)
        answer = self._message(_ANSWER, public, self._sealed(_ANSWER, public, data))
        self._keys = self._session.rekeyed(x25519_shared(secret, peer_public), digest_parts(_TRANSCRIPT, data, answer))
        self._phase = _Phase.ANSWERING
        return answer

    def _on_answer(self, data: bytes, row: tuple[Any, ...]) -> bytes:
        if self._phase is not _Phase.OFFERED or self._secret is None:
            raise malformed("an answer to no offer of new keys")
        peer_public, seal = self._checked(row)
        self._check_seal(self._sealed(_ANSWER, peer_public, self._offer), seal)
        shared = x25519_shared(self._secret, peer_public)
        self._keys = self._session.rekeyed(shared, digest_parts(_TRANSCRIPT, self._offer, data))
        self._secret, self._offer = None, b""
        self._session.switch_receiving()
        self._phase = _Phase.FINISHING
        return dumps((_DONE, self._keys.generation, self._confirmation(self._keys)))

    def _on_done(self, row: tuple[Any, ...]) -> None:
        if self._phase is not _Phase.AWAITING_DONE or self._keys is None:
            raise malformed("the end of a key refresh that is not under way")
        if len(row) != 3 or number(row[1]) != self._keys.generation:
            raise malformed("the end of another key refresh")
        if not mac_equal(blob(row[2], MAC_SIZE, MAC_SIZE), self._confirmation(self._keys)):
            raise HandshakeError("bad-signature", "the peer did not derive the same new keys")
        self._session.switch_receiving()
        self._phase = _Phase.IDLE
        self._keys = None

    def _generation(self) -> int:
        return self._session.epoch_of_keys + 1

    def _message(self, kind: int, public: bytes, body: bytes) -> bytes:
        return dumps((kind, self._generation(), public, self._identity.sign(_SEAL_DOMAIN, body)))

    def _checked(self, row: tuple[Any, ...]) -> tuple[bytes, bytes]:
        if len(row) != 4 or number(row[1]) != self._generation():
            raise malformed("a refresh to another generation of keys than the next")
        return blob(row[2], X25519_SIZE, X25519_SIZE), blob(row[3], SEAL_SIZE, SEAL_SIZE)

    def _sealed(self, kind: int, public: bytes, offer: bytes = b"") -> bytes:
        """What a seal covers besides its sender: session, generation, key, and the offer that it answers."""
        return encode_parts(
            bytes((kind,)),
            self._session.binding(),
            self._generation().to_bytes(8, "big"),
            public,
            offer,
        )

    def _check_seal(self, body: bytes, seal: bytes) -> None:
        context = self._session.context
        if not verify_seal(
            context.peer_identity,
            context.cluster,
            context.peer,
            context.peer_incarnation,
            _SEAL_DOMAIN,
            body,
            seal,
        ):
            raise HandshakeError("bad-signature", "the peer did not sign its new key")

    @staticmethod
    def _confirmation(keys: SessionKeys) -> bytes:
        return mac(keys.confirmation_key, b"done")


class KeyRing:
    """A replica's side of the client authenticator keys: key id -> key per client, with an expiry each.

    At most `limit` keys per principal; the one that was added first goes first, so a client can push out its
    own keys only. Times are seconds of the caller's monotonic clock.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise CryptoError("a key ring holds at least one key per principal")
        self._limit = limit
        self._keys: dict[int, OrderedDict[bytes, tuple[bytes, float]]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._keys.values()))

    def add(self, principal: int, key: AuthenticatorKey, expiry: float) -> None:
        """Accept `key` from `principal` until `expiry`. Adding a known key again changes its expiry only."""
        keys = self._keys.setdefault(principal, OrderedDict())
        keys[key.key_id] = (key.key, expiry)
        if len(keys) > self._limit:
            keys.popitem(last=False)

    def lookup(self, principal: int, key_id: bytes, now: float) -> bytes | None:
        """The key to check an authenticator of `principal` with, None if unknown or expired."""
        keys = self._keys.get(principal)
        entry = keys.get(key_id) if keys is not None else None
        return entry[0] if entry is not None and now < entry[1] else None

    def retire(self, principal: int, key_id: bytes, now: float, overlap: float) -> None:
        """Accept a replaced key for `overlap` seconds more, and never longer than before."""
        keys = self._keys.get(principal)
        if keys is not None and key_id in keys:
            key, expiry = keys[key_id]
            keys[key_id] = (key, min(expiry, now + overlap))

    def drop(self, principal: int) -> None:
        """Forget all keys of a principal at once: it left the configuration, or must connect anew."""
        self._keys.pop(principal, None)

    def expire(self, now: float) -> int:
        """Forget what has expired; returns how many keys went."""
        before = len(self)
        for principal, keys in list(self._keys.items()):
            for key_id in [key_id for key_id, (_, expiry) in keys.items() if expiry <= now]:
                del keys[key_id]
            if not keys:
                del self._keys[principal]
        return before - len(self)
