"""Long-lived Ed25519 keys [RFC 8032]: text form, signing, derivation, files.

Rules of this file: a secret never appears in a repr, an error or a log line. Replicas are the principals
0..n-1; a client's principal follows from its key (`client_id`).
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from nacl.bindings import (
    crypto_core_ed25519_is_valid_point,
    crypto_sign,
    crypto_sign_open,
    crypto_sign_seed_keypair,
)
from nacl.exceptions import CryptoError as NaclError

from pbft.crypto.derivation import hkdf
from pbft.crypto.digests import digest
from pbft.crypto.errors import CryptoError, KeyFileError

PUBLIC_KEY_SIZE = 32
SIGNATURE_SIZE = 64
SEED_SIZE = 32

_PUBLIC_PREFIX = "ed25519:"
_FILE_PREFIX = b"pbft-private-key:ed25519:"
_FILE_MAX_BYTES = 256
_CLIENT_BIT = 1 << 63


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An Ed25519 public key: 32 raw bytes (CryptoError for another length)."""

    raw: bytes

    def __post_init__(self) -> None:
        if type(self.raw) is not bytes or len(self.raw) != PUBLIC_KEY_SIZE:
            raise CryptoError(f"an Ed25519 public key has {PUBLIC_KEY_SIZE} bytes")

    def text(self) -> str:
        """`ed25519:` and base64, as it stands in cluster.toml."""
        return _PUBLIC_PREFIX + base64.b64encode(self.raw).decode("ascii")

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """The inverse of `text()`. CryptoError for all else, also for bytes that are no curve point."""
        if not text.startswith(_PUBLIC_PREFIX):
            raise CryptoError("a public key is written as ed25519: followed by 44 base64 characters")
        try:
            raw = base64.b64decode(text[len(_PUBLIC_PREFIX) :], validate=True)
        except (binascii.Error, ValueError):
            raise CryptoError("the public key is not valid base64; copy it whole") from None
        if len(raw) != PUBLIC_KEY_SIZE:
            raise CryptoError(f"the public key has {len(raw)} bytes, not {PUBLIC_KEY_SIZE}; copy it whole")
        key = cls(raw)
        if key.text() != text or not crypto_core_ed25519_is_valid_point(raw):
            raise CryptoError("the public key is no Ed25519 key; copy it again from its origin")
        return key

    def verify(self, message: bytes, signature: bytes) -> bool:
        """Whether `signature` is this key's signature of `message`. Never raises; about 70 microseconds."""
        try:
            if len(signature) != SIGNATURE_SIZE:
                return False
            crypto_sign_open(signature + message, self.raw)
        except (NaclError, TypeError, ValueError):
            return False
        return True


class PrivateKey:
    """An Ed25519 private key. Its repr shows the public half only."""

    __slots__ = ("_secret", "_seed", "public")

    def __init__(self, seed: bytes) -> None:
        if len(seed) != SEED_SIZE:
            raise CryptoError(f"a private key's seed has {SEED_SIZE} bytes")
        public, self._secret = crypto_sign_seed_keypair(seed)
        self._seed = bytes(seed)
        self.public = PublicKey(public)

    @classmethod
    def generate(cls) -> PrivateKey:
        """A fresh key from the operating system's randomness."""
        return cls(os.urandom(SEED_SIZE))

    @classmethod
    def from_seed(cls, seed: bytes) -> PrivateKey:
        """The key of a 32-byte seed (CryptoError for another length)."""
        return cls(seed)

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of `message`; deterministic, hence usable by the pure core."""
        return crypto_sign(message, self._secret)[:SIGNATURE_SIZE]

    def derive(self, label: bytes) -> PrivateKey:
        """Another key that follows from this one and `label`, and from which this one cannot be found."""
        return PrivateKey(hkdf(self._seed, b"pbft key derivation", label, SEED_SIZE))

    def __repr__(self) -> str:
        return f"PrivateKey(public={self.public.text()!r})"

    def __reduce__(self) -> tuple[object, ...]:
        raise CryptoError("a private key is written with write_private_key, nowhere else")

    def _file_text(self) -> bytes:
        return _FILE_PREFIX + base64.b64encode(self._seed) + b"\n"


def client_id(public: PublicKey) -> int:
    """The principal of the client with this key: the highest of 64 bits, then 63 bits of a digest of it."""
    return _CLIENT_BIT | int.from_bytes(digest(b"client", public.raw)[:8], "big")


def write_private_key(path: str | os.PathLike[str], key: PrivateKey) -> None:
    """Write `key` to a new file of mode 0600, durable on return.

    An existing file is never touched; KeyFileError otherwise ("key-exists", "unwritable").
    """
    path = Path(path)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise KeyFileError(
            "key-exists",
            f"{path} exists already and is never overwritten; move it away or choose another name",
        ) from None
    except OSError as error:
        raise _unwritable(path, error) from None
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(key._file_text())
            file.flush()
            os.fsync(file.fileno())
        directory = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        path.unlink(missing_ok=True)  # half a key would stand in the way of the next attempt
        raise _unwritable(path, error) from None


def read_private_key(path: str | os.PathLike[str]) -> PrivateKey:
    """The key in `path`. KeyFileError if it is missing, open to group or others, or not a key file."""
    path = Path(path)
    try:
        # Without O_NONBLOCK a named pipe in the key's place would hang the start.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeyFileError(
            "missing",
            f"{path} does not exist; copy the private key there (`pbft init` makes the "
            "keys of a new cluster; one of a running cluster that is lost cannot be made again)",
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        status = os.fstat(handle)  # of the open file: the name could change hands between two looks
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError("malformed", f"{path} is not a regular file; put the key file in its place")
        if status.st_mode & 0o077:
            raise KeyFileError("mode", f"{path} is open to other users; run: chmod 600 {path}")
        content = os.read(handle, _FILE_MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    finally:
        os.close(handle)
    key = _parse_file(content)
    if key is None:
        raise KeyFileError("malformed", f"{path} is not a whole private key file; restore it from a copy")
    return key


def _parse_file(content: bytes) -> PrivateKey | None:
    if not content.startswith(_FILE_PREFIX) or not content.endswith(b"\n"):
        return None
    try:
        seed = base64.b64decode(content[len(_FILE_PREFIX) : -1], validate=True)
    except (binascii.Error, ValueError):
        return None
    if len(seed) != SEED_SIZE:
        return None
    key = PrivateKey(seed)
    return key if key._file_text() == content else None


def _unreadable(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(
        "unreadable",
        f"{path} cannot be read ({error.strerror}); start as the user who owns it, or check the disk",
    )


def _unwritable(path: Path, error: OSError) -> KeyFileError:
    return KeyFileError(
        "unwritable",
        f"{path} cannot be written ({error.strerror}); choose an existing, writable directory with space",
    )
