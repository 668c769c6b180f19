"""Crash at every disk operation of a scripted run: votes stay consistent, what was acknowledged is there."""

from __future__ import annotations

from random import Random

import pytest
from crash_anywhere import check
from disk_member import DiskMember

from pbft.protocol.records import Accepted, Left, Record

STRIDE = 4
"""Here a sample, with another start for each way of losing; `campaign.py crash-anywhere` takes every point."""


@pytest.mark.scenario("B15")
@pytest.mark.parametrize("way", range(4))
def test_a_crash_at_any_disk_operation_contradicts_nothing(way: int) -> None:
    """All that was not synced is lost, or any part of it survives."""
    points = check(None, None)
    assert points > 150
    for crash_at in range(1 + way * STRIDE // 4, points + 1, STRIDE):
        check(crash_at, Random(1000 * way + crash_at) if way else None)


@pytest.mark.parametrize("kind", [Accepted, Left])
def test_a_log_that_forgets_what_was_said_is_noticed(kind: type[Record], monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself: a log whose records of one kind do not come back."""
    opened = DiskMember.boot

    def forgetful(self: DiskMember, checkpoint: int = 0) -> None:
        opened(self, checkpoint)
        log = self.replica.core.log
        if kind is Left:
            log.promised = log.view
        else:
            log.q.clear()
            log.p.clear()

    monkeypatch.setattr(DiskMember, "boot", forgetful)
    with pytest.raises(AssertionError, match="no memory"):
        for crash_at in range(20, 200, 7):
            check(crash_at, None)
