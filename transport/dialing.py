"""Keeping a link to one peer: resolve, connect, wait, again, for ever. One task per peer. Scenarios F10-F13, F21."""

from __future__ import annotations

import errno
import math
import os
import random
import socket
from typing import Any, Protocol

import trio

from pbft.transport.interface import Address
from pbft.transport.limits import Limits

_UNDER_WAY = frozenset({errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR})


class DialOwner(Protocol):
    """What a dialer needs of its hub."""

    def has_link(self, principal: int) -> bool:
        """Whether there is a live link."""

    def dialed_peer(self, sock: socket.socket, principal: int) -> None:
        """A connection is there: begin the handshake."""

    def dial_failed(self, principal: int, text: str) -> None:
        """Count and log it."""


class Dialer:
    """Dials one peer whenever there is neither a link nor a handshake with it.

    `patient`: the first attempt waits a little, so that the other side, which dials as well, comes first and
    simultaneous opens are rare.
    """

    def __init__(
        self,
        owner: DialOwner,
        principal: int,
        address: Address,
        limits: Limits,
        rng: random.Random,
        patient: bool,
    ) -> None:
        self.principal = principal
        self.address = address
        self.conversing = False
        """Whether a connection of ours is in its handshake or awaits confirmation."""
        self._owner = owner
        self._limits = limits
        self._rng = rng
        self._delay = limits.dial_backoff_min
        self._pausing = patient
        self._at_once = False
        self._idle = False
        self._awake = trio.Event()
        self._known: list[tuple[int, tuple[Any, ...]]] = []

    async def run(self) -> None:
        """The loop. Cancel to stop."""
        while True:
            if self.conversing or self._owner.has_link(self.principal):
                self._idle = True
                await self._sleep(math.inf)
                self._idle = False
                self._pausing = True  # whatever ended, do not hammer
            elif self._pausing and not self._at_once:
                self._pausing = False
                await self._sleep(self._next_delay())
            else:
                self._at_once = False
                self._pausing = True
                await self._attempt()

    def redial(self) -> None:
        """Try at once, if there is no link."""
        self._at_once = True
        self._delay = self._limits.dial_backoff_min
        self._awake.set()

    def conversation_ended(self) -> None:
        """The handshake that this dialer began is over: with a link, or with nothing."""
        self.conversing = False
        self.wake()

    def link_lost(self, lasted: float) -> None:
        """A link with the peer, up for `lasted` seconds, is over. Links that hold do not inherit old back-off."""
        if lasted >= self._limits.dial_backoff_max:
            self._delay = self._limits.dial_backoff_min
        self.wake()

    def wake(self) -> None:
        """Something may have changed; does not cut a back-off short."""
        if self._idle:
            self._awake.set()

    async def _sleep(self, seconds: float) -> None:
        self._awake = trio.Event()
        with trio.move_on_after(seconds):
            await self._awake.wait()

    def _next_delay(self) -> float:
        delay = self._delay
        self._delay = min(2 * delay, self._limits.dial_backoff_max)
        return delay * self._rng.uniform(0.5, 1.0)

    async def _attempt(self) -> None:
        host, port = self.address
        reason = await self._resolve()
        for family, where in self._known:
            found = await self._connect(family, where)
            if isinstance(found, str):
                reason = found
                continue
            if self._owner.has_link(self.principal):
                found.close()  # it was faster
                return
            self.conversing = True
            self._owner.dialed_peer(found, self.principal)
            return
        self._owner.dial_failed(self.principal, f"cannot connect to {host}:{port}: {reason}; trying again")

    async def _resolve(self) -> str:
        """Ask again every time, for a peer may come back elsewhere; keep what was known if nobody answers."""
        host, port = self.address
        try:
            with trio.fail_after(self._limits.resolve_timeout):
                found = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except trio.TooSlowError:
            return "the host name was not resolved in time"
        except (OSError, UnicodeError) as error:
            return f"the host name does not resolve ({error})"
        self._known = list(dict.fromkeys((family, where) for family, _, _, _, where in found))
        return "no address"

    async def _connect(self, family: int, where: tuple[Any, ...]) -> socket.socket | str:
        """A connected socket, or why there is none."""
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            return error.strerror or "no socket"
        try:
            sock.setblocking(False)
            code = sock.connect_ex(where)
            if code in _UNDER_WAY:
                with trio.fail_after(self._limits.connect_timeout):
                    await trio.lowlevel.wait_writable(sock)
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            # A dial to a free port of this machine may, by chance, be answered by its own socket.
            reason = os.strerror(code) if code else ""
            if not reason and sock.getsockname() == sock.getpeername():
                reason = "the socket reached itself"
        except trio.TooSlowError:
            reason = "no answer"
        except OSError as error:
            reason = error.strerror or "failed"
        except BaseException:
            sock.close()
            raise
        if reason:
            sock.close()
            return reason
        return sock
