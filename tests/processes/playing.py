"""A cluster under load behind proxies, for tests that disturb its links and processes."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from campaigns.common import Load, Row, cluster, free_ports, look, progress, settle, start, total
from links import Links, proxied

from pbft.cli.children import Children
from pbft.config_file import ClusterConfig

Act = Callable[["Play"], Awaitable[None]]


class Play:
    """What a test may do, and see."""

    def __init__(self, config: ClusterConfig, children: Children, links: Links, load: Load) -> None:
        self.config, self.children, self.links, self.load = config, children, links, load

    async def rows(self) -> list[Row]:
        return await look(self.config)

    async def primary(self) -> int:
        """Of the highest view that somebody is active in."""
        return int(max((r for r in await self.rows() if r["reachable"]), key=lambda r: r["view"])["primary"])

    async def progress(self, operations: int = 100) -> None:
        """Until so many more operations were acknowledged."""
        await progress(self.load, operations, 30.0)

    async def kill(self, replica: int) -> None:
        await trio.to_thread.run_sync(self.children.kill, replica)

    def signal(self, replica: int, number: int) -> None:
        os.kill(self.children.pid(replica), number)

    def descriptors(self, replica: int) -> int:
        """Open file descriptors of a process."""
        return len(list(Path(f"/proc/{self.children.pid(replica)}/fd").iterdir()))


def play(
    act: Act, replicas: int = 4, missing: tuple[int, ...] = (), app: str = "counter", **tunables: int
) -> list[Row]:
    """Disturb a cluster under load; afterwards everything acknowledged is there exactly once, and all replicas but the
    `missing` have executed the same and are in one view, unless one has left for a higher view alone."""
    with cluster(replicas, app, **({"view_timeout": 500} | tunables)) as config:
        links = Links(config, free_ports(replicas * (replicas - 1) + 2 * replicas) + 2 * replicas)

        async def run() -> list[Row]:
            async with proxied(links):
                with Children(config, peers=links.peers) as children:
                    await trio.to_thread.run_sync(start, children)
                    load = Load()
                    async with load.running(config, 8, timeout=30.0):
                        playing = Play(config, children, links, load)
                        await playing.progress()
                        await act(playing)
                        await playing.progress()
                    load.check(await total(config))
                    living = tuple(i for i in range(replicas) if i not in missing)
                    await settle(config, 20.0, living)
                    return await _in_one_view(config, living)

        rows = trio.run(run)
    active = [r for r in rows if not r["in_view_change"]]
    assert len({r["view"] for r in active}) == 1 and len(active) >= config.group.quorums.strong, rows
    # Who has left for a higher view follows, and votes again when the others come to that (A10).
    assert all(r["promised"] > active[0]["view"] for r in rows if r["in_view_change"]), rows
    return active


async def _in_one_view(config: ClusterConfig, ids: tuple[int, ...]) -> list[Row]:
    """Wait for it for a while; what these say then."""
    rows: list[Row] = []
    with trio.move_on_after(10):
        while True:
            rows = [r for r in await look(config) if r["id"] in ids]
            if len({r["view"] for r in rows}) == 1 and not any(r["in_view_change"] for r in rows):
                break
            await trio.sleep(0.1)
    return rows
