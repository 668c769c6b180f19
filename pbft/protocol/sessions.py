"""A mirror of the session windows in the replicated state, fed by what has executed. Rule 1.15, DESIGN door 3.

Agreement never reads the executor's tables; it asks this mirror whether a request is still worth ordering. The mirror
may lag behind; execution judges every request again, so a mistake costs an empty batch and never a double execution.
"""

from __future__ import annotations

from enum import Enum

from pbft.batch import ClientRequest, Kind
from pbft.execution.results import Change, ExecutionStart, Opened, Recovered, SessionView
from pbft.protocol.members import Members


class Verdict(Enum):
    """What the executed state says about a request."""

    FRESH = 1
    """It would execute."""
    ANSWERED = 2
    """The replicated table has an answer; ordering it would execute nothing."""
    UNDECIDED = 3
    """It names a session or an open count that this replica has not executed yet."""


class _Window:
    __slots__ = ("client", "done", "floor")

    def __init__(self, client: int, floor: int, done: set[int]) -> None:
        self.client, self.floor, self.done = client, floor, done


class SessionMirror:
    """Floors and done ids of the live sessions, open counts of the clients; hands on to `members` what is theirs."""

    def __init__(self, session_window: int, members: Members) -> None:
        self._session_window = session_window
        self.wall = 0
        """Microseconds since the epoch, by this machine's clock: what it would propose as the time of a batch."""
        self._members = members
        self._counts: dict[int, int] = {}
        self._sessions: dict[int, _Window] = {}

    def load(self, start: ExecutionStart) -> None:
        """Begin from the executor's table at start."""
        self._members.load(start.members)
        self._counts = dict(start.counts)
        self._sessions = {s.session: _Window(s.client, s.floor, set(s.done)) for s in start.sessions}

    def contents(self) -> tuple[tuple[tuple[int, int], ...], tuple[SessionView, ...]]:
        """What `load` would be given now: open counts and sessions, sorted."""
        views = (SessionView(w.client, number, w.floor, tuple(sorted(w.done))) for number, w in self._sessions.items())
        return tuple(sorted(self._counts.items())), tuple(sorted(views))

    def update(self, changes: tuple[Change, ...]) -> None:
        """A batch has executed."""
        for change in changes:
            if isinstance(change, Recovered):
                self._members.update(change)
                continue
            if isinstance(change, Opened):
                self._counts[change.client] = change.opens
                self._sessions[change.session] = _Window(change.client, 0, set())
                self._sessions.pop(change.evicted, None)
                continue
            window = self._sessions.get(change.session)
            if window is None:
                continue
            if change.floor > window.floor:
                window.floor = change.floor
                window.done = {i for i in window.done if i > change.floor}
            if change.id > window.floor:
                window.done.add(change.id)

    def judge(self, request: ClientRequest, executed: int) -> Verdict:
        """Whether `request` is worth ordering, seen from the state after number `executed`."""
        if request.kind is Kind.RECOVER:
            return self._judge_recovery(request, executed)
        if request.kind is Kind.OPEN:
            count = self._counts.get(request.client, 0)
            if request.floor == count:
                return Verdict.FRESH
            return Verdict.ANSWERED if request.floor < count else Verdict.UNDECIDED
        window = self._sessions.get(request.session)
        if window is None:
            return Verdict.ANSWERED if executed >= request.session >> 16 else Verdict.UNDECIDED
        if window.client != request.client or request.id <= window.floor or request.id in window.done:
            return Verdict.ANSWERED
        if request.id > max(window.floor, request.floor) + self._session_window:
            return Verdict.ANSWERED
        return Verdict.FRESH

    def _judge_recovery(self, request: ClientRequest, executed: int) -> Verdict:
        """RECOVER(i, k) executes iff k is i's incarnation, above i's previous recovery point, and not too often. Rule
        1.7 a."""
        present = self._members.incarnation(request.client)
        if request.floor < present:
            return Verdict.ANSWERED
        if request.floor > present or executed < self._members.point(request.client):
            return Verdict.UNDECIDED
        if not self._members.may_recover(request.client, self.wall):
            return Verdict.UNDECIDED
        return Verdict.FRESH
