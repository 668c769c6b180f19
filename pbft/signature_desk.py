"""Client signatures, verified in batches in a thread, so that they do not hold the event loop. Rule 1.17, 4 #26.

Fair by source, the link over which a request came, since anybody can name any client: one turn takes at most
`PER_SOURCE` of each, and what proposals need goes first, up to half of it; who floods waits for itself. A source of
which enough is verified and not ordered yet waits, too. Bounded: beyond `WAITING_PER_SOURCE` more of a source is
refused, and a client backs off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice

import trio

from pbft.authentication import KeyAuthentication
from pbft.batch import ClientRequest

WAITING_PER_SOURCE = 64
WAITING_BYTES = 4 << 20
WAITING_BYTES_TOTAL = 32 << 20
"""Of all sources: with k of them that wait, each has no more than a k-th part, but for one request."""
WAITING_URGENT = 1 << 15
PER_SOURCE = 16
PER_TURN = 64
"""About five milliseconds of work."""


class SignatureDesk:
    """Of one replica. All methods are called in the event loop's thread."""

    def __init__(
        self,
        authentication: KeyAuthentication,
        done: Callable[[list[tuple[ClientRequest, bool]]], None],
        wants_more: Callable[[int], bool] = lambda source: True,
    ) -> None:
        """`done` gets each turn's verdicts, which `authentication` knows by then. `wants_more`: whether more of this
        source is to be verified now; `look_again` when that may have changed."""
        self._authentication = authentication
        self._done = done
        self._wants_more = wants_more
        self._urgent: dict[bytes, ClientRequest] = {}
        """By digest and authenticator: what comes again while it waits is looked at once."""
        self._waiting: dict[int, deque[ClientRequest]] = {}
        self._wanted = trio.Event()

    def submit(self, request: ClientRequest, source: int | None) -> bool:
        """Verify a request's signature soon. `source`: whose link it came over; None: a proposal waits for it. False if
        too many of that source wait already."""
        if source is None:
            if len(self._urgent) >= WAITING_URGENT:
                return False
            self._urgent.setdefault(request.digest + request.authenticator, request)
        else:
            mine = self._waiting.setdefault(source, deque())
            room = min(WAITING_BYTES, WAITING_BYTES_TOTAL // len(self._waiting))
            if len(mine) >= WAITING_PER_SOURCE or (mine and sum(r.size for r in mine) + request.size > room):
                return False
            mine.append(request)
        self._wanted.set()
        return True

    def look_again(self) -> None:
        """More of a source may be wanted than before."""
        if self._waiting:
            self._wanted.set()

    async def run(self) -> None:
        """Verify what is submitted, until cancelled."""
        while True:
            await self._wanted.wait()
            turn = self._take()
            if not turn:
                self._wanted = trio.Event()
                continue
            verdicts = await trio.to_thread.run_sync(self._verify, turn)
            for request, verdict in zip(turn, verdicts, strict=True):
                self._authentication.remember(request, verdict)
            self._done(list(zip(turn, verdicts, strict=True)))

    def _verify(self, turn: list[ClientRequest]) -> list[bool]:
        known, verify = self._authentication.verdict, self._authentication.signature_verifies
        return [verify(r) if (verdict := known(r)) is None else verdict for r in turn]

    def _take(self) -> list[ClientRequest]:
        turn: list[ClientRequest] = []
        share = PER_TURN // 2 if self._waiting else PER_TURN  # a faulty primary's junk does not starve the clients
        turn += [self._urgent.pop(key) for key in list(islice(self._urgent, share))]
        for source in list(self._waiting):
            if len(turn) >= PER_TURN:
                break  # the next turn begins with those that had nothing of this one
            if not self._wants_more(source):
                continue
            mine = self._waiting.pop(source)
            count = min(PER_SOURCE, len(mine), PER_TURN - len(turn))
            turn += [mine.popleft() for _ in range(count)]
            if mine:
                self._waiting[source] = mine  # at the end: others come first in the next turn
        return turn
