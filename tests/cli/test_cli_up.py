"""`pbft up`: what it says of replicas that run."""

from __future__ import annotations

from pbft.cli.up import remarks


def row(replica: int, **fields: object) -> dict[str, object]:
    return {"id": replica, "recovering": False, "volatile": False} | fields


def test_nothing_is_to_be_said_of_replicas_that_vote_and_keep_what_they_vote() -> None:
    """The line "ready" is enough."""
    assert remarks([row(i) for i in range(4)], "c.toml") == []


def test_replicas_that_run_and_do_not_vote_are_named() -> None:
    """They are ready to follow and no more."""
    rows = [row(0), row(1, recovering=True), row(2), row(3, recovering=True)]
    assert remarks(rows, "c.toml") == ["but 2 replicas of them (1 and 3) may not vote: `pbft why c.toml` says why"]


def test_volatile_is_said() -> None:
    """Before somebody trusts it."""
    [said] = remarks([row(i, volatile=True) for i in range(4)], "c.toml")
    assert said.startswith("volatile: nothing is kept on disk")
