"""Faults of the network in memory, in virtual time."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Any

import trio


async def test_cut_ends_links_after_the_silence_and_heal_brings_them_back(
    memory: Any, recorder: Any, autojump_clock: Any, quick: Any
) -> None:
    """A cut is noticed after dead_after; after healing the dialing side is back within its back-off."""
    left, right = recorder(), recorder()
    async with memory.pair(left, right) as (first, _):
        start = trio.current_time()
        memory.network.cut(0, 1)
        first.send(1, b"lost")
        first.flush()
        await left.until(lambda: len(left.downs) == 1)
        await right.until(lambda: len(right.downs) == 1)
        assert quick.dead_after <= trio.current_time() - start <= quick.dead_after + 0.1
        await trio.sleep(5.0)
        assert first.connected() == frozenset()
        memory.network.heal()
        healed = trio.current_time()
        await left.until(lambda: 1 in first.connected())
        assert trio.current_time() - healed <= quick.dial_backoff_max + 0.1
        assert right.bodies == []


async def test_one_way_cut_loses_one_direction(memory: Any, recorder: Any, autojump_clock: Any) -> None:
    """When only one direction is cut the other still delivers, until the silence ends the link."""
    left, right = recorder(), recorder()
    async with memory.pair(left, right) as (first, second):
        memory.network.cut(0, 1, both_ways=False)
        first.send(1, b"lost")
        second.send(0, b"heard")
        first.flush()
        second.flush()
        await left.until(lambda: left.bodies == [b"heard"])
        await right.until(lambda: len(right.downs) == 1)
        assert right.bodies == []


async def test_partition_separates_groups_only(memory: Any, recorder: Any, autojump_clock: Any) -> None:
    """Inside a group messages still arrive, between groups they do not."""
    receivers = [recorder() for _ in range(3)]
    async with AsyncExitStack() as stack:
        hubs = []
        for who in range(3):
            peers = {other: hubs[other].addresses[0] for other in range(who)}
            hubs.append(
                await stack.enter_async_context(memory.hub(who, receivers[who], listen=("127.0.0.1", 0), peers=peers))
            )
        await receivers[0].until(lambda: all(len(hub.connected()) == 2 for hub in hubs))
        memory.network.partition([0, 1], [2])
        hubs[0].multicast([1, 2], b"x")
        hubs[0].flush()
        await receivers[1].until(lambda: receivers[1].bodies == [b"x"])
        await receivers[2].until(lambda: hubs[2].connected() == frozenset())
        assert receivers[2].bodies == []
        assert hubs[0].connected() == {1}


async def test_latency_and_loss(memory: Any, recorder: Any, autojump_clock: Any) -> None:
    """Messages take the latency that was set, and those that should be lost are."""
    left, right = recorder(), recorder()
    async with memory.pair(left, right) as (first, _):
        memory.network.latency = lambda sender, receiver: 0.25
        memory.network.lose = lambda sender, receiver, body: body == b"unlucky"
        start = trio.current_time()
        for body in (b"one", b"unlucky", b"two"):
            first.send(1, body)
        first.flush()
        await right.until(lambda: len(right.bodies) == 2)
        assert right.bodies == [b"one", b"two"]
        assert 0.25 <= trio.current_time() - start < 0.3
        assert first.links(1)[0].rtt == 0.5


async def gossip(world: Any, recorder: Any) -> list[tuple[int, bytes]]:
    """Three hubs pass each message on, marked, until it is four bytes long; who received what, in order."""
    trace: list[tuple[int, bytes]] = []
    hubs: dict[int, Any] = {}

    def passing_on(who: int) -> Any:
        def on_body(link: Any, body: bytes) -> None:
            trace.append((who, body))
            if len(body) < 4:
                hubs[who].multicast([other for other in hubs if other != who], body + bytes([who]))

        return on_body

    receivers = [recorder(passing_on(who)) for who in range(3)]
    async with AsyncExitStack() as stack:
        for who in range(3):
            peers = {other: hubs[other].addresses[0] for other in hubs}
            hubs[who] = await stack.enter_async_context(
                world.hub(who, receivers[who], listen=("127.0.0.1", 0), peers=peers)
            )
        await receivers[0].until(lambda: all(len(hub.connected()) == 2 for hub in hubs.values()))
        hubs[0].multicast([1, 2], b"")
        hubs[0].flush()
        await receivers[0].until(lambda: len(trace) == 2 + 4 + 8 + 16 + 32)
    return trace


async def test_same_traffic_arrives_in_the_same_order(memory: Any, recorder: Any, autojump_clock: Any) -> None:
    """The order of all deliveries depends on the order of sending alone, not on the scheduling of tasks."""
    traces = [await gossip(type(memory)("memory"), recorder) for _ in range(5)]
    assert all(trace == traces[0] for trace in traces)
