"""A replica as a machine: a host, an executor, a disk that forgets what was not synced, a clock that may be off."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random

from pbft.application import Application
from pbft.batch import Batch, ClientRequest
from pbft.codec import CodecError
from pbft.config import Group
from pbft.execution import ExecutionSnapshot, Executor
from pbft.execution.results import Executed
from pbft.execution.snapshots import DamagedState
from pbft.host import Host, Ports, restore
from pbft.messages import Message, Refusal, Reply, encode
from pbft.misbehaviour import Adversary
from pbft.protocol.effects import ALL, Evidence, InvariantViolated
from pbft.protocol.positions import OLD_COPY
from pbft.protocol.records import decode_record
from pbft.protocol.suspicion import Conditions
from pbft.simulation.keys import SimulatedAuthentication, signature
from pbft.simulation.network import Carrier
from pbft.simulation.observer import Observer
from pbft.simulation.world import World
from pbft.state import State
from pbft.state_store import StateStore
from pbft.storage.checkpoints import CheckpointStore, StoredCheckpoint
from pbft.storage.errors import DamagedCheckpoint, DamagedLog
from pbft.storage.group_commit import SynchronousLog
from pbft.storage.simulated_files import SimulatedDirectory
from pbft.storage.wal import Wal, open_log
from pbft.transfer import Fetched, built, prepared
from pbft.transfer_source import Job, answers

_SEGMENT = 1 << 16
_TICK = 0.02
_MASSES = 8


class _LogPort:
    """The log, with an observer on it."""

    def __init__(self, machine: Machine, log: SynchronousLog) -> None:
        self._machine, self._log = machine, log

    @property
    def durable_position(self) -> int:
        return self._log.durable_position

    def append(self, record: bytes) -> int:
        position = self._log.append(record)
        self._machine.recorded(position, record)
        return position

    def cut(self, below_position: int) -> None:
        self._machine.cutting(below_position)
        self._log.cut(below_position)


class Machine:
    """One replica of the simulated cluster."""

    def __init__(
        self,
        world: World,
        network: Carrier,
        group: Group,
        application: Callable[[State], Application],
        me: int,
        observer: Observer,
        adversary: Adversary | None = None,
        twin: str = "",
    ) -> None:
        """`twin`: what tells apart two machines of one identity, if it is not empty."""
        self.world, self.network, self.group, self.me = world, network, group, me
        self._observer = observer
        self.adversary = adversary
        self.twin = twin
        self._application = application
        self.directory = SimulatedDirectory()
        self.skew = 0.0
        self.pause_until = 0.0
        self.boots = 0
        self.starts = 0
        """That the disk has counted."""
        self.doubt = ""
        """What was done to the disk without the machine knowing of it: see `disk_faults`."""
        self.lost = False
        """What the data directory says beside the log: the past is not known."""
        self.up = False
        self.state_on_disk = 0
        """Number of the newest state that was written to disk."""
        self._random: Random = world.stream(f"machine {me}{twin}")
        network.attach(me, self._arrived)
        self.on_heard: Callable[[int, bytes], None] = lambda sender, body: None
        self.on_up: Callable[[int], None] = lambda me: None
        self.on_down: Callable[[int], None] = lambda me: None
        self.on_found: Callable[[str], None] = lambda what: None

    @property
    def is_correct(self) -> bool:
        """Whether oracles hold it to the rules."""
        return self._means_well and not self.doubt

    @property
    def _means_well(self) -> bool:
        return self.adversary is None and not self.twin

    # ---- life

    def start(self) -> None:
        """Boot from what the disk holds."""
        self.boots += 1
        self.starts += 1
        self.up = True
        try:
            wal, records, store, stored = self._read_disk()
        except (DamagedLog, DamagedCheckpoint, DamagedState, CodecError) as error:
            if not self.doubt:
                raise
            self.world.note(f"{self.me} finds {type(error).__name__}")
            self.directory, self.state_on_disk = SimulatedDirectory(), 0
            self._past_is_lost()
            wal, records, store, stored = self._read_disk()
        self._log = SynchronousLog(wal, lambda position: None, lambda error: None)
        self._jobs: deque[tuple[int, Batch]] = deque()
        self._snapshots: dict[int, ExecutionSnapshot] = {}
        if stored is not None:
            self._snapshots[self.executor.last_executed] = self.executor.snapshot()
        self._store = StateStore(store, self._snapshots.get(self.executor.last_executed))
        self._flush_due = self._sync_due = self._execution_due = False
        replica = restore(
            self.group,
            self.me,
            lambda body: signature(self.me, body, 160),
            b"secret %d of start %d" % (self.me, self.boots),
            records,
            self.starts,
            self.executor.start(),
            "its disk was lost" if self.lost else "",
        )
        ports = Ports(
            _LogPort(self, self._log),
            self._send,
            self._execute,
            self._answer,
            self._stable,
            self._on_evidence,
            self._snapshots.get,
            self._prepare,
            self._serve,
            lambda entry: None,
            self._install,
            self._reborn,
        )
        self.host = Host(replica, SimulatedAuthentication(self.group, self.me), ports)
        self.world.note(f"{self.me}{self.twin} starts, boot {self.boots}, {len(records)} records")
        for other in range(len(self.group.replicas)):
            if other != self.me:
                replica.on_peer_up(other)
        self._soon(self._tick)
        self._want_flush()
        self.on_up(self.me)

    def _read_disk(self) -> tuple[Wal, list[tuple[int, bytes]], CheckpointStore, StoredCheckpoint | None]:
        wal, replay = open_log(
            self.directory,
            self.group.cluster,
            self.me,
            segment_bytes=_SEGMENT,
            random_bytes=self._random.randbytes,
        )
        records = list(replay)
        store = CheckpointStore(self.directory)
        stored = store.load()
        if stored is None:
            self.executor = Executor(self.group, self._application)
        else:
            self.executor = Executor.restore(self.group, self._application, stored.meta, stored.chunks())
        return wal, records, store, stored

    def _past_is_lost(self) -> None:
        """It knows now; from here on it must act accordingly."""
        self.world.note(f"{self.me}{self.twin} has lost its past")
        self.on_found(self.doubt)
        self.lost, self.doubt = True, ""
        if self.is_correct:
            self._observer.on_loss(self)

    def crash(self) -> None:
        """Power off: unsynced writes, and everything in memory, are lost."""
        self.up = False
        self.directory.crash(self.world.disks)
        self.world.note(f"{self.me}{self.twin} crashes")
        if self.is_correct:
            self._observer.on_crash(self)
        self.on_down(self.me)

    def lose_disk(self) -> None:
        """Power off, and the disk is gone."""
        self.crash()
        self.world.note(f"{self.me}{self.twin} loses its disk")
        self.directory, self.starts, self.state_on_disk = SimulatedDirectory(), 0, 0
        self.doubt = "disk"
        self._past_is_lost()

    def pause(self, seconds: float) -> None:
        """The process stands still; what arrives waits."""
        self.pause_until = self.world.now + seconds

    def suspect(self) -> None:
        """The view timer runs out now."""
        self._set_time()
        self.host.replica.suspicion.suspect_now()
        self._run_tick()

    def resign(self) -> None:
        """About to be stopped, says its operator; in the end it is not."""
        self._set_time()
        self.host.replica.resign()
        self._want_flush()

    # ---- events

    def _soon(self, action: Callable[[], None], delay: float = 0.0) -> None:
        """Do something later, unless this boot has ended by then, and not while paused."""
        boot = self.boots

        def guarded() -> None:
            if self.up and self.boots == boot:
                if self.world.now < self.pause_until:
                    self.world.after(self.pause_until - self.world.now, guarded)
                elif self._means_well:
                    action()
                else:
                    self._carelessly(action)

        self.world.after(delay, guarded)

    def _carelessly(self, action: Callable[[], None]) -> None:
        """What others make of its lies may be impossible to a faulty machine, which knows only what it meant to say: it
        ends there."""
        try:
            action()
        except InvariantViolated as error:
            self.world.note(f"{self.me}{self.twin} breaks: {error}")
            self.up = False
            self.on_down(self.me)

    def _arrived(self, sender: int, body: bytes) -> None:
        if self.up:
            self._soon(lambda: self._receive(sender, body))

    def _receive(self, sender: int, body: bytes) -> None:
        self.on_heard(sender, body)
        if self.adversary is not None and not self.adversary.hears(sender, body):
            return
        self._set_time()
        self.host.receive(sender, body)
        self._want_flush()

    def _tick(self) -> None:
        self._set_time()
        self._run_tick()
        self._soon(self._tick, _TICK)

    def _run_tick(self) -> None:
        self.host.tick(Conditions(self._random.random(), 0.002))
        self._flush()

    def _set_time(self) -> None:
        self.host.set_time(self.world.now, int((self.world.now + self.skew) * 1e6))

    def _want_flush(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._soon(self._flush, 0.00005)

    def _flush(self) -> None:
        self._flush_due = False
        self.host.flush()
        if self.doubt and self.host.replica.core.lost == OLD_COPY:
            self._past_is_lost()
        if self._log.pending_bytes and not self._sync_due:
            self._sync_due = True
            self._soon(self._sync, 0.0002 + self.world.disks.random() * self.world.disks.choice((0.001, 0.001, 0.02)))
        if self.is_correct:
            self._observer.on_step(self)

    def _sync(self) -> None:
        self._sync_due = False
        self._log.flush()
        position = self._log.durable_position
        if self.is_correct:
            self._observer.on_durable(self, position)
        self._set_time()
        self.host.durable(position)
        self._flush()

    # ---- ports

    def recorded(self, position: int, record: bytes) -> None:
        """A record was appended."""
        if self.is_correct:
            self._observer.on_record(self, position, decode_record(record))

    def cutting(self, below: int) -> None:
        """The log is about to be cut."""
        if self.is_correct:
            self._observer.on_cut(self, below)

    def _send(self, to: int, body: bytes, message: Message) -> None:
        receivers = [i for i in range(len(self.group.replicas)) if i != self.me] if to == ALL else [to]
        for receiver in receivers:
            if self.adversary is not None:
                self._send_wrongly(self.adversary, receiver, body, message)
                continue
            if not isinstance(message, (Reply, Refusal)):
                self.world.note(f"{self.me}{self.twin}>{receiver} {describe(message)}")
            self.network.send(self.me, receiver, body)
        if self.is_correct:
            self._observer.on_send(self, to, message)

    def _send_wrongly(self, adversary: Adversary, to: int, body: bytes, message: Message) -> None:
        found = adversary.outgoing(to, message)
        for sent in found:
            if len(found) < _MASSES:
                self.world.note(f"{self.me}~{sent.to} {describe(sent.message)}")
            encoded = body if sent.message is message else encode(sent.message)
            if sent.delay:
                self._soon(lambda to=sent.to, late=encoded: self.network.send(self.me, to, late), sent.delay)  # type: ignore[misc]
            else:
                self.network.send(self.me, sent.to, encoded)

    def _execute(self, number: int, batch: Batch) -> Executed | None:
        if not self._jobs and self._random.random() < 0.5:
            return self._run(number, batch)
        self._jobs.append((number, batch))
        if not self._execution_due:
            self._execution_due = True
            self._soon(self._execute_next, self._random.random() * self._random.choice((0.001, 0.001, 0.05)))
        return None

    def _execute_next(self) -> None:
        self._execution_due = False
        done = self._run(*self._jobs.popleft())
        if self._jobs:
            self._execution_due = True
            self._soon(self._execute_next, self._random.random() * 0.001)
        self._set_time()
        self.host.executed(done)
        self._flush()

    def _run(self, number: int, batch: Batch) -> Executed:
        done = self.executor.execute(number, batch)
        self.world.note(f"{self.me}{self.twin} executes {number} {batch.digest.hex()[:6]} ({len(batch.requests)})")
        if self.is_correct:
            self._observer.on_executed(self, batch, done)
        if number % self.group.tunables.checkpoint_interval == 0:
            self._snapshots[number] = self.executor.snapshot()
            kept = max(4, self.group.tunables.log_window // self.group.tunables.checkpoint_interval + 2)
            while len(self._snapshots) > kept:
                del self._snapshots[min(self._snapshots)]
        return done

    def _answer(self, request: ClientRequest) -> None:
        result = self.executor.answer(request)
        if result is not None:
            self.host.answered(result)

    def _stable(self, number: int) -> None:
        snapshot = self._snapshots.get(number)
        if snapshot is not None and self._random.random() < 0.5:
            self._store.write(snapshot)
            self.state_on_disk = number
            self.host.checkpoint_durable(number)
            self.world.note(f"{self.me}{self.twin} has state {number} on disk")

    def _prepare(self) -> None:
        newest = self._snapshots[max(self._snapshots)] if self._snapshots else None
        start = prepared(newest, [])
        self._soon(lambda: self.host.prepared(start), self._random.random() * 0.01)

    def _serve(self, job: Job) -> None:
        self._soon(lambda: self.host.served(job, answers(job), 0.0))

    def _install(self, fetched: Fetched) -> None:
        replica = self.host.replica
        if (
            replica.delivery.executed >= fetched.number and not replica.core.diverged
        ):  # and it may have a newer state on disk
            self._soon(lambda: self.host.installed(None))
            return
        executor = built(self.group, self._application, fetched)
        snapshot, number = executor.snapshot(), fetched.number
        self._store.write(snapshot, whole=replica.core.diverged != "")
        self.state_on_disk = number
        if self.host.replica.core.diverged:
            self.world.note(f"{self.me}{self.twin} begins anew with state {number}")
            self._soon(self._begin_anew, self._random.random() * 0.02)
            return
        self._soon(lambda: self._replace(executor, snapshot), self._random.random() * 0.02)

    def _begin_anew(self) -> None:
        """As after a crash, of the process alone."""
        self.crash()
        self.start()

    def _replace(self, executor: Executor, snapshot: ExecutionSnapshot) -> None:
        """A crash before this leaves a state on disk that is newer than what the log says."""
        number, delivery = executor.last_executed, self.host.replica.delivery
        if self._jobs:
            self._soon(lambda: self._replace(executor, snapshot), 0.01)
            return
        self._set_time()
        if not delivery.handed == delivery.executed < number:
            self.host.installed(None)
        else:
            self.executor, self._snapshots = executor, {number: snapshot}
            self.world.note(f"{self.me}{self.twin} installs state {number}")
            if self.is_correct:
                self._observer.on_installed(self, snapshot)
            self.host.installed(executor.start())
            self.host.checkpoint_durable(number)
        self._flush()

    def _reborn(self) -> None:
        self._soon(self._declare, self._random.random() * 0.01)

    def _declare(self) -> None:
        self.lost = False
        self._set_time()
        if self.host.declared():
            self.world.note(f"{self.me}{self.twin} votes again, in incarnation {self.host.replica.core.incarnation}")
        self._flush()

    def _on_evidence(self, evidence: Evidence) -> None:
        self.world.note(f"{self.me}{self.twin} accuses {evidence.culprit}: {evidence.kind}")
        if self.is_correct:
            self._observer.on_evidence(self, evidence)


def describe(message: Message) -> str:
    """A message in one short line."""
    words = [type(message).__name__.upper()]
    for value in message:
        if isinstance(value, bytes):
            words.append(value.hex()[:6])
        elif isinstance(value, tuple):
            words.append(f"x{len(value)}")
        else:
            words.append(str(value))
    return " ".join(words)
