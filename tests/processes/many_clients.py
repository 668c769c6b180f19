"""More clients and calls than the replicas can serve at once: everything is answered, exactly once, and nothing grows.

A small setting runs in the test suite, the whole one from the command line:

python tests/processes/many_clients.py
python tests/processes/many_clients.py --clients 64 --requests 10000 --in-flight 1000
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import trio
from campaigns.common import Row, cluster, memory, settle, start

from pbft.apps.counter import get, inc
from pbft.cli.children import Children
from pbft.client import Client, ClientError, Overloaded
from pbft.config_file import ClusterConfig

MEMORY_MAX = 400 << 20
"""Resident bytes that no replica exceeds, however much is asked of it."""


@dataclass
class Told:
    """What one client was told."""

    asked: int = 0
    results: list[int] = field(default_factory=list)
    busy: int = 0
    unknown: int = 0


async def ask(client: Client, told: Told, requests: int, in_flight: int, timeout: float) -> None:
    """Make all calls of one client, so many of them at the same time."""

    async def caller() -> None:
        while told.asked < requests:
            told.asked += 1
            try:
                told.results.append(int(await client.invoke(inc(), timeout=timeout)))
            except Overloaded:
                told.busy += 1
            except ClientError:
                told.unknown += 1

    async with trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(caller)


async def watch(children: Children, most: list[int]) -> None:
    """The largest memory of each replica."""
    while True:
        for replica in range(4):
            most[replica] = max(most[replica], memory(children.pid(replica)))
        await trio.sleep(0.1)


def check(told: list[Told], requests: int, total: int) -> None:
    """Exactly once: each call of each client ended, no two were given the same count, and the counter stands at what
    was acknowledged, and not above what may have executed besides."""
    for number, of_one in enumerate(told):
        ends = len(of_one.results) + of_one.busy + of_one.unknown
        assert ends == of_one.asked == requests, f"client {number}: {ends} of {requests} calls ended"
    results = [result for of_one in told for result in of_one.results]
    uncertain = sum(of_one.busy + of_one.unknown for of_one in told)
    assert len(set(results)) == len(results), "two calls were given the same count"
    assert len(results) <= total <= len(results) + uncertain, (len(results), total, uncertain)
    assert all(1 <= result <= total for result in results)
    if not uncertain:
        assert sorted(results) == list(range(1, total + 1)), "a count was given to nobody"


async def play(
    config: ClusterConfig, children: Children, requests: int, in_flight: int, timeout: float
) -> tuple[list[Told], Row]:
    """All clients at once; afterwards the backlog is gone and a newcomer is served."""
    told = [Told() for _ in config.clients[1:]]
    most = [0] * 4
    before = [memory(children.pid(i)) for i in range(4)]
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(Client.connect(config, name=c.name)) for c in config.clients[1:]]
        nursery.start_soon(watch, children, most)
        begun = trio.current_time()
        async with trio.open_nursery() as asking:
            for client, of_one in zip(clients, told, strict=True):
                asking.start_soon(ask, client, of_one, requests, in_flight, timeout)
        seconds = trio.current_time() - begun
        refused = sum(r.busy for c in clients for r in c.statistics().replicas)
        outvoted = sum(r.outvoted for c in clients for r in c.statistics().replicas)
        await stack.aclose()
        nursery.cancel_scope.cancel()
    async with Client.connect(config, name=config.clients[0].name) as newcomer:
        with trio.fail_after(10):
            total = int(await newcomer.invoke(get(), timeout=10.0))
    rows = await settle(config)
    check(told, requests, total)
    assert not outvoted, f"{outvoted} replies disagreed"
    assert [r["pending_requests"] for r in rows] == [0] * 4, "the backlog is gone"
    assert {(r["view"], r["in_view_change"]) for r in rows} == {(0, False)}, "queueing is no reason to leave a view"
    assert max(most) < MEMORY_MAX, most
    return told, {
        "clients": len(told),
        "requests_each": requests,
        "in_flight_each": in_flight,
        "acknowledged": sum(len(of_one.results) for of_one in told),
        "told_busy": sum(of_one.busy for of_one in told),
        "unknown": sum(of_one.unknown for of_one in told),
        "counter": total,
        "refusals_busy": refused,
        "ops_per_s": round(total / seconds),
        "memory_mib_first": [m >> 20 for m in before],
        "memory_mib_most": [m >> 20 for m in most],
        "views": [r["view"] for r in rows],
    }


def flood(clients: int, requests: int, in_flight: int, timeout: float = 3600.0, **tunables: int) -> Row:
    """So many clients make so many calls each, as fast as they can."""
    names = ("newcomer", *(f"client-{i}" for i in range(clients)))
    with cluster(clients=names, **tunables) as config, Children(config) as children:
        start(children)
        _, found = trio.run(play, config, children, requests, in_flight, timeout)
    return found


def main() -> None:
    """Run it and print what was found."""
    logging.getLogger("pbft").addHandler(logging.NullHandler())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=64, help="how many clients, each with a key (default 64)")
    parser.add_argument("--requests", type=int, default=10_000, help="calls of each client (default 10000)")
    parser.add_argument("--in-flight", type=int, default=1000, help="calls of one client at a time (default 1000)")
    parser.add_argument("--timeout", type=float, default=3600.0, help="seconds that a call may take (default 3600)")
    args = parser.parse_args()
    begun = time.monotonic()
    found = flood(args.clients, args.requests, args.in_flight, args.timeout)
    print(json.dumps(found | {"took_s": round(time.monotonic() - begun, 1)}, indent=1))


if __name__ == "__main__":
    main()
