"""What a replica signed and no correct one signs: kept as a file that anybody can verify offline. Rules 1.2, 1.7.

Only signed messages prove something to others. PRE-PREPARE, PREPARE, COMMIT and replies carry MACs, which their
receiver could have made itself: a replica that equivocates there is seen, counted and logged, and nobody else can be
shown it.

Rules of this file: pure; a proof names the cluster and its keys, so that it is read without any other file; whether
those keys are the right ones is what `pbft evidence show --cluster` compares.
"""

from __future__ import annotations

from typing import NamedTuple

from pbft.authentication import seal_verifies
from pbft.codec import CodecError, Family, array, blob, text, uint
from pbft.config import ConfigError, Group, Quorums
from pbft.crypto import CryptoError, PublicKey
from pbft.messages import Checkpoint, NewView, Sealed, ViewChange, decode
from pbft.protocol.decision import judge_new_view

evidence_file = Family("evidence file")

MAX_BYTES = 64 << 20


class EvidenceError(ConfigError):
    """A file that proves nothing: one sentence that says why."""


@evidence_file.register(
    1,
    blob(32, 32),
    uint(),
    array(blob(32, 32), 1 << 12, 4),
    uint(131072, 2),
    uint((1 << 16) - 1),
    text(64),
    array(blob(MAX_BYTES), 2, 1),
)
class Proof(NamedTuple):
    """Messages that `culprit` signed, with all that is needed to check them."""

    cluster: bytes
    epoch: int
    replicas: tuple[bytes, ...]
    log_window: int
    culprit: int
    kind: str
    messages: tuple[bytes, ...]


def proof_of(group: Group, culprit: int, kind: str, messages: tuple[bytes, ...]) -> Proof:
    """A proof in the name of a group."""
    return Proof(group.cluster, group.epoch, group.replicas, group.tunables.log_window, culprit, kind, messages)


def encode_proof(proof: Proof) -> bytes:
    """Canonical bytes."""
    return evidence_file.encode(proof)


def decode_proof(data: bytes) -> Proof:
    """Parse a file strictly. Raises `EvidenceError`."""
    try:
        proof: Proof = evidence_file.decode(data)
    except CodecError as error:
        raise EvidenceError(f"this is no evidence file ({error})") from None
    return proof


def explain(proof: Proof) -> str:
    """Verify every signature and say in plain words what is proved. Raises `EvidenceError` if nothing is."""
    try:
        messages = [decode(m) for m in proof.messages]
        quorums = Quorums(len(proof.replicas))
    except (CodecError, ConfigError) as error:
        raise EvidenceError(f"the evidence cannot be read ({error})") from None
    for message in messages:
        if not isinstance(message, Checkpoint | ViewChange | NewView):
            raise EvidenceError(f"{type(message).__name__} carries no signature and proves nothing")
        if message.sender != proof.culprit or not _is_sealed(proof, message):
            raise EvidenceError(f"replica {proof.culprit} did not sign the {type(message).__name__} in this file")
    match messages:
        case [NewView() as message]:
            return _explain_invalid(proof, quorums, message)
        case [Checkpoint() as a, Checkpoint() as b] if a.number == b.number and a.digest != b.digest:
            states = f"{a.digest.hex()[:16]} and {b.digest.hex()[:16]}"
            what = f"two CHECKPOINTs for sequence number {a.number}, states {states}"
        case [ViewChange() as a, ViewChange() as b] if a.view == b.view and a[:7] != b[:7]:
            what = f"two different VIEW-CHANGEs for view {a.view}"
        case [NewView() as a, NewView() as b] if a.view == b.view and a.named != b.named:
            what = f"two different NEW-VIEWs for view {a.view}"
        case _:
            raise EvidenceError(
                "these messages do not contradict each other, and a correct replica may have signed them"
            )
    first, second = messages
    assert isinstance(first, Checkpoint | ViewChange | NewView)
    assert isinstance(second, Checkpoint | ViewChange | NewView)
    if first.incarnation != second.incarnation:
        raise EvidenceError("the messages are of different incarnations; between them the replica lost its past")
    return f"replica {proof.culprit} signed {what}, in incarnation {first.incarnation}. A correct replica signs one."


def _explain_invalid(proof: Proof, quorums: Quorums, message: NewView) -> str:
    if message.named != tuple((m.sender, m.digest) for m in message.view_changes):
        raise EvidenceError("the NEW-VIEW names other VIEW-CHANGEs than those in this file")
    where = f"replica {proof.culprit} signed a NEW-VIEW for view {message.view}"
    if message.sender != quorums.primary(message.view):
        return f"{where}, of which it is not the primary."
    forged = [m.sender for m in message.view_changes if not _is_sealed(proof, m)]
    if forged:
        return f"{where} that names VIEW-CHANGEs which replicas {forged} did not sign."
    if judge_new_view(quorums, proof.log_window, message) is None:
        return (
            f"{where} from which nothing follows: it names {len(message.view_changes)} VIEW-CHANGEs, "
            f"and {quorums.strong} consistent ones of distinct replicas that decide every number are needed."
        )
    raise EvidenceError("the NEW-VIEW in this file is valid; it proves nothing against its sender")


def _is_sealed(proof: Proof, message: Sealed) -> bool:
    if not 0 <= message.sender < len(proof.replicas):
        return False
    try:
        key = PublicKey(proof.replicas[message.sender])
    except CryptoError:
        return False
    return seal_verifies(key, proof.cluster, proof.epoch, message)
