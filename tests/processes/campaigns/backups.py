"""Backups and exported logs of a cluster under load; another set of replicas that is made of them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import trio

from campaigns.common import Load, Row, cluster, free_ports, settle, start, total
from pbft.cli.children import Children
from pbft.config_file import ClusterConfig


def pbft(*words: object) -> Row:
    """One command, with `--json`; what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "pbft", *map(str, words)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, (words, done.returncode, done.stderr)
    return json.loads(done.stdout) if "--json" in words else {"said": done.stdout}


async def _pbft(*words: object) -> Row:
    return await trio.to_thread.run_sync(lambda: pbft(*words))


def backup(seconds: float, callers: int = 32) -> Row:
    """An older and a newer backup under load, with the log exported beside; the older one and the log give each state
    that was signed; a cluster that is made of the newer one counts on from it."""
    with cluster() as config, tempfile.TemporaryDirectory(prefix="pbft-test-") as folder:
        with Children(config) as children:
            start(children)
            found = trio.run(_under_load, config, Path(folder), seconds, callers)
        log, older = Path(folder) / "log", Path(folder) / "older"
        replayed = pbft("replay", "--json", config.path, log, "--from", older)
        assert replayed["compared"] > 0 and not replayed["differing"], replayed
        found |= {"replayed_batches": replayed["ended"] - replayed["began"], "states_compared": replayed["compared"]}
        return found | _restored(Path(folder) / "newer", Path(folder) / "again", found.pop("counter_at_newer"))


async def _under_load(config: ClusterConfig, folder: Path, seconds: float, callers: int) -> Row:
    load = Load()
    async with load.running(config, callers):
        follower = await trio.lowlevel.open_process(
            [sys.executable, "-m", "pbft", "log", "export", "--follow", str(config.path), str(folder / "log")]
        )
        await trio.sleep(1)
        rates = [await _rate(load, trio.sleep, seconds / 2)]
        begun = trio.current_time()
        older: Row = {}

        async def take() -> None:
            older.update(await _pbft("backup", "--json", config.path, folder / "older"))

        rates.append(await _rate(load, take))
        took = trio.current_time() - begun
        await trio.sleep(seconds / 2)
        newer = await _pbft("backup", "--json", config.path, folder / "newer")
        await trio.sleep(1)
        await load.end(20)
    load.check(await total(config))
    await settle(config)
    follower.terminate()
    await follower.wait()
    for file in ("older", "newer"):
        verified = await _pbft("backup", "verify", "--json", "--cluster", config.path, folder / file)
        assert verified["digest"] == (older if file == "older" else newer)["digest"]
    words = ("--from", folder / "older", "--until", newer["number"])
    at = await _pbft("replay", "--json", config.path, folder / "log", *words)
    assert at["digest"] == newer["digest"], "the older backup and the log give another state than the newer backup"
    return {
        "acknowledged": load.acknowledged,
        "unknown": load.unknown,
        "backup_s": round(took, 2),
        "rate_meanwhile": round(rates[1] / rates[0], 2),
        "older": older["number"],
        "newer": newer["number"],
        "backup_bytes": newer["bytes"],
        "counter_at_newer": _counter(folder / "newer"),
    }


async def _rate(load: Load, action: Any, *arguments: object) -> float:
    done, begun = load.acknowledged, trio.current_time()
    await action(*arguments)
    return (load.acknowledged - done) / (trio.current_time() - begun)


def _counter(file: Path) -> int:
    from pbft.backup import read_backup

    [(_, value)] = read_backup(file).state.spaces[0].checkpoint().items()
    return int(value)


def _restored(file: Path, folder: Path, counter: int) -> Row:
    """A new cluster of it; its counter goes on from there."""
    pbft("restore", file, folder, "--base-port", free_ports(8), "--client", "alice", "--client", "bob")
    config = ClusterConfig.load(folder / "cluster.toml")
    with Children(config) as children:
        start(children)
        found = trio.run(_counted, config)
    assert found[0] == counter and found[1] > counter, (found, counter)
    return {"restored_counter": found[0], "counted_on_to": found[1]}


async def _counted(config: ClusterConfig) -> tuple[int, int]:
    begun = await total(config)
    load = Load()
    async with load.running(config, 8):
        await trio.sleep(2)
        await load.end(20)
    await settle(config)
    ended = await total(config)
    assert ended == begun + load.acknowledged
    return begun, ended
