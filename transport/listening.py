"""Listening sockets: binding what was asked for, and accepting while descriptors last. Scenarios I08, I10."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Callable
from typing import Any

import trio

from pbft.transport.errors import ListenError
from pbft.transport.interface import Address
from pbft.transport.limits import Limits

_BACKLOG = 1024
_ACCEPTS_PER_SWEEP = 64

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_EVERYWHERE = ("", "*")


async def open_listeners(address: Address) -> list[socket.socket]:
    """Bind and listen on exactly `address`: ListenError if that is not possible.

    `0.0.0.0` is all of IPv4 and `::` all of IPv6, alone; an empty host or `*` is both. A name means every
    address that it resolves to. With port 0 the system chooses one port for all of them.
    """
    host, port = address
    try:
        found = await trio.socket.getaddrinfo(
            None if host in _EVERYWHERE else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise ListenError(f"cannot listen on {host}:{port}: the host does not resolve ({error})") from error
    listeners: list[socket.socket] = []
    try:
        for family, _, _, _, where in dict.fromkeys(found):
            if listeners and not port:
                where = (where[0], listeners[0].getsockname()[1], *where[2:])
            try:
                listeners.append(_listener(family, where))
            except OSError as error:
                # A machine without IPv6 resolves "" to :: all the same.
                if host in _EVERYWHERE and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):
                    continue
                raise ListenError(
                    f"cannot listen on {host}:{port}: {error.strerror}; is it in use, or not of this machine?"
                ) from error
        if not listeners:
            raise ListenError(f"cannot listen on {host}:{port}: this machine has no such address")
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def _listener(family: int, where: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


class Spare:
    """One descriptor kept back. When there are no others, a connection can still be taken and closed.

    Otherwise it would stay in the backlog: the listener would be ready for ever, and its client never know.
    """

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self.refill()

    def refill(self) -> None:
        """Have one again, if there is one to be had."""
        if self._descriptor is None:
            try:
                self._descriptor = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                return  # the next refill may succeed

    def refuse_one(self, listener: socket.socket) -> None:
        """Take one connection from the backlog and close it."""
        self.close()
        try:
            listener.accept()[0].close()
        except OSError:
            return  # somebody else got the descriptor, or the client went away
        finally:
            self.refill()

    def close(self) -> None:
        """Give it back."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class Acceptor:
    """One listening socket in the hub's selector."""

    __slots__ = ("_accepted", "_exhausted", "_spare", "sock")

    def __init__(
        self,
        sock: socket.socket,
        spare: Spare,
        accepted: Callable[[socket.socket], None],
        exhausted: Callable[[str], None],
    ) -> None:
        self.sock = sock
        self._spare = spare
        self._accepted = accepted
        self._exhausted = exhausted

    def on_ready(self, mask: int) -> None:
        """Accept what waits, up to a bound per sweep."""
        for _ in range(_ACCEPTS_PER_SWEEP):
            try:
                sock = self.sock.accept()[0]
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    self._spare.refuse_one(self.sock)
                    self._exhausted(error.strerror or "")
                    return
                if isinstance(error, BlockingIOError) or self.sock.fileno() < 0:
                    return
                continue  # that one connection was gone before it was accepted
            self._accepted(sock)


def prepare(sock: socket.socket) -> None:
    """Options of every connection: never block, send at once, and keep little in the kernel.

    The latter so that a control message does not wait behind megabytes that were handed over already (F20).
    """
    sock.setblocking(False)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        lowat = getattr(socket, "TCP_NOTSENT_LOWAT", None)
        if lowat is not None:
            sock.setsockopt(socket.IPPROTO_TCP, lowat, 128 * 1024)
    except OSError:
        return  # the connection is dead already: the first read will say so


def shares(limits: Limits, peers: int) -> tuple[int, int]:
    """How many strangers and client links there may be, so that the process keeps the reserved descriptors.

    Each peer may take two for a moment: an old link and a new one. Scenario I10.
    """
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    available = 1 << 30 if soft == resource.RLIM_INFINITY else max(16, soft - limits.reserved_descriptors)
    strangers = max(4, min(limits.unauthenticated_max, available // 4))
    return strangers, max(1, min(limits.client_links_max, available - strangers - 2 * peers))
