"""A scripted run in which one replica's machine stops at a chosen disk operation, whichever it is. Rules 1.5, 1.6.

Every write, sync, rename, removal and truncation of that replica is such a point, those of its restart too.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from cluster import Cluster
from disk_member import DiskMember, SimulatedCrash

VICTIM = 1
K = 4


class Story:
    """Batches, checkpoints, two view changes, a restart in between. The victim is primary for a while."""

    def __init__(self) -> None:
        self.cluster = Cluster(4, checkpoint_interval=K, log_window=2 * K, view_timeout=600, retained_log_bytes=4096)
        self.victim = DiskMember(self.cluster, VICTIM)
        self.cluster.members[VICTIM] = self.victim
        self.acknowledged = 0
        """Requests whose execution the victim itself has reported."""

    def acts(self) -> Iterator[None]:
        """One after the other; the victim's disk may stop in each."""
        c = self.cluster
        c.open()
        yield
        for _ in range(K + 1):
            c.order()
            yield
        c.suspect_all()
        yield
        for _ in range(K):
            c.order()
            yield
        self.victim.restart()
        yield
        c.wait(0.5)
        c.suspect_all()
        yield
        for _ in range(K):
            c.order()
            yield

    def play(self, crash_at: int | None, rng: Random | None) -> int:
        """Until the end, with a crash at that operation and a restart after it; operations counted until then."""
        faults = self.victim.faults
        faults.operations, faults.crash_at = 0, crash_at
        acts = self.acts()
        while True:
            try:
                next(acts)
            except StopIteration:
                break
            except SimulatedCrash:
                self._after_crash(rng)
                break
        return faults.operations

    def _after_crash(self, rng: Random | None) -> None:
        c, victim = self.cluster, self.victim
        victim.power_cut(rng)
        c.settle()
        for _ in range(2):  # the others go on meanwhile, from where they were
            c.ask()
            c.wait(0.3)
        victim.restart()
        found = victim.contradictions()
        assert not found, found
        c.wait(1.0)


def check(crash_at: int | None, rng: Random | None) -> int:
    """Play, then need the victim's vote for more: another one is down. Returns the operations that were counted."""
    story = Story()
    operations = story.play(crash_at, rng)
    c, victim = story.cluster, story.victim
    c.wait(3)
    others = [m for m in c.members if m is not victim]
    longest = max((m.executed for m in others), key=len)
    for m in c.members:
        assert m.executed == longest[: len(m.executed)], f"replica {m.me} executed something else"
    victim.cluster.members[0].down = True
    before = len(longest)
    request = c.ask()
    c.wait(6)
    assert all(m.times(request) == 1 for m in c.up), "the group goes on with its vote, which it needs"
    assert len(victim.executed) > before
    assert not victim.contradictions() and not any(e.culprit == VICTIM for m in c.members for e in m.evidence)
    return operations
