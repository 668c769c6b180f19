"""The attack table: how results are judged, how rows are made of what was seen, and whom partial MACs convince."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import pytest

from pbft.benchmarks.attack_table import summary, table, write_plot
from pbft.benchmarks.attacks import ATTACKS, NO_ATTACK, SIGNED, SMALL, Attack, Plan, attacks, judged, reason, with_ratio
from pbft.benchmarks.capping import Cap
from pbft.benchmarks.hostile_clients import KINDS
from pbft.benchmarks.open_load import Judge
from pbft.benchmarks.partial_macs import PartialCore, convinced, useless
from pbft.config import Group, Quorums
from pbft.crypto import AuthenticatorKey, check_authenticator, make_authenticator
from pbft.misbehaviour import MISBEHAVIOURS

PARTIAL = Attack("partial", partial=5)


def seen(**fields: object) -> dict[str, Any]:
    """What a load in good health has seen, but for these fields."""
    return {
        "seconds": 2.0, "offered": 1000, "completed": 1000, "completed_of_faulty": 250, "p50_ms": 5.0, "p99_ms": 9.0,
        "dropped": 0, "wrong": 0, "busy": 0, "requests": 400, "retransmissions": 0, "errors": {}, "total": 5000,
    } | fields  # fmt: skip


def row(**fields: object) -> dict[str, Any]:
    """A row of the table, but for these fields."""
    return {
        "attack": "flooding", "by": "backups", "profile": "mac", "offered_per_s": 500.0, "share": 1.0,
        "cpu_us_per_op": 200.0, "view_changes": 0, "primary": 0, "primary_replaced": None, "demotions": 0,
        "retransmissions": 0, "requests": 400, "busy": 0, "dropped": 0, "errors": 0, "other_cpu": 0.0, "wrong": 0,
        "capped_by": "nice 19", "counter_answered": True,
    } | fields  # fmt: skip


# ---- results


def test_a_counter_that_counts_is_believed() -> None:
    """Operations may end in another order than they began, and some results may never come."""
    judge = Judge()
    judge.issued = 4
    judge.told(2, 0)
    judge.told(1, 0)
    judge.told(4, 2)
    judge.ends(4, judge.least)
    assert (judge.wrong, judge.acknowledged, judge.highest) == (0, 3, 4)


@pytest.mark.parametrize(
    ("told", "total"),
    [
        ([(1, 0), (1, 0)], 2),  # the same count twice
        ([(2, 0), (1, 2)], 2),  # it began after 2 was told
        ([(1, 0), (2, 0)], 1),  # less than was told
        ([(1, 0), (2, 0)], 4),  # more than was asked for
        ([(1, 0), (3, 0)], 2),  # a count above the total
    ],
)
def test_counts_that_cannot_be_are_wrong(told: list[tuple[int, int]], total: int) -> None:
    """One wrong result is counted for each."""
    judge = Judge()
    judge.issued = 3
    for count, highest_before in told:
        judge.told(count, highest_before)
    judge.ends(total, judge.least)
    assert judge.wrong == 1


# ---- rows


def test_what_comes_late_is_served_but_not_more_than_all() -> None:
    """Operations from before the window can end in it."""
    assert judged(seen(completed=700), 20, NO_ATTACK)["share"] == 0.7
    assert judged(seen(completed=1300), 20, NO_ATTACK)["share"] == 1.0
    assert judged(seen(total=None), 20, NO_ATTACK)["counter_answered"] is False


def test_correct_clients_beside_faulty_ones_have_a_share_of_their_own() -> None:
    """Five of twenty attack: 750 of the operations offered are not theirs."""
    found = judged(seen(completed=700, completed_of_faulty=100), 20, PARTIAL)
    assert (found["share"], found["share_of_correct_clients"]) == (0.7, 0.8)
    assert judged(seen(), 20, NO_ATTACK)["share_of_correct_clients"] is None
    assert judged(seen(), 5, PARTIAL)["share_of_correct_clients"] is None


def test_cpu_is_compared_with_the_row_without_an_attack() -> None:
    """And a row above the target needs no reason."""
    base = row(attack="none", by="", cpu_us_per_op=100.0)
    assert with_ratio(row(), base)["cpu_ratio"] == 2.0
    assert with_ratio(row(), base)["reason"] == ""
    assert with_ratio(row(share=0.5), base)["reason"]
    assert "cpu_ratio" not in with_ratio(row(cpu_us_per_op=None), base)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"view_changes": 2}, "2 view changes"),
        ({"primary_replaced": False}, "primary 0, who attacks, was not replaced"),
        ({"demotions": 3}, "3 times to sign"),
        ({"retransmissions": 100}, "100 retransmissions of 400 requests"),
        ({"busy": 7}, "busy 7 times"),
        ({"dropped": 9}, "9 operations found"),
        ({"errors": 4}, "4 calls failed"),
        ({"other_cpu": 1.5}, "strangers used 1.5 CPUs"),
        ({}, "the replicas ordered less"),
    ],
)
def test_reasons_name_what_was_counted(fields: dict[str, Any], text: str) -> None:
    """One fact, one phrase; no fact, no invention."""
    found = reason(row(**fields))
    assert text in found
    assert ";" not in found


def test_the_summary_says_why_and_how_much() -> None:
    """Rows below the target, wrong results, the cap; the table has a line for each row."""
    rows = [row(attack="none", by=""), row(), row(attack="slow-primary", share=0.4, reason="because", wrong=2)]
    lines = summary(rows)
    assert lines[0] == "1 of 2 attacks leave at least 80% of the load served; wrong results: 2"
    assert lines[1].endswith("nice 19")
    assert lines[2] == "slow-primary (mac): 40%, because: because"
    assert len(table(rows).splitlines()) == 2 + len(rows)


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    """The peak has no bars."""
    pytest.importorskip("matplotlib")
    rows = [row(attack="none (peak)", by="", offered_per_s=None), row(cpu_ratio=1.5)]
    write_plot(rows, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


# ---- attacks


def test_attacks_use_what_exists() -> None:
    """Names are unique; the row to compare with comes first, whatever is chosen."""
    names = [attack.name for attack in ATTACKS]
    assert len(names) == len(set(names))
    assert set(SMALL) <= set(names)
    for attack in ATTACKS:
        assert {attack.backups, attack.primary} - {""} <= set(MISBEHAVIOURS)
        assert {attack.hostile} - {""} <= set(KINDS)
        assert (attack.by == "") == (attack is NO_ATTACK)
    assert attacks(Plan(only=("silent",)), "mac") == [NO_ATTACK, next(a for a in ATTACKS if a.name == "silent")]
    assert attacks(Plan(), "signed") == list(SIGNED)


def test_partial_macs_convince_the_primary_whoever_that_is() -> None:
    """A change of view moves the one good entry; all entries look alike."""
    group = Group(bytes(32), "counter", tuple(bytes([i]) * 32 for i in range(4)), {})
    core = PartialCore(group, 1 << 63, bytes, bytes, Random(1))
    keys = [AuthenticatorKey(bytes([i + 1] * 8), bytes([i + 1] * 32)) for i in range(4)]

    def convinced_ones() -> list[int]:
        for replica, key in enumerate(keys):
            core.on_new_key(replica, key)
        authenticator = make_authenticator(core._replicas.keys(), bytes(32))
        secrets = {key.key_id: key.key for key in keys}
        return [i for i in range(4) if check_authenticator(authenticator, i, bytes(32), secrets.get)]

    for replica, key in enumerate(keys):
        core.on_link_up(replica, key, 0.0)
    assert convinced_ones() == [0]
    core._replicas.name_view(2, 1)
    core._replicas.name_view(3, 1)
    assert convinced_ones() == [1]
    assert useless(keys[0]).key_id == keys[0].key_id
    assert convinced(3, 2, Quorums(4)) == {3, 0}


# ---- the cap


def test_a_cgroup_bounds_attackers_where_it_can_be_made(tmp_path: Path) -> None:
    """Half a processor. The files are the kernel's; here they are made beforehand."""
    root = tmp_path / "cpu"
    root.mkdir()
    made: list[Path] = []

    class Kernel(type(root)):  # type: ignore[misc]
        """A folder that has files from its beginning."""

        def mkdir(self, *arguments: Any, **named: Any) -> None:
            super().mkdir(*arguments, **named)
            made.append(self)
            for name in ("cpu.cfs_period_us", "cpu.cfs_quota_us", "cgroup.procs"):
                (self / name).touch()

    cap = Cap(0.5, Kernel(tmp_path))
    cap.hold(4711)
    assert cap.text == "cgroup, 0.5 CPU"
    values = {path.name: path.read_text() for path in made[0].iterdir()}
    assert values == {"cpu.cfs_period_us": "10000", "cpu.cfs_quota_us": "5000", "cgroup.procs": "4711"}


def test_without_a_cgroup_attackers_are_nice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary folder is none, and nothing is left in it."""
    calls: list[tuple[int, int]] = []
    monkeypatch.setattr("os.setpriority", lambda which, pid, nice: calls.append((pid, nice)))
    with Cap(0.5, tmp_path) as cap:
        cap.hold(1 << 30)
    assert (cap.text, calls) == ("nice 19", [(1 << 30, 19)])
    assert list(tmp_path.iterdir()) == []
