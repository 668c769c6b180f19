"""Groups without a floor, and one replica's time: for tests of the view timer. Rule 1.11."""

from __future__ import annotations

from cluster import ALICE, Cluster, Member
from signed_views import group

from pbft.messages import Request

BASE = 2.0
"""Seconds; `view_timeout` of these groups. They have no floor (`floor.py`), so that nothing but the timer speaks."""


def timed(n: int = 4, **tunables: int) -> Cluster:
    no_floor = {
        "view_timeout": round(1000 * BASE),
        "primary_share": 0,
        "proposal_gap_max": 600_000,
        "fairness_batches": 1 << 20,
    }
    return group(n, **(no_floor | tunables))


def pass_time(m: Member, seconds: float) -> None:
    """For one replica, in steps that are no pauses."""
    for _ in range(round(seconds / 0.05)):
        m.tick(0.05)


def suspects(m: Member) -> bool:
    return m.me in m.replica.status().suspects


def left_in(m: Member) -> float | None:
    """Seconds until its timer runs out; None if it does not run."""
    return m.replica.status().timer_s


def signed(c: Cluster, client: int = ALICE) -> Request:
    return c.request(client, authenticator=b"\x01")
