"""The trio client against replicas on a memory network, in virtual time."""

from __future__ import annotations

import pytest
import trio
from client_cluster import running_cluster
from client_world import ALICE, group_of
from trio.testing import MockClock

from pbft.batch import Outcome, encode_done
from pbft.client import Client, ClientClosed, RequestRejected, RequestTimeout
from pbft.config import ConfigError
from pbft.crypto import PrivateKey


async def test_invoke_and_query_return_results(autojump_clock: MockClock) -> None:
    """An operation and a query return what the replicas agreed on; one session serves both."""
    async with running_cluster() as cluster, cluster.client() as client:
        await client.wait_connected(4)
        assert await client.invoke(b"a") == b"r:a"
        assert await client.query(b"b") == b"r:b"
        assert await client.invoke(bytearray(b"c")) == b"r:c"
        assert client.connected == {0, 1, 2, 3}
        assert client.statistics().sessions == 1


@pytest.mark.scenario("E06", "E09")
async def test_many_tasks_share_one_client_with_one_replica_dead(autojump_clock: MockClock) -> None:
    """1,000 concurrent calls complete, each with its own result and executed once, in few requests."""
    async with running_cluster(up=3) as cluster, cluster.client() as client:
        await client.wait_connected()
        results = {}

        async def call(number: int) -> None:
            results[number] = await client.invoke(b"%d" % number)

        async with trio.open_nursery() as nursery:
            for number in range(1000):
                nursery.start_soon(call, number)
        assert results == {number: b"r:%d" % number for number in range(1000)}
        assert sorted(cluster.executed) == sorted(b"%d" % number for number in range(1000))
        assert cluster.requests <= 6


@pytest.mark.scenario("E08")
async def test_a_lying_replica_is_outvoted_and_named(autojump_clock: MockClock) -> None:
    """A replica that lies in every reply changes no result; the statistics name it."""
    async with running_cluster() as cluster, cluster.client() as client:
        await client.wait_connected(4)
        await client.invoke(b"first")
        cluster.replicas[2].lies = lambda result: encode_done([(Outcome.OK, b"lie")])
        for number in range(8):
            assert await client.invoke(b"%d" % number) == b"r:%d" % number
        outvoted = [replica.outvoted for replica in client.statistics().replicas]
        assert outvoted[2] == 8
        assert sum(outvoted) == 8


@pytest.mark.scenario("E21")
@pytest.mark.parametrize("fault", ["down", "lies"])
async def test_a_faulty_replier_costs_one_retransmission(autojump_clock: MockClock, fault: str) -> None:
    """Where the designated replier is down or lies, the full result comes after one retransmission, and the next
    requests designate others."""
    async with running_cluster() as cluster, cluster.client() as client:
        await client.wait_connected(4)
        if fault == "down":
            cluster.replicas[3].is_mute = True
        else:
            cluster.replicas[3].lies = lambda result: encode_done([(Outcome.OK, b"lie")])
        for number in range(8):
            assert await client.invoke(b"%d" % number) == b"r:%d" % number
        assert client.statistics().retransmissions == 1
        assert len(cluster.executed) == 8


@pytest.mark.scenario("E10", "B13")
async def test_no_quorum_then_heal(autojump_clock: MockClock) -> None:
    """Without a quorum a call ends at its deadline with an unknown outcome; once replicas are back the client goes on
    by itself, and a call that waited that long is executed once."""
    async with running_cluster() as cluster, cluster.client() as client:
        await client.wait_connected(4)
        await client.invoke(b"first")
        for number in (0, 1, 2):
            cluster.stop(number)
        begin = trio.current_time()
        with pytest.raises(RequestTimeout) as caught:
            await client.invoke(b"a", timeout=5.0)
        assert 5.0 <= trio.current_time() - begin < 5.1
        assert caught.value.executed is None
        async with trio.open_nursery() as nursery:

            async def patient() -> None:
                assert await client.invoke(b"b", timeout=60.0) == b"r:b"

            nursery.start_soon(patient)
            await trio.sleep(30)
            await cluster.start(0, 1)
            await cluster.start(1, 1)
        assert cluster.executed.count(b"b") == 1


@pytest.mark.scenario("E11")
async def test_a_client_survives_a_restart_of_the_whole_cluster(autojump_clock: MockClock) -> None:
    """All replicas stop for half a minute and start again: the client reconnects and the next call succeeds soon."""
    async with running_cluster() as cluster, cluster.client() as client:
        await client.wait_connected(4)
        await client.invoke(b"a")
        for number in range(4):
            cluster.stop(number)
        await trio.sleep(30)
        assert client.connected == frozenset()
        for number in range(4):
            await cluster.start(number, 1)
        with trio.fail_after(10):
            await client.wait_connected(4)
            assert await client.invoke(b"b") == b"r:b"


@pytest.mark.scenario("E13")
async def test_calls_before_the_links_are_up_succeed(autojump_clock: MockClock) -> None:
    """A call made at once, while half of the replicas can be reached only later, gets its f+1 replies."""
    async with running_cluster(up=1) as cluster, cluster.client() as client:
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                assert await client.invoke(b"early") == b"r:early"

            nursery.start_soon(call)
            await trio.sleep(0.5)
            await cluster.start(3)
        assert cluster.executed == [b"early"]


@pytest.mark.scenario("E20")
async def test_operations_up_to_the_limit_work_and_larger_ones_are_refused(autojump_clock: MockClock) -> None:
    """The limit itself passes; beyond it the call is rejected at once and the links stay."""
    async with running_cluster() as cluster, cluster.client() as client:
        await client.wait_connected(4)
        largest = client.operation_max
        assert len(await client.invoke(bytes(largest))) == largest + 2
        for size in (largest + 1, 100 * largest):
            with pytest.raises(RequestRejected):
                await client.invoke(bytes(size))
        assert client.connected == {0, 1, 2, 3}


async def test_cancelling_a_call_forgets_it(autojump_clock: MockClock) -> None:
    """A cancel scope around a call ends it like any other wait, sent or not; others are not disturbed."""
    async with running_cluster() as cluster, cluster.client() as client:
        await client.wait_connected(4)
        await client.invoke(b"first")
        cluster.stalled = True
        for _ in range(10):
            with trio.move_on_after(0.1) as scope:
                await client.invoke(b"never", timeout=60.0)
            assert scope.cancelled_caught
        assert client.statistics().outstanding == client.statistics().waiting == 0
        cluster.stalled = False
        assert await client.invoke(b"b") == b"r:b"
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.invoke(b"cancelled before")
        assert scope.cancelled_caught


async def test_leaving_the_block_ends_calls_in_flight(autojump_clock: MockClock) -> None:
    """Calls of other tasks end with ClientClosed when the block is left, and later ones are refused."""
    errors = []
    async with running_cluster() as cluster, trio.open_nursery() as nursery:
        cluster.stalled = True
        async with cluster.client() as client:

            async def call() -> None:
                with pytest.raises(ClientClosed) as caught:
                    await client.invoke(b"a", timeout=60.0)
                errors.append(caught.value)

            for _ in range(3):
                nursery.start_soon(call)
            await trio.sleep(1.0)
        with pytest.raises(ClientClosed):
            await client.invoke(b"b")
    assert len(errors) == 3


async def test_exceptions_leave_the_block_as_they_were_raised(autojump_clock: MockClock) -> None:
    """What the caller's block raises is not wrapped into a group; its own groups and cancellation stay too."""
    async with running_cluster() as cluster:
        with pytest.raises(RequestRejected):
            async with cluster.client() as client:
                await client.invoke(bytes(client.operation_max + 1))
        with pytest.raises(ExceptionGroup, match="mine"):
            async with cluster.client():
                raise ExceptionGroup("mine", [ValueError()])
        with trio.move_on_after(1) as scope:
            async with cluster.client():
                await trio.sleep_forever()
        assert scope.cancelled_caught


async def test_an_idle_client_has_nothing_to_do(autojump_clock: MockClock) -> None:
    """Without calls nothing ticks: a day passes in virtual time without a message or a retransmission."""
    async with running_cluster() as cluster, cluster.client() as client:
        await client.wait_connected(4)
        await client.invoke(b"a")
        before = client.statistics()
        await trio.sleep(86_400)
        assert client.statistics() == before
        assert await client.invoke(b"b") == b"r:b"


@pytest.mark.parametrize("timeout", [-1.0, float("inf"), float("nan")])
async def test_a_call_without_a_deadline_is_a_mistake(autojump_clock: MockClock, timeout: float) -> None:
    """Every call ends, so a timeout that is no number of seconds from now is refused."""
    async with running_cluster() as cluster, cluster.client() as client:
        with pytest.raises(ValueError, match="deadline"):
            await client.invoke(b"a", timeout=timeout)
        with pytest.raises(TypeError):
            await client.invoke("text")
        with pytest.raises(ValueError, match="4 replicas"):
            await client.wait_connected(5)


async def test_a_key_that_is_not_listed_is_refused_with_the_remedy() -> None:
    """Connecting with an unknown key, or without saying as whom, names what to do."""
    async with running_cluster(up=0) as cluster:
        with pytest.raises(ConfigError, match="not listed under"):
            async with Client.connect(cluster.config, key=PrivateKey.from_seed(bytes(32))):
                pass
        cluster.config.clients.append(cluster.config.clients[0])
        with pytest.raises(ConfigError, match="say as which client"):
            async with Client.connect(cluster.config):
                pass
    assert ALICE.public.raw in group_of().clients.values()
