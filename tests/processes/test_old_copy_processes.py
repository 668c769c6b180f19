"""A data directory that is put back from a copy: found out by asking, before any vote. Rule 1.7 d."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import trio
from campaigns.common import Load, cluster, look, progress, settle, start, total, voting

from pbft.cli.children import Children
from pbft.config_file import ClusterConfig

pytestmark = pytest.mark.slow


async def _rolled_back(config: ClusterConfig, children: Children, copy: Path) -> list[str]:
    """Run on from the copy; what the replica has said."""
    load = Load()
    data = config.data_directory(3)
    async with load.running(config, 8):
        await progress(load, 300, 20)
        await trio.to_thread.run_sync(shutil.copytree, data, copy)
        await progress(load, 1500, 30)
        await trio.sleep(1.5)
        children.kill(3)
        shutil.rmtree(data)
        shutil.copytree(copy, data)
        children.start(3)
        await voting(config, 3, 30)
        assert (await look(config))[3]["incarnation"] == 1
        children.kill(2)  # from here on nothing is ordered without its vote
        await progress(load, 200, 20)
        children.start(2)
        await voting(config, 2, 30)
        await load.end(20)
    load.check(await total(config))
    await settle(config)
    return children.log_file(3).read_text().splitlines()


@pytest.mark.scenario("B05", "I14")
def test_a_replica_on_an_old_copy_of_its_directory_recovers_before_it_votes(tmp_path: Path) -> None:
    """It catches up, votes in a new incarnation, and its vote counts; every operation counts once."""
    with cluster() as config, Children(config) as children:
        start(children)
        said = trio.run(_rolled_back, config, children, tmp_path / "copy")
    assert any("is an old copy" in line for line in said) or any("has recovered" in line for line in said)
