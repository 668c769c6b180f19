"""A node whose log can be written no more: it says so, votes for nothing, and begins anew from what it can trust."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio
from node_cluster import NodeCluster, running

from pbft import disk_watch
from pbft.apps.kv import get, put
from pbft.client import Client
from pbft.disk_watch import RESERVE, has_room, release, reserve
from pbft.storage.errors import LogFailed
from pbft.storage.wal import Wal


class BadDisk:
    """What the log of one node does at its next write."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wal: Wal | None = None
        self.code = 0
        write = Wal.write_group

        def write_group(wal: Wal, records: list[bytes]) -> int:
            if wal is self.wal:
                raise OSError(self.code, os.strerror(self.code))
            return write(wal, records)

        monkeypatch.setattr(Wal, "write_group", write_group)

    def fail(self, cluster: NodeCluster, replica: int, code: int) -> None:
        self.code = code
        self.wal = cluster.nodes[replica].node._started.log.wal  # type: ignore[attr-defined]


async def replaced(cluster: NodeCluster, replica: int) -> None:
    """As its process does: the life that is over is closed without its last records, another one begins."""
    found = cluster.nodes[replica]
    await found.stop()
    assert not found.node.close(), "not everything reached the disk"
    found.node.disk.end()
    await cluster.restart(replica)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EMFILE])
async def test_without_room_it_waits_and_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Meanwhile the others go on, and it answers for nothing; afterwards its vote counts."""
    room = False
    monkeypatch.setattr(disk_watch, "LOOK", 0.05)
    monkeypatch.setattr(disk_watch, "has_room", lambda folder: room)
    disk = BadDisk(monkeypatch)
    async with running(tmp_path) as cluster, Client.connect(cluster.config, name="alice") as client:
        await client.invoke(put(b"a", b"1"))
        folder = cluster.config.data_directory(3)
        await cluster.until((folder / RESERVE).exists)
        disk.fail(cluster, 3, code)
        await client.invoke(put(b"a", b"2"))
        await cluster.until(lambda: bool(cluster.status(3)["halted"]))
        said = str(cluster.status(3)["halted"])
        assert os.strerror(code) in said and str(folder) in said and cluster.status(3)["recovering"]
        await cluster.until(lambda: not (folder / RESERVE).exists())
        await client.invoke(put(b"a", b"3"))
        node = cluster.nodes[3].node
        await trio.sleep(0.3)
        assert not node.again.is_set()
        room = True
        with trio.fail_after(5):
            await node.again.wait()
        disk.wal = None
        await replaced(cluster, 3)
        await cluster.until((folder / RESERVE).exists)
        await cluster.until(lambda: not cluster.status(3)["halted"])
        await cluster.halt(1)
        await client.invoke(put(b"a", b"4"))  # only with its vote
        assert await client.query(get(b"a")) == b"\x014"


@pytest.mark.scenario("I12")
async def test_a_disk_that_failed_is_not_trusted_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It votes no more and the process ends with the reason; started again it reads what is there, and votes."""
    disk = BadDisk(monkeypatch)
    async with running(tmp_path) as cluster, Client.connect(cluster.config, name="alice") as client:
        await client.invoke(put(b"a", b"1"))
        disk.fail(cluster, 2, errno.EIO)
        await client.invoke(put(b"a", b"2"))
        node = cluster.nodes[2].node
        with trio.fail_after(5):
            await node.again.wait()
        assert "repair it" in str(node.status()["halted"])
        with pytest.raises(LogFailed, match="Input/output error"):
            node.disk.end()
        await cluster.nodes[2].stop()
        node.close()
        disk.wal = None
        await cluster.restart(2)
        await cluster.until(lambda: not cluster.status(2)["halted"])
        await cluster.halt(3)
        await client.invoke(put(b"a", b"3"))
        assert await client.query(get(b"a")) == b"\x013"


def test_the_reserve_is_kept_given_up_and_kept_again(tmp_path: Path) -> None:
    """And looking for room leaves nothing behind."""
    reserve(tmp_path)
    assert (tmp_path / RESERVE).stat().st_size == disk_watch.RESERVE_BYTES
    release(tmp_path)
    release(tmp_path)
    assert has_room(tmp_path) and not list(tmp_path.iterdir())
    assert not has_room(tmp_path / "absent")
    reserve(tmp_path / "absent")
    reserve(tmp_path)
    (tmp_path / RESERVE).write_bytes(b"short")
    reserve(tmp_path)
    assert (tmp_path / RESERVE).stat().st_size == disk_watch.RESERVE_BYTES
