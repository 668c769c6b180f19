"""What a replica writes into its log of others, and how loudly."""

from __future__ import annotations

import logging

import pytest

from pbft.config import Group, Tunables
from pbft.node_reports import Reports
from pbft.protocol.core import Refused

GROUP = Group(bytes(32), "app", tuple(bytes([i]) * 32 for i in range(4)), {}, Tunables())

# Reasons that a correct peer's message can meet, because it came early or late.
UNTIMELY = ("above-window", "other-view", "left-view", "stale-view", "not-primary", "not-voting", "not-wanted")


@pytest.mark.parametrize("reason", [r for r in Refused if r is not Refused.BELOW_WINDOW])
def test_what_comes_early_or_late_does_not_alarm(caplog: pytest.LogCaptureFixture, reason: Refused) -> None:
    """An operator who reads INFO sees what correct peers do not send; the rest is there for who asks."""
    reports = Reports(GROUP, 0, None)
    with caplog.at_level(logging.DEBUG, "pbft.node"):
        reports.refusals(0.0, {(3, reason): 2})
        reports.refusals(1.0, {(3, reason): 9})
    [record] = caplog.records
    assert record.getMessage() == f"replica 0: refused 2 from 3: {reason}"
    assert record.levelno == (logging.DEBUG if reason in UNTIMELY else logging.INFO)


def test_late_votes_are_not_even_whispered(caplog: pytest.LogCaptureFixture) -> None:
    """They come with every batch."""
    reports = Reports(GROUP, 0, None)
    with caplog.at_level(logging.DEBUG, "pbft.node"):
        reports.refusals(0.0, {(3, Refused.BELOW_WINDOW): 2})
    assert not caplog.records
