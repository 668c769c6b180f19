"""A primary that is bad without being dead: backups hold it to a floor. 4 #6, #7; Aardvark, Clement et al., NSDI 2009.

Three rules, judged only while requests wait here and while this process itself is not late:

- the gap: while requests wait, a PRE-PREPARE comes at least every `proposal_gap_max`, or, where the view timeout is
  longer because the network is slow or views have failed, within five sixths of that;
- the share: it orders at least `primary_share` per cent of what was the best under a comparable backlog, its own
  earlier work included, so that one that slows down gradually does not train us;
- fairness: a request that waits is not passed over by more than `fairness_batches` batches.

The view timer (1.11) needs none of this; it catches a primary that orders nothing for a client within its timeout. What
was the best weighs half as much after each view that this file has ended: a load that truly became heavier costs a few
view changes, not one after the other for ever.

Rules of this file: proposes nothing, leaves nothing; says `blame`, and `suspicion.py` does the rest.
"""

from __future__ import annotations

from pbft.protocol.core import Core
from pbft.protocol.requests import Requests
from pbft.protocol.suspicion import Suspicion

WINDOW = 1.0
"""Seconds over which the share is judged."""

_WINDOWS_BELOW = 3
"""Windows in a row below the share before the primary is blamed: one may be noise."""

_LATE = 0.1
"""Seconds between two ticks above which this process is itself too late to judge."""

_FAIR_SECONDS = 0.25
"""Share of the view timeout below which a request has not waited long, however many batches passed it over."""


_GAP = 5 / 6
"""Share of the view timeout that a gap may last: as far as the timeout goes, so does what a slow network may take."""


class Floor:
    """What the present primary delivers, against what was delivered before."""

    def __init__(self, core: Core, requests: Requests, suspicion: Suspicion) -> None:
        self._core = core
        self._requests = requests
        self._suspicion = suspicion
        self._best: dict[int, float] = {}
        """Size class of the backlog -> most requests a second that were ordered under it. At most 32 classes."""
        self._view = core.view
        self._last_tick: float | None = None
        self._last_proposal = 0.0
        self._passed_over: tuple[bytes, int] = (b"", 0)
        """(oldest waiting request, batches accepted while it waited)."""
        self._blamed = False
        self._below = 0
        self._reset_window(0.0)

    def _reset_window(self, now: float) -> None:
        self._window_began = now
        self._ordered = 0
        self._backlogs: set[int] = set()
        """Size classes of the backlog in this window."""
        self._disturbed = False
        """Nothing waited for a while, or this process was late: the window is not comparable."""

    def on_accepted(self, requests: int) -> None:
        """A fresh PRE-PREPARE of the present primary was accepted here."""
        self._last_proposal = self._core.now
        self._ordered += requests
        if requests:  # a NULL passes nobody over; one who orders nothing else for long meets the view timer
            self._passed_over = (self._passed_over[0], self._passed_over[1] + 1)

    def on_tick(self, executed: int) -> None:
        """Time has passed: judge what there is to judge. `executed`: the last number whose effects are known here."""
        core = self._core
        now = core.now
        late = self._last_tick is None or now - self._last_tick > _LATE
        self._last_tick = now
        if core.view != self._view or not core.is_active or core.is_mute or core.is_primary:
            self._begin_view(now)
            return
        waiting = self._requests.oldest_unproposed
        if waiting is None or late:
            self._disturbed = True
            self._last_proposal = now  # the gap is measured while requests wait, and while this process runs
        elif now - self._last_proposal > max(core.tunables.proposal_gap_max / 1000, self._suspicion.timeout * _GAP):
            self._blame("no PRE-PREPARE while requests wait")
        self._judge_fairness(waiting, executed)
        self._backlogs.add(self._requests.unproposed.bit_length())
        if now - self._window_began >= WINDOW:
            self._judge_share(now)
            self._reset_window(now)

    def _begin_view(self, now: float) -> None:
        if self._blamed and self._core.view != self._view:
            self._best = {size: best / 2 for size, best in self._best.items()}
            self._blamed = False
        self._view = self._core.view
        self._last_proposal = now
        self._below = 0
        self._passed_over = (b"", 0)
        self._reset_window(now)

    def _judge_fairness(self, waiting: bytes | None, executed: int) -> None:
        core = self._core
        if waiting is None or waiting != self._passed_over[0]:
            self._passed_over = (waiting or b"", 0)
            return
        # A client may ask backups alone, and a backup passes on what it awaits within a STATUS interval: only from then
        # on is it the primary's fault.
        long = max(self._suspicion.timeout * _FAIR_SECONDS, 2 * core.tunables.status_interval / 1000)
        waited = self._suspicion.waited or 0.0
        if self._passed_over[1] > core.tunables.fairness_batches and waited > long:
            # It may be dead: its client gave the primary another one with the same id, and the backups this one.
            self._requests.review(executed)
            if self._requests.oldest_unproposed == waiting:
                self._blame("a request is passed over")

    def _judge_share(self, now: float) -> None:
        if self._disturbed or max(self._backlogs) - min(self._backlogs) > 1:
            return  # a backlog that changes much is comparable to none
        rate = self._ordered / (now - self._window_began)
        size = max(self._backlogs)
        best = self._best.get(size, 0.0)
        self._best[size] = max(best, rate)
        if rate * 100 >= best * self._core.tunables.primary_share:
            self._below = 0
            return
        self._below += 1
        if self._below >= _WINDOWS_BELOW:
            self._blame("less is ordered than before under the same backlog")

    def _blame(self, reason: str) -> None:
        self._blamed = True
        self._suspicion.blame(reason)
