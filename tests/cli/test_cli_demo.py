"""The lines of `pbft demo` explain themselves."""

from __future__ import annotations

from pbft.cli.demo import absences
from pbft.cli.status import unknown


def test_a_replica_that_is_down_is_explained() -> None:
    """As planned, or as a surprise."""
    rows = [unknown(0), {"id": 1, "reachable": True}, unknown(2)]
    assert absences(rows, {0: "restarts", 1: "killed"}) == ["(0 restarts)", "(2 does not answer)"]
    assert absences(rows[1:2], {1: "killed"}) == []
