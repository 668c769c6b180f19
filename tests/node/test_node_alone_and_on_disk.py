"""Real replicas: what they leave on disk, and what they say when they are cut off."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import pytest
import trio
from node_cluster import NodeCluster, running

from pbft.apps.kv import put
from pbft.cli.status import ask_all, render
from pbft.client import Client, RequestTimeout
from pbft.messages import Prepare, encode
from pbft.storage.data_directory import DataDirectory

pytestmark = pytest.mark.slow

SEGMENT = 1 << 18


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log files that are turned over after a quarter of a megabyte instead of sixteen."""
    real = DataDirectory.open_log
    monkeypatch.setattr(DataDirectory, "open_log", lambda self: real(self, segment_bytes=SEGMENT))


def on_disk(cluster: NodeCluster) -> int:
    """Bytes of the largest data directory."""
    found = []
    for replica in cluster.nodes:
        total = 0
        for path in cluster.config.data_directory(replica).iterdir():
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                continue  # it was removed this moment
        found.append(total)
    return max(found)


@pytest.mark.scenario("D02")
async def test_the_data_directory_is_bounded_by_state_and_windows(small_segments: None, tmp_path: Path) -> None:
    """With a state of a fixed size many times that is written; the disk holds the retained log, and a few states."""
    value, keys, writers = bytes(8000), 8, 16
    retained = {"retained_log_bytes": 1 << 17, "durable_checkpoint_bytes": 1 << 18}
    async with running(tmp_path, {"checkpoint_interval": 4, "log_window": 8, **retained}) as cluster:
        written = largest = 0

        async def write(client: Client, number: int) -> None:
            nonlocal written
            while written < 6 << 20:
                await client.invoke(put(b"%d" % (number % keys), value))
                written += len(value)

        async def measure() -> None:
            nonlocal largest
            while True:
                largest = max(largest, on_disk(cluster))
                await trio.sleep(0.02)

        async with Client.connect(cluster.config, name="alice") as client, trio.open_nursery() as measuring:
            measuring.start_soon(measure)
            async with trio.open_nursery() as writing:
                for number in range(writers):
                    writing.start_soon(write, client, number)
            measuring.cancel_scope.cancel()
        assert largest < 3 << 20 <= written // 2, "of it a megabyte is ahead of its use, and one a reserve"


@pytest.mark.scenario("I06")
async def test_a_replica_that_is_cut_off_says_so(tmp_path: Path) -> None:
    """Left alone under load it keeps its requests, tells how many peers it has, and is not shown as up; the one that
    stays behind is seen beside the others."""
    async with running(tmp_path) as cluster:
        group = cluster.config.group

        async def states() -> list[str]:
            rows = await trio.to_thread.run_sync(ask_all, cluster.config, 1.0)
            return [re.split("  +", line)[1] for line in render(rows, group).splitlines()[1:5]]

        async with Client.connect(cluster.config, name="alice") as client:
            await client.invoke(put(b"a", b"1"))
            assert await states() == ["up"] * 4
            await cluster.nodes[3].stop()
            await client.invoke(put(b"a", b"2"))
            assert await states() == ["up", "up", "up", "unreachable"]
            for replica in (1, 2):
                await cluster.nodes[replica].stop()
            await cluster.until(lambda: cluster.status(0)["connected_peers"] == 0)
            with pytest.raises(RequestTimeout):
                await client.invoke(put(b"a", b"3"), timeout=0.5)
            assert await states() == ["cut off", "unreachable", "unreachable", "unreachable"]
            said = cluster.status(0)
            assert said["last_executed"] == 3 and (said["view"], said["primary"]) == (0, 0)


@pytest.mark.scenario("G18", "F21")
async def test_a_liar_does_not_fill_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Evidence of one kind against one replica is a line now and then, however often it comes; others are not held
    back."""
    async with running(tmp_path) as cluster:
        node = cluster.nodes[0].node
        with caplog.at_level(logging.INFO):
            for number in range(10_000):
                node.host.receive(3, encode(Prepare(0, 5, number.to_bytes(32, "big"))))
                node.host.flush()
            node.host.receive(2, encode(Prepare(0, 5, b"x" * 32)))
            node.host.receive(2, encode(Prepare(0, 5, b"y" * 32)))
            node.host.flush()
        lines = [record.getMessage() for record in caplog.records if "equivocation by" in record.getMessage()]
        assert len(lines) == 2 and "by 3" in lines[0] and "by 2" in lines[1]
        assert cluster.status(0)["counters"]["3:equivocation"] == 9_999  # type: ignore[index]
