"""Counters: frozen snapshots for readers, and the tally from which they are made."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

log = logging.getLogger("pbft.transport")

_PEERS_MAX = 8_192


@dataclass(frozen=True, slots=True)
class LinkStatistics:
    """One link since it came up. Messages are counted whole, bytes as they are on the wire."""

    principal: int
    instance: bytes
    dialed: bool
    """Whether this side dialed."""
    seconds_up: float
    rtt: float | None
    sent_messages: int
    sent_bytes: int
    received_messages: int
    received_bytes: int
    queued_bytes: int
    dropped_control: int
    dropped_bulk: int
    """Messages that never left because the queue was full or the link went down."""
    key_refreshes: int


@dataclass(frozen=True, slots=True)
class PeerStatistics:
    """All links with one principal, past and present."""

    links_up: int = 0
    """Links that are up now."""
    links_total: int = 0
    sent_messages: int = 0
    sent_bytes: int = 0
    received_messages: int = 0
    received_bytes: int = 0
    dropped_control: int = 0
    dropped_bulk: int = 0
    rtt: float | None = None


@dataclass(frozen=True, slots=True)
class HubStatistics:
    """One hub since it was made.

    `refusals[(principal, kind)]`: what was refused, and why; principal None: before it was known who it is.
    """

    peers: Mapping[int, PeerStatistics]
    refusals: Mapping[tuple[int | None, str], int]
    accepted: int
    dialed: int
    unauthenticated: int
    """Accepted connections that are in their handshake now."""
    client_links: int
    sweeps: int


class Tally:
    """Sums over links that are gone, and refusals by peer and kind. Bounded: the peer unseen for longest goes.

    What goes is added to the refusals of "nobody" (None), so sums stay right.
    """

    def __init__(self) -> None:
        self._refusals: OrderedDict[int | None, dict[str, int]] = OrderedDict()
        self._past: OrderedDict[int, PeerStatistics] = OrderedDict()

    def refuse(self, principal: int | None, kind: str) -> None:
        """Count one refusal. `kind` is one of our own tokens, never text of a peer's."""
        row = self._refusals.setdefault(principal, {})
        row[kind] = row.get(kind, 0) + 1
        self._refusals.move_to_end(principal)
        if len(self._refusals) > _PEERS_MAX:
            gone, counts = self._refusals.popitem(last=False)
            if gone is None:
                gone, counts = None, {**counts}
            nobody = self._refusals.setdefault(None, {})
            for name, count in counts.items():
                nobody[name] = nobody.get(name, 0) + count

    def add_link(self, link: LinkStatistics) -> None:
        """Add what a link did that is now over."""
        before = self._past.get(link.principal, PeerStatistics())
        self._past[link.principal] = _plus(before, link)
        self._past.move_to_end(link.principal)
        if len(self._past) > _PEERS_MAX:
            self._past.popitem(last=False)

    def refusals(self) -> Mapping[tuple[int | None, str], int]:
        """A copy of all counts."""
        return MappingProxyType(
            {(peer, kind): count for peer, row in self._refusals.items() for kind, count in row.items()}
        )

    def peers(self, links: list[LinkStatistics]) -> Mapping[int, PeerStatistics]:
        """Sums by peer, over the links that are gone and `links`, which are up."""
        rows = dict(self._past)
        for link in links:
            sums = _plus(rows.get(link.principal, PeerStatistics()), link)
            rows[link.principal] = replace(sums, links_up=sums.links_up + 1, rtt=link.rtt)
        return MappingProxyType(rows)


def _plus(peer: PeerStatistics, link: LinkStatistics) -> PeerStatistics:
    return replace(
        peer,
        links_total=peer.links_total + 1,
        sent_messages=peer.sent_messages + link.sent_messages,
        sent_bytes=peer.sent_bytes + link.sent_bytes,
        received_messages=peer.received_messages + link.received_messages,
        received_bytes=peer.received_bytes + link.received_bytes,
        dropped_control=peer.dropped_control + link.dropped_control,
        dropped_bulk=peer.dropped_bulk + link.dropped_bulk,
    )


class QuietLog:
    """A log that a peer cannot fill: per peer and kind a few lines at once, then one per interval.

    Scenario F21 (a peer that is dead for hours). Bounded like `Tally`.
    """

    def __init__(self, interval: float, burst: int) -> None:
        self._interval = interval
        self._burst = max(1, burst)
        self._rows: OrderedDict[tuple[int | None, str], list[float]] = OrderedDict()

    def write(self, level: int, now: float, principal: int | None, kind: str, text: str) -> bool:
        """Log `text`, unless there was enough of this kind about this peer; whether it was written.

        A row is [allowance, time of last refill, lines left out].
        """
        row = self._rows.setdefault((principal, kind), [float(self._burst), now, 0])
        self._rows.move_to_end((principal, kind))
        if len(self._rows) > _PEERS_MAX:
            self._rows.popitem(last=False)
        row[0] = min(float(self._burst), row[0] + (now - row[1]) / self._interval)
        row[1] = now
        if row[0] < 1.0:
            row[2] += 1
            return False
        row[0] -= 1.0
        left_out, row[2] = int(row[2]), 0
        log.log(level, "%s%s", text, f" ({left_out} more like this were left out)" if left_out else "")
        return True
