"""The client proxy in trio: sockets, clock and tasks around the pure `ClientCore`.

Decides nothing of the protocol. A call parks its task and marks the flusher, which runs once after all tasks that were
ready: so calls of one moment share a REQUEST. What a sweep of the hub completes wakes the callers' tasks, and what they
call next leaves together too. No task, scope or event per call.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import trio

from pbft.client.calls import Call
from pbft.client.configuration import Identity, load_identity
from pbft.client.core import DEFAULT_WINDOW, ClientCore
from pbft.client.errors import ClientError
from pbft.client.replicas import ClientStatistics
from pbft.config_file import ClusterConfig
from pbft.crypto import PrivateKey
from pbft.transport import Address, AnyHub, Hub, Link

DEFAULT_TIMEOUT = 10.0
"""Seconds until a call ends in any case."""
_TICK = 0.02
"""Seconds between two looks at deadlines and retransmissions, while there are any."""

Ended = Callable[[Call], None]


class Client:
    """Many tasks may share one client. Made by `Client.connect`."""

    def __init__(self, identity: Identity, make_hub: Callable[..., AnyHub], window: int) -> None:
        self._core = ClientCore(
            identity.group, identity.principal, identity.key.sign, os.urandom, random.Random(), window
        )
        self._quorums = identity.group.quorums
        self._links: dict[int, Link] = {}
        self._connected = trio.Event()
        self._flusher: trio.lowlevel.Task | None = None
        self._flush_wanted = False
        self._ticker: trio.lowlevel.Task | None = None
        self._hub = make_hub(
            identity.handshake(), self, peers=identity.addresses, limits=identity.limits(), rng=random.Random()
        )

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        config: str | os.PathLike[str] | ClusterConfig,
        name: str | None = None,
        *,
        key: PrivateKey | None = None,
        addresses: Mapping[int, Address] | None = None,
        window: int = DEFAULT_WINDOW,
        make_hub: Callable[..., AnyHub] = Hub,
    ) -> AsyncIterator[Client]:
        """A client that keeps itself connected until the block is left; calls in flight then end with ClientClosed.

        `config`: cluster.toml or what was read from it. `name`: which of its clients to be; needed if it lists several.
        `key`: instead of the client's key file. `addresses`: replica -> (host, port) where the file's do not hold.
        `window`: REQUESTs in flight. Does not wait for replicas to be there. Raises `pbft.config.ConfigError` and
        `pbft.crypto.KeyFileError`.
        """
        identity = await trio.to_thread.run_sync(partial(load_identity, config, name, key, addresses))
        client = cls(identity, make_hub, window)
        failure: BaseException | None = None
        async with trio.open_nursery() as nursery:
            await nursery.start(client._flushing)
            await nursery.start(client._ticking)
            await nursery.start(client._hub.run)
            try:
                yield client
            except BaseException as error:
                # Raised again outside of the nursery, which would wrap it into a group for the sake of tasks that the
                # caller knows nothing of. If one of those fails, what the block raised is our own cancellation.
                failure = error
            client._close()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    # ---- calls

    async def invoke(self, operation: bytes, *, timeout: float = DEFAULT_TIMEOUT) -> bytes:
        """Have an operation ordered and executed exactly once; returns its result. Ends within `timeout` seconds.

        Raises RequestTimeout, RequestRejected, Overloaded, OperationFailed, ClientClosed (see `pbft.client.errors`).
        After a timeout the outcome is unknown; a second call is a second operation.
        """
        return await self._call(operation, timeout, False)

    async def query(self, operation: bytes, *, timeout: float = DEFAULT_TIMEOUT) -> bytes:
        """Have a read-only operation ordered and answered: it sees whatever was acknowledged before. Raises as
        `invoke`; repeating a query is harmless."""
        return await self._call(operation, timeout, True)

    async def _call(self, operation: bytes, timeout: float, query: bool) -> bytes:
        call = self._begin(operation, timeout, query)
        call.waiter = trio.lowlevel.current_task()

        def forget(raise_cancel: object) -> trio.lowlevel.Abort:
            self._core.cancel(call)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(forget)
        result = call.result
        if type(result) is bytes:
            return result
        assert isinstance(result, ClientError)
        raise result

    def start_call(self, operation: bytes, timeout: float, query: bool, ended: Ended) -> Call:
        """Begin a call without a task; `ended(call)` is called when `call.result` is set. For other kinds of shells;
        only from trio's thread."""
        call = self._begin(operation, timeout, query)
        call.waiter = ended
        return call

    def cancel_call(self, call: Call) -> None:
        """Forget a call made by `start_call`; `ended` will not be called."""
        self._core.cancel(call)

    def _begin(self, operation: bytes, timeout: float, query: bool) -> Call:
        if not 0 <= timeout < math.inf:
            raise ValueError(f"timeout={timeout!r}: a call needs a deadline, in seconds from now")
        if type(operation) is not bytes:
            operation = bytes(memoryview(operation))
        now = trio.current_time()
        call = self._core.invoke(operation, now, now + timeout, query)
        self._wake()
        return call

    # ---- looking

    async def wait_connected(self, minimum: int | None = None) -> None:
        """Wait until `minimum` replicas have a link; by default as many as answer when f are faulty (q)."""
        wanted = self._quorums.strong if minimum is None else minimum
        if wanted > self._quorums.n:
            raise ValueError(f"minimum={wanted}: the cluster has {self._quorums.n} replicas")
        while len(self._links) < wanted:
            await self._connected.wait()
        await trio.lowlevel.checkpoint()

    @property
    def connected(self) -> frozenset[int]:
        """Replicas with a link."""
        return frozenset(self._links)

    @property
    def operation_max(self) -> int:
        """Bytes of the largest operation that this cluster takes."""
        return self._core.operation_max

    def statistics(self) -> ClientStatistics:
        """A snapshot: believed view, counters, and the conduct of each replica."""
        return self._core.statistics()

    # ---- pbft.transport.Receiver

    def on_message(self, link: Link, body: bytes) -> None:
        """A reply or refusal."""
        self._core.on_message(link.principal, body, trio.current_time())

    def on_link_up(self, link: Link) -> None:
        """A replica can be reached."""
        self._links[link.principal] = link
        self._core.on_link_up(link.principal, link.session.authenticator_key, trio.current_time())
        self._connected.set()
        self._connected = trio.Event()

    def on_link_down(self, link: Link, reason: str) -> None:
        """A replica cannot be reached; the hub dials again."""
        if self._links.get(link.principal) is link:
            del self._links[link.principal]
            self._core.on_link_down(link.principal, trio.current_time())

    def on_sweep_end(self) -> None:
        """Everything that was ready has been delivered: wake the callers, send what became due."""
        self._carry_out()

    # ---- tasks

    def _carry_out(self) -> None:
        core, hub = self._core, self._hub
        for replica, message, bulk in core.take_sends():
            hub.send(replica, message, bulk)
        reschedule = trio.lowlevel.reschedule
        for call, _ in core.take_completions():
            waiter = call.waiter
            if type(waiter) is trio.lowlevel.Task:
                reschedule(waiter)
            elif callable(waiter):
                waiter(call)

    def _wake(self) -> None:
        """Have the flusher run once, after the tasks that are ready now."""
        if self._flush_wanted:
            return
        self._flush_wanted = True
        if self._flusher is not None:
            trio.lowlevel.reschedule(self._flusher)
            self._flusher = None
        if self._ticker is not None:
            trio.lowlevel.reschedule(self._ticker)
            self._ticker = None

    async def _flushing(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            if not self._flush_wanted:
                self._flusher = trio.lowlevel.current_task()
                try:
                    await trio.lowlevel.wait_task_rescheduled(_give_up)
                finally:
                    self._flusher = None
            self._flush_wanted = False
            self._carry_out()
            self._hub.flush()

    async def _ticking(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ticks while something can become due; parked otherwise, so that an idle client costs nothing."""
        task_status.started()
        while True:
            if self._core.next_wakeup() is None:
                self._ticker = trio.lowlevel.current_task()
                try:
                    await trio.lowlevel.wait_task_rescheduled(_give_up)
                finally:
                    self._ticker = None
            await trio.sleep(_TICK)
            for replica, link in self._links.items():
                self._core.on_new_key(replica, link.session.authenticator_key)
            self._core.on_tick(trio.current_time())
            self._carry_out()
            self._hub.flush()

    def _close(self) -> None:
        self._core.close()
        self._carry_out()


def _give_up(raise_cancel: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.SUCCEEDED
