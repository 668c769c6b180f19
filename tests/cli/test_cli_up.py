"""`pbft up`: what it says of replicas that run."""

from __future__ import annotations

from pathlib import Path

from pbft.cli.output import invocation
from pbft.cli.up import greeting, remarks
from pbft.config import Quorums

PATH = Path("c d.toml")


def row(replica: int, **fields: object) -> dict[str, object]:
    return {"id": replica, "recovering": False, "volatile": False, "view": 7} | fields


def test_nothing_is_to_be_said_of_replicas_that_vote_and_keep_what_they_vote() -> None:
    """The line "ready" is enough."""
    assert remarks([row(i) for i in range(4)], PATH) == []


def test_replicas_that_run_and_do_not_vote_are_named() -> None:
    """They are ready to follow and no more."""
    rows = [row(0), row(1, recovering=True), row(2), row(3, recovering=True)]
    [said] = remarks(rows, PATH)
    assert said == f"but 2 replicas of them (1 and 3) may not vote: `{invocation()} why 'c d.toml'` says why"


def test_a_cluster_that_can_never_serve_again_is_not_called_ready() -> None:
    """One lost past is borne and recovers; two of four are more than a recovery can be ordered with. Rule 1.7."""
    one = [row(i, lost=i == 3) for i in range(4)]
    two = [row(i, lost=i >= 2) for i in range(4)]
    assert greeting(one, Quorums(4)) == "ready: 4/4 replicas, view 7"
    said = greeting(two, Quorums(4))
    assert said.startswith("4/4 replicas run, but this cluster cannot serve: 2 replicas of 4 (2 and 3) have lost what")
    assert "pbft init" in said


def test_volatile_is_said() -> None:
    """Before somebody trusts it."""
    [said] = remarks([row(i, volatile=True) for i in range(4)], PATH)
    assert said.startswith("volatile: nothing is kept on disk")
