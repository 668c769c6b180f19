"""Verifies what only keys can tell: client requests and seals. Rules 1.2, 1.17, 1.18. No I/O; time is handed in."""

from __future__ import annotations

from collections.abc import Callable

from pbft.batch import AuthKind, ClientRequest, Kind, signature_body
from pbft.config import Group
from pbft.crypto import (
    AUTHENTICATOR_ENTRY_SIZE,
    SEAL_SIZE,
    SIGNATURE_SIZE,
    AuthenticatorKey,
    KeyRing,
    PublicKey,
    SigningIdentity,
    check_authenticator,
    verify_seal,
)
from pbft.messages import Sealed
from pbft.protocol.core import Sign

SEAL_DOMAIN = b"replica"
_KEYS_PER_CLIENT = 64
_VERDICTS = 8192
_KEY_LIFETIME = 24 * 3600.0
_OVERLAP = 600.0
"""Seconds for which requests made under the key of a link that has ended are still accepted (rule 1.18): long enough
for a PRE-PREPARE that carries one to reach a backup which was cut off or down meanwhile."""


class KeyAuthentication:
    """Keys of one replica: the ring of client keys, and the public identities of the group."""

    def __init__(self, group: Group, me: int) -> None:
        self._group = group
        self._me = me
        self._ring = KeyRing(_KEYS_PER_CLIENT)
        self._replicas = [PublicKey(raw) for raw in group.replicas]
        self._clients = {principal: PublicKey(raw) for principal, raw in group.clients.items()}
        self._robust = bool(group.tunables.signed_requests)
        self._verdicts: dict[bytes, bool] = {}
        """Digest and signature -> whether it verifies; the newest ones."""
        self.on_use: Callable[[int, bytes, bytes], None] = lambda client, key_id, key: None
        """(client, key id, key): a request verified under this key of a link for the first time. Who only connects
        leaves nothing behind."""
        self._unused: dict[int, dict[bytes, bytes]] = {}
        """Client -> key id -> key, of links under which no request has verified yet; the newest ones."""
        self.defers = False
        """Whether somebody verifies signatures off the event loop (`pbft.signature_desk`)."""
        self.now = 0.0

    # ---- keys of client links

    def add_key(self, client: int, key: AuthenticatorKey) -> None:
        """A link to a client is up, or has new keys."""
        unused = self._unused.setdefault(client, {})
        unused[key.key_id] = key.key
        if len(unused) > _KEYS_PER_CLIENT:
            del unused[next(iter(unused))]
        self._ring.add(client, key, self.now + _KEY_LIFETIME)

    def add_old_key(self, client: int, key: AuthenticatorKey) -> None:
        """A key from before a restart, as the log has it."""
        self._ring.add(client, key, self.now + _OVERLAP)

    def retire_key(self, client: int, key: AuthenticatorKey) -> None:
        """The link is over; requests it authenticated may still be in flight, relayed by others."""
        self._ring.retire(client, key.key_id, self.now, _OVERLAP)

    def expire(self) -> None:
        """Drop keys whose time has passed."""
        self._ring.expire(self.now)

    # ---- pbft.protocol.inbound.Authentication

    def request_is_authentic(self, request: ClientRequest) -> bool | None:
        """Rule 1.17: a MAC entry for this replica, or a signature of the client; in the robust profile a signature.
        None: the signature is for `signature_verifies` to look at, elsewhere."""
        authenticator = request.authenticator
        if not authenticator:
            return False
        is_recover = request.kind is Kind.RECOVER
        if authenticator[0] == AuthKind.MACS:
            if self._robust or is_recover or len(authenticator) != 1 + len(self._replicas) * AUTHENTICATOR_ENTRY_SIZE:
                return False
            client, now, ring = request.client, self.now, self._ring
            asked = b""

            def lookup(key_id: bytes) -> bytes | None:
                nonlocal asked
                asked = key_id
                return ring.lookup(client, key_id, now)

            if not check_authenticator(authenticator[1:], self._me, request.digest, lookup):
                return False
            if (key := self._unused.get(client, {}).pop(asked, None)) is not None:
                self.on_use(client, asked, key)
            return True
        if is_recover:
            kind, size, is_member = AuthKind.SEAL, SEAL_SIZE, request.client < len(self._replicas)
        else:
            kind, size, is_member = AuthKind.SIGNATURE, SIGNATURE_SIZE, request.client in self._clients
        if authenticator[0] != kind or not is_member:
            return False
        if len(authenticator) != 1 + size:
            return False  # and not remembered: what is remembered is bounded by count, so each must be small
        known = self.verdict(request)
        if known is None and not self.defers:
            known = self.signature_verifies(request)
            self.remember(request, known)
        return known

    def verdict(self, request: ClientRequest) -> bool | None:
        """What is remembered of the request's signature. May be called in any thread."""
        return self._verdicts.get(request.digest + request.authenticator)

    def signature_verifies(self, request: ClientRequest) -> bool:
        """Whether the client, or the replica that recovers, signed the request. May be called in any thread."""
        body = signature_body(self._group.cluster, self._group.epoch, request.digest)
        if request.kind is Kind.RECOVER:
            replica, incarnation = request.client, request.floor
            identity, seal = self._replicas[replica], request.authenticator[1:]
            return verify_seal(identity, self._group.cluster, replica, incarnation, SEAL_DOMAIN, body, seal)
        key = self._clients.get(request.client)
        return key is not None and key.verify(body, request.authenticator[1:])

    def remember(self, request: ClientRequest, verdict: bool) -> None:
        """A signature was looked at: it need not be again, when it is sent again or comes in a PRE-PREPARE."""
        self._verdicts[request.digest + request.authenticator] = verdict
        while len(self._verdicts) > _VERDICTS:
            del self._verdicts[next(iter(self._verdicts))]

    def seal_is_authentic(self, message: Sealed) -> bool:
        """Whether the seal verifies under the sender's identity, for the incarnation that it names."""
        if not 0 <= message.sender < len(self._replicas):
            return False
        return seal_verifies(self._replicas[message.sender], self._group.cluster, self._group.epoch, message)


def seal_verifies(identity: PublicKey, cluster: bytes, epoch: int, message: Sealed) -> bool:
    """Whether `message` was signed by the replica that it names, in the incarnation that it names."""
    body = message.signed_body(cluster, epoch)
    return verify_seal(identity, cluster, message.sender, message.incarnation, SEAL_DOMAIN, body, message.seal)


def signer(identity: SigningIdentity) -> Sign:
    """The pure signing function that the core is handed."""
    return lambda body: identity.sign(SEAL_DOMAIN, body)
