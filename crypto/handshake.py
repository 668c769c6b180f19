"""The handshake that opens a link: signed X25519 in three messages, without I/O. Rules 1.2, 1.9, 1.18.

    initiator -> responder   HELLO
    responder -> initiator   HELLO, seal("responder", both HELLOs)
    initiator -> responder   seal("initiator", both messages so far)

Each seal is made with the signing key of the sender's incarnation and covers who both sides claim to be, both
ephemeral keys and both nonces. So nobody can pass a seal on to another conversation (replay), to a peer that
it was not meant for (misbinding), or back to its sender (reflection: the roles differ, and a principal never
speaks with itself).

Rules of this file: a machine is used for one conversation and is over after its first error. All that a peer
can cause is `HandshakeError`. Cheap checks come first; an unauthenticated HELLO that passes them costs the
responder one key generation and one signature, the key exchange follows only after the initiator's seal has
verified.
"""

from __future__ import annotations

import re
from typing import Any

from pbft.crypto.certificates import SEAL_SIZE, verify_seal
from pbft.crypto.derivation import X25519_SIZE, x25519_public, x25519_shared
from pbft.crypto.digests import digest_parts, encode_parts
from pbft.crypto.errors import CryptoError, HandshakeError
from pbft.crypto.hello import NONCE_SIZE, HandshakeConfig, Hello, judge_hello, principal_name
from pbft.crypto.keys import PublicKey
from pbft.crypto.sessions import Session, SessionContext, derive_keys
from pbft.crypto.wire import blob, dumps, loads, malformed, sanitized

_REFUSAL, _FIRST, _SECOND, _THIRD = range(4)

_KIND_MAX = 32
_TEXT_MAX = 200
_SEAL_DOMAIN = b"handshake"
_TRANSCRIPT = b"handshake"
_KIND = re.compile(r"[a-z0-9-]{1,32}")


def refusal(error: HandshakeError) -> bytes:
    """What to send before closing, so that the other side can log why. Unauthenticated: never act on it."""
    return dumps((_REFUSAL, sanitized(error.kind, _KIND_MAX), sanitized(error.text, _TEXT_MAX)))


def _decoded(data: bytes, kind: int, length: int | None) -> tuple[Any, ...]:
    """The fields after the kind. A refusal by the peer is raised as HandshakeError("refused")."""
    row = loads(data)
    if row and type(row[0]) is int and row[0] == _REFUSAL:
        if len(row) != 3 or type(row[1]) is not str or type(row[2]) is not str or not _KIND.fullmatch(row[1]):
            raise malformed("a refusal that is none")
        raise HandshakeError("refused", f"the peer refused ({row[1]}): {sanitized(row[2], _TEXT_MAX)}")
    if not row or type(row[0]) is not int or row[0] != kind or (length is not None and len(row) != length):
        raise malformed("another message than the one whose turn it is")
    return row[1:]


def _sealed(role: bytes, *messages: bytes) -> bytes:
    return encode_parts(role, digest_parts(_TRANSCRIPT, *messages))


class _Party:
    """What both sides have in common: own ephemeral key, judged peer, session at the end."""

    def __init__(self, config: HandshakeConfig) -> None:
        self._config = config
        self._secret = b""
        self._expected_call = 0

    def _begin(self, call: int) -> None:
        # Also after an error: a machine that failed must not be fed again.
        if self._expected_call != call:
            raise CryptoError("a handshake is used once, each of its methods in turn")
        self._expected_call = -1

    def _new_hello(self, with_fields: bool) -> Hello:
        self._secret = self._config.entropy(X25519_SIZE)
        nonce = self._config.entropy(NONCE_SIZE)
        return self._config.hello(x25519_public(self._secret), nonce, with_fields)

    def _check_seal(self, peer: Hello, identity: PublicKey, body: bytes, seal: bytes) -> None:
        if not verify_seal(identity, self._config.cluster, peer.principal, peer.incarnation, _SEAL_DOMAIN, body, seal):
            raise HandshakeError(
                "bad-signature",
                f"{principal_name(peer.principal)} did not prove its key; check key files and cluster.toml",
            )

    def _session(self, peer: Hello, identity: PublicKey, version: int, initiated: bool, *messages: bytes) -> Session:
        shared = x25519_shared(self._secret, peer.ephemeral)
        self._secret = b""
        context = SessionContext(
            version=version,
            cluster=self._config.cluster,
            epoch=self._config.epoch,
            principal=self._config.principal,
            peer=peer.principal,
            peer_identity=identity,
            peer_incarnation=peer.incarnation,
            peer_instance=peer.instance,
            initiated=initiated,
        )
        return Session(context, derive_keys(context, 0, shared, digest_parts(_TRANSCRIPT, *messages)))


class Initiator(_Party):
    """The side that connected. `expected_principal`: whom it wants to reach, None for anybody known."""

    def __init__(self, config: HandshakeConfig, expected_principal: int | None = None) -> None:
        super().__init__(config)
        self._expected = expected_principal

    def hello(self) -> bytes:
        """The first message."""
        self._begin(0)
        self._first = dumps((_FIRST, *self._new_hello(with_fields=True).row()))
        self._expected_call = 1
        return self._first

    def receive(self, second: bytes) -> tuple[bytes, Session]:
        """The third message and the session; HandshakeError if the peer is another, or refused."""
        self._begin(1)
        row, seal = _decoded(second, _SECOND, 3)
        if type(row) is not tuple:
            raise malformed("the HELLO is not an array")
        blob(seal, SEAL_SIZE, SEAL_SIZE)
        peer, identity, version = judge_hello(self._config, row, self._expected)
        self._check_seal(peer, identity, _sealed(b"responder", self._first, dumps(row)), seal)
        session = self._session(peer, identity, version, True, self._first, bytes(second))
        proof = self._config.identity.sign(_SEAL_DOMAIN, _sealed(b"initiator", self._first, bytes(second)))
        return dumps((_THIRD, proof)), session


class Responder(_Party):
    """The side that was connected to.

    `claimed_principal`: who the initiator says it is, once its HELLO was accepted; unproven until `finish`
    returns.
    """

    def __init__(self, config: HandshakeConfig) -> None:
        super().__init__(config)
        self.claimed_principal: int | None = None

    def receive_hello(self, first: bytes) -> bytes:
        """The second message; HandshakeError if the peer is not to be spoken with."""
        self._begin(0)
        row = _decoded(first, _FIRST, None)
        self._peer, self._identity, self._version = judge_hello(self._config, row, None)
        self.claimed_principal = self._peer.principal
        self._first = bytes(first)
        # Fields are compared among replicas only, so a client is not sent any.
        own = self._new_hello(with_fields=bool(self._peer.fields)).row()
        seal = self._config.identity.sign(_SEAL_DOMAIN, _sealed(b"responder", self._first, dumps(own)))
        self._second = dumps((_SECOND, own, seal))
        self._expected_call = 1
        return self._second

    def finish(self, third: bytes) -> Session:
        """The session; HandshakeError if the initiator is not who it claims to be, or refused."""
        self._begin(1)
        (seal,) = _decoded(third, _THIRD, 2)
        blob(seal, SEAL_SIZE, SEAL_SIZE)
        self._check_seal(self._peer, self._identity, _sealed(b"initiator", self._first, self._second), seal)
        return self._session(self._peer, self._identity, self._version, False, self._first, self._second)
