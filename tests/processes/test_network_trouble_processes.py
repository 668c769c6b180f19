"""Links that split the group, fail in one direction, stall, flap; replicas that come and go. Section F."""

from __future__ import annotations

import itertools
import random
import sys

import pytest
import trio
from playing import Play, play

pytestmark = pytest.mark.slow


@pytest.mark.scenario("F06", "F16")
def test_an_isolated_backup_is_not_missed_and_catches_up_over_checkpoints() -> None:
    """The rest goes on through several checkpoints; nobody blames the primary."""

    async def act(p: Play) -> None:
        p.links.isolate(3)
        before = (await p.rows())[0]["stable_checkpoint"]
        with trio.fail_after(30):
            while (await p.rows())[0]["stable_checkpoint"] < before + 3 * 8:
                await p.progress(50)
        p.links.heal()

    small = {"checkpoint_interval": 8, "log_window": 16, "retained_log_bytes": 1 << 16}
    assert play(act, view_timeout=2000, **small)[0]["view"] == 0


@pytest.mark.scenario("F14")
def test_each_link_fails_in_one_direction_in_turn() -> None:
    """There are operations meanwhile, every time."""

    async def act(p: Play) -> None:
        for way in itertools.permutations(range(4), 2):
            p.links.rules[way].stopped = True
            await p.progress(20)
            p.links.heal()

    play(act)


@pytest.mark.scenario("F15")
def test_a_bridge_between_two_halves_and_a_ring_of_majorities() -> None:
    """n = 7, of which no five know each other: nothing that is wrong; afterwards everything goes on."""

    async def act(p: Play) -> None:
        pairs = list(itertools.combinations(range(7), 2))
        bridge = [(a, b) for a, b in pairs if a < 3 < b]  # 3 knows everybody
        ring = [(a, b) for a, b in pairs if min(b - a, 7 - b + a) > 2]  # each knows the two on either side
        for cut in (bridge, ring):
            for a, b in cut:
                p.links.rules[a, b].stopped = p.links.rules[b, a].stopped = True
            await trio.sleep(2.0)
            p.links.heal()
            await p.progress()

    play(act, replicas=7)


@pytest.mark.scenario("F07")
def test_links_that_stall_now_and_then() -> None:
    """Each direction for up to a second, a third of the time: slower, and nothing else."""

    async def stall(p: Play, way: tuple[int, int], rng: random.Random) -> None:
        while True:
            await trio.sleep(rng.uniform(0.0, 2.0))
            p.links.rules[way].stopped = True
            await trio.sleep(rng.uniform(0.0, 1.0))
            p.links.rules[way].stopped = False

    async def act(p: Play) -> None:
        async with trio.open_nursery() as nursery:
            for way in p.links.rules:
                nursery.start_soon(stall, p, way, random.Random(str(way)))
            for _ in range(5):
                await p.progress(20)
            nursery.cancel_scope.cancel()
        p.links.heal()

    play(act)


@pytest.mark.scenario("F09")
def test_links_that_break_again_and_again() -> None:
    """All of them, every half second: what was lost with them is said again, and no file descriptor stays open."""

    async def act(p: Play) -> None:
        before = [p.descriptors(i) for i in range(4)]
        rng = random.Random(1)
        for _ in range(8):
            p.links.refusing = True
            await p.links.break_all()
            await trio.sleep(rng.uniform(0.05, 0.3))
            p.links.refusing = False
            await trio.sleep(0.3)
        await p.progress()
        with trio.fail_after(10):
            while not all(r["connected_peers"] == 3 for r in await p.rows()):
                await trio.sleep(0.05)
            while any(p.descriptors(i) > before[i] + 4 for i in range(4)):
                await trio.sleep(0.05)

    play(act)


@pytest.mark.scenario("F18")
def test_a_backup_that_comes_and_goes_disturbs_nobody() -> None:
    """n = 7: killed and started again three times; the view stays."""

    async def act(p: Play) -> None:
        for _ in range(3):
            await p.kill(5)
            await p.progress(50)
            p.children.start(5)
            await p.progress(50)

    assert play(act, replicas=7, view_timeout=2000)[0]["view"] == 0


@pytest.mark.scenario("I07")
def test_the_log_of_a_stalled_cluster_says_who_is_missing() -> None:
    """Two of four are dead: a survivor's log names both, and `pbft why` says that there is no quorum, and in which
    view."""

    async def act(p: Play) -> None:
        for replica in (0, 3):
            await p.kill(replica)
        await trio.sleep(3.0)
        said = p.children.log_file(1).read_text()
        assert all(f"replica {replica} is down" in said for replica in (0, 3)), said
        command = [sys.executable, "-m", "pbft", "why", str(p.config.path)]
        why = (await trio.run_process(command, capture_stdout=True, check=False)).stdout.decode()
        assert "Only 2 of 4 replicas can vote and 3 are needed" in why, why
        assert "view 1" in why and all(f"Replica {replica} does not answer" in why for replica in (0, 3)), why
        for replica in (0, 3):
            p.children.start(replica)

    play(act)
