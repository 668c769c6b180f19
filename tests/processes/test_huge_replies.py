"""Replies at and beyond the limit, over real sockets."""

from __future__ import annotations

import time

import campaign
import pytest
import trio

from pbft.apps.echo import echo
from pbft.batch import Outcome
from pbft.cli.children import Children
from pbft.client import Client, OperationFailed
from pbft.config_file import ClusterConfig

pytestmark = pytest.mark.slow

LIMIT = 2 << 20
SIZES = {1_000_000: True, LIMIT: True, LIMIT + 1: False, 64 << 20: False}
"""Bytes of the reply, and whether it may have them."""


async def ask(client: Client, size: int, ordered: bool) -> int | Outcome:
    """How many zero bytes came, or what came instead."""
    try:
        operation = echo(100, size)
        result = await (client.invoke if ordered else client.query)(operation, timeout=30.0)
    except OperationFailed as error:
        assert error.executed is False and "protocol.result_max_bytes" in str(error)
        return error.outcome
    assert not result.strip(b"\0")
    return len(result)


async def play(config: ClusterConfig) -> None:
    """All sizes, ordered and as queries, twice, one by one and at the same time."""
    expected = {size: size if may else Outcome.TOO_LARGE for size, may in SIZES.items()}
    async with Client.connect(config, name="alice") as client:
        await client.wait_connected(4)
        for ordered in (True, False, True):
            for size in SIZES:
                assert await ask(client, size, ordered) == expected[size], (size, ordered)
        together: dict[int, int | Outcome] = {}

        async def note(size: int) -> None:
            together[size] = await ask(client, size, True)

        async with trio.open_nursery() as nursery:
            for size in SIZES:
                nursery.start_soon(note, size)
        assert together == expected
        for _ in range(8):  # over a checkpoint
            assert await ask(client, 0, True) == 0
        said = client.statistics()
        assert said.sessions == 1
        assert [(r.connected, r.outvoted, r.malformed) for r in said.replicas] == [(True, 0, 0)] * 4


async def at_one_checkpoint(config: ClusterConfig) -> list[campaign.Row]:
    """Statuses once all have the same stable checkpoint."""
    with trio.fail_after(15):
        while True:
            rows = await campaign.settle(config)
            if len({r["stable_checkpoint"] for r in rows}) == 1:
                return rows
            await trio.sleep(0.05)


def logs_of(children: Children) -> str:
    """What all replicas have logged, the newest last."""
    lines = "".join(children.log_file(i).read_text() for i in range(4)).splitlines(keepends=True)
    return "".join(sorted(lines))


def quiet_logs(children: Children) -> str:
    """The logs, once the links that replicas dial from both sides at the start have settled."""
    text = logs_of(children)
    while True:
        time.sleep(0.5)
        before, text = text, logs_of(children)
        if text == before:
            return text


@pytest.mark.scenario("J06")
def test_a_huge_reply_is_given_up_to_the_limit_and_refused_above() -> None:
    """Up to the limit it arrives whole; above, the caller hears that it is too large, from all replicas alike, and
    neither a link nor a process is lost over it."""
    limits = {"result_max_bytes": LIMIT, "result_cache_bytes": 2 * LIMIT, "checkpoint_interval": 4, "log_window": 8}
    with campaign.cluster(app="echo", **limits) as config, Children(config) as children:
        before = campaign.start(children)
        begin = quiet_logs(children)
        trio.run(play, config)
        rows = trio.run(at_one_checkpoint, config)
        assert rows[0]["stable_checkpoint"] >= 4 and len({r["stable_digest"] for r in rows}) == 1
        assert [r["pid"] for r in rows] == [r["pid"] for r in before]
        assert {(r["view"], r["connected_peers"], r["accusations"]) for r in rows} == {(0, 3, 0)}
        later = logs_of(children)[len(begin) :]
        assert "ERROR" not in later and " is up" not in later and " is down" not in later
