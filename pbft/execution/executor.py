"""Applies ordered batches to the replicated state, exactly once, and digests it. Rules 1.8, 1.14, 1.15.

The digest of a checkpoint covers three roots and the history (DESIGN, door 1): the application's state, the client
sessions, and the system space (epoch, members, incarnations, tunables, last agreed time). Nothing in it differs between
correct replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields

from pbft.application import Application
from pbft.batch import (
    SEED_SIZE,
    Answer,
    Batch,
    ClientRequest,
    Kind,
    encode_answer,
    encode_done,
    result_digest,
)
from pbft.codec import CodecError
from pbft.config import PROTOCOL_VERSION, Group
from pbft.crypto.digests import digest
from pbft.execution.members import Members
from pbft.execution.operations import Operations, Tell
from pbft.execution.results import Change, Done, Executed, ExecutionStart, Opened, Result, SessionView
from pbft.execution.sessions import Session, Sessions
from pbft.execution.snapshots import ExecutionSnapshot, SnapshotError, read_spaces
from pbft.state import PagedBucket, State


class ExecutionError(Exception):
    """A promise of our own does not hold: batches came out of order."""


class Executor:
    """One replica's replicated state and the rules by which batches change it."""

    def __init__(
        self,
        group: Group,
        application: Callable[[State], Application],
        spaces: tuple[State, State, State] | None = None,
        number: int = 0,
        history: bytes = b"",
        seed: State | None = None,
        paging: type[PagedBucket] | None = None,
    ) -> None:
        """A fresh executor at number 0; `seed`: the state that the application begins with, where the group names one.
        The three arguments before it are for `restore`. `paging`: what becomes of a seed's or a fresh state's
        content that memory shall not hold."""
        self._group = group
        fresh = spaces is None
        if fresh and bool(group.genesis) is (seed is None):
            raise ExecutionError("the state that the cluster begins with is the one that its group names, or none")
        self._app_state, self._session_state, self._system = spaces or (
            _seeded(seed, paging),
            State(),
            State(),
        )
        if fresh:
            self._write_genesis()
        self.last_executed = number
        self.history = history or digest(b"history", group.cluster)
        self._time = int.from_bytes(self._system.get(b"time", b""), "big")
        self._written_time = self._time
        tunables = group.tunables
        try:
            self._members = Members(group, self._system)
        except CodecError as error:
            raise SnapshotError(f"the members of the stored state {number} cannot be read: {error}") from error
        self._interval = tunables.checkpoint_interval
        self._window = tunables.session_window
        self._cache_bytes = tunables.result_cache_bytes
        try:
            self._sessions = Sessions(tunables, self._session_state)
        except CodecError as error:
            raise SnapshotError(f"the session table of the stored state {number} cannot be read: {error}") from error
        self.application = application(self._app_state)
        """For those who look; only this class calls it to execute."""
        self.application.load()
        self._operations = Operations(
            self.application, self._app_state, tunables.result_max_bytes, tunables.results_together
        )
        self._snapshot: ExecutionSnapshot | None = None
        """That of `last_executed`, once it was asked for."""

    def tell_failures(self, tell: Tell) -> None:
        """Have failures of the application told, from the thread that executes; see `Operations.tell`."""
        self._operations.tell = tell

    def _write_genesis(self) -> None:
        group, system = self._group, self._system
        system[b"epoch"] = group.epoch.to_bytes(8, "big")
        system[b"version"] = PROTOCOL_VERSION.to_bytes(4, "big")
        system[b"application"] = group.app.encode()
        if group.genesis:
            system[b"genesis"] = group.genesis
        for i, key in enumerate(group.replicas):
            system[b"member/%d" % i] = key
        for principal, key in group.clients.items():
            system[b"client/" + principal.to_bytes(8, "big")] = key
        for spec in fields(group.tunables):
            if spec.metadata["shared"]:
                system[b"tunable/" + spec.name.encode()] = getattr(group.tunables, spec.name).to_bytes(8, "big")

    # ---- executing

    def execute(self, number: int, batch: Batch) -> Executed:
        """Execute the batch of the next number.

        Never raises for what a client or an operation did. Raises ExecutionError if it is not the next number; at a
        multiple of K whatever `Application.save` raises, since there is no digest to vote for then.
        """
        if number != self.last_executed + 1:
            raise ExecutionError(f"batch {number} does not follow batch {self.last_executed}")
        self._snapshot = None
        if batch.time > self._time:  # a view change may bring back an older time; NULL carries none (rule 1.14)
            self._time = batch.time
        results: list[Result] = []
        changes: list[Change] = []
        operation = 0
        for position, request in enumerate(batch.requests):
            if request.kind is Kind.OPEN:
                result = self._open(number, position, request, changes)
            elif request.kind is Kind.RECOVER:
                result = self._recover(number, request, changes)
            else:
                result = self._run(number, operation, request, batch.seed, changes)
                operation += len(request.operations)
            results.append(_answered(request, result))
        self.last_executed = number
        self._app_state.relieve()
        self.history = digest(b"history", self.history + batch.digest)
        state_digest = b"" if number % self._interval else self.snapshot().digest
        return Executed(number, batch.digest, tuple(results), tuple(changes), state_digest)

    def _recover(self, number: int, request: ClientRequest, changes: list[Change]) -> bytes:
        change = self._members.recover(number, self._time, request)
        if change is not None:
            changes.append(change)
        return encode_answer(Answer.RECOVERED, self._members.incarnation(request.client))

    def _open(self, number: int, position: int, request: ClientRequest, changes: list[Change]) -> bytes:
        known = self._opening_answer(request)
        if known is not None:
            return known
        session, evicted = self._sessions.open(number << 16 | position, request, number)
        changes.append(Opened(request.client, session.number, request.floor + 1, evicted))
        return encode_answer(Answer.OPENED, session.number)

    def _run(
        self,
        number: int,
        position: int,
        request: ClientRequest,
        seed: bytes,
        changes: list[Change],
    ) -> bytes:
        client, request_id = request.client, request.id
        session = self._sessions.find(request.session, client)
        if session is None:
            return encode_answer(Answer.UNKNOWN_SESSION, request.session)
        rises = request.floor > session.floor
        if rises:  # before ids are judged
            session.raise_floor(request.floor)
        known = self._known(session, request)
        if known is not None:
            if rises:
                self._sessions.touch(session)
                changes.append(Done(client, session.number, 0, session.floor))
            return known
        run = self._operations.execute if request.kind is Kind.OPERATIONS else self._operations.query
        result = encode_done(run(request.operations, number, position, client, self._time, seed))
        session.remember(request_id, result, self._cache_bytes)
        session.used = number
        self._sessions.touch(session)
        changes.append(Done(client, session.number, request_id, session.floor))
        return result

    # ---- answering without executing

    def answer(self, request: ClientRequest) -> Result | None:
        """What the table says of a request, if it would not execute any more; None if it would, or if this replica has
        not executed far enough to know."""
        if request.kind is Kind.RECOVER:
            return None  # whoever sent it sees in its own state what has become of it
        if request.kind is Kind.OPEN:
            if request.client in self._group.clients and request.floor > self._sessions.count(request.client):
                return None  # the sessions before it may have been opened where this replica has not executed yet
            known = self._opening_answer(request)
        else:
            session = self._sessions.find(request.session, request.client)
            if session is None:
                if self.last_executed < request.session >> 16:
                    return None
                known = encode_answer(Answer.UNKNOWN_SESSION, request.session)
            else:
                known = self._known(session, request)
        return None if known is None else _answered(request, known)

    def _opening_answer(self, request: ClientRequest) -> bytes | None:
        """The answer to an OPEN that does not execute."""
        if request.client not in self._group.clients:
            return encode_answer(Answer.UNKNOWN_SESSION, 0)
        count = self._sessions.count(request.client)
        if request.floor == count:
            return None
        session = self._sessions.opened_by(request)
        if session is not None:  # repeated while its session lives it returns that session
            return encode_answer(Answer.OPENED, session.number)
        return encode_answer(Answer.OPEN_STALE, count)

    def _known(self, session: Session, request: ClientRequest) -> bytes | None:
        """The answer to a request that does not execute: done, too old, or beyond the window."""
        request_id, floor = request.id, session.floor
        if request_id <= floor:
            return encode_answer(Answer.TOO_OLD, floor)
        result = session.results.get(request_id)
        if result is not None:
            return result
        if request_id in session.forgotten:
            return encode_answer(Answer.FORGOTTEN, request_id)
        floor = max(floor, request.floor)  # as it would stand once this were ordered
        return encode_answer(Answer.BEYOND_WINDOW, floor) if request_id > floor + self._window else None

    def query(self, operations: Sequence[bytes], client: int) -> bytes:
        """Read-only execution on the present state: the result of a request with these queries."""
        run = self._operations.query
        return encode_done(run(operations, self.last_executed, 0, client, self._time, bytes(SEED_SIZE)))

    # ---- digests and snapshots

    def start(self) -> ExecutionStart:
        """What agreement must know of the table before the next batch."""
        views = tuple(
            SessionView(s.client, s.number, s.floor, tuple(sorted({*s.results, *s.forgotten}))) for s in self._sessions
        )
        state_digest = self.snapshot().digest if self.last_executed else b""
        return ExecutionStart(
            self.last_executed, self.history, self._sessions.counts(), views, self._members.recovered(), state_digest
        )

    def snapshot(self) -> ExecutionSnapshot:
        """The replicated state after the last batch; references, no copies. Raises what `Application.save` does."""
        if self._snapshot is not None:
            return self._snapshot
        self.application.save()
        self._sessions.write()
        if self._time != self._written_time:
            self._system[b"time"] = self._time.to_bytes(8, "big")
            self._written_time = self._time
        self._snapshot = ExecutionSnapshot(
            self._group.cluster,
            self._group.epoch,
            self.last_executed,
            self.history,
            (self._app_state.checkpoint(), self._session_state.checkpoint(), self._system.checkpoint()),
        )
        return self._snapshot

    @classmethod
    def restore(
        cls,
        group: Group,
        application: Callable[[State], Application],
        meta: bytes,
        chunks: Iterable[bytes],
        paging: type[PagedBucket] | None = None,
    ) -> Executor:
        """An executor as a stored snapshot says.

        Raises SnapshotError if the content does not hash to the digest in `meta`, is of another cluster, or does not
        survive being loaded by the application; and whatever `Application.load` raises.
        """
        number, history, expected, spaces = read_spaces(group, meta, chunks, paging)
        return cls.installed(group, application, spaces, number, history, expected)

    @classmethod
    def installed(
        cls,
        group: Group,
        application: Callable[[State], Application],
        spaces: tuple[State, State, State],
        number: int,
        history: bytes,
        expected: bytes,
    ) -> Executor:
        """An executor at a state that hashes to `expected`. Raises SnapshotError if it does not survive being loaded by
        the application; and whatever `Application.load` raises."""
        executor = cls(group, application, spaces, number, history)
        if executor.snapshot().digest != expected:
            raise SnapshotError(
                f"the application changed the stored state {number} while loading it; mend its `load` and `save`"
            )
        return executor


def _seeded(seed: State | None, paging: type[PagedBucket] | None) -> State:
    if seed is not None and paging is None:
        return seed
    state = State(paging=paging)
    if seed is not None:
        state.load(seed.items())
    return state


def _answered(request: ClientRequest, result: bytes) -> Result:
    return Result(
        request.client,
        request.session,
        request.id,
        request.digest,
        request.replier,
        result_digest(result),
        result,
    )
