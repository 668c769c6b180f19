"""What every hub promises, shown over TCP and in memory alike."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import trio

from pbft.transport import ListenError, TransportError

CLIENT = 1 << 63


async def test_message_arrives_with_its_sender(world: Any, recorder: Any) -> None:
    """What is sent to a principal arrives there, once, with the sender's principal."""
    left, right = recorder(), recorder()
    async with world.pair(left, right) as (first, second):
        assert first.send(1, b"there")
        first.flush()
        await right.until(lambda: right.bodies == [b"there"])
        assert second.send(0, b"and back")
        second.flush()
        await left.until(lambda: left.bodies == [b"and back"])
        assert (right.senders, left.senders) == ([0], [1])


async def test_order_is_kept(world: Any, recorder: Any) -> None:
    """Messages of one class arrive in the order in which they were sent."""
    left, right = recorder(), recorder()
    sent = [b"%d" % number for number in range(2000)]
    async with world.pair(left, right) as (first, _):
        for body in sent:
            first.send(1, body)
        first.flush()
        await right.until(lambda: len(right.bodies) == len(sent))
        assert right.bodies == sent


async def test_control_goes_before_bulk(world: Any, recorder: Any) -> None:
    """Of what waits, control messages leave first."""
    left, right = recorder(), recorder()
    async with world.pair(left, right) as (first, _):
        first.send(1, b"bulk", bulk=True)
        first.send(1, b"control")
        first.flush()
        await right.until(lambda: len(right.bodies) == 2)
        assert right.bodies == [b"control", b"bulk"]


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1_000_003])
async def test_size_does_not_matter(world: Any, recorder: Any, size: int) -> None:
    """A message arrives whole, be it empty or many fragments."""
    left, right = recorder(), recorder()
    body = bytes(range(256)) * (size // 256 + 1)
    async with world.pair(left, right) as (first, _):
        first.send(1, body[:size], bulk=True)
        first.send(1, body[:size])
        first.flush()
        await right.until(lambda: len(right.bodies) == 2)
        assert right.bodies == [body[:size]] * 2


async def test_multicast_reaches_all_who_have_a_link(world: Any, recorder: Any) -> None:
    """A multicast reaches each linked principal once and skips the others."""
    receivers = {who: recorder() for who in range(3)}
    async with world.hub(0, receivers[0], listen=("127.0.0.1", 0)) as center:
        peers = {0: center.addresses[0]}
        async with world.hub(1, receivers[1], peers=peers), world.hub(2, receivers[2], peers=peers):
            await receivers[0].until(lambda: center.connected() == {1, 2})
            center.multicast([1, 2, 3], b"all")
            center.flush()
            for who in (1, 2):
                await receivers[who].until(lambda who=who: receivers[who].bodies == [b"all"])


async def test_send_without_link_says_so(world: Any, recorder: Any) -> None:
    """Sending to somebody without a link queues nothing and returns False."""
    async with world.hub(0, recorder()) as hub:
        assert hub.send(1, b"lost") is False
        hub.multicast([1, 2], b"lost")
        hub.flush()
        assert hub.links(1) == ()


async def test_answer_sent_from_a_callback_leaves_by_itself(world: Any, recorder: Any) -> None:
    """What is sent inside a callback needs no flush."""
    left, right = recorder(), recorder(lambda link, body: link.send(b"re: " + body))
    async with world.pair(left, right) as (first, _):
        first.send(1, b"hello")
        first.flush()
        await left.until(lambda: left.bodies == [b"re: hello"])


async def test_link_knows_its_peer(world: Any, recorder: Any, handshakes: Any) -> None:
    """A link carries instance, incarnation and the authenticator key that both sides share."""
    left, right = recorder(), recorder()
    async with world.pair(left, right, who=(CLIENT, 0)) as (first, second):
        (near,), (far,) = first.links(0), second.links(CLIENT)
        assert far.instance == handshakes(CLIENT).instance
        assert far.incarnation == 0
        assert near.session.authenticator_key == far.session.authenticator_key


async def test_link_down_is_told_at_both_ends(world: Any, recorder: Any) -> None:
    """When one side closes a link both are told, and the dialing side comes back."""
    left, right = recorder(), recorder()
    async with world.pair(left, right) as (first, second):
        link = second.links(0)[0]
        link.close("enough")
        assert not link.is_up
        link.send(b"into the void")
        await right.until(lambda: len(right.downs) == 1 and 0 in second.connected())
        await left.until(lambda: len(left.downs) == 1 and 1 in first.connected())
        assert right.downs[0] == (link, "enough")
        assert right.bodies == []


@pytest.mark.scenario("F17")
async def test_backlog_does_not_outlive_its_link(world: Any, recorder: Any) -> None:
    """What waited on a link that went down is not sent on the next link with the same peer."""
    left, right = recorder(), recorder()
    async with world.pair(left, right) as (first, _second):
        first.send(1, b"stale")
        first.links(1)[0].close("test")
        await left.until(lambda: len(left.ups) == 2)
        first.send(1, b"fresh")
        first.flush()
        await right.until(lambda: right.bodies[-1:] == [b"fresh"])
        assert right.bodies == [b"fresh"]
        assert first.statistics().peers[1].dropped_control == 1


@pytest.mark.slow
@pytest.mark.scenario("F11")
async def test_late_peer_is_found(world: Any, recorder: Any) -> None:
    """A peer that starts after many failed dials is connected soon after its start."""
    left, right = recorder(), recorder()
    async with world.hub(1, right, listen=("127.0.0.1", 0)) as placeholder:
        address = placeholder.addresses[0]
    async with world.hub(0, left, peers={1: address}) as first:
        await left.until(lambda: first.statistics().refusals.get((1, "dial-failed"), 0) >= 5)
        async with world.hub(1, recorder(), listen=address):
            await left.until(lambda: 1 in first.connected())


@pytest.mark.scenario("F12")
async def test_both_dial_and_one_link_remains(world: Any, recorder: Any) -> None:
    """Two replicas that dial each other end with one link each, the same, and keep it."""
    left, right = recorder(), recorder()
    probe = recorder()
    async with world.hub(0, probe, listen=("127.0.0.1", 0)) as one, world.hub(1, probe, listen=("127.0.0.1", 0)) as two:
        addresses = {0: one.addresses[0], 1: two.addresses[0]}
    async with (
        world.hub(0, left, listen=addresses[0], peers=addresses) as first,
        world.hub(1, right, listen=addresses[1], peers=addresses) as second,
    ):
        await left.until(lambda: 1 in first.connected())
        await right.until(lambda: 0 in second.connected())
        for number in range(20):
            first.send(1, b"%d" % number)
            first.flush()
            await right.until(lambda number=number: b"%d" % number in right.bodies)
        assert len(first.links(1)) == len(second.links(0)) == 1
        assert first.links(1)[0].session.authenticator_key == second.links(0)[0].session.authenticator_key
        assert len(left.ups) <= 2 and len(right.ups) <= 2
        assert 0 not in first.connected()


async def test_restarted_process_replaces_the_old_one(world: Any, recorder: Any) -> None:
    """A link from a newer process of a replica takes the place of the link with the previous one."""
    right = recorder()
    async with world.hub(1, right, listen=("127.0.0.1", 0)) as second:
        peers = {1: second.addresses[0]}
        async with world.hub(0, recorder(), peers=peers):
            await right.until(lambda: 0 in second.connected())
        await right.until(lambda: len(right.downs) == 1)
        async with world.hub(0, recorder(), process=1, peers=peers):
            await right.until(lambda: 0 in second.connected())
            assert right.ups[0].instance != right.ups[1].instance


async def test_client_may_have_several_processes(world: Any, recorder: Any) -> None:
    """Processes of one client have a link each, and a reply goes to all of them."""
    server, one, two = recorder(), recorder(), recorder()
    async with world.hub(0, server, listen=("127.0.0.1", 0)) as hub:
        peers = {0: hub.addresses[0]}
        async with world.hub(CLIENT, one, peers=peers), world.hub(CLIENT, two, process=1, peers=peers):
            await server.until(lambda: len(hub.links(CLIENT)) == 2)
            hub.send(CLIENT, b"reply")
            hub.flush()
            await one.until(lambda: one.bodies == [b"reply"])
            await two.until(lambda: two.bodies == [b"reply"])
            assert hub.statistics().client_links == 2


async def test_processes_of_one_client_are_limited(world: Any, recorder: Any, quick: Any) -> None:
    """One more process of a client than allowed costs that client an older link, and nobody else anything."""
    limits = dataclasses.replace(quick, links_per_client_max=1)
    server, one = recorder(), recorder()
    async with world.hub(0, server, listen=("127.0.0.1", 0), limits=limits) as hub:
        peers = {0: hub.addresses[0]}
        async with world.hub(CLIENT + 1, recorder(), peers=peers), world.hub(CLIENT, one, peers=peers):
            await server.until(lambda: len(hub.connected()) == 2)
            async with world.hub(CLIENT, recorder(), process=1, peers=peers):
                await one.until(lambda: len(one.downs) >= 1)
                await server.until(lambda: len(hub.connected()) == 2)
                assert len(hub.links(CLIENT)) == 1
                assert all(link.principal == CLIENT for link, _ in server.downs)


async def test_wrong_peer_is_refused(world: Any, recorder: Any) -> None:
    """If another principal answers than the one that was dialed, there is no link."""
    left = recorder()
    async with (
        world.hub(2, recorder(), listen=("127.0.0.1", 0)) as other,
        world.hub(0, left, peers={1: other.addresses[0]}) as first,
    ):
        await left.until(lambda: (1, "handshake-wrong-principal") in first.statistics().refusals)
        assert first.connected() == frozenset()


async def test_unknown_principal_is_refused(world: Any, recorder: Any) -> None:
    """A principal that is not in the configuration gets no link, and is counted."""
    right = recorder()
    async with (
        world.hub(1, right, listen=("127.0.0.1", 0)) as second,
        world.hub(CLIENT + 99, recorder(), peers={1: second.addresses[0]}),
    ):
        await right.until(lambda: (None, "handshake-unknown-principal") in second.statistics().refusals)
        assert second.connected() == frozenset()


async def test_no_new_links_after_stop_accepting(world: Any, recorder: Any) -> None:
    """After stop_accepting present links live on and new ones are not made."""
    left, right, late = recorder(), recorder(), recorder()
    async with world.pair(left, right) as (first, second):
        address = second.addresses[0]
        second.stop_accepting()
        async with world.hub(2, late, peers={1: address}) as third:
            await late.until(lambda: third.statistics().refusals.get((1, "dial-failed"), 0) >= 2)
        first.send(1, b"still here")
        first.flush()
        await right.until(lambda: right.bodies == [b"still here"])


async def test_from_a_link_that_rests_nothing_is_taken_for_a_while(world: Any, recorder: Any) -> None:
    """Then all that was sent comes, once and in order; the other direction does not rest."""
    sent = [b"%d" % number for number in range(500)]
    left, right = recorder(), recorder(lambda link, body: link.rest(0.2) if body == sent[99] else None)
    async with world.pair(left, right) as (first, second):
        for body in sent:
            first.send(1, body)
        first.flush()
        await right.until(lambda: len(right.bodies) == 100)
        second.send(0, b"goes on")
        second.flush()
        await left.until(lambda: left.bodies == [b"goes on"])
        assert right.bodies == sent[:100]
        await right.until(lambda: len(right.bodies) == 500)
        assert right.bodies == sent


async def test_a_link_may_end_while_it_rests(world: Any, recorder: Any) -> None:
    """What had arrived is gone with it, and its successor does not rest."""
    left, right = recorder(), recorder(lambda link, body: link.rest(0.2) if body == b"1" else None)
    async with world.pair(left, right) as (first, second):
        first.send(1, b"1")
        first.send(1, b"2")
        first.flush()
        await right.until(lambda: right.bodies == [b"1"])
        for link in second.links(0):
            link.close("enough")
        await right.until(lambda: len(right.downs) == 1 and len(right.ups) == len(left.ups) == 2)
        first.send(1, b"3")
        first.flush()
        await right.until(lambda: right.bodies[-1] == b"3")
        assert right.bodies == [b"1", b"3"]


async def test_sweep_end_follows_the_messages(world: Any, recorder: Any) -> None:
    """A burst that is there at once is delivered before on_sweep_end, in few sweeps."""
    left, right = recorder(), recorder()
    async with world.pair(left, right) as (first, _):
        before = right.sweeps
        for number in range(500):
            first.send(1, b"%d" % number)
        first.flush()
        await right.until(lambda: len(right.bodies) == 500)
        assert right.since_sweep_end == 0
        assert right.sweeps - before < 100


async def test_statistics_count_messages(world: Any, recorder: Any) -> None:
    """Statistics count messages by peer, and survive the link."""
    left, right = recorder(), recorder()
    async with world.pair(left, right) as (first, second):
        for _ in range(3):
            first.send(1, b"x")
        first.flush()
        await right.until(lambda: len(right.bodies) == 3)
        assert first.links(1)[0].statistics().sent_messages == 3
        second.links(0)[0].close("test")
        assert second.statistics().peers[0].received_messages == 3
        assert second.statistics().peers[0].links_up == 0


async def test_stopped_hub_leaves_nothing_behind(world: Any, recorder: Any) -> None:
    """When run is cancelled everything is closed: the address can be taken again, and run cannot."""
    async with world.hub(0, recorder(), listen=("127.0.0.1", 0)) as hub:
        address = hub.addresses[0]
        with pytest.raises(ListenError):
            await world.make(1, recorder(), listen=address).run()
    assert hub.connected() == frozenset()
    with pytest.raises(TransportError):
        await hub.run()
    async with world.hub(0, recorder(), listen=address) as again:
        assert again.addresses[0] == address


async def test_fault_of_the_receiver_ends_run(world: Any, recorder: Any) -> None:
    """An exception of the receiver's is not taken for a fault of the peer: it ends run."""

    def broken(link: Any, body: bytes) -> None:
        raise ZeroDivisionError

    left = recorder()
    with pytest.raises(ExceptionGroup) as raised:
        async with world.pair(left, recorder(broken)) as (first, _):
            first.send(1, b"x")
            first.flush()
            await trio.sleep_forever()
    assert raised.value.subgroup(ZeroDivisionError) is not None


@pytest.mark.scenario("J06", "E20")
async def test_message_that_is_too_long_is_dropped_here(world: Any, recorder: Any, quick: Any) -> None:
    """A message longer than any peer would take does not cost the link: it is dropped and counted."""
    limits = dataclasses.replace(quick, message_max_bytes=1000)
    left, right = recorder(), recorder()
    async with world.pair(left, right, limits=limits) as (first, _):
        first.send(1, bytes(1001))
        first.send(1, bytes(1000))
        first.flush()
        await right.until(lambda: right.bodies == [bytes(1000)])
        assert left.downs == []
        assert first.statistics().refusals == {(1, "send-too-long"): 1}
