"""Disks that are full for a time, each a file system of its own in memory that is mounted for it."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import trio

from campaigns.common import Load, Row, cluster, look, progress, settle, start, total, voting
from campaigns.distance import Refused
from campaigns.filled import pad
from campaigns.transfers import APP
from pbft.cli.children import Children
from pbft.client import Client
from pbft.config_file import ClusterConfig

SIZE = 160 << 20
_FILLER = "filler"


@contextlib.contextmanager
def mounted(folder: Path, size: int) -> Iterator[None]:
    """A file system of so many bytes there. Raises Refused where this machine does not let one be mounted."""
    folder.mkdir(parents=True, mode=0o700)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Refused(f"no file system can be mounted here: {getattr(error, 'stderr', '') or error}") from None
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> int:
    """Leave not a byte; how many that took."""
    written = 0
    piece = bytes(1 << 16)
    descriptor = os.open(folder / _FILLER, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            try:
                written += os.write(descriptor, piece)
            except OSError:
                if len(piece) == 1:
                    return written
                piece = piece[: len(piece) // 16]
    finally:
        os.close(descriptor)


async def _said(config: ClusterConfig, replica: int, seconds: float) -> str:
    """What it says once it does not vote any more; the logs grow quickly until then."""
    row: Row = {}

    async def press(client: Client) -> None:
        while True:
            await client.invoke(pad(1 << 16), timeout=seconds)

    async with Client.connect(config, name="bob") as client, trio.open_nursery() as nursery:
        nursery.start_soon(press, client)
        with trio.fail_after(seconds):
            while not (row := (await look(config))[replica])["halted"]:
                await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    return str(row["halted"])


async def _rate(load: Load, seconds: float) -> float:
    first = load.acknowledged
    await trio.sleep(seconds)
    return (load.acknowledged - first) / seconds


def disk_full(seconds: float, callers: int = 32) -> Row:
    """First one replica's disk is full, then those of two of four, under load; each time room comes back after so many
    seconds, and they vote again by themselves, in the same processes. Nothing that was acknowledged is lost."""

    async def play(config: ClusterConfig, children: Children) -> Row:
        load = Load()
        folders = {i: config.data_directory(i) for i in (2, 3)}
        pids = [children.pid(i) for i in range(4)]
        async with load.running(config, callers, timeout=120.0):
            await progress(load, 500, 30)
            before = await _rate(load, seconds)
            fill(folders[3])
            said = await _said(config, 3, 30)
            meanwhile = await _rate(load, seconds)
            (folders[3] / _FILLER).unlink()
            back = [await voting(config, 3, 30)]
            await progress(load, 200, 30)
            for replica, folder in folders.items():
                fill(folder)
                await _said(config, replica, 30)
            stopped = load.acknowledged
            await trio.sleep(seconds)
            served_without = load.acknowledged - stopped
            for folder in folders.values():
                (folder / _FILLER).unlink()
            back += [await voting(config, replica, 60) for replica in folders]
            await progress(load, 500, 60)
            await load.end(60)
        rows = await settle(config)
        counted = await total(config)
        load.check(counted)
        assert "No space left" in said and str(folders[3]) in said, said
        assert not any(row["halted"] for row in rows), rows
        assert not served_without, "two of four cannot have ordered anything"
        assert [children.pid(i) for i in range(4)] == pids, "none was started again"
        return {
            "acknowledged": load.acknowledged,
            "unknown": load.unknown,
            "counter": counted,
            "rate_with_one_full": round(meanwhile / before, 2),
            "served_with_two_full": served_without,
            "votes_again_s": [round(s, 1) for s in back],
            "incarnations": [row["incarnation"] for row in rows],
            "said": said,
        }

    with contextlib.ExitStack() as stack:
        config = stack.enter_context(cluster(app=APP))
        for replica in (2, 3):
            stack.enter_context(mounted(config.data_directory(replica), SIZE))
        children = stack.enter_context(Children(config))
        start(children)
        return trio.run(play, config, children)
