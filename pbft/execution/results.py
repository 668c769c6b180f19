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


RECOVERY_PACE = 600_000_000
"""Microseconds of agreed time in which a replica may recover once, in the long run."""
RECOVERY_BURST = 8
"""Recoveries of a replica that may follow each other at once."""


class Recovered(NamedTuple):
    """A RECOVER executed: `replica` has a new incarnation, and votes again once a state at or above `point` is stable
    (rule 1.7). `nonce` names the RECOVER."""

    replica: int
    incarnation: int
    point: int
    nonce: int
    due: int = 0
    """Agreed time, in microseconds, up to which this replica's recoveries are spent, one for each `RECOVERY_PACE`."""

    def may_recover(self, time: int) -> bool:
        """Whether one more RECOVER of this replica executes at this agreed time. A liar that has one executed after the
        other would else keep the primary busy with NULLs, and void every view whose NEW-VIEW names it (rule 1.7 b)."""
        return self.due - time <= (RECOVERY_BURST - 1) * RECOVERY_PACE


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
