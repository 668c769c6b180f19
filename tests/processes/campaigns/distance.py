"""Replicas and clients that are far from each other, with default settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from links import Links, proxied

from campaigns.common import Load, Row, cluster, free_ports, look, settle, start, total, views
from campaigns.honest import Calm
from pbft.cli.children import Children
from pbft.config_file import ClusterConfig


def percentile(values: list[float], share: float) -> float:
    """The value below which this share of them lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def latencies(load: Load, round_trip: float) -> Row:
    """In milliseconds and in round trips."""
    found = load.latencies or [0.0]
    row: Row = {}
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)):
        value = percentile(found, share)
        row[f"latency_{name}_ms"] = round(value * 1000)
        if round_trip:
            row[f"latency_{name}_round_trips"] = round(value / round_trip, 2)
    return row


def wide_area(
    seconds: float,
    delay_ms: float = 75.0,
    loss: float = 0.01,
    callers: int = 16,
    seed: int = 1,
    proxies: bool = True,
    **tunables: int,
) -> Row:
    """Every link, those of the client too, has this delay and this loss in each direction: operations complete, nobody
    is replaced. Without `proxies` the network itself is trusted to be so."""

    async def play(config: ClusterConfig, links: Links) -> Row:
        load, calm = Load(), Calm(config)
        load.latencies = []
        addresses = links.client_addresses if proxies else None
        async with load.running(config, callers, timeout=30.0, addresses=addresses) as client:
            await client.wait_connected()
            await calm.watch(seconds)
            await load.end(40.0)
            retransmissions = client.statistics().retransmissions
        await settle(config, 30.0)
        load.check(await total(config))
        return {
            "seconds": seconds,
            "round_trip_ms": round(2 * delay_ms),
            "loss": loss,
            "acknowledged": load.acknowledged,
            "unknown": load.unknown,
            "client_retransmissions": retransmissions,
            "chunks_held_back": links.held_back,
            **latencies(load, 2 * delay_ms / 1000),
            **calm.row(),
            "views": views(await look(config)),
        }

    async def run(config: ClusterConfig, links: Links) -> Row:
        links.everywhere(delay_ms / 1000, loss)
        async with proxied(links):
            with Children(config, peers=links.peers if proxies else None) as children:
                await trio.to_thread.run_sync(start, children)
                return await play(config, links)

    with cluster(**tunables) as config:
        return trio.run(run, config, Links(config, free_ports(8 + 16) + 8, clients=True, seed=seed))


class Refused(Exception):
    """This machine does not let us make such a network; the text says what it said."""


def _do(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10)
    except OSError as error:
        raise Refused(f"{words[0]}: {error.strerror}") from error
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or ["nothing"]
        raise Refused(f"{' '.join(words)}: {said[-1]}")


@contextmanager
def namespace(delay_ms: float, loss: float) -> Iterator[str]:
    """A network namespace of our own, whose loopback has this delay and this loss. Raises Refused."""
    name = f"pbft-{os.getpid()}"
    _do("ip", "netns", "add", name)
    try:
        inside = ("ip", "netns", "exec", name)
        _do(*inside, "ip", "link", "set", "lo", "up")
        netem = ("netem", "delay", f"{delay_ms}ms", "loss", f"{loss * 100}%", "limit", "100000")
        _do(*inside, "tc", "qdisc", "add", "dev", "lo", "root", *netem)
        yield name
    finally:
        _do("ip", "netns", "del", name)


def wide_area_netem(seconds: float, delay_ms: float = 75.0, loss: float = 0.01, callers: int = 16) -> Row:
    """The same with the kernel's own delay and loss: the whole campaign in a network namespace."""
    command = Path(__file__).parents[1] / "campaign.py"
    with namespace(delay_ms, loss) as name:
        words = ["wide-area", "--how", "plain", "--minutes", seconds / 60, "--callers", callers, "--delay-ms", delay_ms]
        done = subprocess.run(
            ["ip", "netns", "exec", name, sys.executable, str(command), *map(str, words)],
            stdout=subprocess.PIPE, text=True, check=True, timeout=seconds + 180,
        )  # fmt: skip
    found: Row = json.loads(done.stdout)
    return found
