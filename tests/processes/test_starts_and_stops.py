"""How replicas end and begin: in order under load, late, alone, beside what a crash left, with a log cut short."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import trio
from campaigns.common import Load, calm, cluster, look, progress, settle, start, total, voting

from pbft.apps.counter import inc
from pbft.cli.children import Children
from pbft.client import Client
from pbft.config_file import ClusterConfig
from pbft.storage.data_directory import identity_of
from pbft.storage.files import RealDirectory
from pbft.storage.segments import SegmentReader, read_header, segment_names

pytestmark = pytest.mark.slow


async def _each_in_turn(config: ClusterConfig, children: Children) -> None:
    load = Load()
    async with load.running(config, 16):
        await progress(load, 200, 20)
        for replica in range(4):
            os.kill(children.pid(replica), signal.SIGTERM)
            with trio.fail_after(10):
                while replica not in children.dead():
                    await trio.sleep(0.02)
            assert children.dead()[replica] == 0
            children.start(replica)
            await voting(config, replica, 20)
            await progress(load, 100, 20)
        await load.end(20)
    load.check(await total(config))
    await settle(config)


@pytest.mark.scenario("B19")
def test_each_replica_ends_in_order_under_load() -> None:
    """Exit code 0, no traceback, nothing to be mended at the next start; also without anybody to talk to."""
    with cluster() as config, Children(config) as children:
        start(children)
        trio.run(_each_in_turn, config, children)
        logs = [children.log_file(i).read_text() for i in range(4)]
        for replica in (1, 2, 3):
            children.kill(replica)
        os.kill(children.pid(0), signal.SIGTERM)
        children._processes[0].wait(10)
        assert children.dead()[0] == 0
    for text in logs:
        assert "Traceback" not in text and "torn tail" not in text and "not everything reached the disk" not in text


async def _late(config: ClusterConfig, children: Children) -> float:
    async with Client.connect(config, name="alice") as client, trio.open_nursery() as nursery:
        done = trio.Event()

        async def ask() -> None:
            assert await client.invoke(inc(), timeout=60.0) == b"1"
            done.set()

        nursery.start_soon(ask)
        await trio.sleep(4)
        assert not done.is_set()
        children.start(4)
        begun = trio.current_time()
        with trio.fail_after(30):
            await done.wait()
        took = trio.current_time() - begun
        for replica in (5, 6):
            children.start(replica)
        await settle(config, 30)
        return took


@pytest.mark.scenario("B21")
def test_the_fifth_of_seven_makes_the_quorum() -> None:
    """Four of seven are there, and a client asks again and again; when the fifth starts the first write is done."""
    with cluster(7) as config, Children(config) as children:
        for replica in range(4):
            children.start(replica)
        assert trio.run(_late, config, children) < 30


async def _counted(config: ClusterConfig, operations: int) -> None:
    load = Load()
    async with load.running(config, 8):
        await progress(load, operations, 30)
        await load.end(20)
    await settle(config)


@pytest.mark.scenario("B23")
def test_one_alone_shows_what_its_own_log_says() -> None:
    """Before any other is there."""
    with cluster() as config:
        with Children(config) as children:
            start(children)
            trio.run(_counted, config, 300)
            executed = trio.run(look, config)[2]["last_executed"]
        with Children(config) as children:
            children.start(2)

            async def own() -> int:
                with trio.fail_after(15):
                    while not (row := (await look(config))[2])["reachable"]:
                        await trio.sleep(0.05)
                return int(row["last_executed"])

            assert trio.run(own) >= executed > 0


@pytest.mark.scenario("B24")
def test_what_a_crash_left_of_checkpoints_is_passed_over() -> None:
    """Temporary files, an empty and a cut one under newer names: said once, removed, and the whole one is used."""
    with cluster(checkpoint_interval=8, log_window=16, durable_checkpoint_interval=1) as config:
        folder = config.data_directory(1)
        with Children(config) as children:
            start(children)
            trio.run(_counted, config, 2000)
            trio.run(trio.sleep, 1.2)
            trio.run(_counted, config, 500)
        whole = max(folder.glob("checkpoint-*"))
        number = int(whole.name[-20:])
        (folder / f"checkpoint-{number + 8:020d}").write_bytes(b"")
        (folder / f"checkpoint-{number + 16:020d}").write_bytes(whole.read_bytes()[:-30])
        (folder / f"checkpoint-{number + 24:020d}.tmp").write_bytes(b"half")
        with Children(config) as children:
            start(children)
            trio.run(calm, config)
            trio.run(_counted, config, 100)
            row = trio.run(look, config)[1]
            text = children.log_file(1).read_text()
        assert row["incarnation"] == 0 and not row["recovering"]
        assert len(re.findall("was never completed", text)) == 2
        assert [p for p in folder.glob("checkpoint-*") if p.stat().st_size == 0 or p.suffix] == []


def cut_records(folder: Path, records: int) -> int:
    """Take the last groups of at least so many records off a log at rest; how many records that were."""
    directory = RealDirectory(folder, create=False)
    identity = identity_of(directory)
    assert identity is not None
    name = segment_names(directory)[-1]
    reader = SegmentReader(directory, name, read_header(directory, name, identity.cluster, identity.replica))
    ends = [(reader.offset, reader.position)]
    ends.extend((reader.offset, reader.position) for _ in reader.groups())
    offset, position = next((o, p) for o, p in reversed(ends) if ends[-1][1] - p >= records)
    with (folder / name).open("r+b") as file:
        file.truncate(offset)
    return ends[-1][1] - position


@pytest.mark.scenario("B07")
def test_a_log_that_lost_its_last_records_is_found_out_and_mended() -> None:
    """Nothing in the file shows it. The others have seen more of this replica than it remembers, and say so."""
    with cluster() as config:
        with Children(config) as children:
            start(children)
            trio.run(_counted, config, 500)
            trio.run(trio.sleep, 1.5)
        assert cut_records(config.data_directory(3), 20) >= 20
        with Children(config) as children:
            children.start_all()
            trio.run(voting, config, 3, 20)
            row = trio.run(look, config)[3]
            trio.run(_counted, config, 100)
            assert row["incarnation"] == 1
            assert "old copy" in children.log_file(3).read_text()
