"""One replica of a `Cluster` on a simulated disk that may stop at any operation; and what it had said by then."""

from __future__ import annotations

from random import Random

from cluster import Authentic, Cluster, Member, RecordingExecutor, sealed

from pbft.batch import decode_batch
from pbft.host import Host, Ports, restore
from pbft.messages import Checkpoint, Commit, Message, NewView, Prepare, PrePrepare, ViewChange
from pbft.storage.checkpoints import CheckpointStore
from pbft.storage.data_directory import DataDirectory, Past, write_start_token_in
from pbft.storage.group_commit import SynchronousLog
from pbft.storage.simulated_files import Faults, SimulatedCrash, SimulatedDirectory

TOKEN = "start.token"
SEGMENT_BYTES = 4096
"""Small, so that files of the log begin and go while little is ordered."""


def _no_error(error: OSError) -> None:
    raise AssertionError(f"the disk does not fail here: {error}")


class DiskMember(Member):
    """Its log, its checkpoints and its identity lie in a directory that forgets in a crash what was not synced."""

    def __init__(self, cluster: Cluster, me: int) -> None:
        self.faults = Faults()
        self.data, self.keys = SimulatedDirectory(self.faults), SimulatedDirectory(self.faults)
        write_start_token_in(self.keys, TOKEN, cluster.group.cluster, me)
        self.faults.clear()
        self.said: list[Message] = []
        """Votes and certificates that have left, in all lives."""
        self.due: list[int] = []
        """Stable states to write."""
        self.past: Past | None = None
        super().__init__(cluster, me)

    def boot(self, checkpoint: int = 0) -> None:
        """As `pbft.startup`, on what the disk has kept. Damage is an error: a crash alone never looks like it."""
        group = self.cluster.group
        directory = DataDirectory.open_in(
            self.data, cluster=group.cluster, replica=self.me, keys=self.keys, token=TOKEN, volatile=False
        )
        self.past = directory.past
        self.store: CheckpointStore = directory.open_checkpoints()
        self.executor = RecordingExecutor(group)
        stored = self.store.load()
        self.stored = stored.number if stored else 0
        for number, chunk in enumerate(stored.chunks() if stored else (), 1):
            self.executor.execute(number, decode_batch(chunk))
        wal, replay = directory.open_log(segment_bytes=SEGMENT_BYTES)
        records = list(replay)
        self.disk_log = SynchronousLog(wal, lambda position: None, _no_error)
        self.due.clear()
        lost = "" if directory.past is not Past.LOST else "its past is lost"
        secret = b"secret %d" % self.lives
        replica = restore(
            group, self.me, lambda body: sealed(self.me, body), secret, records, directory.boot,
            self.executor.start(), lost,
        )  # fmt: skip
        ports = Ports(
            self.disk_log, self._send, self._execute, self._answer,
            stable=self.due.append,
            evidence=self.evidence.append,
            kept=lambda number: None,
            prepare=lambda: None,
            serve=lambda job: None,
            keep=lambda entry: None,
            install=lambda fetched: None,
            reborn=lambda: None,
        )  # fmt: skip
        self.host = Host(replica, Authentic(group, self.me), ports)
        self.host.set_time(self.cluster.now, self.cluster.wall + self.skew)
        self.flush()

    def flush(self) -> None:
        self.host.flush()
        while self.disk_log.flush():
            self.host.durable(self.disk_log.durable_position)
            self.host.flush()
            while self.due:
                number = self.due.pop(0)
                batches = [batch.encoded for batch in self.executor.executed[:number]]
                base = self.stored if self.store.takes_changes(self.stored) else 0
                self.store.write(number, b"", batches[base:], base)
                self.stored = number
                self.host.checkpoint_durable(number)
                self.host.flush()
        self.replica.check_invariants()

    def _send(self, to: int, body: bytes, message: Message) -> None:
        own = not isinstance(message, Checkpoint | ViewChange | NewView) or message.sender == self.me
        if own and isinstance(message, PrePrepare | Prepare | Commit | Checkpoint | ViewChange | NewView):
            self.said.append(message)
        super()._send(to, body, message)

    def power_cut(self, rng: Random | None) -> None:
        """What was not synced is gone: all of it, or what `rng` chooses, torn at any byte and in any order."""
        self.down = True
        self.data.crash(rng)
        self.keys.crash(rng)

    # ---- what must hold after a restart

    def contradictions(self) -> list[str]:
        """What it has said and its log does not know, or what it has said twice in two ways."""
        return [*_twice(self.said), *(text for message in self.said if (text := self._unknown(message)))]

    def _unknown(self, message: Message) -> str:
        log = self.replica.core.log
        match message:
            case PrePrepare(view, number, digest) | Prepare(view, number, digest) if number > log.low:
                newest = max(log.q.get(number, {}).get(digest, -1), log.p.get(number, (b"", -1))[1])
                return "" if newest >= view else f"no memory of pre-preparing {number} in view {view}"
            case Commit(view, number, digest) if number > log.low:
                prepared, when = log.p.get(number, (b"", -1))
                known = when > view or (when, prepared) == (view, digest)
                return "" if known else f"no memory of preparing {number} in view {view}"
            case Checkpoint() if message.number >= log.low and message.number > 0:
                own = log.own_checkpoints.get(message.number)
                stable = bool(log.certificate) and (message.number, message.digest) == log.certificate[0][2:4]
                known = stable or (own is not None and own.digest == message.digest)
                return "" if known else f"no memory of signing state {message.number}"
            case ViewChange():
                return "" if log.promised >= message.view else f"no memory of leaving for view {message.view}"
            case NewView():
                return "" if log.promised >= message.view else f"no memory of beginning view {message.view}"
        return ""


def _twice(said: list[Message]) -> list[str]:
    seen: dict[tuple[object, ...], object] = {}
    found = []
    for message in said:
        match message:
            case PrePrepare(view, number, digest) | Prepare(view, number, digest) | Commit(view, number, digest):
                key: tuple[object, ...] = (type(message), view, number)
                value: object = digest
            case Checkpoint():
                key, value = (Checkpoint, message.number), message.digest
            case ViewChange() | NewView():
                key, value = (type(message), message.view), message[:-1]
            case _:
                continue
        if seen.setdefault(key, value) != value:
            found.append(f"two {type(message).__name__}s for {key[1:]}")
    return found


__all__ = ["DiskMember", "SimulatedCrash"]
