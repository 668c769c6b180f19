"""Small settings of the campaigns. What they measure is for people to read; what must hold is checked here."""

from __future__ import annotations

import campaign
import pytest
from campaigns.distance import Refused

pytestmark = pytest.mark.slow


@pytest.mark.scenario("A01")
def test_a_primary_killed_under_load_comes_back_and_votes() -> None:
    """Once under load, once idle: every call ends, exactly once, and with another backup standing still nothing would
    be ordered without the vote of the one that came back."""
    found = campaign.kill_primary(rounds=2, callers=16)
    assert found["views"] >= 2 and found["acknowledged"] <= found["counter"]


@pytest.mark.scenario("A03")
def test_two_primaries_in_turn_come_back_and_vote() -> None:
    """n = 7: both at once, then the second one while the first one's view is being left."""
    assert campaign.two_primaries(rounds=2, callers=8)["views"] >= 4


@pytest.mark.scenario("A14")
def test_all_are_killed_inside_a_view_change() -> None:
    """Those that had left the view have it on their disks: the group goes on from there."""
    found = campaign.all_in_view_change(rounds=1, callers=8)
    assert found["caught_inside"] == 1 and found["acknowledged"] > 0


def test_an_honest_primary_beside_other_work_stays() -> None:
    """Full load, and a core that something else keeps busy; with a timer that a crowded machine does not trip."""
    found = campaign.honest(4.0, cores=1, callers=32, view_timeout=2000)
    assert found["view_changes"] == 0 and found["unknown"] == 0


def test_a_backup_under_load_and_the_log_give_the_states_that_were_signed() -> None:
    """An older backup and the exported log lead to the newer backup, and a new cluster goes on from that one."""
    found = campaign.backup(4.0, callers=8)
    assert found["states_compared"] > 0 and found["counted_on_to"] > found["restored_counter"] > 0


def test_who_has_no_room_does_not_vote_and_comes_back_when_there_is_some() -> None:
    """One of four, then two: nothing is lost, what a quorum has room for is served, and nobody is started again."""
    try:
        found = campaign.disk_full(2.0, callers=8)
    except Refused as refusal:
        pytest.skip(str(refusal))
    assert found["acknowledged"] > 0 and found["incarnations"] == [0] * 4


def test_what_is_held_stops_growing_under_load_and_kills() -> None:
    """With little kept: in the last third no more than in the one before."""
    little = {"checkpoint_interval": 16, "log_window": 32, "durable_checkpoint_bytes": 1 << 16, "view_timeout": 2000}
    found = campaign.endurance(9.0, callers=16, every=2.0, retained_log_bytes=1 << 16, **little)
    assert found["kills"] > 2 and found["acknowledged"] <= found["counter"]


def test_nothing_happens_while_nothing_is_asked() -> None:
    """No view change, and nothing is ordered."""
    found = campaign.idle(3.0)
    assert found["view_changes"] == 0 and found["ordered_meanwhile"] == 0


@pytest.mark.scenario("F05")
@pytest.mark.parametrize("how", ["stop", "cut"])
def test_without_a_quorum_nothing_is_ordered_and_healed_it_goes_on(how: str) -> None:
    """Two of four stand still, or the cluster is split into halves; afterwards all are in one view."""
    found = campaign.no_quorum(4.0, how, callers=4)
    assert found["completed_without_quorum"] == 0


@pytest.mark.scenario("F19")
def test_far_apart_with_default_settings_nobody_is_replaced() -> None:
    """150 ms in each direction, on the links of clients, too, and losses."""
    found = campaign.wide_area(6.0, delay_ms=150, loss=0.002, callers=8)
    assert found["views"] == 0 and found["acknowledged"] > 0 and found["unknown"] == 0


def test_far_apart_as_the_kernel_does_it() -> None:
    """The same with `tc netem` in a network namespace of its own."""
    try:
        found = campaign.wide_area_netem(6.0, callers=8)
    except Refused as refusal:
        pytest.skip(str(refusal))
    assert found["views"] == 0 and found["acknowledged"] > 0 and found["unknown"] == 0


def test_a_client_whom_the_primary_ignores_is_served() -> None:
    """One view change, after which it is served as the others, who were served all the time."""
    found = campaign.fairness(rounds=1, callers=4)
    assert found["others_served_meanwhile"][0] > 0


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("equivocating-primary", marks=pytest.mark.scenario("G05")),
        pytest.param("doubling-primary", marks=pytest.mark.scenario("G13")),
        pytest.param("future-time", marks=pytest.mark.scenario("G25")),
    ],
)
def test_results_stay_right_under_a_misbehaving_primary(name: str) -> None:
    """Exactly once, equal digests; it is replaced, or does no harm."""
    found = campaign.adversary(name, 3.0, callers=8, liar=0)
    assert found["acknowledged"] > 0
    assert found["views"] >= 1 or name == "doubling-primary"


@pytest.mark.scenario("B06")
def test_a_lost_disk_is_survived_and_the_replica_votes_again() -> None:
    """Under load and idle; what was acknowledged is there, and the new incarnation's vote counts."""
    found = campaign.lost_disks(2, callers=8)
    assert sum(found["incarnations"]) >= 2 and found["acknowledged"] <= found["counter"]


def test_a_bit_that_flips_on_disk_is_noticed() -> None:
    """The replica knows what it knew, or says what is damaged; no start ends in a traceback."""
    found = campaign.bit_flips(60)
    assert sum(count for of_file in found["outcomes"].values() for count in of_file.values()) == 60
