"""What crosses between execution and the rest: plain values, so that an executor can live in a thread or elsewhere."""

from __future__ import annotations

from typing import NamedTuple


class Result(NamedTuple):
    """How one request of a batch was answered; becomes a row of a REPLY."""

    client: int
    session: int
    id: int
    """For OPEN: session 0 and the nonce."""
    request_digest: bytes
    replier: int
    digest: bytes
    result: bytes


class Opened(NamedTuple):
    """A session began; `opens` is the client's open count after it, `evicted` the session that made room (0: none)."""

    client: int
    session: int
    opens: int
    evicted: int


class Done(NamedTuple):
    """A request executed: `id` is done in that session, and its floor now stands at `floor`."""

    client: int
    session: int
    id: int
    floor: int


class Recovered(NamedTuple):
    """A RECOVER executed: `replica` has a new incarnation, and votes again once a state at or above `point` is stable
    (rule 1.7). `nonce` names the RECOVER."""

    replica: int
    incarnation: int
    point: int
    nonce: int


Change = Opened | Done | Recovered
"""What a batch changed that agreement has to know."""


class Executed(NamedTuple):
    """One batch has executed. Agreement keeps its mirror of session windows from `changes` (DESIGN, door 3)."""

    number: int
    digest: bytes
    results: tuple[Result, ...]
    changes: tuple[Change, ...]
    state_digest: bytes
    """Digest of the whole replicated state at a multiple of K, else empty."""


class SessionView(NamedTuple):
    """One live session as the mirror sees it, for a replica that starts from a checkpoint."""

    client: int
    session: int
    floor: int
    done: tuple[int, ...]


class ExecutionStart(NamedTuple):
    """Where an executor stands when a replica starts: the mirror's first contents."""

    number: int
    history: bytes
    counts: tuple[tuple[int, int], ...]
    """(client, open count)."""
    sessions: tuple[SessionView, ...]
    members: tuple[Recovered, ...] = ()
    """The last recovery of each replica that ever recovered."""
    state_digest: bytes = b""
    """What a CHECKPOINT of this state signs; empty at the very beginning."""
