"""The client for threads, against replicas on a memory network that runs in the client's own trio thread."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import trio
from client_cluster import Cluster, running_cluster
from client_world import ALICE

from pbft.client import BlockingClient, ClientClosed, RequestRejected, RequestTimeout
from pbft.config import ConfigError
from pbft.crypto import PrivateKey
from pbft.transport import MemoryNetwork


class HostedHub:
    """A client's hub that brings its cluster along into trio's thread."""

    def __init__(self, up: int, handshake: Any, receiver: Any, **options: Any) -> None:
        self.up = up
        self.ready = threading.Event()
        self.cluster: Cluster | None = None
        self._make = lambda cluster: cluster.make_hub(handshake, receiver, **options)
        self._hub: Any = None

    async def run(self, *, task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        async with running_cluster(self.up) as self.cluster:
            self._hub = self._make(self.cluster)
            self.ready.set()
            await self._hub.run(task_status=task_status)

    def send(self, principal: int, body: bytes, bulk: bool = False) -> bool:
        sent: bool = self._hub.send(principal, body, bulk)
        return sent

    def flush(self) -> None:
        if self._hub is not None:
            self._hub.flush()


@contextmanager
def hosted(up: int = 4) -> Iterator[tuple[BlockingClient, Cluster]]:
    hubs: list[HostedHub] = []

    def make_hub(*arguments: Any, **options: Any) -> Any:
        hubs.append(HostedHub(up, *arguments, **options))
        return hubs[0]

    async def no_nursery() -> Any:
        async with trio.open_nursery() as nursery:
            return Cluster(MemoryNetwork(), nursery).config

    config = trio.run(no_nursery)
    with BlockingClient(config, key=ALICE, make_hub=make_hub) as client:
        cluster = hubs[0].cluster
        assert cluster is not None
        yield client, cluster


def test_invoke_and_query_block_until_the_result() -> None:
    """The same methods, without async; the statistics are there too."""
    with hosted() as (client, _):
        client.wait_connected(4)
        assert client.invoke(b"a") == b"r:a"
        assert client.query(b"b", timeout=3.0) == b"r:b"
        assert client.statistics().succeeded == 2


def test_several_threads_share_one_client() -> None:
    """200 calls of 16 threads complete, each with its own result, and execute once."""
    with hosted() as (client, cluster):
        client.wait_connected(4)
        with ThreadPoolExecutor(16) as threads:
            results = list(threads.map(client.invoke, [b"%d" % i for i in range(200)]))
        assert results == [b"r:%d" % i for i in range(200)]
        assert len(cluster.executed) == 200


def test_asyncio_programs_use_it_through_threads() -> None:
    """`asyncio.to_thread` makes calls run beside each other."""
    with hosted() as (client, _):

        async def main() -> list[bytes]:
            return await asyncio.gather(*(asyncio.to_thread(client.invoke, b"%d" % i) for i in range(20)))

        assert asyncio.run(main()) == [b"r:%d" % i for i in range(20)]


def test_errors_arrive_in_the_calling_thread() -> None:
    """Typed errors, mistakes and missing connections are raised where the call was made."""
    with hosted(up=1) as (client, _):
        with pytest.raises(RequestRejected):
            client.invoke(bytes(1 << 20))
        with pytest.raises(ValueError, match="deadline"):
            client.invoke(b"a", timeout=-1)
        with pytest.raises(RequestTimeout):
            client.invoke(b"a", timeout=0.05)
        with pytest.raises(TimeoutError, match="only"):
            client.wait_connected(4, timeout=0.05)
        with pytest.raises(ValueError, match="4 replicas"):
            client.wait_connected(5)


def test_a_configuration_that_cannot_be_used_is_refused_at_once() -> None:
    """What `Client.connect` raises, the constructor raises."""
    with hosted() as (_, cluster), pytest.raises(ConfigError, match="not listed"):
        BlockingClient(cluster.config, key=PrivateKey.from_seed(bytes(32)))


def test_closing_ends_calls_of_other_threads() -> None:
    """A call that waits in another thread ends with ClientClosed; so does any later one; closing twice is harmless."""
    with hosted() as (client, cluster), ThreadPoolExecutor(1) as threads:
        client.wait_connected(4)
        client.invoke(b"first")
        cluster.stalled = True
        waiting = threads.submit(client.invoke, b"a", timeout=60.0)
        while not client.statistics().outstanding:
            pass
        client.close()
        with pytest.raises(ClientClosed):
            waiting.result()
        client.close()
        with pytest.raises(ClientClosed):
            client.invoke(b"b")


@pytest.fixture
def interrupts() -> Iterator[None]:
    """Ctrl-C interrupts, also where these tests were started in the background, which ignores it."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("interrupts")
def test_an_interrupt_ends_the_waiting_and_forgets_the_call() -> None:
    """Ctrl-C in a call raises KeyboardInterrupt at once; the client can still be used."""
    with hosted() as (client, cluster):
        client.wait_connected(4)
        client.invoke(b"first")
        cluster.stalled = True

        def interrupt() -> None:
            while not client.statistics().outstanding:
                pass
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()
        with pytest.raises(KeyboardInterrupt):
            client.invoke(b"a", timeout=60.0)
        interrupter.join()
        cluster.stalled = False
        assert client.invoke(b"b") == b"r:b"
        assert client.statistics().outstanding == 0
