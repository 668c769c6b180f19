"""Who is sent what, with which authentication, and when again. Rules 1.16, 1.17, [CL99 §4.1].

First to the believed primary, with MACs. Then signed, to everybody with a link, at growing intervals: a signed request
starts the replicas' timers, and makes all of them answer in full.

Rules of this file: the only writer of `Pending.signed`, `interval` and `retransmit_at`; knows no sessions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pbft.batch import AuthKind, signature_body
from pbft.client.pacing import Pacing
from pbft.client.pending import Pending
from pbft.client.replicas import Replicas
from pbft.config import Group
from pbft.crypto import make_authenticator
from pbft.messages import Request, encode

Send = tuple[int, bytes, bool]
"""(replica, message, bulk)"""

_BULK = 16 << 10
"""Messages above this size, in bytes, give way to smaller ones on a link."""
_MACS = bytes((AuthKind.MACS,))
_SIGNATURE = bytes((AuthKind.SIGNATURE,))


class Transmission:
    """Sends the requests of one client."""

    def __init__(self, group: Group, replicas: Replicas, sign: Callable[[bytes], bytes], pacing: Pacing) -> None:
        self._cluster, self._epoch = group.cluster, group.epoch
        self._quorums = group.quorums
        self._replicas = replicas
        self._sign = sign
        self._pacing = pacing
        self._sends: list[Send] = []
        self.retransmissions = 0

    def take(self) -> list[Send]:
        """What is to be sent now, in order."""
        sends, self._sends = self._sends, []
        return sends

    def first(self, pending: Pending, now: float, by_macs: bool) -> None:
        """Send a request for the first time.

        With MACs only where at most f replicas lack an entry: f+1 that cannot verify it would say so, and the primary
        would take only signed requests of this client for a while (rule 1.17).
        """
        replicas = self._replicas
        pending.first_sent = now
        pending.interval = self._pacing.first()
        primary = replicas.primary
        if not by_macs or replicas[primary].key is None or replicas.missing > self._quorums.f:
            self._everybody(pending, now)
            return
        authenticator = _MACS + make_authenticator(replicas.keys(), pending.digest)
        self._send(primary, encode(Request(pending.body, authenticator)))
        pending.retransmit_at = now + self._pacing.jittered(pending.interval)

    def again(self, pending: Pending, now: float) -> None:
        """Send a request once more, signed, to everybody."""
        self.retransmissions += 1
        pending.interval = self._pacing.longer(pending.interval)
        self._everybody(pending, now)

    def primary_lost(self, outstanding: Iterable[Pending], now: float) -> None:
        """The link to the believed primary dropped: what only it has goes to everybody at once. Rule 1.16."""
        for pending in outstanding:
            if pending.signed is None:
                self.again(pending, now)

    def link_up(self, replica: int, outstanding: Iterable[Pending]) -> None:
        """A replica that missed what everybody was sent, or whose reply was lost with its link, gets it now."""
        for pending in outstanding:
            if pending.signed is not None:
                self._send(replica, pending.signed)

    def soon(self, pending: Pending, now: float) -> None:
        """Everybody agrees on a result that nobody sent: ask for it in full before the interval is over, once."""
        if not pending.hurried:
            pending.hurried = True
            pending.retransmit_at = min(pending.retransmit_at, now + self._pacing.brief())

    def postpone(self, pending: Pending, now: float) -> None:
        """f+1 replicas are busy: leave them alone for another, longer interval, once per transmission."""
        if not pending.backed_off:
            pending.backed_off = True
            wait = self._pacing.jittered(self._pacing.longer(pending.interval))
            pending.retransmit_at = max(pending.retransmit_at, now + wait)

    def _everybody(self, pending: Pending, now: float) -> None:
        message = pending.signed
        if message is None:
            signature = self._sign(signature_body(self._cluster, self._epoch, pending.digest))
            message = pending.signed = encode(Request(pending.body, _SIGNATURE + signature))
        for replica in self._replicas.connected():
            self._send(replica, message)
        pending.hurried = pending.backed_off = False
        pending.retransmit_at = now + self._pacing.jittered(pending.interval)

    def _send(self, replica: int, message: bytes) -> None:
        self._sends.append((replica, message, len(message) > _BULK))
