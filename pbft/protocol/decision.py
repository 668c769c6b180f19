"""What a new view begins with, decided from the VIEW-CHANGEs that its NEW-VIEW names, and from nothing else. Rule 1.3.

PREPAREs carry MACs, so nobody can prove to others what it prepared: a P entry counts only if no q replicas contradict
it (A1) and f+1 replicas say that they pre-prepared it in that view or later (A2). The simpler rule of the protocol in
which everything is signed, "take the entry of the highest view", lets one liar invent an entry that wins.

Rules of this file: pure functions of their arguments; the only place where P, Q and C are interpreted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pbft.batch import NULL_DIGEST
from pbft.config import Quorums
from pbft.messages import NewView, ViewChange

GENESIS = (0, bytes(32))
"""The C entry of the state before the first batch, which nobody signs."""


@dataclass(frozen=True, slots=True)
class Decision:
    """How a view begins: from checkpoint `low` with `state`; `chosen` is agreed again; fresh proposals above `last`."""

    low: int
    state: bytes
    chosen: tuple[tuple[int, bytes], ...]
    """(n, d) without gaps from low + 1; NULLs after the last one chosen by A are left out."""
    last: int
    """Highest number in `chosen`, or `low`."""


class _Testimony:
    """One VIEW-CHANGE, ready to be asked."""

    __slots__ = ("checkpoints", "low", "p", "q")

    def __init__(self, message: ViewChange) -> None:
        self.low = message.low
        self.checkpoints = frozenset(message.checkpoints)
        self.p = {n: (d, v) for n, d, v in message.prepared}
        self.q = {(n, d): v for n, d, v in message.preprepared}


def is_consistent(message: ViewChange, log_window: int) -> bool:
    """Whether a correct replica can have sent this VIEW-CHANGE: views below its own, numbers inside its window, one P
    entry per number, one Q entry per number and digest, one C entry per number, and h among them. Rule 2.6."""
    view, low = message.view, message.low
    if view == 0:
        return False
    entries = (*message.prepared, *message.preprepared)
    if any(not low < n <= low + log_window or v >= view for n, _, v in entries):
        return False
    return (
        len({n for n, _, _ in message.prepared}) == len(message.prepared)
        and len({(n, d) for n, d, _ in message.preprepared}) == len(message.preprepared)
        and len({n for n, _ in message.checkpoints}) == len(message.checkpoints)
        and any(n == low for n, _ in message.checkpoints)
        and all(n >= low for n, _ in message.checkpoints)
    )


def judge_new_view(quorums: Quorums, log_window: int, message: NewView) -> Decision | None:
    """The decision of a NEW-VIEW on exactly the set that it names, or None: no correct primary signs it. Rule 1.3.
    That the named VIEW-CHANGEs are sealed by their senders is checked elsewhere."""
    s = message.view_changes
    senders = {m.sender for m in s}
    if len(senders) != len(s) or any(not 0 <= i < quorums.n for i in senders):
        return None
    if any(m.view != message.view or not is_consistent(m, log_window) for m in s):
        return None
    return decide(quorums, log_window, s)


def decide(quorums: Quorums, log_window: int, view_changes: Sequence[ViewChange]) -> Decision | None:
    """The decision, or None: wait for more VIEW-CHANGEs. Distinct senders and consistent messages are the caller's
    duty. More messages never undo a decision's possibility: each condition counts those that agree."""
    if len(view_changes) < quorums.strong:
        return None
    s = [_Testimony(m) for m in view_changes]
    start = _checkpoint(quorums, s)
    if start is None:
        return None
    low, state = start
    chosen: list[tuple[int, bytes]] = []
    last = low
    for number in range(low + 1, low + log_window + 1):
        digest = _by_a(quorums, s, number)
        if digest is not None:
            last = number
        elif _b(quorums, s, number):
            digest = NULL_DIGEST
        else:
            return None
        chosen.append((number, digest))
    return Decision(low, state, tuple(chosen[: last - low]), last)


def _checkpoint(quorums: Quorums, s: Sequence[_Testimony]) -> tuple[int, bytes] | None:
    """The largest checkpoint that q replicas have not gone beyond and f+1 have; both over the whole of S, since over
    the matching subset alone the group can wait for ever."""
    for n, d in sorted({entry for m in s for entry in m.checkpoints}, reverse=True):
        reachable = sum(m.low <= n for m in s) >= quorums.strong
        if reachable and sum((n, d) in m.checkpoints for m in s) >= quorums.weak:
            return n, d
    return None


def _by_a(quorums: Quorums, s: Sequence[_Testimony], number: int) -> bytes | None:
    """The digest with A1 and A2; of several the highest view, then the smallest digest. A3, the body, is waited for."""
    candidates = {m.p[number] for m in s if number in m.p}
    for digest, view in sorted(candidates, key=lambda entry: (-entry[1], entry[0])):
        if _a1(quorums, s, number, digest, view) and _a2(quorums, s, number, digest, view):
            return digest
    return None


def _a1(quorums: Quorums, s: Sequence[_Testimony], number: int, digest: bytes, view: int) -> bool:
    """q replicas prepared nothing else at `number` in `view` or later."""
    agreeing = 0
    for m in s:
        entry = m.p.get(number)
        agreeing += m.low < number and (entry is None or entry[1] < view or entry == (digest, view))
    return agreeing >= quorums.strong


def _a2(quorums: Quorums, s: Sequence[_Testimony], number: int, digest: bytes, view: int) -> bool:
    """f+1 replicas pre-prepared `digest` at `number` in `view` or later: a correct one has the body and verified it."""
    return sum(m.q.get((number, digest), -1) >= view for m in s) >= quorums.weak


def _b(quorums: Quorums, s: Sequence[_Testimony], number: int) -> bool:
    """q replicas prepared nothing at `number`: nothing can have committed there."""
    return sum(m.low < number and number not in m.p for m in s) >= quorums.strong
