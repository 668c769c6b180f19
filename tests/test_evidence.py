"""Evidence: what is signed proves something to anybody, offline; what does not contradict proves nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import pytest

from pbft.authentication import signer
from pbft.cli.main import main
from pbft.config import Group, Tunables
from pbft.crypto import PrivateKey, SigningIdentity
from pbft.evidence import EvidenceError, decode_proof, encode_proof, explain, proof_of
from pbft.messages import Checkpoint, NewView, Prepare, Sealed, ViewChange, encode

T = TypeVar("T", Checkpoint, ViewChange, NewView)
KEYS = [PrivateKey.from_seed(bytes([i]) * 32) for i in range(4)]
GROUP = Group(b"c" * 32, "app", tuple(k.public.raw for k in KEYS), {}, Tunables(checkpoint_interval=4, log_window=8))


def sealed(message: T, signer_id: int | None = None) -> T:
    """Signed by its sender, or by somebody else in its name."""
    who = message.sender if signer_id is None else signer_id
    sign = signer(SigningIdentity(KEYS[who], GROUP.cluster, message.sender, message.incarnation))
    return message._replace(seal=sign(message.signed_body(GROUP.cluster, GROUP.epoch)))  # type: ignore[return-value]


def checkpoint(sender: int, digest: bytes, incarnation: int = 0) -> Checkpoint:
    return sealed(Checkpoint(sender, incarnation, 4, digest * 32, 1, 1, (), b""))


def view_change(sender: int, view: int = 1, low: int = 0) -> ViewChange:
    return sealed(ViewChange(sender, 0, view, low, ((low, bytes(32)),), (), (), b""))


def new_view(view_changes: tuple[ViewChange, ...], sender: int = 1) -> NewView:
    named = tuple((m.sender, m.digest) for m in view_changes)
    return sealed(NewView(sender, 0, 1, named, b"", view_changes))


def told(culprit: int, *messages: Sealed) -> str:
    """Through the file format and back."""
    proof = proof_of(GROUP, culprit, "kind", tuple(map(encode, messages)))
    return explain(decode_proof(encode_proof(proof)))


VALID = tuple(view_change(i) for i in range(3))


@pytest.mark.parametrize(
    ("culprit", "messages", "words"),
    [
        (2, (checkpoint(2, b"a"), checkpoint(2, b"b")), "two CHECKPOINTs for sequence number 4"),
        (2, (view_change(2), view_change(2, low=4)), "two different VIEW-CHANGEs for view 1"),
        (1, (new_view(VALID), new_view((*VALID, view_change(3)))), "two different NEW-VIEWs for view 1"),
        (1, (new_view(VALID[:2]),), "from which nothing follows"),
        (1, (new_view((*VALID[:2], VALID[1])),), "from which nothing follows"),
        (1, (new_view((*VALID[:2], view_change(3, view=2))),), "from which nothing follows"),
        (3, (new_view(VALID, sender=3),), "of which it is not the primary"),
        (1, (new_view((*VALID[:2], sealed(VALID[2], 1))),), "which replicas [2] did not sign"),
    ],
)
def test_what_no_correct_replica_signs_is_explained(culprit: int, messages: tuple[Sealed, ...], words: str) -> None:
    """Each kind, in plain words that name the culprit."""
    text = told(culprit, *messages)
    assert words in text
    assert f"replica {culprit} signed" in text


@pytest.mark.parametrize(
    ("culprit", "messages", "words"),
    [
        (2, (checkpoint(2, b"a"), checkpoint(2, b"a")), "do not contradict"),
        (2, (checkpoint(2, b"a"), checkpoint(3, b"b")), "did not sign"),
        (2, (checkpoint(2, b"a"), sealed(checkpoint(2, b"b"), 3)), "did not sign"),
        (2, (checkpoint(2, b"a"), checkpoint(2, b"b", incarnation=1)), "different incarnations"),
        (2, (view_change(2), view_change(2, view=2)), "do not contradict"),
        (1, (new_view(VALID),), "is valid"),
        (1, (new_view(VALID)._replace(view_changes=VALID[:2]),), "names other VIEW-CHANGEs"),
        (1, (new_view(VALID)._replace(seal=bytes(160)),), "did not sign"),
        (7, (checkpoint(2, b"a"), checkpoint(2, b"b")), "did not sign"),
    ],
)
def test_nobody_is_convicted_of_what_a_correct_replica_may_do(
    culprit: int, messages: tuple[Sealed, ...], words: str
) -> None:
    """A forged, harmless or tampered file proves nothing, and says why."""
    with pytest.raises(EvidenceError, match=words):
        told(culprit, *messages)


def test_what_is_no_evidence_is_said_in_good_english() -> None:
    """The message names what was expected."""
    with pytest.raises(
        EvidenceError, match=r"^this is no evidence file \(shape: expected an array that starts with a number\)$"
    ):
        decode_proof(b"\x00")
    with pytest.raises(EvidenceError, match=r"^this is no evidence file \(unknown: no evidence file has number 23\)$"):
        decode_proof(b"\x81\x17")


def test_messages_without_signatures_prove_nothing() -> None:
    """Their receiver could have made them."""
    proof = proof_of(GROUP, 2, "kind", (encode(Prepare(0, 1, b"a" * 32)), encode(Prepare(0, 1, b"b" * 32))))
    with pytest.raises(EvidenceError, match="carries no signature"):
        explain(proof)


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Good evidence exits 0; a file that proves nothing, or is none, exits 2 with one sentence that names it."""
    good, bad, junk = (tmp_path / name for name in ("good", "bad", "junk"))
    messages = (encode(checkpoint(2, b"a")), encode(checkpoint(2, b"b")))
    good.write_bytes(encode_proof(proof_of(GROUP, 2, "two-checkpoints", messages)))
    bad.write_bytes(encode_proof(proof_of(dataclasses.replace(GROUP, epoch=1), 2, "two-checkpoints", messages)))
    junk.write_bytes(b"junk")
    assert main(["evidence", "show", str(good)]) == 0
    assert "replica 2 signed two CHECKPOINTs" in capsys.readouterr().out
    for path in (bad, junk):
        assert main(["evidence", "show", str(path)]) == 2
        assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("group", "code", "words"),
    [
        (GROUP, 0, "replica 2 signed two CHECKPOINTs"),
        (dataclasses.replace(GROUP, epoch=1), 2, "is of another cluster"),
        (dataclasses.replace(GROUP, replicas=GROUP.replicas[::-1]), 2, "names other keys"),
        (dataclasses.replace(GROUP, tunables=Tunables(checkpoint_interval=4, log_window=12)), 2, "another log_window"),
    ],
)
def test_evidence_is_compared_with_the_cluster_that_the_operator_trusts(
    group: Group,
    code: int,
    words: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Who wrote the file chose the keys in it, and the window by which a NEW-VIEW is judged."""
    path = tmp_path / "proof"
    messages = (encode(checkpoint(2, b"a")), encode(checkpoint(2, b"b")))
    path.write_bytes(encode_proof(proof_of(GROUP, 2, "two-checkpoints", messages)))
    monkeypatch.setattr("pbft.cli.evidence.ClusterConfig.load", lambda _: SimpleNamespace(group=group))
    assert main(["evidence", "show", str(path), "--cluster", "cluster.toml"]) == code
    told = capsys.readouterr()
    assert words in (told.err if code else told.out)
    assert "was not compared" not in told.out
