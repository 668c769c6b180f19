"""When the primary is suspected: timers, and SUSPECT. Rules 1.11, 1.12; [CL99 §4.5.2].

A timer runs while a request is awaited; nothing but the end of the wait for the oldest one stops it. When it runs out,
this replica says SUSPECT, repeats it while the cause lasts, and goes on voting: f+1 that suspect at one time let a
replica leave (`view_change.py`), so one that is isolated or slow disturbs nobody.

Rules of this file: the only user of time in view changes; leaves no view itself.
"""

from __future__ import annotations

from typing import NamedTuple

from pbft.messages import Suspect
from pbft.protocol.core import Core, Refused
from pbft.protocol.effects import ALL
from pbft.protocol.requests import Requests

SUSPECT_PERIOD = 0.25
"""Seconds between two SUSPECTs of one cause; one counts for two periods after it came."""

_BLAME_LASTS = 1.5
"""Seconds for which one word of the floor counts; it is said once a second while its cause lasts."""

_GOOD_BATCHES = 16
"""Batches in a row within which nothing waited long, after which a view is known to work with the present timeout."""

_LONG = 0.25
"""Share of the timeout from which on a wait is long. Half of the timeout still is twice that."""

_LAG_LIMIT = 0.25
"""Seconds between two ticks that may be the primary's fault; what is above them is the own machine's."""


class Conditions(NamedTuple):
    """What the driver knows and the core cannot: handed in with each tick."""

    jitter: float = 0.0
    """A random number in [0, 1), so that replicas do not all time out together."""
    round_trip: float = 0.0
    """Seconds of a heartbeat's round trip to the q-th fastest replica. Never a measure of the primary's ordering: a
    primary that slows down gradually would train us."""


NO_CONDITIONS = Conditions()


class Suspicion:
    """The view timer, own suspicion, and that of others."""

    def __init__(self, core: Core, requests: Requests) -> None:
        self._core = core
        self._requests = requests
        self._conditions = NO_CONDITIONS
        self._last_tick: float | None = None
        self._awaited: bytes | None = None
        """Digest of the request that the timer runs for."""
        self._awaited_since = 0.0
        self._new_view_awaited = False
        self.deadline: float | None = None
        """When the timer runs out; None while it does not run."""
        self.suspected: int | None = None
        """The view that this replica suspects."""
        self._next_suspect = 0.0
        self._blamed_until = 0.0
        self.blamed_for = ""
        """Why the floor blames the present primary (`floor.py`); empty if it does not."""
        self._suspects: dict[int, tuple[int, float]] = {}
        """Sender -> (view, when it came), its newest SUSPECT, for two periods."""
        self.failed_views = 0
        """The timeout is doubled so many times."""
        self._executed = 0
        """Batches since the view was entered or `failed_views` fell."""
        self._good = 0
        """Batches since a request waited long."""
        self._moved = True
        """The wait for some oldest request has ended, or begun, since a batch was counted."""
        self._works = False
        """The present view has executed so much that it did not fail, whatever ends it."""

    # ---- how long

    @property
    def timeout(self) -> float:
        """Seconds: the base, from what the network takes, doubled per failed view, within the configured bounds."""
        t = self._core.tunables
        least = t.view_timeout / 1000
        most = max(least, t.view_timeout_max / 1000)
        base = max(least, 10 * self._conditions.round_trip)
        return float(min(base * 2.0 ** min(self.failed_views, 30), most))

    def _start(self) -> None:
        self.deadline = self._core.now + self.timeout * (1 + self._conditions.jitter / 8)

    def _stop(self) -> None:
        self.deadline = None
        if not self.blamed_for:
            self.suspected = None

    # ---- what is awaited

    def watch(self, committed_through: int) -> None:
        """At the end of each sweep: run the timer for the oldest awaited request. Another one than before has a whole
        timeout; while the same one waits nothing stops it (4 #5, #8)."""
        core = self._core
        if not core.is_active or core.is_mute:
            return
        awaited = self._requests.oldest_awaited(committed_through)
        if awaited is None and core.members.fills(core.log.low) and committed_through < core.log.high:
            awaited = b"number %d" % (committed_through + 1)  # NULLs have to fill up to a recovery point (rule 1.7 e)
        if awaited == self._awaited:
            return
        if self._awaited is not None and core.now - self._awaited_since > self.timeout * _LONG:
            self._good = 0
        self._awaited, self._awaited_since, self._moved = awaited, core.now, True
        self._stop()
        if awaited is not None:
            self._start()

    def on_catching_up(self) -> None:
        """Something that f+1 replicas vouch for arrived here: own lag is not the primary's fault (rule 1.11)."""
        if self.deadline is not None and self._core.is_active:
            self.suspected = None
            self._start()

    def on_executed(self) -> None:
        """A batch has executed. After K, or after a few within which nothing waited long, the view works, and failures
        of the past weigh less. How long requests wait can only make the timeout stay, so that no primary trains us.
        Batches that pass over the request which has waited longest say nothing for the view: else a faulty primary
        takes back, by a few quick ones in each of its views, the doubling by which others' views last long enough."""
        if not self._core.is_active or (self._awaited is not None and not self._moved):
            return
        self._moved = False
        self._executed += 1
        self._good += 1
        if self._executed >= self._core.tunables.checkpoint_interval or self._good >= _GOOD_BATCHES:
            self._executed = self._good = 0
            self._works = True
            self.failed_views = max(0, self.failed_views - 1)

    def on_left(self) -> None:
        """This replica has sent VIEW-CHANGE: no timer before q are known to have done so (2.6). A primary that dies
        after good work does not make the wait for the next one longer: only a view that did not work has failed."""
        self.blamed_for = ""
        self._stop()
        self._awaited = None
        self._new_view_awaited = False
        if self.timeout < self._core.tunables.view_timeout_max / 1000:  # more would only take longer to decay
            self.failed_views += not self._works
        self._works = False
        self._executed = self._good = 0

    def await_new_view(self) -> None:
        """q replicas have left for the same view or above: its primary has what it needs."""
        if not self._new_view_awaited:
            self._new_view_awaited = True
            self._start()

    def on_entered(self) -> None:
        """A new view has begun."""
        self.blamed_for = ""
        self._stop()
        self._awaited = None
        self._new_view_awaited = False

    # ---- time

    def on_tick(self, conditions: Conditions) -> None:
        """Time has passed."""
        core = self._core
        now, self._conditions = core.now, conditions
        gap = now - self._last_tick if self._last_tick is not None else 0.0
        self._last_tick = now
        if core.is_mute:
            return
        if self.deadline is not None and gap > _LAG_LIMIT:
            # This process stood still: what came meanwhile is not even read yet. The limit itself counts, so that one
            # that is always late suspects later, but not never.
            self.deadline += gap - _LAG_LIMIT
        if self.blamed_for and now >= self._blamed_until:
            self.blamed_for, self.suspected = "", None
        if not self.blamed_for and (self.deadline is None or now < self.deadline):
            return
        if self.suspected != core.log.promised:
            self.suspected = core.log.promised
            self._next_suspect = now
        if now >= self._next_suspect:
            self._next_suspect = now + SUSPECT_PERIOD
            core.send(ALL, Suspect(core.log.promised))

    def suspect_now(self) -> None:
        """The primary did what no correct one does: suspect it without waiting."""
        self.deadline = self._core.now

    def blame(self, reason: str) -> None:
        """The present primary is below the floor: suspect it while that is said again and again (`floor.py`)."""
        self.blamed_for = reason
        self._blamed_until = self._core.now + _BLAME_LASTS

    # ---- looking

    @property
    def waited(self) -> float | None:
        """Seconds for which the oldest awaited request has been that; None if nothing is awaited."""
        return None if self._awaited is None else self._core.now - self._awaited_since

    @property
    def reason(self) -> str:
        """Why this replica suspects `suspected`, in words; empty while it suspects nobody."""
        if self.suspected is None:
            return ""
        if self.blamed_for:
            return self.blamed_for
        if self._new_view_awaited:
            return "its NEW-VIEW does not come"
        return "a request waits" if self.waited is None else f"a request has waited for {self.waited:.1f} s"

    @property
    def runs_out_in(self) -> float | None:
        """Seconds until the timer runs out; None while none runs."""
        return None if self.deadline is None else max(0.0, self.deadline - self._core.now)

    # ---- others

    def on_suspect(self, sender: int, message: Suspect) -> Refused | None:
        """SUSPECT(v): remembered for two periods, the newest of each sender."""
        self._suspects[sender] = (message.view, self._core.now)
        return None

    def fresh(self, view: int) -> set[int]:
        """Who suspects `view` now, this replica included."""
        found: set[int] = set()
        if self._suspects:
            since = self._core.now - 2 * SUSPECT_PERIOD
            self._suspects = {s: said for s, said in self._suspects.items() if said[1] >= since}
            found.update(s for s, (v, _) in self._suspects.items() if v == view)
        if self.suspected == view:
            found.add(self._core.me)
        return found
