"""`BlockingClient`: the client for threads, scripts, and asyncio programs (with `asyncio.to_thread`).

trio runs in a thread of its own; a call hands its operation over and waits for a `Future`. Nothing but the hand-over
crosses threads, and every future that was handed out is completed, also if trio's thread ends first.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TypeVar

import trio

from pbft.client.calls import Call
from pbft.client.core import DEFAULT_WINDOW
from pbft.client.errors import ClientClosed, ClientError
from pbft.client.replicas import ClientStatistics
from pbft.client.shell import DEFAULT_TIMEOUT, Client
from pbft.config_file import ClusterConfig
from pbft.crypto import PrivateKey
from pbft.transport import Address, AnyHub, Hub

T = TypeVar("T")


class BlockingClient:
    """The methods of `Client` for any thread; may be used from several at once.

        with BlockingClient("cluster.toml", name="alice") as client:
            client.invoke(b"...", timeout=5.0)

    A KeyboardInterrupt ends the waiting at once; what was sent may execute all the same.
    """

    def __init__(
        self,
        config: str | os.PathLike[str] | ClusterConfig,
        name: str | None = None,
        *,
        key: PrivateKey | None = None,
        addresses: Mapping[int, Address] | None = None,
        window: int = DEFAULT_WINDOW,
        make_hub: Callable[..., AnyHub] = Hub,
    ) -> None:
        """See `Client.connect`. Starts the thread; raises what `Client.connect` raises."""
        self._lock = threading.Lock()
        self._futures: set[Future[object]] = set()
        self._is_over = self._is_closing = False
        self._client: Client | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop: trio.Event | None = None
        started: Future[None] = Future()
        connect = partial(Client.connect, config, name, key=key, addresses=addresses, window=window, make_hub=make_hub)
        self._thread = threading.Thread(
            target=self._run, args=(partial(self._main, connect, started), started), name="pbft-client", daemon=True
        )
        self._thread.start()
        try:
            started.result()
        except BaseException:
            self.close()
            raise

    def _run(self, main: Callable[[], object], started: Future[None]) -> None:
        failure: BaseException | None = None
        try:
            trio.run(main)  # type: ignore[arg-type]
        except BaseException as error:
            failure = error  # told to whoever waits or calls; a thread has nobody else to tell
        with self._lock:
            self._is_over = True
            abandoned, self._futures = self._futures, set()
        if not started.done():
            started.set_exception(failure or ClientClosed("the client was closed before it had started", False))
        for future in abandoned:
            if not future.done():
                future.set_exception(failure or ClientClosed("the client was closed; the outcome is unknown", None))

    async def _main(self, connect: Callable[[], object], started: Future[None]) -> None:
        self._stop = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        if self._is_closing:  # before there was anything to stop
            self._stop.set()
        async with connect() as client:  # type: ignore[attr-defined]
            self._client = client
            started.set_result(None)
            await self._stop.wait()

    # ---- calls

    def invoke(self, operation: bytes, *, timeout: float = DEFAULT_TIMEOUT) -> bytes:
        """See `Client.invoke`."""
        return self._call(operation, timeout, False)

    def query(self, operation: bytes, *, timeout: float = DEFAULT_TIMEOUT) -> bytes:
        """See `Client.query`."""
        return self._call(operation, timeout, True)

    def _call(self, operation: bytes, timeout: float, query: bool) -> bytes:
        future: Future[bytes] = Future()
        calls: list[Call] = []

        def ended(call: Call) -> None:
            if not future.done():
                if isinstance(call.result, ClientError):
                    future.set_exception(call.result)
                else:
                    future.set_result(call.result or b"")

        def begin() -> None:
            assert self._client is not None
            try:
                calls.append(self._client.start_call(operation, timeout, query, ended))
            except (ClientError, ValueError, TypeError) as error:
                future.set_exception(error)

        def forget() -> None:
            for call in calls:
                assert self._client is not None
                self._client.cancel_call(call)

        return self._wait(future, begin, forget)

    def wait_connected(self, minimum: int | None = None, *, timeout: float = DEFAULT_TIMEOUT) -> None:
        """See `Client.wait_connected`. Raises TimeoutError if it takes longer than `timeout` seconds."""

        async def wait(client: Client) -> None:
            with trio.move_on_after(timeout) as scope:
                await client.wait_connected(minimum)
            if scope.cancelled_caught:
                raise TimeoutError(f"connected to {len(client.connected)} replicas only after {timeout:g} s")

        future: Future[None] = Future()

        async def run() -> None:
            assert self._client is not None
            try:
                await wait(self._client)
            except (TimeoutError, ValueError) as error:
                future.set_exception(error)
            else:
                future.set_result(None)

        self._wait(future, lambda: trio.lowlevel.spawn_system_task(run), lambda: None)

    def statistics(self) -> ClientStatistics:
        """See `Client.statistics`."""
        future: Future[ClientStatistics] = Future()

        def look() -> None:
            assert self._client is not None
            future.set_result(self._client.statistics())

        return self._wait(future, look, lambda: None)

    def _wait(self, future: Future[T], begin: Callable[[], object], forget: Callable[[], None]) -> T:
        """Have `begin` run in trio's thread, and wait for the future; if that is interrupted, have `forget` run."""
        with self._lock:
            if self._is_over or self._token is None:
                raise ClientClosed("the client is closed; the operation was not sent", False)
            self._futures.add(future)  # type: ignore[arg-type]
        try:
            self._soon(begin)
            return future.result()
        except BaseException:
            if not future.done():
                self._soon(forget)
            raise
        finally:
            with self._lock:
                self._futures.discard(future)

    def _soon(self, function: Callable[[], object]) -> None:
        assert self._token is not None
        try:
            self._token.run_sync_soon(function)
        except trio.RunFinishedError:
            raise ClientClosed("the client is closed; the operation was not sent", False) from None

    # ---- end

    def close(self) -> None:
        """End all calls with ClientClosed and the thread with them. Harmless if repeated."""
        self._is_closing = True
        if self._token is not None and self._stop is not None:
            with suppress(trio.RunFinishedError):  # it has ended already
                self._token.run_sync_soon(self._stop.set)
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
