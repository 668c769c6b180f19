"""Identity keys, key files, and the primitives below them."""

import base64
import copy
import os
import pickle
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pbft.crypto import (
    CryptoError,
    HandshakeError,
    KeyFileError,
    PrivateKey,
    PublicKey,
    client_id,
    digest,
    keys,
    read_private_key,
    write_private_key,
)
from pbft.crypto.derivation import hkdf, hkdf_expand, x25519_public, x25519_shared

KEY = PrivateKey.from_seed(bytes(range(32)))

# RFC 8032, 7.1: TEST 1, 2, 3 as (seed, public key, message, signature).
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"
        "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
        "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
    ),
    (
        "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025",
        "af82",
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac"
        "18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a",
    ),
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_signatures_are_those_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    """Public key and signature of each vector come out, and verify."""
    key = PrivateKey.from_seed(bytes.fromhex(seed))
    assert key.public.raw.hex() == public
    assert key.sign(bytes.fromhex(message)).hex() == signature
    assert key.public.verify(bytes.fromhex(message), bytes.fromhex(signature))


def test_x25519_is_that_of_rfc_7748() -> None:
    """The key exchange of RFC 7748, 6.1, comes out on both sides."""
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert x25519_public(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert x25519_public(bob).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = x25519_shared(alice, x25519_public(bob))
    assert shared == x25519_shared(bob, x25519_public(alice))
    assert shared.hex() == "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"


@pytest.mark.parametrize("public", [bytes(32), b"\x01" + bytes(31)])
def test_ephemeral_keys_of_low_order_are_refused(public: bytes) -> None:
    """A public key that leads to the secret zero, whatever the other key, is no key."""
    with pytest.raises(HandshakeError) as caught:
        x25519_shared(b"\x42" * 32, public)
    assert caught.value.kind == "malformed"


def test_hkdf_is_that_of_rfc_5869() -> None:
    """Test case 1 of RFC 5869, whole and from its pseudorandom key."""
    info = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")
    okm = "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    assert hkdf(b"\x0b" * 22, bytes(range(13)), info, 42).hex() == okm
    prk = bytes.fromhex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
    assert hkdf_expand(prk, info, 42).hex() == okm


def test_a_public_key_survives_its_text_form() -> None:
    """`parse` undoes `text`."""
    text = KEY.public.text()
    assert text.startswith("ed25519:")
    assert PublicKey.parse(text) == KEY.public


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rsa:AAAA",
        KEY.public.text()[8:],
        KEY.public.text() + "\n",
        KEY.public.text()[:-1],
        KEY.public.text()[:-4],
        "ed25519:" + base64.b64encode(bytes(33)).decode(),
        "ed25519:\u00e9",
        "ed25519:" + base64.b64encode(bytes(32)).decode(),
        "ed25519:" + base64.b64encode(b"\x01" + bytes(31)).decode(),
        "ed25519:" + base64.b64encode(b"\x02" + bytes(31)).decode(),
        # The last character carries two bits that are not part of the key.
        KEY.public.text()[:-2] + chr(ord(KEY.public.text()[-2]) + 1) + "=",
    ],
)
def test_other_texts_are_no_public_key(text: str) -> None:
    """Cut, altered, foreign texts and bytes that are no point of the curve are refused with a sentence."""
    with pytest.raises(CryptoError, match="key"):
        PublicKey.parse(text)


def test_keys_of_wrong_length_are_refused() -> None:
    """31 or 33 bytes are neither a public key nor a seed."""
    for size in (31, 33):
        with pytest.raises(CryptoError):
            PublicKey(bytes(size))
        with pytest.raises(CryptoError):
            PrivateKey.from_seed(bytes(size))


@pytest.mark.scenario("G19")
@given(st.binary(max_size=80), st.binary(max_size=80))
def test_random_signatures_are_refused_without_an_exception(message: bytes, signature: bytes) -> None:
    """`verify` answers False to any bytes that are no signature."""
    assert not KEY.public.verify(message, signature)


@pytest.mark.scenario("G19")
def test_every_byte_of_a_signature_counts() -> None:
    """A signature with one bit turned, cut, extended, or over another message does not verify."""
    signature = KEY.sign(b"message")
    for position in range(64):
        broken = bytearray(signature)
        broken[position] ^= 0x80
        assert not KEY.public.verify(b"message", bytes(broken))
    assert not KEY.public.verify(b"message", signature[:-1])
    assert not KEY.public.verify(b"message", signature + b"\0")
    assert not KEY.public.verify(b"messagE", signature)


def test_the_identity_point_verifies_nothing() -> None:
    """Public keys of low order, under which crafted signatures would fit every message, never verify."""
    weak = PublicKey(b"\x01" + bytes(31))
    assert not weak.verify(b"anything", b"\x01" + bytes(63))


def test_verify_answers_false_to_what_is_no_bytes() -> None:
    """A caller that hands in another type gets False, too: `verify` never raises."""
    assert not KEY.public.verify("text", bytes(64))  # type: ignore[arg-type]
    assert not KEY.public.verify(b"", None)  # type: ignore[arg-type]


def test_derived_keys_depend_on_key_and_label() -> None:
    """The same key and label give the same derived key, all else another one."""
    derived = KEY.derive(b"a").public
    assert derived == PrivateKey.from_seed(bytes(range(32))).derive(b"a").public
    others = [KEY.public, KEY.derive(b"b").public, PrivateKey.generate().derive(b"a").public]
    assert derived not in others


def test_generated_keys_differ() -> None:
    """Two generated keys are not the same."""
    assert PrivateKey.generate().public != PrivateKey.generate().public


def test_a_secret_does_not_leak_by_accident() -> None:
    """Neither repr, pickle nor copy carries the seed."""
    seed = bytes(range(32))
    for form in (repr(KEY), str(KEY), f"{KEY!r}"):
        assert seed.hex() not in form
        assert base64.b64encode(seed).decode() not in form
        assert repr(seed)[2:-1] not in form
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(CryptoError):
            leak(KEY)


def test_client_ids_follow_from_the_key() -> None:
    """The highest bit is set, the rest is the key's digest; so no client is ever taken for a replica."""
    number = client_id(KEY.public)
    assert number >> 63 == 1
    assert number.to_bytes(8, "big")[1:] == digest(b"client", KEY.public.raw)[1:8]
    assert number != client_id(PrivateKey.generate().public)


def test_a_key_file_gives_the_key_back(tmp_path: Path) -> None:
    """What was written is read again; the file is of mode 0600 whatever the umask allowed."""
    path = tmp_path / "replica.key"
    previous = os.umask(0)
    try:
        write_private_key(path, KEY)
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_private_key(path).public == KEY.public
    assert read_private_key(str(path)).sign(b"m") == KEY.sign(b"m")


def test_a_key_file_is_never_overwritten(tmp_path: Path) -> None:
    """Writing to a name that exists, be it a dangling link, fails and changes nothing."""
    path = tmp_path / "replica.key"
    write_private_key(path, KEY)
    before = path.read_bytes()
    link = tmp_path / "link.key"
    link.symlink_to(tmp_path / "nowhere")
    for name in (path, link):
        with pytest.raises(KeyFileError, match="never overwritten") as caught:
            write_private_key(name, PrivateKey.generate())
        assert caught.value.kind == "key-exists"
        assert str(name) in str(caught.value)
    assert path.read_bytes() == before
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o660, 0o644, 0o666, 0o610, 0o601, 0o777])
def test_a_key_file_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    """Any right of group or others is refused; the text names the file and the command that helps."""
    path = tmp_path / "replica.key"
    write_private_key(path, KEY)
    path.chmod(mode)
    with pytest.raises(KeyFileError) as caught:
        read_private_key(path)
    assert caught.value.kind == "mode"
    assert f"chmod 600 {path}" in str(caught.value)
    path.chmod(0o400)
    assert read_private_key(path).public == KEY.public


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    """A missing file is told from a broken one, and writing into a missing directory fails with a remedy."""
    with pytest.raises(KeyFileError) as caught:
        read_private_key(tmp_path / "none.key")
    assert caught.value.kind == "missing"
    assert "none.key" in str(caught.value)
    with pytest.raises(KeyFileError) as caught:
        write_private_key(tmp_path / "no" / "a.key", KEY)
    assert caught.value.kind == "unwritable"
    with pytest.raises(KeyFileError) as caught:
        read_private_key(tmp_path / ("x" * 300))
    assert caught.value.kind == "unreadable"


def _key_file_content(tmp_path: Path) -> bytes:
    write_private_key(tmp_path / "whole.key", KEY)
    return (tmp_path / "whole.key").read_bytes()


def test_every_damaged_key_file_is_refused(tmp_path: Path) -> None:
    """Shortened files, extra bytes, foreign content, bad base64: "malformed", without showing the content."""
    content = _key_file_content(tmp_path)
    damaged = [content[:size] for size in range(len(content))]
    damaged += [content + b"\n", b" " + content, content.replace(b"ed25519", b"ed25518"), b"\xff" * 300]
    damaged += [content[:-2] + b"!\n", content[:-3] + b"\n", content * 9, content.replace(b"AAEC", b"AA=C")]
    for number, part in enumerate(damaged):
        path = tmp_path / f"{number}.key"
        path.write_bytes(part)
        path.chmod(0o600)
        with pytest.raises(KeyFileError) as caught:
            read_private_key(path)
        assert caught.value.kind == "malformed"
        assert str(path) in str(caught.value)
        assert "AAECAw" not in str(caught.value)


def test_a_named_pipe_or_folder_in_place_of_the_key_is_refused(tmp_path: Path) -> None:
    """What is no regular file is refused at once instead of being waited for."""
    os.mkfifo(tmp_path / "pipe", 0o600)
    (tmp_path / "folder").mkdir(mode=0o700)
    for name in ("pipe", "folder"):
        with pytest.raises(KeyFileError) as caught:
            read_private_key(tmp_path / name)
        assert caught.value.kind == "malformed"


def test_a_failed_write_leaves_no_half_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the disk refuses, the error says so and the name is free for the next attempt."""

    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    path = tmp_path / "replica.key"
    with monkeypatch.context() as patch:
        patch.setattr(keys.os, "fsync", refuse)
        with pytest.raises(KeyFileError, match="No space left") as caught:
            write_private_key(path, KEY)
    assert caught.value.kind == "unwritable"
    assert not path.exists()
    write_private_key(path, KEY)


def test_a_key_is_synced_with_its_directory_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the file and its directory are flushed before `write_private_key` returns."""
    synced: list[bool] = []
    real = os.fsync

    def record(handle: int) -> None:
        synced.append(stat.S_ISDIR(os.fstat(handle).st_mode))
        real(handle)

    monkeypatch.setattr(keys.os, "fsync", record)
    write_private_key(tmp_path / "replica.key", KEY)
    assert synced == [False, True]
