"""Signing keys per incarnation, certified by the long-lived identity key. Rules 1.9, 1.18.

Rules of this file: the identity key signs certificates and nothing else; everything a principal says is
signed by the signing key of its incarnation. A *seal* is a signature together with what a third party needs
to check it against the identity key: signature (64) | signing public key (32) | certificate (64).
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

from pbft.crypto.digests import encode_parts
from pbft.crypto.errors import CryptoError
from pbft.crypto.keys import PUBLIC_KEY_SIZE, SIGNATURE_SIZE, PrivateKey, PublicKey

SEAL_SIZE = SIGNATURE_SIZE + PUBLIC_KEY_SIZE + SIGNATURE_SIZE
"""Bytes of every seal."""

_MAX_NUMBER = (1 << 64) - 1


class SigningIdentity:
    """A principal of a cluster in one incarnation: signs what it says there.

    `cluster` is the cluster id, `principal` the replica number or client id, `incarnation` is raised by each
    executed recovery (clients: 0). CryptoError if a number lies outside 0..2^64-1.
    """

    __slots__ = ("_identity", "_scope", "_signing", "certificate", "cluster", "incarnation", "principal")

    def __init__(self, identity: PrivateKey, cluster: bytes, principal: int, incarnation: int) -> None:
        if not (0 <= principal <= _MAX_NUMBER and 0 <= incarnation <= _MAX_NUMBER):
            raise CryptoError("principal and incarnation lie between 0 and 2^64-1")
        self._identity = identity
        self.cluster = cluster
        self.principal = principal
        self.incarnation = incarnation
        self._scope = _scope(cluster, principal, incarnation)
        self._signing = identity.derive(b"pbft signing key 1" + self._scope)
        self.certificate = identity.sign(_certified(self._scope, self._signing.public.raw))

    @property
    def public(self) -> PublicKey:
        """The identity's public key, as it stands in the configuration."""
        return self._identity.public

    @property
    def signing_public(self) -> PublicKey:
        """The public key that this incarnation signs with."""
        return self._signing.public

    def sign(self, domain: bytes, body: bytes) -> bytes:
        """The seal of `body` as a statement of kind `domain`. Deterministic; about 35 microseconds."""
        signature = self._signing.sign(_statement(self._scope, domain, body))
        return signature + self._signing.public.raw + self.certificate

    def for_incarnation(self, incarnation: int) -> SigningIdentity:
        """The same principal in another incarnation."""
        return SigningIdentity(self._identity, self.cluster, self.principal, incarnation)

    def __repr__(self) -> str:
        return f"SigningIdentity(principal={self.principal}, incarnation={self.incarnation})"


def verify_seal(
    identity: PublicKey,
    cluster: bytes,
    principal: int,
    incarnation: int,
    domain: bytes,
    body: bytes,
    seal: bytes,
) -> bool:
    """Whether `seal` shows that this principal said `body` in `domain`, in this cluster and incarnation.

    Never raises. One Ed25519 verification once the certificate is known, two at the first sight of it, and
    one where the certificate is forged.
    """
    try:
        if len(seal) != SEAL_SIZE:
            return False
        seal = bytes(seal)
        scope = _scope(cluster, principal, incarnation)
        public = PublicKey(seal[SIGNATURE_SIZE : SIGNATURE_SIZE + PUBLIC_KEY_SIZE])
        statement = _statement(scope, domain, body)
    except (CryptoError, OverflowError, TypeError, ValueError, AttributeError):
        return False
    certificate = seal[SIGNATURE_SIZE + PUBLIC_KEY_SIZE :]
    if not _known_certificates.is_valid(identity, cluster, principal, scope, public, certificate):
        return False
    return public.verify(statement, seal[:SIGNATURE_SIZE])


class CertificateCache:
    """Certificates that verified, so that each costs its verification once.

    Only valid ones are kept, at most `per_principal` for one principal and `principals` principals; the least
    recently used goes first. A principal that certifies many keys evicts its own entries, never another's.
    """

    def __init__(self, principals: int = 4096, per_principal: int = 4) -> None:
        self._principals = principals
        self._per_principal = per_principal
        self._known: OrderedDict[tuple[bytes, bytes, int], OrderedDict[tuple[bytes, bytes, bytes], None]] = (
            OrderedDict()
        )
        self._lock = Lock()  # verification may run in worker threads

    def __len__(self) -> int:
        return sum(map(len, self._known.values()))

    def is_valid(
        self,
        identity: PublicKey,
        cluster: bytes,
        principal: int,
        scope: bytes,
        public: PublicKey,
        certificate: bytes,
    ) -> bool:
        """Whether `identity` certified the signing key `public` for this scope."""
        owner = (identity.raw, cluster, principal)
        entry = (scope, public.raw, certificate)
        with self._lock:
            entries = self._known.get(owner)
            if entries is not None and entry in entries:
                entries.move_to_end(entry)
                self._known.move_to_end(owner)
                return True
        if not identity.verify(_certified(scope, public.raw), certificate):
            return False
        with self._lock:
            entries = self._known.setdefault(owner, OrderedDict())
            entries[entry] = None
            if len(entries) > self._per_principal:
                entries.popitem(last=False)
            self._known.move_to_end(owner)
            if len(self._known) > self._principals:
                self._known.popitem(last=False)
        return True


_known_certificates = CertificateCache()


def _scope(cluster: bytes, principal: int, incarnation: int) -> bytes:
    return encode_parts(cluster, principal.to_bytes(8, "big"), incarnation.to_bytes(8, "big"))


def _certified(scope: bytes, signing_public: bytes) -> bytes:
    return encode_parts(b"pbft certificate 1", scope, signing_public)


def _statement(scope: bytes, domain: bytes, body: bytes) -> bytes:
    return encode_parts(b"pbft seal 1", scope, domain, body)
