"""Primaries that die, stand still, or are cut off, as real processes with sockets and disks."""

from __future__ import annotations

import signal

import pytest
import trio
from campaigns.common import Load, Row, cluster, look, settle, start, total
from links import Links
from playing import Play, play

from pbft.cli.children import Children

pytestmark = pytest.mark.slow


@pytest.mark.scenario("A01")
def test_a_primary_that_is_killed_is_replaced_and_comes_back() -> None:
    """Requests in flight are answered in the next view; the old primary follows when it is back."""

    async def act(p: Play) -> None:
        await p.kill(0)
        await p.progress()
        p.children.start(0)

    assert play(act)[0]["view"] >= 1


@pytest.mark.scenario("A03")
def test_two_primaries_in_a_row_are_dead() -> None:
    """n = 7: the group passes over both."""

    async def act(p: Play) -> None:
        await p.kill(0)
        await p.kill(1)

    assert play(act, replicas=7, missing=(0, 1))[0]["view"] >= 2


def test_a_primary_that_stands_still_is_replaced_and_follows_when_it_goes_on() -> None:
    """SIGSTOP and SIGCONT: it blames nobody for its own sleep."""

    async def act(p: Play) -> None:
        p.signal(0, signal.SIGSTOP)
        await p.progress()
        p.signal(0, signal.SIGCONT)

    assert play(act)[0]["view"] >= 1


@pytest.mark.scenario("A07")
def test_a_total_cut_in_the_middle_of_a_view_change_heals_by_itself() -> None:
    """The primary dies, nothing passes for two timeouts, links come back: VIEW-CHANGEs are sent again."""

    async def act(p: Play) -> None:
        await p.kill(0)
        p.links.refusing = True
        await p.links.break_all()
        await trio.sleep(1.5)
        p.links.heal()

    play(act, missing=(0,))


def test_a_primary_whose_words_do_not_come_out_is_replaced() -> None:
    """A one-way cut: it hears everybody, and nobody hears it."""

    async def act(p: Play) -> None:
        p.links.isolate(0, incoming=False)
        await p.progress()
        p.links.heal()

    assert play(act)[0]["view"] >= 1


@pytest.mark.scenario("A10")
def test_an_isolated_backup_disturbs_nobody() -> None:
    """It suspects, alone, and goes on when it is back: the view stays."""

    async def act(p: Play) -> None:
        p.links.isolate(3)
        await p.progress(300)
        await trio.sleep(2.0)
        p.links.heal()

    assert play(act)[0]["view"] == 0


def test_killed_again_and_again_during_view_changes() -> None:
    """Whoever becomes primary is killed at once and comes back with its disk; in the end all agree."""

    async def act(p: Play) -> None:
        for _ in range(3):
            victim = await p.primary()
            await p.kill(victim)
            await p.progress(20)
            p.children.start(victim)

    assert play(act)[0]["view"] >= 3


@pytest.mark.scenario("A02")
def test_an_idle_cluster_whose_primary_died_serves_the_next_request() -> None:
    """No view runs away while nothing is asked; the first request brings the next primary."""
    with cluster(view_timeout=500) as config, Children(config) as children:
        start(children)
        children.kill(0)

        async def wait_and_ask() -> list[Row]:
            await trio.sleep(2.5)
            rows = await look(config)
            assert all(r["view"] <= 1 for r in rows if r["reachable"]), rows
            assert await total(config) == 0
            return await settle(config, 15.0, (1, 2, 3))

        rows = trio.run(wait_and_ask)
    assert {r["view"] for r in rows if r["id"]} == {1}


def test_a_primary_that_stops_in_order_resigns_first() -> None:
    """SIGTERM: the next primary takes over at once, not after a timeout of ten minutes."""
    with cluster(view_timeout=600_000, view_timeout_max=600_000) as config, Children(config) as children:
        start(children)

        async def stop_and_ask() -> None:
            load = Load()
            async with load.running(config, 4, timeout=60.0):
                p = Play(config, children, Links(config, 1), load)
                await p.progress()
                p.signal(0, signal.SIGTERM)
                await p.progress()
            load.check(await total(config))

        trio.run(stop_and_ask)
