"""The wire messages of PBFT, named and lettered as the papers do. [CL99 §4], rule catalogue 2.1.

Letters: v view, n sequence number, d digest of a batch (or of the replicated state, in CHECKPOINT), i sender, h last
stable checkpoint. Between replicas a message travels over an authenticated link, whose keys name protocol version,
cluster, epoch, sender and receiver (rule 1.9); so only messages that others relay name their sender in the body.

Signed messages carry a `seal` (`pbft.crypto.SigningIdentity.sign`) over `signed_body()`, which names protocol version,
cluster, epoch, type, sender and incarnation (rules 1.2, 1.7, 1.9).

Rules of this file: plain values, no behaviour beyond encoding.
"""

from __future__ import annotations

from typing import NamedTuple

from pbft.codec import Family, array, blob, dumps, flag, row, text, uint
from pbft.config import MAX_REPLICAS, PROTOCOL_VERSION
from pbft.crypto.digests import digest as hashed

wire = Family("message")

view = sequence = counter = uint()
digest32 = blob(32, 32)
seal = blob(160, 160)
replica = uint((1 << 16) - 1)
body = blob(64 << 20)
bitmap = blob(1 << 14)


@wire.register(1, body, blob(1 << 14))
class Request(NamedTuple):
    """REQUEST: what a client wants ordered. Client -> primary; retransmitted, signed, to all; relayed by backups.

    `body` is parsed by `pbft.batch.parse_request`; `authenticator` is one MAC entry per replica, or a signature.
    """

    body: bytes
    authenticator: bytes


@wire.register(2, view, sequence, digest32, body)
class PrePrepare(NamedTuple):
    """PRE-PREPARE(v, n, d) with its batch: primary(v) proposes d at n. Its vote. Primary -> backups. [CL99 §4.2]"""

    view: int
    number: int
    digest: bytes
    batch: bytes


@wire.register(3, view, sequence, digest32)
class Prepare(NamedTuple):
    """PREPARE(v, n, d): this backup accepted d at n in v, holds its body, durably. Backup -> all. [CL99 §4.2]

    Of what a NEW-VIEW chose the primary sends it too: a NEW-VIEW names batches whose bodies its sender may lack.
    """

    view: int
    number: int
    digest: bytes


@wire.register(4, view, sequence, digest32)
class Commit(NamedTuple):
    """COMMIT(v, n, d): d is prepared here at n in v, durably. Replica -> all. [CL99 §4.2]"""

    view: int
    number: int
    digest: bytes


@wire.register(5, replica, counter, sequence, digest32, counter, counter, array(counter, MAX_REPLICAS), seal)
class Checkpoint(NamedTuple):
    """CHECKPOINT(n, d, i): the replicated state after executing n has digest d; signed. Replica -> all. [CL99 §4.3]

    `boot` and `position` tell how far this replica's log reached durably, so that an old copy of its disk can be shown
    to be one (rule 1.7 d). `incarnations`: what that state says of each replica, or nothing while all are 0; so whoever
    has a stable certificate knows them without the state (rule 1.7 b).
    """

    sender: int
    incarnation: int
    number: int
    digest: bytes
    boot: int
    position: int
    incarnations: tuple[int, ...]
    seal: bytes

    def signed_body(self, cluster: bytes, epoch: int) -> bytes:
        """The bytes that the seal covers."""
        return signed_body(cluster, epoch, 5, *self[:7])


@wire.register(6, sequence, array(digest32, 256, 1))
class Committed(NamedTuple):
    """COMMITTED(n, d, i) for `first`, `first + 1`, ...: this replica executed these digests, which were committed.
    f+1 of them let another one execute without having prepared. Answer to STATUS. Rule 1.13."""

    first: int
    digests: tuple[bytes, ...]


@wire.register(7, view, view, sequence, sequence, sequence, bitmap, bitmap, bitmap)
class Status(NamedTuple):
    """STATUS: what the sender has, so that others resend what it lacks. Replica -> all, periodically. Rule 2.7.

    Bit k of `accepted` and `prepared` stands for number `last_executed + 1 + k`. `first_retained` is the lowest number
    that the sender can still serve by COMMITTED. `promised` is the view of its newest VIEW-CHANGE, or its view if that
    is newer; bit i of `view_changes` says that it holds the VIEW-CHANGE of replica i for `promised`.
    """

    view: int
    promised: int
    stable: int
    last_executed: int
    first_retained: int
    accepted: bytes
    prepared: bytes
    view_changes: bytes


@wire.register(8, array(row(sequence, digest32), 256, 1))
class Fetch(NamedTuple):
    """FETCH: asks for the bodies of batches by number and digest. Replica -> any. Rule 1.13."""

    wanted: tuple[tuple[int, bytes], ...]


@wire.register(9, sequence, digest32, body)
class Body(NamedTuple):
    """The body of a batch, answer to FETCH; believed because it hashes to a digest that somebody vouched for."""

    number: int
    digest: bytes
    batch: bytes


@wire.register(10, array(wire.sized(Checkpoint), 1 << 12, 1), nested=(0, Checkpoint))
class Stable(NamedTuple):
    """A stable certificate: q CHECKPOINTs with one number and digest, which anyone can verify. Rule 1.4."""

    checkpoints: tuple[Checkpoint, ...]


@wire.register(11, sequence, uint((1 << 64) - 1), digest32)
class Nack(NamedTuple):
    """NACK(n, client, d): this backup cannot verify request d of that client inside PRE-PREPARE n. Rule 1.17."""

    number: int
    client: int
    digest: bytes


@wire.register(12, view, counter, array(row(counter, flag, digest32, blob(64 << 20)), 1 << 14, 1))
class Reply(NamedTuple):
    """REPLY(v, session, ...): one row (request id, tentative, digest of the result, result) per request of a batch.

    An empty result means that only its digest is sent, since another replica was designated to send it. [CL99 §5.1]
    """

    view: int
    session: int
    rows: tuple[tuple[int, bool, bytes, bytes], ...]


@wire.register(13, view, counter, counter, text(64))
class Refusal(NamedTuple):
    """This replica alone does not take the request now: `busy`, `too-large`, `malformed`, `unknown-client`,
    `unauthentic`. Not a result: the client believes nothing from it but counts whom it heard."""

    view: int
    session: int
    id: int
    reason: str


@wire.register(14, view)
class Suspect(NamedTuple):
    """SUSPECT(v): this replica has waited too long in v. It goes on voting in v; f+1 fresh ones let a replica leave v.
    Replica -> all, repeated while the cause lasts, never relayed. Rule 1.12."""

    view: int


@wire.register(
    15,
    replica,
    counter,
    view,
    sequence,
    array(row(sequence, digest32), 1 << 12, 1),
    array(row(sequence, digest32, view), 1 << 17),
    array(row(sequence, digest32, view), 1 << 18),
    seal,
)
class ViewChange(NamedTuple):
    """VIEW-CHANGE(v', h, C, P, Q, i): i has left all views below v' and never votes there again; signed. Rule 2.6.

    C: (n, d) of checkpoints that i has signed and keeps, and h's; P: (n, d, v), prepared at i in v, one per n; Q:
    (n, d, v), pre-prepared at i, newest v per digest, with the body on i's disk. Replica -> all, relayed.
    """

    sender: int
    incarnation: int
    view: int
    low: int
    checkpoints: tuple[tuple[int, bytes], ...]
    prepared: tuple[tuple[int, bytes, int], ...]
    preprepared: tuple[tuple[int, bytes, int], ...]
    seal: bytes

    def signed_body(self, cluster: bytes, epoch: int) -> bytes:
        """The bytes that the seal covers."""
        return signed_body(cluster, epoch, 15, *self[:7])

    @property
    def digest(self) -> bytes:
        """What a NEW-VIEW names it by: it covers the seal too, so that one with a bad seal is its namer's fault."""
        return hashed(b"view-change", wire.encode(self))


@wire.register(
    16,
    replica,
    counter,
    view,
    array(row(replica, digest32), 1 << 12, 1),
    seal,
    array(wire.sized(ViewChange), 1 << 12, 1),
    nested=(5, ViewChange),
)
class NewView(NamedTuple):
    """NEW-VIEW(v, S): primary(v) begins v from the VIEW-CHANGEs S, named by (sender, digest); signed. What is chosen
    follows from S alone (`pbft.protocol.decision`), and everybody recomputes it. Primary -> all, relayed. Rule 1.3.

    `view_changes` are the named ones, so that whoever has this message needs no other; the seal does not cover them.
    """

    sender: int
    incarnation: int
    view: int
    named: tuple[tuple[int, bytes], ...]
    seal: bytes
    view_changes: tuple[ViewChange, ...]

    def signed_body(self, cluster: bytes, epoch: int) -> bytes:
        """The bytes that the seal covers."""
        return signed_body(cluster, epoch, 16, *self[:4])


piece_wanted = row(uint(2), uint(2), blob(1 << 12), uint((1 << 32) - 1))


@wire.register(17, sequence, array(piece_wanted, 16))
class FetchState(NamedTuple):
    """FETCH-STATE(n): asks for pieces of the state after n (`pbft.state.Want`); naming none, for STATE-ROOTS.
    Replica -> any. Rule 2.9."""

    number: int
    wanted: tuple[tuple[int, int, bytes, int], ...]


@wire.register(18, sequence, array(digest32, 3), digest32)
class StateRoots(NamedTuple):
    """STATE-ROOTS(n): what the certified digest of state n is made of, the roots of its spaces and the history. Without
    roots: the sender does not keep state n (any more). Answer to FETCH-STATE. Rule 2.9."""

    number: int
    roots: tuple[bytes, ...]
    history: bytes


PIECE_MAX_BYTES = 1 << 18


@wire.register(19, sequence, piece_wanted, blob(PIECE_MAX_BYTES), uint(PIECE_MAX_BYTES))
class StatePiece(NamedTuple):
    """A piece of state n, answer to FETCH-STATE; believed because it hashes to a digest that is certified. `size`: how
    many bytes `data` unpacks to by zlib; 0 if it is the piece itself. Rule 2.9."""

    number: int
    want: tuple[int, int, bytes, int]
    data: bytes
    size: int


@wire.register(20, replica, counter, counter, counter, seal)
class Position(NamedTuple):
    """POSITION(i, incarnation, boot, p): the log of replica i is durable up to p, in its start number `boot`; signed.
    Replica -> all, once a second while it votes and its log grows. Rule 1.7 d."""

    sender: int
    incarnation: int
    boot: int
    position: int
    seal: bytes

    def signed_body(self, cluster: bytes, epoch: int) -> bytes:
        """The bytes that the seal covers."""
        return signed_body(cluster, epoch, 20, *self[:4])


@wire.register(21, counter)
class Hello(NamedTuple):
    """HELLO(boot): what is the newest POSITION of mine that you have? Replica -> all, after a start. Rule 1.7 d."""

    boot: int


@wire.register(22, counter, array(wire.sized(Position), 1), nested=(1, Position))
class Shown(NamedTuple):
    """SHOWN(boot): the newest POSITION of the receiver that the sender has, or none. Answer to HELLO. Rule 1.7 d."""

    boot: int
    positions: tuple[Position, ...]


Transfer = FetchState | StateRoots | StatePiece
"""Messages of state transfer: agreement knows nothing of them (`pbft.transfer`)."""

Message = (
    Request | PrePrepare | Prepare | Commit | Checkpoint | Committed | Status | Fetch | Body | Stable | Nack
    | Reply | Refusal | Suspect | ViewChange | NewView | FetchState | StateRoots | StatePiece
    | Position | Hello | Shown
)  # fmt: skip

Sealed = Checkpoint | ViewChange | NewView | Position
"""Messages that carry a seal and name their sender: anybody may relay them (rule 1.2)."""


def signed_body(cluster: bytes, epoch: int, number: int, sender: int, incarnation: int, *fields: object) -> bytes:
    """Canonical bytes under a seal: whatever could let a signature mean something elsewhere is named (rule 1.9)."""
    return dumps((PROTOCOL_VERSION, cluster, epoch, number, sender, incarnation, *fields))


def encode(message: Message) -> bytes:
    """Canonical bytes of a message."""
    return wire.encode(message)


def decode(data: bytes) -> Message:
    """The message that encodes to exactly `data`. Raises `pbft.codec.CodecError`."""
    message: Message = wire.decode(data)
    return message
