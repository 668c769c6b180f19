"""What must never happen, watched by observers that know nothing of each other. Each names the rule it checks.

They see correct machines only: what they record, make durable, send, execute and accuse; and what callers were told.
"""

from __future__ import annotations

from dataclasses import dataclass

from pbft.batch import Batch
from pbft.config import Group, Quorums
from pbft.execution import ExecutionSnapshot
from pbft.execution.results import Executed
from pbft.messages import (
    Checkpoint,
    Commit,
    Message,
    NewView,
    Prepare,
    PrePrepare,
    Reply,
    Sealed,
    ViewChange,
    decode,
    encode,
)
from pbft.protocol.delivery import CLAIM_AHEAD, MAX_AT_EXECUTOR
from pbft.protocol.effects import Evidence, InvariantViolated
from pbft.protocol.records import (
    Accepted,
    Entered,
    Executing,
    Left,
    OwnCheckpoint,
    Prepared,
    Record,
    StableCertificate,
)
from pbft.simulation.bad_client import FORGED
from pbft.simulation.keys import signature
from pbft.simulation.machine import Machine
from pbft.simulation.world import Violation


class Oracle:
    """An observer; what it does not care for it does not define."""

    def on_record(self, machine: Machine, position: int, record: Record) -> None:
        """A record was appended."""

    def on_durable(self, machine: Machine, position: int) -> None:
        """The log is durable up to here."""

    def on_cut(self, machine: Machine, below: int) -> None:
        """Records below this position may be removed."""

    def on_crash(self, machine: Machine) -> None:
        """What was not durable is gone."""

    def on_loss(self, machine: Machine) -> None:
        """All that was durable is gone, too."""

    def on_send(self, machine: Machine, to: int, message: Message) -> None:
        """A message leaves."""

    def on_executed(self, machine: Machine, batch: Batch, done: Executed) -> None:
        """A batch was executed."""

    def on_installed(self, machine: Machine, snapshot: ExecutionSnapshot) -> None:
        """A state that came from others is in its executor's place."""

    def on_evidence(self, machine: Machine, evidence: Evidence) -> None:
        """Somebody is accused."""

    def on_step(self, machine: Machine) -> None:
        """A sweep is over."""


class OnDisk(Oracle):
    """One that cares for records once they are durable: an unsynced one is remembered until it is, or never was."""

    def __init__(self) -> None:
        self._unsynced: dict[int, dict[int, Record]] = {}

    def on_record(self, machine: Machine, position: int, record: Record) -> None:
        """Remember until it is durable."""
        self._unsynced.setdefault(machine.me, {})[position] = record

    def on_crash(self, machine: Machine) -> None:
        """Unsynced records never were."""
        self._unsynced.pop(machine.me, None)

    def on_durable(self, machine: Machine, position: int) -> None:
        """These can be relied upon."""
        waiting = self._unsynced.get(machine.me, {})
        for p in [p for p in waiting if p <= position]:
            self.on_synced(machine, p, waiting.pop(p))

    def on_synced(self, machine: Machine, position: int, record: Record) -> None:
        """A record is on disk and will be there after a crash."""


class Agreement(Oracle):
    """No two correct replicas execute different batches at one number, nor come to different states. [CL99 §4.4]"""

    def __init__(self) -> None:
        self._batches: dict[int, bytes] = {}
        self._states: dict[int, bytes] = {}
        self.executed = 0
        """Highest number that a correct replica ever executed: in the end all do, whoever has crashed since."""

    def on_executed(self, machine: Machine, batch: Batch, done: Executed) -> None:
        """Compare with whoever was first."""
        self.executed = max(self.executed, done.number)
        if self._batches.setdefault(done.number, batch.digest) != batch.digest:
            raise Violation("agreement", f"replica {machine.me} executes another batch at {done.number}")
        if done.state_digest and self._states.setdefault(done.number, done.state_digest) != done.state_digest:
            raise Violation("equal states", f"replica {machine.me} has another state at {done.number}")

    def on_installed(self, machine: Machine, snapshot: ExecutionSnapshot) -> None:
        """What came from others is what others computed. Rule 2.9"""
        if self._states.get(snapshot.number) != snapshot.digest:
            raise Violation("equal states", f"replica {machine.me} installs another state at {snapshot.number}")

    def on_record(self, machine: Machine, position: int, record: Record) -> None:
        """A stable certificate is of the state that correct replicas have."""
        if isinstance(record, StableCertificate):
            first = record.checkpoints[0]
            if self._states.get(first.number, first.digest) != first.digest:
                raise Violation("equal states", f"a certificate of a wrong state at {first.number}")


class Validity(Oracle):
    """What executes was sent by the client in whose name it stands, and no correct client says this in its own."""

    def on_executed(self, machine: Machine, batch: Batch, done: Executed) -> None:
        """The bad client forges one recognisable operation in another's name."""
        for request in batch.requests:
            if FORGED in request.operations:
                raise Violation("validity", f"replica {machine.me} executes a forged request at {done.number}")


class DurableVotes(OnDisk):
    """A vote is on disk before it leaves, and no vote contradicts an earlier one, also across crashes. Rule 1.5"""

    def __init__(self) -> None:
        super().__init__()
        self._accepted: dict[int, dict[tuple[int, int], bytes]] = {}
        self._prepared: dict[int, dict[tuple[int, int], bytes]] = {}
        self._checkpoints: dict[int, dict[int, bytes]] = {}
        self._said: dict[tuple[int, str, int, int], bytes] = {}

    def on_synced(self, machine: Machine, position: int, record: Record) -> None:
        """What may be said from now on."""
        if isinstance(record, Accepted):
            self._accepted.setdefault(machine.me, {})[record.view, record.number] = record.digest
        elif isinstance(record, Prepared):
            self._prepared.setdefault(machine.me, {})[record.view, record.number] = record.digest
        elif isinstance(record, OwnCheckpoint):
            checkpoint = record.checkpoint[0]
            self._checkpoints.setdefault(machine.me, {})[checkpoint.number] = checkpoint.digest

    def on_loss(self, machine: Machine) -> None:
        """What was said stays said: what is voted in the next incarnation must not contradict it. Rule 1.7"""
        for table in (self._accepted, self._prepared, self._checkpoints):
            table.pop(machine.me, None)

    def on_send(self, machine: Machine, to: int, message: Message) -> None:
        """Is it on disk, and the same as ever?"""
        if isinstance(message, (PrePrepare, Prepare)):
            durable = self._accepted.get(machine.me, {}).get((message.view, message.number))
            view, number, digest = message.view, message.number, message.digest
        elif isinstance(message, Commit):
            durable = self._prepared.get(machine.me, {}).get((message.view, message.number))
            view, number, digest = message.view, message.number, message.digest
        elif isinstance(message, Checkpoint) and message.sender == machine.me:
            durable = self._checkpoints.get(machine.me, {}).get(message.number)
            view, number, digest = 0, message.number, message.digest
        else:
            return
        kind = type(message).__name__
        if durable != digest:
            raise Violation("durable before said", f"replica {machine.me} sends {kind} {number} that no disk holds")
        if self._said.setdefault((machine.me, kind, view, number), digest) != digest:
            raise Violation("no contradiction", f"replica {machine.me} sends two different {kind} at {number}")


class Views(OnDisk):
    """A view is left by one VIEW-CHANGE, begun by one NEW-VIEW, both on disk first; nobody votes in a view that it has
    left. Rules 1.3, 1.5, 1.12"""

    def __init__(self) -> None:
        super().__init__()
        self._durable: dict[int, dict[bytes, bool]] = {}
        self._left: dict[tuple[int, int], bytes] = {}
        self._begun: dict[tuple[int, int], bytes] = {}
        self._entered: dict[tuple[int, int], bytes] = {}
        self._newest: dict[int, int] = {}

    def on_synced(self, machine: Machine, position: int, record: Record) -> None:
        """What binds."""
        if isinstance(record, Left):
            message: ViewChange | NewView = record.view_change[0]
        elif isinstance(record, Entered):
            found = decode(record.new_view)
            assert isinstance(found, NewView)
            message = found
            if self._entered.setdefault((machine.me, message.view), record.new_view) != record.new_view:
                raise Violation("one new view", f"replica {machine.me} enters view {message.view} twice")
        else:
            return
        self._durable.setdefault(machine.me, {})[encode(message)] = True

    def on_loss(self, machine: Machine) -> None:
        """The next incarnation has left nothing, and begun nothing. Rule 1.7"""
        me = machine.me
        self._durable.pop(me, None)
        self._newest.pop(me, None)
        for table in (self._left, self._begun, self._entered):
            for key in [key for key in table if key[0] == me]:
                del table[key]

    def on_send(self, machine: Machine, to: int, message: Message) -> None:
        """Own signed messages, and votes."""
        me = machine.me
        if isinstance(message, (ViewChange, NewView)) and message.sender == me:
            if encode(message) not in self._durable.get(me, {}):
                raise Violation("durable before said", f"replica {me} sends {type(message).__name__} {message.view}")
            said = self._left if isinstance(message, ViewChange) else self._begun
            if said.setdefault((me, message.view), encode(message)) != encode(message):
                raise Violation("no contradiction", f"replica {me} signs two {type(message).__name__} {message.view}")
            self._newest[me] = max(self._newest.get(me, 0), message.view)
        elif isinstance(message, (PrePrepare, Prepare, Commit)) and message.view < self._newest.get(me, 0):
            raise Violation(
                "left views", f"replica {me} votes in view {message.view} after it left for {self._newest[me]}"
            )


class DurableReplies(OnDisk):
    """A committed reply means that q - f correct replicas hold its batch prepared on disk. Rules 1.5, 1.16"""

    def __init__(self, quorums: Quorums, faulty: int) -> None:
        super().__init__()
        self._needed = quorums.strong - faulty
        self._held: dict[int, dict[int, bytes]] = {}
        self._at: dict[tuple[int, int, int], tuple[int, bytes]] = {}

    def on_synced(self, machine: Machine, position: int, record: Record) -> None:
        """Prepared here, or learned to be committed: now it is held."""
        if isinstance(record, (Prepared, Executing)):
            self._held.setdefault(record.number, {})[machine.me] = record.digest

    def on_loss(self, machine: Machine) -> None:
        """It holds nothing."""
        for holders in self._held.values():
            holders.pop(machine.me, None)

    def on_executed(self, machine: Machine, batch: Batch, done: Executed) -> None:
        """Who executes a batch has seen it committed: the votes of q replicas, each on its sender's disk."""
        for result in done.results:
            self._at.setdefault((result.client, result.session, result.id), (done.number, batch.digest))
        holders = self._holders(done.number, batch.digest)
        if holders < self._needed:
            raise Violation(
                "durable before executed",
                f"replica {machine.me} executes {done.number}, which {holders} of {self._needed} hold on disk",
            )

    def on_send(self, machine: Machine, to: int, message: Message) -> None:
        """Count who could be asked again after a power cut."""
        if not isinstance(message, Reply):
            return
        for request_id, tentative, _, _ in message.rows:
            known = self._at.get((to, message.session, request_id))
            if known is None or tentative:
                continue
            number, digest = known
            holders = self._holders(number, digest)
            if holders < self._needed:
                raise Violation(
                    "durable before replied",
                    f"replica {machine.me} answers for {number}, which {holders} of {self._needed} hold on disk",
                )

    def _holders(self, number: int, digest: bytes) -> int:
        return sum(d == digest for d in self._held.get(number, {}).values())


class Certificates(Oracle):
    """A stable certificate has q distinct signers of one digest; a view begins from q VIEW-CHANGEs for it of distinct
    senders, each sealed. Rules 1.3, 1.4"""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._strong = group.quorums.strong

    def on_record(self, machine: Machine, position: int, record: Record) -> None:
        """Count it anew."""
        if isinstance(record, StableCertificate):
            senders = [c.sender for c in record.checkpoints]
            values = [(c.number, c.digest) for c in record.checkpoints]
            if len(dict.fromkeys(senders)) < self._strong or len(dict.fromkeys(values)) != 1:
                raise Violation(
                    "certificates", f"replica {machine.me} calls {values[0][0]} stable without q signatures"
                )
        elif isinstance(record, Entered):
            message = decode(record.new_view)
            assert isinstance(message, NewView)
            found = message.view_changes
            senders = [m.sender for m in found]
            if len(dict.fromkeys(senders)) < max(self._strong, len(found)):
                raise Violation("certificates", f"replica {machine.me} enters view {message.view} without q others")
            if message.named != tuple((m.sender, m.digest) for m in found):
                raise Violation(
                    "certificates", f"replica {machine.me} begins view {message.view} from others than named"
                )
            if not self._is_sealed(message) or any(m.view != message.view or not self._is_sealed(m) for m in found):
                raise Violation("certificates", f"replica {machine.me} enters view {message.view} on a false word")

    def _is_sealed(self, message: Sealed) -> bool:
        body = message.signed_body(self._group.cluster, self._group.epoch)
        return message.seal == signature(message.sender, body, 160)


class Bounds(Oracle):
    """Memory is bounded, and what only rises only rises. DESIGN 1.6"""

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], tuple[int, int, int]] = {}

    def on_step(self, machine: Machine) -> None:
        """Look at every table."""
        replica = machine.host.replica
        try:
            replica.check_invariants()
        except InvariantViolated as error:
            raise Violation("invariants", f"replica {machine.me}: {error}") from error
        core, t = replica.core, machine.group.tunables
        n = len(machine.group.replicas)
        most_named = machine.group.batches_named_at_a_number
        sizes = {
            "slots": (len(core.log.slots), t.log_window),
            "queue": (replica.requests.queue.count, t.pending_total),
            "claims": (len(replica.delivery._claims), CLAIM_AHEAD),
            "ready": (len(replica.delivery._ready), CLAIM_AHEAD + t.log_window),
            "at the executor": (replica.delivery.handed - replica.delivery.executed, MAX_AT_EXECUTOR),
            "checkpoint votes": (len(replica.checkpoints._votes), t.log_window // t.checkpoint_interval + n + 1),
            "batches that Q names at one number": (max(map(len, core.log.q.values()), default=0), most_named),
            "refusals": (len(core.refused), (n + 16) * 32),
        }
        for name, (size, bound) in sizes.items():
            if size > bound:
                raise Violation("bounded memory", f"replica {machine.me}: {size} {name}, bound {bound}")
        now = (core.view, core.log.low, replica.delivery.executed)
        before = self._last.get((machine.me, machine.boots), now)
        if any(a < b for a, b in zip(now, before, strict=True)):
            raise Violation("monotonic", f"replica {machine.me}: view, h or last_executed fell from {before} to {now}")
        self._last[machine.me, machine.boots] = now


class Accusations(Oracle):
    """Nobody correct is ever accused, or taken for one that lies about a state. Rules 1.10, 2.9"""

    def __init__(self, faulty: tuple[int, ...]) -> None:
        self._faulty = faulty

    def on_evidence(self, machine: Machine, evidence: Evidence) -> None:
        """Only the faulty."""
        if evidence.culprit not in self._faulty:
            raise Violation(
                "accusations", f"replica {machine.me} accuses {evidence.culprit}: {evidence.kind} {evidence.text}"
            )

    def on_step(self, machine: Machine) -> None:
        """Sources of a state that were banned."""
        for liar in machine.host.transfer.lies:
            if liar not in self._faulty:
                raise Violation("accusations", f"replica {machine.me} says that {liar} lied about a state")


@dataclass(slots=True)
class All(Oracle):
    """Hands everything to each of several oracles."""

    oracles: tuple[Oracle, ...]

    def on_record(self, machine: Machine, position: int, record: Record) -> None:
        """To all."""
        for oracle in self.oracles:
            oracle.on_record(machine, position, record)

    def on_durable(self, machine: Machine, position: int) -> None:
        """To all."""
        for oracle in self.oracles:
            oracle.on_durable(machine, position)

    def on_cut(self, machine: Machine, below: int) -> None:
        """To all."""
        for oracle in self.oracles:
            oracle.on_cut(machine, below)

    def on_crash(self, machine: Machine) -> None:
        """To all."""
        for oracle in self.oracles:
            oracle.on_crash(machine)

    def on_loss(self, machine: Machine) -> None:
        """To all."""
        for oracle in self.oracles:
            oracle.on_loss(machine)

    def on_send(self, machine: Machine, to: int, message: Message) -> None:
        """To all."""
        for oracle in self.oracles:
            oracle.on_send(machine, to, message)

    def on_executed(self, machine: Machine, batch: Batch, done: Executed) -> None:
        """To all."""
        for oracle in self.oracles:
            oracle.on_executed(machine, batch, done)

    def on_installed(self, machine: Machine, snapshot: ExecutionSnapshot) -> None:
        """To all."""
        for oracle in self.oracles:
            oracle.on_installed(machine, snapshot)

    def on_evidence(self, machine: Machine, evidence: Evidence) -> None:
        """To all."""
        for oracle in self.oracles:
            oracle.on_evidence(machine, evidence)

    def on_step(self, machine: Machine) -> None:
        """To all."""
        for oracle in self.oracles:
            oracle.on_step(machine)
