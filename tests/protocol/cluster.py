"""A group of pure replicas on a network that the test holds in its hand: messages wait until told to move."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from pbft.batch import Batch, ClientRequest, Kind, open_body, operations_body, signature_body
from pbft.config import CLIENT_PRINCIPAL, Group, Tunables
from pbft.crypto import digest
from pbft.execution.members import Members
from pbft.execution.results import Change, Done, Executed, ExecutionStart, Opened, Result, SessionView
from pbft.host import Host, Ports, restore
from pbft.messages import Message, Reply, Request, Sealed, Shown, Suspect, decode, encode
from pbft.protocol.effects import ALL, Evidence
from pbft.protocol.replica import Replica
from pbft.state import State

ALICE = CLIENT_PRINCIPAL | 1
BOB = CLIENT_PRINCIPAL | 2


def group_of(n: int = 4, **tunables: int) -> Group:
    """A group with cheap keys."""
    tunables = {"checkpoint_interval": 4, "log_window": 8} | tunables
    return Group(
        cluster=b"c" * 32,
        app="test",
        replicas=tuple(bytes([i]) * 32 for i in range(n)),
        clients={ALICE: b"a" * 32, BOB: b"b" * 32},
        tunables=Tunables(**tunables),
    )


class Authentic:
    """Requests are authentic if they say so; seals are hashes."""

    def __init__(self, group: Group, me: int) -> None:
        self._group, self._me = group, me

    def request_is_authentic(self, request: ClientRequest) -> bool:
        """`b"all"`, `b"\\x01"` (signed), or a list of the replicas for which the MAC is good."""
        if request.kind is Kind.RECOVER:
            body = signature_body(self._group.cluster, 0, request.digest)
            return request.authenticator == b"\x02" + sealed(request.client, body)
        return request.authenticator in (b"all", b"\x01") or (
            request.authenticator[:1] == b"\x00" and self._me in request.authenticator[1:]
        )

    def seal_is_authentic(self, message: Sealed) -> bool:
        return message.seal == sealed(message.sender, message.signed_body(self._group.cluster, 0))


def sealed(sender: int, body: bytes) -> bytes:
    """What stands for a signature."""
    return (hashlib.sha256(bytes([sender]) + body).digest() * 5)[:160]


class RecordingExecutor:
    """Executes nothing and remembers everything; one session is open from the start."""

    def __init__(self, group: Group, session: int = 1 << 16) -> None:
        self.group, self.session = group, session
        self.interval = group.tunables.checkpoint_interval
        self.members = Members(group, State())
        self.number, self.history, self.executed, self.state = 0, b"", [], b""
        self.counts: dict[int, int] = {}
        self.sessions: dict[int, tuple[int, int, set[int]]] = {}
        self.lie = False

    def start(self) -> ExecutionStart:
        sessions = (SessionView(c, s, floor, tuple(done)) for s, (c, floor, done) in self.sessions.items())
        recovered = self.members.recovered()
        return ExecutionStart(self.number, b"", tuple(self.counts.items()), tuple(sessions), recovered, self._told())

    def _told(self) -> bytes:
        return digest(b"lie", self.state) if self.lie else self.state

    def back_at(self, number: int) -> RecordingExecutor:
        """Another one, which stands where this one stood after batch `number`."""
        other = RecordingExecutor(self.group, self.session)
        for n, batch in enumerate(self.executed[:number], 1):
            other.execute(n, batch)
        other.lie = self.lie
        return other

    def execute(self, number: int, batch: Batch) -> Executed:
        assert number == self.number + 1
        self.number = number
        self.executed.append(batch)
        self.state = digest(b"state", self.state + batch.digest)
        results, changes = [], list[Change]()
        for position, r in enumerate(batch.requests):
            result = b"result of " + r.digest
            results.append(Result(r.client, r.session, r.id, r.digest, r.replier, digest(b"result", result), result))
            if r.kind is Kind.RECOVER:
                if (recovered := self.members.recover(number, batch.time, r)) is not None:
                    changes.append(recovered)
            elif r.kind is Kind.OPEN:
                changes.append(Opened(r.client, number << 16 | position, r.floor + 1, 0))
                self.counts[r.client] = r.floor + 1
                self.sessions[number << 16 | position] = (r.client, 0, set())
            else:
                changes.append(Done(r.client, r.session, r.id, r.floor))
                if r.session in self.sessions:
                    self.sessions[r.session][2].add(r.id)
        state = b"" if number % self.interval else self._told()
        return Executed(number, batch.digest, tuple(results), tuple(changes), state)

    def answer(self, request: ClientRequest) -> Result:
        result = b"answer"
        return Result(
            request.client, request.session, request.id, request.digest, 255, digest(b"result", result), result
        )


class HandLog:
    """A log that is synced when the test says so."""

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.durable_position = 0
        self.cut_below = 0

    def append(self, record: bytes) -> int:
        self.records.append(record)
        return len(self.records)

    def cut(self, below_position: int) -> None:
        self.cut_below = below_position


class Member:
    """One replica with its log and executor."""

    def __init__(self, cluster: Cluster, me: int) -> None:
        self.cluster, self.me = cluster, me
        self.log = HandLog()
        self.down = False
        self.skew = 0
        """Microseconds by which its wall clock is ahead."""
        self.auto_sync = True
        self.hold_execution = False
        self.hold_declaration = False
        """It is not noted that it has recovered."""
        self.lives = 0
        """Disks that it has lost."""
        self.held: list[tuple[int, Batch]] = []
        self.evidence: list[Evidence] = []
        self.lost = ""
        """How its disk was lost, as its driver notes beside the log; empty once it is noted that it has recovered."""
        self.executor = RecordingExecutor(cluster.group)
        self.boot()

    def boot(self, checkpoint: int = 0) -> None:
        """Start from what the log has on disk, above the cut, and from the state after batch `checkpoint`."""
        group = self.cluster.group
        del self.log.records[self.log.durable_position :]
        self.executor = self.executor.back_at(checkpoint)
        self.held.clear()
        records = [(p, r) for p, r in enumerate(self.log.records, 1) if p >= self.log.cut_below]
        replica = restore(
            group,
            self.me,
            lambda body: sealed(self.me, body),
            b"secret %d" % self.lives,
            records,
            1,
            self.executor.start(),
            self.lost,
        )
        ports = Ports(
            self.log,
            self._send,
            self._execute,
            self._answer,
            stable=lambda number: None,
            evidence=self.evidence.append,
            kept=lambda number: None,
            prepare=lambda: None,
            serve=lambda job: None,
            keep=lambda entry: None,
            install=lambda fetched: None,
            reborn=self._declare,
        )
        self.host = Host(replica, Authentic(group, self.me), ports)
        self.host.set_time(self.cluster.now, self.cluster.wall + self.skew)
        self.flush()

    def crash(self) -> None:
        """Down, and what was not on disk is gone; `restart` brings it back."""
        self.down = True
        del self.log.records[self.log.durable_position :]

    def _declare(self) -> None:
        if not self.hold_declaration:
            self.lost = ""
            self.host.declared()

    def lose(self) -> None:
        """Its disk is gone; it starts on an empty one."""
        self.down, self.lost, self.lives = False, "its disk is gone", self.lives + 1
        self.log = HandLog()
        self.executor = RecordingExecutor(self.cluster.group)
        self.boot()

    def restart(self) -> None:
        """Down and up again, and those that are up have answered its HELLO."""
        self.down = False
        self.boot()
        for other in self.cluster.members:
            if self.replica.core.unheard and other is not self and not other.down:
                kept = other.replica.core.log.peer_positions.get(self.me)
                self.give(other.me, Shown(self.replica.core.boot, () if kept is None else (kept,)))

    @property
    def replica(self) -> Replica:
        return self.host.replica

    @property
    def executed(self) -> list[bytes]:
        return [b.digest for b in self.executor.executed]

    @property
    def view(self) -> int:
        return self.replica.status().view

    @property
    def promised(self) -> int:
        """The view that it votes in or has left for."""
        return self.replica.core.log.promised

    def times(self, request: Request) -> int:
        """How often a request is among those that this replica executed."""
        wanted = ClientRequest(*request).digest
        return sum(r.digest == wanted for b in self.executor.executed for r in b.requests)

    def refused(self, sender: int, reason: str) -> int:
        return self.replica.core.refused.get((sender, reason), 0)

    def flush(self) -> None:
        self.host.flush()
        while self.auto_sync and self.log.durable_position < len(self.log.records):
            self.sync()
        self.replica.check_invariants()

    def sync(self) -> None:
        """Everything appended is on disk."""
        self.log.durable_position = len(self.log.records)
        self.host.durable(self.log.durable_position)
        self.host.flush()

    def give(self, sender: int, message: Message) -> object:
        """Hand a message in as if `sender` had sent it."""
        reason = self.host.receive(sender, encode(message))
        self.flush()
        return reason

    def tick(self, seconds: float = 0.5) -> None:
        self.cluster.now += seconds
        self.host.set_time(self.cluster.now, self.cluster.wall + self.skew)
        self.host.tick()
        self.flush()

    def _send(self, to: int, body: bytes, message: Message) -> None:
        targets = [m.me for m in self.cluster.members if m.me != self.me] if to == ALL else [to]
        for target in targets:
            self.cluster.wire.append((self.me, target, body))

    def _execute(self, number: int, batch: Batch) -> Executed | None:
        if self.hold_execution:
            self.held.append((number, batch))
            return None
        return self.executor.execute(number, batch)

    def _answer(self, request: ClientRequest) -> None:
        self.host.answered(self.executor.answer(request))


class Cluster:
    """All members and the messages between them."""

    def __init__(self, n: int = 4, **tunables: int) -> None:
        self.group = group_of(n, **tunables)
        self.now, self.wall = 1.0, 1_000_000
        self.wire: list[tuple[int, int, bytes]] = []
        self.replies: list[tuple[int, int, Message]] = []
        self.members: list[Member] = []
        self.dropped: Callable[[int, int, Message], bool] = lambda sender, to, message: False
        for i in range(n):
            self.members.append(Member(self, i))
        for m in self.members:
            m.host.set_time(self.now, self.wall)
        self._next_id = 0
        self._sessions = {ALICE: 1 << 16}

    @property
    def up(self) -> list[Member]:
        return [m for m in self.members if not m.down]

    @property
    def view(self) -> int:
        """The highest view that somebody who is up votes in."""
        return max((m.view for m in self.up), default=0)

    @property
    def primary(self) -> Member:
        """That of `view`."""
        return self.members[self.view % len(self.members)]

    @property
    def backups(self) -> list[Member]:
        return [m for m in self.members if m is not self.primary]

    def request(
        self, client: int = ALICE, operation: bytes = b"op", authenticator: bytes = b"all", **fields: int
    ) -> Request:
        """A REQUEST with a fresh id."""
        self._next_id += 1
        request_id = fields.get("id", self._next_id)
        body = operations_body(
            client,
            fields.get("session", self._sessions[client]),
            request_id,
            fields.get("floor", max(0, request_id - 32)),
            255,
            [operation],
        )
        return Request(body, authenticator)

    def open(self, client: int = ALICE) -> None:
        """Open the session that `request` uses; Alice's is the first request of batch 1."""
        self._sessions[client] = len(self.primary.executed) + 1 << 16
        self.primary.give(client, Request(open_body(client, 7, 0), b"\x01"))
        self.settle()

    def ask(self, client: int = ALICE, **fields: int) -> Request:
        """A client asks everybody, with its signature, as it does when no answer comes."""
        request = self.request(client, authenticator=b"\x01", **fields)
        for m in self.up:
            m.give(client, request)
        self.settle()
        return request

    def suspect_all(self, *suspecting: int) -> None:
        """Each of `suspecting`, or everybody, says SUSPECT of the view that it is in; whoever is up hears it."""
        said = {i: Suspect(self.members[i].promised) for i in suspecting or range(len(self.members))}
        for sender, message in said.items():
            for m in self.up:
                if m.me != sender:
                    self.wire.append((sender, m.me, encode(message)))
        self.settle()

    def move(self) -> None:
        """Each message that is on the way arrives."""
        batch, self.wire = self.wire, []
        for sender, to, body in batch:
            message = decode(body)
            if self.dropped(sender, to, message):
                continue
            if to >= CLIENT_PRINCIPAL:
                self.replies.append((sender, to, message))
                continue
            if not self.members[to].down:
                self.members[to].host.receive(sender, body)
        for m in self.up:
            m.flush()

    def settle(self, rounds: int = 200) -> None:
        """Move messages until none is left."""
        for _ in range(rounds):
            if not self.wire:
                return
            self.move()
        raise AssertionError("the messages do not come to an end")

    def order(self, count: int = 1, client: int = ALICE) -> None:
        """Have `count` requests ordered, one batch each."""
        for _ in range(count):
            self.primary.give(client, self.request(client))
            self.settle()

    def tick_all(self, seconds: float = 0.5) -> None:
        """A STATUS interval passes for everybody."""
        self.now += seconds
        for m in self.members:
            if not m.down:
                m.host.set_time(self.now, self.wall + m.skew)
                m.host.tick()
                m.flush()
        self.settle()

    def wait(self, seconds: float) -> None:
        """So much time passes, in steps that are no pauses of the processes (rule 1.11)."""
        for _ in range(round(seconds / 0.05)):
            self.tick_all(0.05)

    def take(self, kind: type, sender: int | None = None) -> list[tuple[int, int, Message]]:
        """Messages of one type that wait on the wire."""
        waiting = [(s, t, decode(b)) for s, t, b in self.wire]
        return [(s, t, m) for s, t, m in waiting if isinstance(m, kind) and sender in (None, s)]

    def acknowledged(self, kind: type = Reply) -> Iterable[tuple[int, Message]]:
        return [(s, m) for s, _, m in self.replies if isinstance(m, kind)]
