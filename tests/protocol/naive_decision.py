"""`decide` a second time, as slowly and plainly as rule 2.6 reads, and histories of small groups to try both on.

Rules of this file: shares no code with `pbft.protocol.decision`, its quorums included; counts everything anew.
"""

from __future__ import annotations

from random import Random

from pbft.batch import NULL_DIGEST
from pbft.messages import ViewChange

Chosen = tuple[int, bytes, tuple[tuple[int, bytes], ...], int]
"""(low, state, chosen, last), as in `Decision`."""

A, B = b"A" * 32, b"B" * 32
DIGESTS = (A, B, NULL_DIGEST)
GENESIS = bytes(32)


def faults(n: int) -> int:
    return max(f for f in range(n) if n > 3 * f)


def quorum(n: int) -> int:
    """The smallest number of replicas such that any two sets of so many share a correct one."""
    return min(q for q in range(n + 1) if q + q - n > faults(n))


def state_at(number: int) -> bytes:
    """The digest of the state after batch `number`."""
    return bytes([number]) * 32


def view_change(
    sender: int,
    view: int,
    p: dict[int, tuple[bytes, int]] | None = None,
    q: dict[tuple[int, bytes], int] | None = None,
    low: int = 0,
    checkpoints: dict[int, bytes] | None = None,
) -> ViewChange:
    """VIEW-CHANGE with P[n] = (d, v) and Q[n, d] = v; C holds at least h."""
    c = {low: state_at(low)} if checkpoints is None else checkpoints
    prepared = tuple(sorted((k, d, v) for k, (d, v) in (p or {}).items()))
    preprepared = tuple(sorted((k, d, v) for (k, d), v in (q or {}).items()))
    return ViewChange(sender, 0, view, low, tuple(sorted(c.items())), prepared, preprepared, b"s" * 160)


def naive_decide(n: int, window: int, s: list[ViewChange]) -> Chosen | None:
    """Rule 2.6 from its text."""
    f, q = faults(n), quorum(n)
    if len(s) < q:
        return None

    def count(test: list[bool]) -> int:
        return len([yes for yes in test if yes])

    starts = []
    for m in s:
        for k, d in m.checkpoints:
            if count([x.low <= k for x in s]) >= q and count([(k, d) in x.checkpoints for x in s]) >= f + 1:
                starts.append((k, d))
    if not starts:
        return None
    low, state = max(starts)

    chosen, last = [], low
    for k in range(low + 1, low + window + 1):
        winners = []
        for m in s:
            for _, d, w in [entry for entry in m.prepared if entry[0] == k]:
                a1 = [x.low < k and all(e[0] != k or e[2] < w or e == (k, d, w) for e in x.prepared) for x in s]
                a2 = [any(e[:2] == (k, d) and e[2] >= w for e in x.preprepared) for x in s]
                if count(a1) >= q and count(a2) >= f + 1:
                    winners.append((-w, d))
        if winners:
            chosen.append((k, min(winners)[1]))
            last = k
        elif count([x.low < k and not any(e[0] == k for e in x.prepared) for x in s]) >= q:
            chosen.append((k, NULL_DIGEST))
        else:
            return None
    return low, state, tuple(entry for entry in chosen if entry[0] <= last), last


def highest_view_wins(s: list[ViewChange], number: int) -> bytes:
    """The rule of the protocol in which PREPAREs are signed: the entry of the highest view in any P."""
    return max((v, d) for m in s for k, d, v in m.prepared if k == number)[1]


class History:
    """What a group of n went through in a few views, as its correct replicas would tell it; f of them lie.

    Batches are one letter, states are their number. What committed is in `committed`; no view may begin without it.
    """

    def __init__(self, rng: Random, n: int, window: int) -> None:
        self.rng, self.n, self.window = rng, n, window
        self.f, self.q = faults(n), quorum(n)
        self.liars = rng.sample(range(n), self.f)
        self.correct = [i for i in range(n) if i not in self.liars]
        self.view = 0
        self.low = dict.fromkeys(self.correct, 0)
        self.p: dict[int, dict[int, tuple[bytes, int]]] = {i: {} for i in self.correct}
        self.pre: dict[int, dict[tuple[int, bytes], int]] = {i: {} for i in self.correct}
        self.committed: dict[int, bytes] = {}

    def some(self, of: list[int]) -> list[int]:
        """Any of them; mostly enough for a quorum together with the liars."""
        enough = min(len(of), self.q - self.f) if self.rng.random() < 0.8 else 0
        return self.rng.sample(of, self.rng.randint(enough, len(of)))

    def go_through(self, view: int, begins: Chosen | None) -> None:
        """In `view` some pre-prepare, some of them prepare, and perhaps something commits; `begins` None: nothing."""
        self.view = view
        low, _, chosen, last = begins or (0, b"", (), 0)
        fixed = dict(chosen)
        for k in range(low + 1, low + self.window + 1):
            if k <= last:
                proposals = [fixed[k]]
            elif view % self.n in self.liars:
                proposals = self.rng.sample(DIGESTS, 2)
            else:
                proposals = [self.rng.choice(DIGESTS)]
            self.vote(k, {i: self.rng.choice(proposals) for i in self.some(self.correct) if self.low[i] < k})

    def vote(self, k: int, accepted: dict[int, bytes]) -> None:
        view = self.view
        for i, d in accepted.items():
            self.pre[i][k, d] = view
        for d in sorted(set(accepted.values())):
            voters = [i for i in accepted if accepted[i] == d]
            if len(voters) + len(self.liars) < self.q:
                continue
            prepared = self.some(voters)
            for i in prepared:
                self.p[i][k] = (d, view)
                self.pre[i] = {e: v for e, v in self.pre[i].items() if e[0] != k or v >= view}
            if len(prepared) + len(self.liars) >= self.q:
                assert self.committed.setdefault(k, d) == d, "two digests committed at one number"

    def stabilise(self, number: int) -> None:
        """Everything up to `number` has executed at enough replicas; some have the certificate, some not yet."""
        if all(k in self.committed for k in range(1, number + 1)):
            for i in self.some(self.correct):
                self.low[i] = max(self.low[i], number)
                self.p[i] = {k: e for k, e in self.p[i].items() if k > number}
                self.pre[i] = {e: v for e, v in self.pre[i].items() if e[0] > number}

    def testimony(self, i: int, view: int) -> ViewChange:
        """What a correct replica signs when it leaves for `view`."""
        low = self.low[i]
        stable = max(self.low.values())
        signed = {k: state_at(k) for k in {low, stable} if k >= low}
        return view_change(i, view, self.p[i], self.pre[i], low, signed)

    def lie(self, i: int, view: int) -> ViewChange:
        """Anything consistent: what is true elsewhere, or invented."""
        rng = self.rng
        low = rng.choice(sorted(set(self.low.values())))
        numbers = range(low + 1, low + self.window + 1)
        p = {k: (rng.choice(DIGESTS), rng.randrange(view)) for k in numbers if rng.random() < 0.5}
        pre = {(k, d): rng.randrange(view) for k in numbers for d in DIGESTS if rng.random() < 0.5}
        return view_change(i, view, p, pre, low)

    def gather(self, view: int, correct: list[int], liars: list[int]) -> list[ViewChange]:
        """VIEW-CHANGEs for `view`."""
        return [self.testimony(i, view) for i in correct] + [self.lie(i, view) for i in liars]


def random_history(rng: Random, n: int, window: int, views: int) -> History:
    """Through `views` views, each begun from q or more VIEW-CHANGEs, lies among them, if these decide."""
    history = History(rng, n, window)
    history.go_through(0, (0, GENESIS, (), 0))
    for view in range(1, views):
        if rng.random() < 0.3:
            history.stabilise(window // 2)
        s = history.gather(view, history.some(history.correct), history.some(history.liars))
        begins = naive_decide(n, window, s)
        if begins is not None:
            history.go_through(view, begins)
    return history
