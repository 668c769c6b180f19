"""Client signatures, verified in batches in a thread, so that they do not hold the event loop. Rule 1.17, 4 #26.

Fair: one turn takes at most `PER_CLIENT` of each client, and what proposals need goes first; a client that floods waits
for itself. Bounded: beyond `WAITING_PER_CLIENT` more of a client is refused, and it backs off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import trio

from pbft.authentication import KeyAuthentication
from pbft.batch import ClientRequest

WAITING_PER_CLIENT = 256
PER_CLIENT = 16
PER_TURN = 64
"""About five milliseconds of work."""


class SignatureDesk:
    """Of one replica. All methods are called in the event loop's thread."""

    def __init__(
        self, authentication: KeyAuthentication, done: Callable[[list[tuple[ClientRequest, bool]]], None]
    ) -> None:
        """`done` gets each turn's verdicts, which `authentication` knows by then."""
        self._authentication = authentication
        self._done = done
        self._urgent: deque[ClientRequest] = deque()
        self._waiting: dict[int, deque[ClientRequest]] = {}
        self._wanted = trio.Event()

    def submit(self, request: ClientRequest, urgent: bool) -> bool:
        """Verify a request's signature soon. False if too many of its client wait already."""
        if urgent:
            self._urgent.append(request)
        else:
            mine = self._waiting.setdefault(request.client, deque())
            if len(mine) >= WAITING_PER_CLIENT:
                return False
            mine.append(request)
        self._wanted.set()
        return True

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
        return [self._authentication.signature_verifies(request) for request in turn]

    def _take(self) -> list[ClientRequest]:
        turn: list[ClientRequest] = []
        while self._urgent and len(turn) < PER_TURN:
            turn.append(self._urgent.popleft())
        for client in list(self._waiting):
            mine = self._waiting.pop(client)
            count = min(PER_CLIENT, len(mine), PER_TURN - len(turn))
            turn += [mine.popleft() for _ in range(count)]
            if mine:
                self._waiting[client] = mine  # at the end: others come first in the next turn
        return turn
