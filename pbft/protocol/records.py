"""What must outlive a crash: the records of the log, in their order of issue. Rules 1.5, 1.6.

Each record is written by one function and folded by one (`log.Log.apply`), in life and on replay alike.
"""

from __future__ import annotations

from typing import NamedTuple

from pbft.codec import Family, array, blob, uint
from pbft.messages import Checkpoint, Position, ViewChange, wire

log_record = Family("log record")

_number = uint()
_digest = blob(32, 32)
_batch = blob(64 << 20)


@log_record.register(1, _number, _number, _digest, _batch)
class Accepted(NamedTuple):
    """This replica pre-prepared d at n in v and holds the batch: a Q entry. Before PRE-PREPARE or PREPARE is sent.
    The batch is empty for NULL, and when an earlier record holds it: a new view agrees on batches again."""

    view: int
    number: int
    digest: bytes
    batch: bytes


@log_record.register(2, _number, _number, _digest)
class Prepared(NamedTuple):
    """d is prepared here at n in v: a P entry. Before COMMIT is sent, and before a tentative reply."""

    view: int
    number: int
    digest: bytes


@log_record.register(3, _number, _digest, _batch)
class Executing(NamedTuple):
    """n is committed with digest d and goes to the executor. The batch is empty when the log holds it already as
    Accepted; a learned one is written here, else a replay would execute what was once prepared instead (rule 1.6)."""

    number: int
    digest: bytes
    batch: bytes


@log_record.register(4, array(wire.sized(Checkpoint), 1, 1), nested=(0, Checkpoint))
class OwnCheckpoint(NamedTuple):
    """The CHECKPOINT that this replica signed: at most one digest per number and incarnation (rule 1.4)."""

    checkpoint: tuple[Checkpoint]


@log_record.register(5, array(wire.sized(Checkpoint), 1 << 12, 1), nested=(0, Checkpoint))
class StableCertificate(NamedTuple):
    """q CHECKPOINTs of one digest: the low watermark moves to their number."""

    checkpoints: tuple[Checkpoint, ...]


@log_record.register(6, _number)
class Boot(NamedTuple):
    """A start of this replica, counted: tells an old copy of its disk from the disk (rule 1.7 d)."""

    boot: int


@log_record.register(7, _number, blob(8, 8), blob(32, 32))
class ClientKey(NamedTuple):
    """The authenticator key of a client's link. A PRE-PREPARE that only the primary had on disk when all crashed comes
    again after the restart; without the key no backup could verify the requests in it, though their client is gone."""

    client: int
    key_id: bytes
    key: bytes


@log_record.register(8, array(wire.sized(ViewChange), 1, 1), nested=(0, ViewChange))
class Left(NamedTuple):
    """The VIEW-CHANGE that this replica signed: at most one per view, and no vote below that view ever again."""

    view_change: tuple[ViewChange]


@log_record.register(9, _batch)
class Entered(NamedTuple):
    """The NEW-VIEW, own or accepted, encoded, with all that it names. Before any vote in its view."""

    new_view: bytes


@log_record.register(10, _number)
class Installed(NamedTuple):
    """The state after n came from others and is on disk: execution goes on above n. Rule 2.9."""

    number: int


@log_record.register(11, _number)
class Lost(NamedTuple):
    """What this replica voted before its start number `boot` is not known any more: it recovers. Rule 1.7."""

    boot: int


@log_record.register(12, _number, _number)
class Recovering(NamedTuple):
    """This replica has signed RECOVER for this incarnation, with this nonce: it never votes in that incarnation, and
    waits for the execution of that very RECOVER. Rule 1.7 a."""

    incarnation: int
    nonce: int


@log_record.register(13, _number)
class Reborn(NamedTuple):
    """A state at or above the recovery point is stable: from here on this replica votes, in this incarnation."""

    incarnation: int


@log_record.register(14, array(wire.sized(Position), 1, 1), nested=(0, Position))
class PeerPosition(NamedTuple):
    """The newest POSITION of another replica: shown to it after each of its starts (rule 1.7 d)."""

    position: tuple[Position]


Record = (
    Accepted
    | Prepared
    | Executing
    | OwnCheckpoint
    | StableCertificate
    | Boot
    | ClientKey
    | Left
    | Entered
    | Installed
    | Lost
    | Recovering
    | Reborn
    | PeerPosition
)


def encode_record(record: Record) -> bytes:
    """Canonical bytes of a record."""
    return log_record.encode(record)


def decode_record(data: bytes) -> Record:
    """The record that encodes to exactly `data`. Raises `pbft.codec.CodecError`."""
    record: Record = log_record.decode(data)
    return record
