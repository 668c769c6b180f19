"""States that come from others while something else goes wrong, too."""

from __future__ import annotations

import itertools
import shutil

import campaign
import pytest
import trio
from campaigns.losses import recovered
from campaigns.transfers import APP, filled
from playing import Play, play

pytestmark = pytest.mark.slow

OFTEN = {"checkpoint_interval": 8, "log_window": 16, "transfer_rate": 8}


@pytest.mark.scenario("C08", "C12")
@pytest.mark.parametrize("liar", ["lying-status", "signed-false-checkpoints"])
def test_a_lost_state_comes_back_although_one_source_lies(liar: str) -> None:
    """Roots and pieces that are wrong or never come; states far ahead that nobody has. Reads never go back."""
    found = campaign.lost_state(4, liar=liar, callers=8, seconds=1.0, **OFTEN)
    assert found["incarnations"][3] == 1


@pytest.mark.scenario("C05")
def test_who_is_killed_while_it_fetches_goes_on_where_it_was() -> None:
    """Three times, or until it has all."""
    found = campaign.lost_state(16, kills=3, callers=8, seconds=1.0, **OFTEN)
    assert found["fetched_over_state"] < 1.3 and found["incarnations"][3] == 1


async def wipe(p: Play, *replicas: int) -> None:
    """They lose their disks, all at once, and start."""
    for replica in replicas:
        await p.kill(replica)
    for replica in replicas:
        shutil.rmtree(p.config.data_directory(replica))
        p.children.start(replica)


@pytest.mark.scenario("C15")
def test_primaries_die_while_a_state_travels() -> None:
    """n = 7: two in turn; the others agree on new views, and the one that fetches joins the newest."""

    async def act(p: Play) -> None:
        await filled(p.config, 10_000)
        await wipe(p, 6)
        for _ in range(2):
            primary = await p.primary()
            await p.kill(primary)
            await p.progress(50)
            p.children.start(primary)
            await p.progress(50)
        await recovered(p.config, 6)

    assert play(act, replicas=7, app=APP)[0]["view"] >= 2


@pytest.mark.scenario("C16")
def test_as_many_as_may_fail_fetch_at_once() -> None:
    """n = 7, two of them; there are operations all the time."""

    async def act(p: Play) -> None:
        await filled(p.config, 10_000)
        await wipe(p, 5, 6)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(p.progress, 200)
            for replica in (5, 6):
                nursery.start_soon(recovered, p.config, replica)

    rows = play(act, replicas=7, app=APP, view_timeout=2000)
    assert [row["incarnation"] for row in rows] == [0, 0, 0, 0, 0, 1, 1]


@pytest.mark.scenario("B08", "B09")
def test_kills_close_to_checkpoints_change_nothing() -> None:
    """What is executed again gives the same states; nothing is taken for lost. The big campaign does it 300 times."""
    found = campaign.kill_one(rounds=6)
    assert found["acknowledged"] > 0


@pytest.mark.scenario("D07")
def test_the_window_fills_while_only_the_primary_reaches_the_others() -> None:
    """Backups are cut off from each other, so nothing prepares; healed, it goes on; then the primary dies. Twice."""

    async def act(p: Play) -> None:
        for _ in range(2):
            primary = await p.primary()
            backups = [i for i in range(4) if i != primary]
            for a, b in itertools.permutations(backups, 2):
                p.links.rules[a, b].stopped = True
            await trio.sleep(1.0)
            p.links.heal()
            await p.progress(50)
            primary = await p.primary()
            await p.kill(primary)
            await p.progress(50)
            p.children.start(primary)
            await p.progress(50)

    assert play(act, log_window=16, checkpoint_interval=8)[0]["view"] >= 2
