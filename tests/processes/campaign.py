"""Campaigns on real processes, sockets and disks: small ones run in the test suite, big ones from the command line.

python tests/processes/campaign.py kill-all --rounds 20
python tests/processes/campaign.py backup-gone --seconds 10 --callers 64
python tests/processes/campaign.py adversary --name flooding --seconds 60
python tests/processes/campaign.py strangers --idle 2000 --seconds 10
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from pbft.apps.counter import get, inc
from pbft.cli.children import Children
from pbft.cli.status import ask_all
from pbft.client import Client, ClientError
from pbft.config_file import ClusterConfig, write_cluster

Row = dict[str, Any]


def free_ports(count: int) -> int:
    """A base of consecutive free ports, below those that the kernel gives to outgoing connections."""
    start = 10000 + os.getpid() % 300 * 50
    for base in range(start, 32000, 50):
        probes = []
        try:
            for port in range(base, base + count):
                probe = socket.socket()
                probes.append(probe)
                probe.bind(("127.0.0.1", port))
            return base
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
    raise RuntimeError("no free ports")


@contextmanager
def cluster(replicas: int = 4, app: str = "counter", **tunables: int) -> Iterator[ClusterConfig]:
    """A fresh cluster in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="pbft-test-") as folder:
        yield write_cluster(
            Path(folder) / "c",
            replicas=replicas,
            app=app,
            base_port=free_ports(2 * replicas),
            clients=("alice", "bob"),
            tunables=tunables,
        )


def start(children: Children) -> list[Row]:
    """Start everything and wait until it is ready."""
    children.start_all()
    rows = children.wait_ready(20)
    assert rows is not None, [children.last_words(i) for i in range(4)]
    return rows


@dataclass
class Load:
    """Callers that count, and what they were told."""

    results: list[int] = field(default_factory=list)
    unknown: int = 0
    outvoted: dict[int, int] = field(default_factory=dict)

    @property
    def acknowledged(self) -> int:
        return len(self.results)

    async def call(self, client: Client, timeout: float) -> None:
        while True:
            self.unknown += 1
            try:
                self.results.append(int(await client.invoke(inc(), timeout=timeout)))
            except ClientError:
                continue
            self.unknown -= 1

    @asynccontextmanager
    async def running(
        self, config: ClusterConfig, callers: int, name: str = "alice", timeout: float = 10.0
    ) -> AsyncIterator[Client]:
        """Callers in a closed loop while the block runs."""
        async with Client.connect(config, name=name) as client:
            async with trio.open_nursery() as nursery:
                for _ in range(callers):
                    nursery.start_soon(self.call, client, timeout)
                yield client
                nursery.cancel_scope.cancel()
            self.outvoted = {r.replica: r.outvoted for r in client.statistics().replicas if r.outvoted}

    def check(self, total: int) -> None:
        """Exactly once: the counter lies between what was acknowledged and that plus what is unknown."""
        assert self.acknowledged <= total <= self.acknowledged + self.unknown, (total, self.acknowledged, self.unknown)
        assert len(set(self.results)) == self.acknowledged, "two calls were given the same count"
        assert all(1 <= r <= total for r in self.results)


async def total(config: ClusterConfig, name: str = "bob") -> int:
    """The counter, as ordered now."""
    async with Client.connect(config, name=name) as client:
        return int(await client.query(get(), timeout=20.0))


async def settle(config: ClusterConfig, seconds: float = 15.0, ids: tuple[int, ...] | None = None) -> list[Row]:
    """Until all (or `ids`) have executed the same; checks that equal checkpoints have equal digests."""
    with trio.fail_after(seconds):
        while True:
            rows = await trio.to_thread.run_sync(ask_all, config, 0.5)
            rows = [r for r in rows if ids is None or r["id"] in ids]
            if len({r["last_executed"] for r in rows}) == 1 and rows[0]["last_executed"] is not None:
                break
            await trio.sleep(0.05)
    digests: dict[object, set[object]] = {}
    for row in rows:
        digests.setdefault(row["stable_checkpoint"], set()).add(row["stable_digest"])
    assert all(len(found) == 1 for found in digests.values()), rows
    return rows


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


# ---- the campaigns


def kill_all(rounds: int, callers: int = 32, seed: int = 1) -> Row:
    """SIGKILL of all replicas at random instants under load, then a restart; again and again."""
    rng = random.Random(seed)
    load = Load()
    small = {"durable_checkpoint_interval": 1, "durable_checkpoint_bytes": 1 << 20, "retained_log_bytes": 1 << 20}

    async def round_of(config: ClusterConfig, children: Children) -> None:
        async with load.running(config, callers, timeout=2.0):
            await trio.sleep(rng.uniform(0.3, 1.5))
            for replica in rng.sample(range(4), 4):
                os.kill(children.pid(replica), signal.SIGKILL)
            await trio.sleep(0.05)

    with cluster(**small) as config:
        for _ in range(rounds):
            with Children(config) as children:
                start(children)
                trio.run(round_of, config, children)
        with Children(config) as children:
            start(children)
            counted = trio.run(total, config)
            rows = trio.run(settle, config)
    load.check(counted)
    return {
        "rounds": rounds,
        "acknowledged": load.acknowledged,
        "unknown": load.unknown,
        "counter": counted,
        "last_executed": rows[0]["last_executed"],
    }


def backup_gone(seconds: float, callers: int = 64, how: str = "kill") -> Row:
    """One backup is stopped (SIGSTOP) or killed under load; throughput goes on; it comes back and catches up."""

    async def play(config: ClusterConfig, children: Children) -> Row:
        load = Load()
        async with load.running(config, callers):
            await trio.sleep(1.0)
            first = load.acknowledged
            await trio.sleep(seconds / 2)
            before = (load.acknowledged - first) / (seconds / 2)
            if how == "stop":
                os.kill(children.pid(2), signal.SIGSTOP)
            else:
                children.kill(2)
            first = load.acknowledged
            await trio.sleep(seconds)
            during = (load.acknowledged - first) / seconds
        missed = (await settle(config, ids=(0, 1, 3)))[0]["last_executed"]
        begun = trio.current_time()
        if how == "stop":
            os.kill(children.pid(2), signal.SIGCONT)
        else:
            children.start(2)
        await settle(config, 20.0)
        took = trio.current_time() - begun
        load.check(await total(config))
        return {
            "ops_per_s_before": round(before),
            "ops_per_s_without_it": round(during),
            "last_executed": missed,
            "catch_up_s": round(took, 2),
        }

    with cluster() as config, Children(config) as children:
        start(children)
        return trio.run(play, config, children)


def adversary(name: str, seconds: float, callers: int = 32) -> Row:
    """Replica 3 misbehaves for a while under load; results stay right, the others' memory flat."""

    async def play(config: ClusterConfig, children: Children) -> Row:
        load = Load()
        samples: list[list[int]] = []
        async with load.running(config, callers):
            end = trio.current_time() + seconds
            await trio.sleep(min(2.0, seconds / 3))
            while trio.current_time() < end:
                samples.append([memory(children.pid(i)) for i in range(3)])
                await trio.sleep(max(0.2, seconds / 20))
        rows = await settle(config, ids=(0, 1, 2))
        load.check(await total(config))
        refused: dict[str, int] = {}
        for row in rows:
            for kind, count in row["counters"].items():
                if kind.startswith("3:") and not kind.endswith("below-window"):
                    refused[kind] = refused.get(kind, 0) + count
        return {
            "adversary": name,
            "seconds": seconds,
            "acknowledged": load.acknowledged,
            "outvoted": load.outvoted,
            "refused_from_it": refused,
            "memory_mib_first": [m >> 20 for m in samples[0]],
            "memory_mib_last": [m >> 20 for m in samples[-1]],
            "loop_lag_ms_max": [row["loop_lag_ms_max"] for row in rows],
        }

    with cluster(retained_log_bytes=1 << 20) as config, Children(config, adversaries={3: name}) as children:
        start(children)
        return trio.run(play, config, children)


def strangers(idle: int, seconds: float, callers: int = 16) -> Row:
    """A TCP client that spews garbage, and many connections that say nothing, at every replica; service goes on."""

    async def garbage(host: str, port: int) -> None:
        rng = random.Random(port)
        while True:
            try:
                stream = await trio.open_tcp_stream(host, port)
                async with stream:
                    for _ in range(20):
                        await stream.send_all(rng.randbytes(1000))
                        await trio.sleep(0.01)
            except OSError:
                await trio.sleep(0.05)
            except trio.BrokenResourceError:
                continue

    async def play(config: ClusterConfig) -> Row:
        load = Load()
        async with load.running(config, callers):
            await trio.sleep(seconds / 2)
            before = load.acknowledged
            sockets = []
            async with trio.open_nursery() as nursery:
                for replica in config.replicas:
                    nursery.start_soon(garbage, replica.address.host, replica.address.port)
                for i in range(idle):
                    address = config.replicas[i % 4].address
                    try:
                        sockets.append(await trio.open_tcp_stream(address.host, address.port))
                    except OSError:
                        await trio.sleep(0.01)
                first = load.acknowledged
                await trio.sleep(seconds)
                during = load.acknowledged - first
                for stream in sockets:
                    await stream.aclose()
                nursery.cancel_scope.cancel()
        load.check(await total(config))
        return {
            "idle_connections": len(sockets),
            "ops_per_s_before": round(before / (seconds / 2)),
            "ops_per_s_with_them": round(during / seconds),
        }

    with cluster() as config, Children(config) as children:
        start(children)
        return trio.run(play, config)


def main() -> None:
    """Run one campaign and print what it found."""
    logging.getLogger("pbft").addHandler(logging.NullHandler())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("kill-all", "backup-gone", "adversary", "strangers"))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--how", choices=("stop", "kill"), default="kill")
    parser.add_argument("--name", default="lying-replies")
    parser.add_argument("--idle", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    begun = time.monotonic()
    if args.what == "kill-all":
        found = kill_all(args.rounds, seed=args.seed)
    elif args.what == "backup-gone":
        found = backup_gone(args.seconds, args.callers, args.how)
    elif args.what == "adversary":
        found = adversary(args.name, args.seconds)
    else:
        found = strangers(args.idle, args.seconds)
    print(json.dumps(found | {"took_s": round(time.monotonic() - begun, 1)}, indent=1))


if __name__ == "__main__":
    main()
