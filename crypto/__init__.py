"""Keys, digests, handshakes, sessions, authenticators. Imports nothing of the rest of pbft."""

if __name__ != "pbft.crypto":
    raise ImportError("this package is imported as pbft.crypto, never under its bare folder name")

from pbft.crypto.certificates import SEAL_SIZE, CertificateCache, SigningIdentity, verify_seal
from pbft.crypto.digests import DIGEST_SIZE, digest, digest_parts, encode_parts
from pbft.crypto.errors import CryptoError, HandshakeError, KeyFileError
from pbft.crypto.handshake import Initiator, Responder, refusal
from pbft.crypto.hello import FIELD_DIGEST_SIZE, INSTANCE_SIZE, HandshakeConfig
from pbft.crypto.keys import (
    PUBLIC_KEY_SIZE,
    SEED_SIZE,
    SIGNATURE_SIZE,
    PrivateKey,
    PublicKey,
    client_id,
    read_private_key,
    write_private_key,
)
from pbft.crypto.macs import (
    AUTHENTICATOR_ENTRY_SIZE,
    MAC_SIZE,
    AuthenticatorKey,
    check_authenticator,
    mac,
    mac_equal,
    make_authenticator,
)
from pbft.crypto.refresh import KeyRing, Refresh
from pbft.crypto.sessions import Session, SessionContext, SessionKeys
from pbft.crypto.wire import MESSAGE_MAX_BYTES

__all__ = [
    "AUTHENTICATOR_ENTRY_SIZE",
    "DIGEST_SIZE",
    "FIELD_DIGEST_SIZE",
    "INSTANCE_SIZE",
    "MAC_SIZE",
    "MESSAGE_MAX_BYTES",
    "PUBLIC_KEY_SIZE",
    "SEAL_SIZE",
    "SEED_SIZE",
    "SIGNATURE_SIZE",
    "AuthenticatorKey",
    "CertificateCache",
    "CryptoError",
    "HandshakeConfig",
    "HandshakeError",
    "Initiator",
    "KeyFileError",
    "KeyRing",
    "PrivateKey",
    "PublicKey",
    "Refresh",
    "Responder",
    "Session",
    "SessionContext",
    "SessionKeys",
    "SigningIdentity",
    "check_authenticator",
    "client_id",
    "digest",
    "digest_parts",
    "encode_parts",
    "mac",
    "mac_equal",
    "make_authenticator",
    "read_private_key",
    "refusal",
    "verify_seal",
    "write_private_key",
]
