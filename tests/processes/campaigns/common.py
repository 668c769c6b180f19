"""What all campaigns use: a cluster in a temporary directory, load that is counted, replicas that agree at the end."""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import trio

from pbft.apps.counter import get, inc
from pbft.cli.children import Children
from pbft.cli.status import ask, ask_all
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
def cluster(
    replicas: int = 4, app: str = "counter", clients: tuple[str, ...] = ("alice", "bob"), **tunables: int
) -> Iterator[ClusterConfig]:
    """A fresh cluster in a temporary directory."""
    with tempfile.TemporaryDirectory(prefix="pbft-test-") as folder:
        yield write_cluster(
            Path(folder) / "c",
            replicas=replicas,
            app=app,
            base_port=free_ports(2 * replicas),
            clients=clients,
            tunables=tunables,
        )


def start(children: Children) -> list[Row]:
    """Start everything and wait until it is ready."""
    children.start_all()
    rows = children.wait_ready(20)
    assert rows is not None, children.dead()
    return rows


class Gaps:
    """The longest time without a completed operation, since `watch`."""

    def __init__(self) -> None:
        self._last = 0.0
        self._longest = 0.0
        self.completed = 0
        """Operations since `watch`."""

    def watch(self) -> None:
        """Forget what was; begin to measure now."""
        self._last, self._longest, self.completed = trio.current_time(), 0.0, 0

    def operation(self) -> None:
        """One has completed."""
        now = trio.current_time()
        self._longest = max(self._longest, now - self._last)
        self._last = now
        self.completed += 1

    @property
    def longest(self) -> float:
        """Seconds, the gap that lasts still included."""
        return max(self._longest, trio.current_time() - self._last)


class Load:
    """Callers that count, and what they were told."""

    def __init__(self) -> None:
        self.acknowledged = 0
        self.unknown = 0
        """Calls that ended without a result, or have not ended."""
        self.outvoted: dict[int, int] = {}
        self.gaps = Gaps()
        self.latencies: list[float] | None = None
        """Seconds that each call took, if wanted."""
        self.longest_call = 0.0
        self.open = 0
        """Calls that have not ended."""
        self._told = bytearray()
        """1 at each count that a call was given: a few million calls are remembered in as many bytes."""
        self._repeated = 0
        self._ending = False

    async def call(self, client: Client, timeout: float) -> None:
        while not self._ending:
            self.unknown += 1
            self.open += 1
            begun = trio.current_time()
            try:
                result = int(await client.invoke(inc(), timeout=timeout))
            except ClientError:
                continue
            finally:
                self.open -= 1
                self.longest_call = max(self.longest_call, trio.current_time() - begun)
            self.acknowledge(result)
            if self.latencies is not None:
                self.latencies.append(trio.current_time() - begun)

    def acknowledge(self, result: int) -> None:
        """A call, counted as unknown until now, was given this count."""
        self.unknown -= 1
        self.acknowledged += 1
        self.gaps.operation()
        if result >= len(self._told):
            self._told.extend(bytes(result + 1 - len(self._told) + (1 << 16)))
        self._repeated += self._told[result]
        self._told[result] = 1

    async def end(self, seconds: float) -> None:
        """Let every call that has begun end by itself; no new one begins."""
        self._ending = True
        with trio.fail_after(seconds):
            while self.open:
                await trio.sleep(0.01)

    @asynccontextmanager
    async def running(
        self, config: ClusterConfig, callers: int, name: str = "alice", timeout: float = 10.0, **more: Any
    ) -> AsyncIterator[Client]:
        """Callers in a closed loop while the block runs; `more` goes to `Client.connect`."""
        self._ending = False
        async with Client.connect(config, name=name, **more) as client:
            async with trio.open_nursery() as nursery:
                for _ in range(callers):
                    nursery.start_soon(self.call, client, timeout)
                yield client
                nursery.cancel_scope.cancel()
            self.outvoted = {r.replica: r.outvoted for r in client.statistics().replicas if r.outvoted}

    def check(self, total: int) -> None:
        """Exactly once: the counter lies between what was acknowledged and that plus what is unknown."""
        assert self.acknowledged <= total <= self.acknowledged + self.unknown, (total, self.acknowledged, self.unknown)
        assert not self._repeated, "two calls were given the same count"
        assert self._told.rfind(1) <= total and not self._told[:1].count(1)


async def progress(load: Load, operations: int, seconds: float) -> float:
    """Until so many more operations were acknowledged; how long that took, in seconds."""
    begun, goal = trio.current_time(), load.acknowledged + operations
    with trio.fail_after(seconds):
        while load.acknowledged < goal:
            await trio.sleep(0.005)
    return trio.current_time() - begun


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


async def look(config: ClusterConfig, seconds: float = 0.5) -> list[Row]:
    """The status of all replicas."""
    return await trio.to_thread.run_sync(ask_all, config, seconds)


async def look_at(config: ClusterConfig, replica: int, seconds: float = 0.5) -> Row:
    """The status of one replica: asking all of them often slows them all."""
    return await trio.to_thread.run_sync(ask, replica, config.replicas[replica].admin, seconds)


async def calm(config: ClusterConfig, seconds: float = 20.0) -> tuple[int, int]:
    """Until everybody that is there is active in one view; (its primary, the view)."""
    with trio.fail_after(seconds):
        while True:
            rows = [r for r in await look(config) if r["reachable"]]
            if len({r["view"] for r in rows}) == 1 and not any(r["in_view_change"] for r in rows):
                return int(rows[0]["primary"]), int(rows[0]["view"])
            await trio.sleep(0.02)


def views(rows: list[Row]) -> int:
    """View changes since the cluster first started: the highest view that anybody is in or has left for."""
    return max(max(r["view"], r.get("promised") or 0) for r in rows if r["reachable"])


def votes(row: Row, rows: list[Row], strong: int) -> bool:
    """Whether a replica says that it is active in the view of the others, with a quorum in reach and nothing that keeps
    it from voting."""
    others = [r["view"] for r in rows if r["reachable"] and r["id"] != row["id"]]
    return bool(
        row["reachable"]
        and not row["recovering"]
        and not row["in_view_change"]
        and row["connected_peers"] >= strong - 1
        and row["view"] == max(others, default=row["view"])
    )


async def voting(config: ClusterConfig, replica: int, seconds: float) -> float:
    """Until a replica votes again; how long that took, in seconds."""
    begun = trio.current_time()
    with trio.fail_after(seconds):
        while True:
            rows = await look(config, 0.2)
            if votes(rows[replica], rows, config.group.quorums.strong):
                return trio.current_time() - begun
            await trio.sleep(0.02)


async def serves(config: ClusterConfig, seconds: float, name: str = "bob") -> float:
    """Until a client that is new has had one operation ordered; how long that took, in seconds."""
    begun = trio.current_time()
    async with Client.connect(config, name=name) as client:
        await client.query(get(), timeout=seconds)
    return trio.current_time() - begun
