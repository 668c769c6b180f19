"""`pbft why`: each thing that a cluster can wait for is one sentence that names who and what."""

from __future__ import annotations

from typing import Any

import pytest

from pbft.cli.why import calm, reasons
from pbft.config import Quorums

ADDRESSES = {i: f"127.0.0.1:{7001 + 2 * i}" for i in range(4)}


def rows(**changes: dict[str, Any]) -> list[dict[str, Any]]:
    """Four replicas that are well, some of them changed: `r2={...}`."""
    well = {
        "reachable": True, "halted": "", "behind": False, "in_view_change": False, "view": 0, "primary": 0,
        "promised": 0, "last_executed": 100, "connected_peers": 3, "missing_bodies": 0, "request_waited_s": None,
        "timer_s": None, "view_changes": [], "suspects": [],
    }  # fmt: skip
    return [{"id": i, **well, **changes.get(f"r{i}", {})} for i in range(4)]


def told(**changes: dict[str, Any]) -> str:
    return "\n".join(reasons(rows(**changes), Quorums(4), ADDRESSES))


def test_nothing_is_awaited() -> None:
    """One sentence, and no reason."""
    assert told() == ""
    assert calm(rows()) == "It waits for nothing: all 4 replicas vote in view 0 and have executed 100."


LEFT = {"in_view_change": True, "promised": 1, "view_changes": [1, 2]}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"r3": {"reachable": False}}, "Replica 3 does not answer at 127.0.0.1:7007."),
        ({"r3": {"halted": "the disk failed"}}, "Replica 3 does not vote: the disk failed."),
        ({"r3": {"behind": True}}, "no longer keep what comes next. It waits for a state that a quorum has signed."),
        (
            {"r3": {"behind": True, "transfer": {"number": 96, "bytes": 2_500_000, "waiting": 7, "sources": [0, 2]}}},
            "It fetches state 96 from 0 and 2: 2.5 MB are here, 7 more pieces known to be missing.",
        ),
        (
            {"r3": {"behind": True, "transfer": {"number": "x", "bytes": None, "sources": 5}}},
            "It fetches state 0 from nobody yet: 0.0 MB are here",
        ),
        (
            {"r2": {"reachable": False}, "r3": {"halted": "it is lost"}},
            "Only 2 of 4 replicas can vote and 3 are needed: nothing is ordered until 1 more is back.",
        ),
        ({"r3": {"halted": "its past is lost", "lost": True}}, "It serves requests; one more failure would stop it."),
        (
            {"r2": {"halted": "its past is lost", "lost": True}, "r3": {"halted": "its past is lost", "lost": True}},
            "This cluster cannot serve again: 2 replicas of 4 (2 and 3) have lost what they had voted",
        ),
        (
            {f"r{i}": {"disagreement": "128: 00aa by 0, 1; 00bb by 2, 3"} for i in (1, 2)},
            "The replicas have signed different states at checkpoint 128: 00aa by 0, 1; 00bb by 2, 3. No quorum can",
        ),
        ({"r1": {"connected_peers": 1}}, "Replica 1 is connected to 1 other and needs 2."),
        (
            {"r1": LEFT, "r2": LEFT},
            "Replicas 1 and 2 left for view 1 and wait for the NEW-VIEW of replica 1, which holds 2 of 3 VIEW-CHANGEs "
            "(none of 0 and 3).",
        ),
        (
            {"r1": {"reachable": False}, "r2": LEFT, "r3": LEFT},
            "Replicas 2 and 3 left for view 1 and wait for the NEW-VIEW of replica 1, which cannot vote",
        ),
        ({"r2": {"missing_bodies": 3}}, "Replica 2 waits for 3 batches that view 0 begins with."),
        (
            {"r1": {"request_waited_s": 1.25, "timer_s": 0.75}},
            "The oldest request has waited 1.2 s at replica 1 for primary 0; the view timer there runs out in 0.8 s.",
        ),
        ({"r2": {"suspects": [2]}}, "Replica 2 suspects the primary of view 0, replica 0; 2 are needed to leave it."),
        ({"r3": {"last_executed": 10}}, "Replica 3 is 90 batches behind and catches up."),
        ({"r0": {"view": 2}}, "Replica 1 is still in view 0, others in 2."),
    ],
)
def test_what_is_awaited(changes: dict[str, dict[str, Any]], sentence: str) -> None:
    """Who is missing, which timer runs, which request has waited longest."""
    assert sentence in told(**changes)


NEW_VIEW = {"view": 1, "primary": 1, "promised": 1}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"r3": {"reachable": False}}, "It serves requests; one more failure would stop it."),
        ({"r3": {"connected_peers": 1}}, "It serves requests; one more failure would stop it."),
        ({"r3": {"last_executed": 10}}, "It serves requests; 1 more failure would not stop it."),
        (
            {"r0": {"reachable": False}},
            "Requests wait until the primary of view 0, replica 0, is replaced; one more failure would stop it.",
        ),
        (
            {"r0": {"reachable": False}, "r1": NEW_VIEW, "r2": NEW_VIEW, "r3": NEW_VIEW},
            "It serves requests; one more failure would stop it.",
        ),
        (
            {"r0": {"reachable": False}, "r1": LEFT, "r2": LEFT},
            "Enough replicas vote, but requests wait until 3 of them are in one view; one more failure would stop it.",
        ),
        (
            {"r1": {"request_waited_s": 1.25}},
            "Enough replicas vote, but requests wait; 1 more failure would not stop it.",
        ),
        (
            {f"r{i}": {"connected_peers": 1} for i in range(4)},
            "4 of 4 replicas can vote, but only 0 of them are connected to 2 others: nothing is ordered until links "
            "are back.",
        ),
    ],
)
def test_first_it_says_whether_requests_are_served(changes: dict[str, dict[str, Any]], sentence: str) -> None:
    """With what is there, and what more the cluster can bear."""
    assert told(**changes).splitlines()[0] == sentence


def test_a_replica_that_answers_nonsense_does_not_break_it() -> None:
    """A status is believed to be of its types only after a look."""
    nonsense = {"view": "x", "last_executed": [], "suspects": ["a", 99, None], "view_changes": 7, "timer_s": "soon"}
    assert isinstance(told(r1={**nonsense, "request_waited_s": 3, "connected_peers": None}), str)
