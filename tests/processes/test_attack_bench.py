"""`pbft bench attacks`, small: a cluster, its load and its attackers as processes. No time is judged."""

from __future__ import annotations

import json

import pytest
from campaign import free_ports

from pbft.cli.main import main

pytestmark = pytest.mark.slow


def test_rows_are_complete_and_no_result_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    """Fault-free and with clients that attack, in both ways: beside the load, and as part of it."""
    words = ["bench", "attacks", "--small", "--json", "--warm-up", "0.6", "--seconds", "0.5", "--base-port"]
    assert main([*words, str(free_ports(8)), "--only", "flooding-client,partial-macs-1"]) == 0
    peak, base, partial, flooded = json.loads(capsys.readouterr().out)
    assert [r["attack"] for r in (peak, base, partial, flooded)] == [
        "none (peak)", "none", "partial-macs-1", "flooding-client",
    ]  # fmt: skip
    assert peak["operations"] > 0
    for row in (base, partial, flooded):
        assert row["wrong"] == 0
        assert row["share"] > 0 or row is partial  # what stops until a client signs may last longer than the row
        assert row["offered_per_s"] == pytest.approx(peak["ops_per_s"] / 2, abs=0.1)
        assert row["cpu_us_per_op"] > 0
        assert row["counter_answered"]
    assert base["cpu_ratio"] == 1.0
    assert flooded["capped_by"]
    assert not base["capped_by"]


def test_an_attacking_replica_is_started_as_one(capsys: pytest.CaptureFixture[str]) -> None:
    """A primary that feeds q-1 backups only need not be replaced; whether it was is told."""
    words = ["bench", "attacks", "--small", "--warm-up", "0.5", "--seconds", "0.5", "--rate", "50", "--base-port"]
    assert main([*words, str(free_ports(8)), "--only", "partial-multicast-primary", "--json"]) == 0
    base, attacked = json.loads(capsys.readouterr().out)
    assert base["primary_replaced"] is None
    assert attacked["primary_replaced"] is (attacked["primary"] != 0)
    assert attacked["by"] == "primary"
    assert attacked["wrong"] == base["wrong"] == 0


def test_an_attack_that_does_not_exist_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """With the way to find those that do."""
    assert main(["bench", "attacks", "--only", "silent,gremlins"]) == 2
    assert "no such attack: gremlins; `pbft bench attacks --only list`" in capsys.readouterr().err
    assert main(["bench", "attacks", "--only", "list"]) == 0
    assert "partial-macs-10" in capsys.readouterr().out.splitlines()
