"""What a replica writes into its log of others, and how loudly."""

from __future__ import annotations

import logging

import pytest

from pbft.apps.counter import Counter
from pbft.config import Group, Tunables
from pbft.execution import Executor
from pbft.node_reports import Reports
from pbft.protocol.core import Refused
from pbft.protocol.replica import Replica
from pbft.protocol.suspicion import NO_CONDITIONS

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


def test_an_operator_reads_when_views_begin_and_why_a_primary_is_suspected(caplog: pytest.LogCaptureFixture) -> None:
    """Once each, however often it is looked."""
    replica = Replica(GROUP, 1, lambda body: bytes(160), b"secret")
    replica.start(0, 1, Executor(GROUP, Counter).start())
    reports = Reports(GROUP, 1, None)
    with caplog.at_level(logging.INFO, "pbft.node"):
        for _ in range(3):
            reports.views(replica.core, replica.suspicion)
        assert not caplog.records
        replica.suspicion.blame("no PRE-PREPARE while requests wait")
        replica.suspicion.on_tick(NO_CONDITIONS)
        for _ in range(3):
            reports.views(replica.core, replica.suspicion)
        replica.core.log._begin(1)
        for _ in range(3):
            reports.views(replica.core, replica.suspicion)
    assert [record.getMessage() for record in caplog.records] == [
        "replica 1: suspects replica 0, the primary of view 0: no PRE-PREPARE while requests wait",
        "replica 1: view 1 begins; its primary is replica 1",
    ]
