"""What the owner of a hub sees: links, the receiver of their messages, and the hub itself.

`Hub` (TCP) and `MemoryHub` offer the same; tests/transport/test_conformance.py holds both to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import trio

from pbft.crypto import Session
from pbft.transport.statistics import HubStatistics, LinkStatistics

Address = tuple[str, int]
"""Host name or numeric address, and port."""

CLIENT_BIT = 1 << 63


def is_client(principal: int) -> bool:
    """Clients have the upper half of the ids, replicas the lower."""
    return principal >= CLIENT_BIT


class Link(Protocol):
    """An authenticated, ordered connection with one process of one principal."""

    @property
    def principal(self) -> int:
        """Who is at the other end."""

    @property
    def instance(self) -> bytes:
        """16 bytes, chosen at random by the peer's process when it started."""

    @property
    def incarnation(self) -> int:
        """Incarnation of the peer's signing key."""

    @property
    def session(self) -> Session:
        """Holds `authenticator_key` and `newest_authenticator_key`."""

    @property
    def rtt(self) -> float | None:
        """Smoothed round trip in seconds, None until the first heartbeat came back. The peer can only add."""

    @property
    def is_up(self) -> bool:
        """False as soon as the link is closed, also before `on_link_down` has told so."""

    def send(self, body: bytes, bulk: bool = False) -> None:
        """Queue a message; never blocks, never raises. Control goes before bulk; the oldest goes when full."""

    def rest(self, seconds: float) -> None:
        """Take nothing more from this peer for so many seconds, or a little longer: it sends faster than is good. What
        it has sent waits, in bounded buffers, and then the peer does. Sending goes on."""

    def close(self, reason: str) -> None:
        """Close the link; what waits on it is discarded. The dialing side will dial again."""

    def statistics(self) -> LinkStatistics:
        """Counters since the link came up."""


class Receiver(Protocol):
    """Takes what arrives. Called from the hub's task only, and never from inside a call to the hub.

    An exception raised here ends `run`: it is a fault of this process, not of a peer. A receiver may also have
    `on_link_rekeyed(link)`: the link has, or is about to have, new keys (`session.newest_authenticator_key`).
    """

    def on_message(self, link: Link, body: bytes) -> None:
        """An authenticated message from `link.principal`."""

    def on_link_up(self, link: Link) -> None:
        """`link` can be used from now on."""

    def on_link_down(self, link: Link, reason: str) -> None:
        """`link` is over; what was queued on it is gone."""

    def on_sweep_end(self) -> None:
        """Everything that was ready has been delivered; what is sent now leaves in one go."""


class AnyHub(Protocol):
    """All links of one process."""

    async def run(self, *, task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED) -> None:
        """Listen, dial, receive and send until cancelled; `started` gives the addresses listened on."""

    def send(self, principal: int, body: bytes, bulk: bool = False) -> bool:
        """Queue for every live link of `principal`; False if there is none."""

    def multicast(self, principals: Iterable[int], body: bytes, bulk: bool = False) -> None:
        """Queue the same bytes for several principals; whoever has no link misses them."""

    def flush(self) -> None:
        """Send what is queued now: for what was queued outside of a Receiver call."""

    def links(self, principal: int) -> tuple[Link, ...]:
        """The live links of `principal`, oldest first."""

    def connected(self) -> frozenset[int]:
        """Principals with a live link."""

    def redial(self, principal: int) -> None:
        """Dial at once if there is no link: the peer was just heard of, or its address changed."""

    def stop_accepting(self) -> None:
        """Refuse new connections from now on; keep the links."""

    def statistics(self) -> HubStatistics:
        """Counters since the hub was made, by peer."""
