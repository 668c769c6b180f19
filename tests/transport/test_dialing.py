"""How long a peer is dialed, and how often, in virtual time."""

from __future__ import annotations

import random
import socket
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from pbft.transport import Limits
from pbft.transport.dialing import Dialer


class Owner:
    """A hub as its dialer sees it; remembers when what happened."""

    def __init__(self) -> None:
        self.linked = False
        self.failed: list[float] = []
        self.dialed: list[float] = []

    def has_link(self, principal: int) -> bool:
        return self.linked

    def dialed_peer(self, sock: socket.socket, principal: int) -> None:
        sock.close()
        self.linked = True
        self.dialed.append(trio.current_time())

    def dial_failed(self, principal: int, text: str) -> None:
        self.failed.append(trio.current_time())


class Reachable(Dialer):
    """A dialer of a peer that may be there or not."""

    present = False

    async def _connect(self, family: int, where: tuple[Any, ...]) -> socket.socket | str:
        return socket.socket() if self.present else "refused"


def dialer(limits: Limits) -> tuple[Owner, Reachable]:
    owner = Owner()
    return owner, Reachable(owner, 1, ("127.0.0.1", 7000), limits, random.Random(1), patient=False)


@pytest.mark.scenario("F11")
async def test_a_peer_that_starts_an_hour_late_is_dialed_at_once(autojump_clock: MockClock) -> None:
    """Attempts go on for ever, at growing intervals up to the cap; the first one after the start reaches the peer."""
    limits = Limits()
    owner, late = dialer(limits)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(late.run)
        await trio.sleep(3600)
        gaps = [later - earlier for earlier, later in pairwise(owner.failed)]
        assert gaps[0] <= limits.dial_backoff_min and limits.dial_backoff_max / 2 <= min(gaps[10:])
        assert max(gaps) <= limits.dial_backoff_max <= 10
        assert owner.failed[-1] > trio.current_time() - 1.1 * limits.dial_backoff_max
        late.present = True
        started = trio.current_time()
        await trio.sleep(10)
        assert [at - started <= limits.dial_backoff_max for at in owner.dialed] == [True]
        nursery.cancel_scope.cancel()


@pytest.mark.scenario("B18")
async def test_a_peer_that_restarts_thirty_times_is_back_within_two_seconds(autojump_clock: MockClock) -> None:
    """However soon after another its links are lost, and although it is away for a moment each time."""
    owner, restarting = dialer(Limits())
    restarting.present = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(restarting.run)
        await trio.sleep(1)
        for _ in range(30):
            restarting.conversation_ended()
            await trio.sleep(0.01)
            restarting.present = owner.linked = False
            restarting.link_lost(0.01)
            await trio.sleep(0.3)
            restarting.present = True
            back = trio.current_time()
            while not owner.linked:
                await trio.sleep(0.01)
            assert trio.current_time() - back <= 2
        assert len(owner.dialed) == 31
        nursery.cancel_scope.cancel()
