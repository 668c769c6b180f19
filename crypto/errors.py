"""What can go wrong with keys and handshakes. Everything here is expected to happen in operation."""

from __future__ import annotations


class CryptoError(Exception):
    """Base of this package's errors. Raised itself only for misuse or unusable configuration."""


class KeyFileError(CryptoError):
    """A private key file that cannot be used: one sentence with the file and the remedy.

    `kind` is one of "key-exists", "missing", "unreadable", "unwritable", "mode", "malformed".
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class HandshakeError(CryptoError):
    """A handshake or key refresh that failed: the fault of the peer or the configuration.

    `kind` is a short stable token and serves as counter name: "malformed", "version", "wrong-cluster",
    "wrong-epoch", "self-connection", "wrong-principal", "unknown-principal", "config-mismatch",
    "bad-signature", "refused".
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.text = text
