"""What a peer that sends wrong, foreign, too many or no bytes can do to a hub: nothing but lose its own link."""

from __future__ import annotations

import dataclasses
import os
import socket
import struct
import threading
import time
from typing import Any

import pytest
import trio

from pbft.crypto import Initiator, Refresh, Responder
from pbft.transport import framing
from pbft.transport.framing import BULK, CONTROL, HANDSHAKE, MORE, PING, REKEY

CLIENT = 1 << 63


def altered(frame: bytes) -> bytes:
    return frame[:-1] + bytes((frame[-1] ^ 1,))


@pytest.mark.scenario("G07", "G17")
@pytest.mark.parametrize("wrong", ["altered", "replayed", "reordered", "garbage", "other-link"])
async def test_wrong_tag_ends_the_link_and_nothing_else(tcp: Any, recorder: Any, raw_peer: Any, wrong: str) -> None:
    """A frame that does not open is never delivered; it is counted, the link ends, the next link works."""
    right = recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0)) as hub:
        peer = await raw_peer.connect(hub.addresses[0], 0, 1)
        frame = peer.sealed(CONTROL, b"good")
        if wrong == "altered":
            data, delivered = altered(frame), []
        elif wrong == "replayed":
            data, delivered = frame + frame, [b"good"]
        elif wrong == "reordered":
            data, delivered = peer.sealed(CONTROL, b"later") + frame, []
        elif wrong == "garbage":
            data, delivered = framing.pack_header(40, CONTROL) + bytes(39), []
        else:
            other = await raw_peer.connect(hub.addresses[0], 2, 1)
            data, delivered = other.sealed(CONTROL, b"for another link"), []
        await peer.stream.send_all(data)
        await right.until(lambda: len(right.downs) == 1)
        assert right.bodies == delivered
        assert right.downs[0][1] == "bad-mac"
        assert hub.statistics().refusals[0, "bad-mac"] == 1
        again = await raw_peer.connect(hub.addresses[0], 0, 1)
        await again.send(CONTROL, b"behaves now")
        await right.until(lambda: right.bodies == [*delivered, b"behaves now"])


@pytest.mark.scenario("G23")
async def test_own_frames_sent_back_are_refused(tcp: Any, recorder: Any, raw_peer: Any) -> None:
    """A frame that comes back to its sender does not open, for each direction has its own key."""
    right = recorder(lambda link, body: link.send(b"vote"))
    async with tcp.hub(1, right, listen=("127.0.0.1", 0)) as hub:
        peer = await raw_peer.connect(hub.addresses[0], 0, 1)
        await peer.send(CONTROL, b"go")
        kind, frame = PING, b""
        while kind != CONTROL:
            kind, _, frame = await peer.receive()
        await peer.stream.send_all(frame)
        await right.until(lambda: len(right.downs) == 1)
        assert right.bodies == [b"go"]
        assert hub.statistics().refusals[0, "bad-mac"] == 1


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (framing.pack_header(0, CONTROL), "bad-length"),
        (framing.pack_header(16, CONTROL), "bad-length"),
        (framing.pack_header(0xFFFFFFFF, CONTROL), "bad-length"),
        (framing.pack_header(framing.FRAGMENT_MAX_BYTES + 18, BULK), "bad-length"),
        (framing.pack_header(30, PING), "bad-length"),
        (framing.pack_header(40, 0), "bad-kind"),
        (framing.pack_header(40, HANDSHAKE), "bad-kind"),
        (framing.pack_header(40, PING | MORE), "bad-kind"),
        (framing.pack_header(40, 255), "bad-kind"),
    ],
)
async def test_header_is_judged_before_anything_is_awaited(
    tcp: Any, recorder: Any, raw_peer: Any, header: bytes, reason: str
) -> None:
    """Five bytes with an impossible length or kind end the link, without waiting for the announced rest."""
    right = recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0)) as hub:
        peer = await raw_peer.connect(hub.addresses[0], 0, 1)
        await peer.stream.send_all(header)
        await right.until(lambda: len(right.downs) == 1)
        assert right.downs[0][1] == reason


@pytest.mark.scenario("G15")
@pytest.mark.parametrize("piece", [b"", bytes(60_000)])
async def test_endless_message_ends_the_link(tcp: Any, recorder: Any, raw_peer: Any, quick: Any, piece: bytes) -> None:
    """Fragments are kept up to message_max_bytes only, and empty ones not at all."""
    limits = dataclasses.replace(quick, message_max_bytes=100_000)
    right = recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0), limits=limits) as hub:
        peer = await raw_peer.connect(hub.addresses[0], 0, 1)
        for _ in range(2):
            await peer.send(CONTROL | MORE, piece)
        await right.until(lambda: len(right.downs) == 1)
        assert (right.downs[0][1], right.bodies) == ("too-long", [])


async def test_fragments_of_the_classes_do_not_mix(tcp: Any, recorder: Any, raw_peer: Any) -> None:
    """A control message between two fragments of a bulk message leaves that whole."""
    right = recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0)) as hub:
        peer = await raw_peer.connect(hub.addresses[0], 0, 1)
        await peer.send(BULK | MORE, b"bulk ")
        await peer.send(CONTROL, b"control")
        await peer.send(BULK, b"message")
        await right.until(lambda: right.bodies == [b"control", b"bulk message"])


@pytest.mark.scenario("E14")
async def test_client_that_never_reads_is_bounded_and_then_closed(
    tcp: Any, recorder: Any, raw_peer: Any, quick: Any
) -> None:
    """Replies to a client that takes none fill a bounded queue, the oldest go, and the link is given up."""
    limits = dataclasses.replace(
        quick,
        message_max_bytes=1 << 20,
        client_queue_max_bytes=1 << 20,
        stalled_after=0.2,
        dead_after=30.0,
    )
    right = recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0), limits=limits) as hub:
        await raw_peer.connect(hub.addresses[0], CLIENT, 1)
        other = await raw_peer.connect(hub.addresses[0], CLIENT + 1, 1)
        await right.until(lambda: len(hub.connected()) == 2)
        link = hub.links(CLIENT)[0]
        for number in range(3000):
            hub.send(CLIENT, bytes(10_000))
            if number % 100 == 0:
                hub.flush()
            assert link.statistics().queued_bytes <= (1 << 20) + limits.write_max_bytes + 100_000
        assert link.statistics().dropped_control > 0
        hub.send(CLIENT + 1, b"reply")
        hub.flush()
        while (await other.receive())[:2] != (CONTROL, b"reply"):
            pass
        await right.until(lambda: len(right.downs) == 1)
        assert right.downs[0][0] is link and "took nothing" in right.downs[0][1]
        assert link.statistics().queued_bytes == 0


@pytest.mark.scenario("E14")
async def test_clients_together_are_bounded(tcp: Any, recorder: Any, raw_peer: Any, quick: Any) -> None:
    """When all clients together hold too much, the one that holds most goes and the others stay."""
    limits = dataclasses.replace(quick, clients_total_max_bytes=1 << 20, dead_after=30.0)
    right = recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0), limits=limits) as hub:
        for client in (CLIENT, CLIENT + 1):
            await raw_peer.connect(hub.addresses[0], client, 1)
        await right.until(lambda: len(hub.connected()) == 2)
        for _ in range(15):
            hub.send(CLIENT, bytes(1 << 20))
        hub.send(CLIENT + 1, bytes(1000))
        await right.until(lambda: len(right.downs) == 1)
        assert right.downs[0][1] == "memory"
        assert hub.connected() == {CLIENT + 1}


@pytest.mark.scenario("G18")
async def test_spammer_gets_its_share_of_a_sweep(tcp: Any, recorder: Any, raw_peer: Any, quick: Any) -> None:
    """However much one peer has sent, a sweep takes read_max_bytes of it and then hears the others."""
    limits = dataclasses.replace(quick, read_max_bytes=4096)
    most = 0

    def watch(link: Any, body: bytes) -> None:
        nonlocal most
        most = max(most, right.since_sweep_end)

    right = recorder(watch)
    async with tcp.hub(1, right, listen=("127.0.0.1", 0), limits=limits) as hub:
        spammer = await raw_peer.connect(hub.addresses[0], 0, 1)
        quiet = await raw_peer.connect(hub.addresses[0], 2, 1)
        await right.until(lambda: len(right.ups) == 2)
        await spammer.stream.send_all(b"".join(spammer.sealed(CONTROL, b"spam") for _ in range(10_000)))
        await quiet.send(CONTROL, b"quiet")
        await right.until(lambda: b"quiet" in right.bodies)
        assert right.bodies.index(b"quiet") < 9_000
        await right.until(lambda: len(right.bodies) == 10_001)
        assert most <= 4096 // (4 + framing.OVERHEAD) + 3


@pytest.mark.slow
async def test_silent_link_is_given_up(tcp: Any, recorder: Any, raw_peer: Any) -> None:
    """A link on which nothing arrives, not even heartbeats, is closed after dead_after."""
    right = recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0)) as hub:
        await raw_peer.connect(hub.addresses[0], 0, 1)
        await right.until(lambda: len(right.downs) == 1)
        assert "nothing arrived" in right.downs[0][1]


@pytest.mark.slow
async def test_own_pause_is_not_taken_for_the_peers_death(tcp: Any, recorder: Any, raw_peer: Any, quick: Any) -> None:
    """A process that stood still for longer than dead_after reads what came meanwhile before it judges."""
    right = recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0)) as hub:
        peer = await raw_peer.connect(hub.addresses[0], 0, 1)
        await right.until(lambda: len(right.ups) == 1)
        await peer.send(PING, bytes(8))
        time.sleep(quick.dead_after + 0.1)  # the loop itself has to stand still
        await peer.send(CONTROL, b"alive")
        await right.until(lambda: right.bodies == [b"alive"])
        assert right.downs == []


async def test_heartbeats_measure_the_round_trip(tcp: Any, recorder: Any) -> None:
    """Idle links carry heartbeats; their round trip is known on both sides and the link stays up."""
    left, right = recorder(), recorder()
    async with tcp.pair(left, right) as (first, second):
        await left.until(lambda: first.links(1)[0].rtt is not None)
        await right.until(lambda: second.links(0)[0].rtt is not None)
        assert 0 <= first.links(1)[0].rtt < 5
        assert first.statistics().peers[1].rtt == first.links(1)[0].rtt


async def test_early_pong_does_not_count(tcp: Any, recorder: Any, raw_peer: Any) -> None:
    """A pong that answers no ping changes no round trip: a peer can only seem slower than it is."""
    right = recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0)) as hub:
        peer = await raw_peer.connect(hub.addresses[0], 0, 1)
        await peer.send(framing.PONG, bytes(8))
        await peer.send(CONTROL, b"mark")
        await right.until(lambda: right.bodies == [b"mark"])
        assert hub.links(0)[0].rtt is None


async def test_nonsense_as_a_refresh_ends_the_link(tcp: Any, recorder: Any, raw_peer: Any) -> None:
    """A message that belongs to no key refresh is refused like any other bad frame."""
    right = recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0)) as hub:
        peer = await raw_peer.connect(hub.addresses[0], 0, 1)
        await peer.send(REKEY, b"nonsense")
        await right.until(lambda: len(right.downs) == 1)
        assert right.downs[0][1] == "rekey-malformed"


async def test_refresh_cannot_be_asked_for_all_the_time(
    tcp: Any, recorder: Any, raw_peer: Any, handshakes: Any
) -> None:
    """One key refresh is served; a second one right behind it ends the link."""
    right = recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0)) as hub:
        peer = await raw_peer.connect(hub.addresses[0], 0, 1)
        refresh = Refresh(peer.session, handshakes(0).identity)
        await peer.send(REKEY, refresh.start())
        kind, body = PING, b""
        while kind != REKEY:
            kind, body, _ = await peer.receive()
        done = peer.sealed(REKEY, refresh.on_message(body))
        refresh.sent()
        await peer.stream.send_all(done + peer.sealed(CONTROL, b"under new keys"))
        await right.until(lambda: right.bodies == [b"under new keys"])
        assert right.rekeyed == right.ups
        await peer.send(REKEY, refresh.start())
        await right.until(lambda: len(right.downs) == 1)
        assert right.downs[0][1] == "rekey-flood"


@pytest.mark.slow
async def test_idle_and_noisy_strangers_do_no_harm(tcp: Any, recorder: Any, raw_peer: Any, quick: Any) -> None:
    """With hundreds of connections that say nothing or nonsense, a peer still connects and is heard."""
    limits = dataclasses.replace(quick, unauthenticated_max=50)
    right = recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0), limits=limits) as hub:
        strangers = []
        for number in range(300):
            sock = socket.create_connection(hub.addresses[0])
            strangers.append(sock)
            if number % 3 == 0:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 10)
            elif number % 3 == 1:
                sock.sendall(framing.pack_header(1000, HANDSHAKE) + os.urandom(999))
            await trio.lowlevel.checkpoint()
        await right.until(lambda: hub.statistics().accepted == 300)
        assert hub.statistics().unauthenticated <= 50
        peer = await raw_peer.connect(hub.addresses[0], 0, 1)
        await peer.send(CONTROL, b"heard")
        await right.until(lambda: right.bodies == [b"heard"])
        refusals = hub.statistics().refusals
        assert refusals[None, "handshake-bad-kind"] > 0
        assert refusals[None, "handshake-evicted"] > 0
        for sock in strangers:
            sock.close()


async def test_handshake_has_a_time_limit(tcp: Any, recorder: Any, quick: Any) -> None:
    """A stranger that says nothing is closed after handshake_timeout."""
    limits = dataclasses.replace(quick, handshake_timeout=0.05)
    right = recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0), limits=limits) as hub:
        stream = await trio.open_tcp_stream(*hub.addresses[0])
        with trio.fail_after(20):
            assert await stream.receive_some() == b""
        await stream.aclose()
        assert hub.statistics().refusals == {(None, "handshake-timeout"): 1}


@pytest.mark.scenario("G19")
async def test_flood_of_handshakes_is_answered_in_portions(
    tcp: Any, recorder: Any, handshakes: Any, quick: Any
) -> None:
    """One sweep answers at most handshakes_per_sweep messages; all are answered in the end."""
    limits = dataclasses.replace(quick, handshakes_per_sweep=2)
    lowest = 2

    class Watching(recorder):  # type: ignore[misc]
        def on_sweep_end(self) -> None:
            nonlocal lowest
            lowest = min(lowest, hub.handshakes_left)
            super().on_sweep_end()

    right = Watching()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0), limits=limits) as hub:
        sweeps = right.sweeps
        streams = [await trio.open_tcp_stream(*hub.addresses[0]) for _ in range(20)]
        for stream in streams:
            hello = Initiator(handshakes(0), 1).hello()
            await stream.send_all(framing.plain_frame(HANDSHAKE, hello))
        for stream in streams:
            with trio.fail_after(20):
                assert len(await stream.receive_some()) > 100
        assert lowest == 0
        assert right.sweeps - sweeps >= 10
        for stream in streams:
            await stream.aclose()


@pytest.mark.slow
@pytest.mark.scenario("E12")
async def test_churn_leaves_no_descriptor(tcp: Any, recorder: Any, raw_peer: Any) -> None:
    """Links that come, say one thing and go, half of them with a reset, leave no descriptor and no link."""
    right = recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0)) as hub:
        before = len(os.listdir("/dev/fd"))
        tasks, threads = trio.lowlevel.current_statistics().tasks_living, threading.active_count()
        for number in range(200):
            peer = await raw_peer.connect(hub.addresses[0], CLIENT + number % 4, 1, process=number)
            await peer.send(CONTROL, b"%d" % number)
            await right.until(lambda number=number: len(right.bodies) == number + 1)
            if number % 2:
                peer.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await peer.stream.aclose()
        await right.until(lambda: len(right.downs) == 200)
        assert hub.connected() == frozenset()
        assert hub.statistics().client_links == 0
        assert len(os.listdir("/dev/fd")) == before
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert threading.active_count() <= threads, "idle threads of other tests may end meanwhile"


@pytest.mark.parametrize(
    ("answer", "counted"),
    [("refusal", None), ("goodbye", None), ("message", "bad-kind"), ("forged", "bad-mac"), ("silence", None)],
)
async def test_link_is_not_up_before_the_other_side_wants_it(
    tcp: Any, recorder: Any, handshakes: Any, quick: Any, answer: str, counted: str | None
) -> None:
    """After the handshake the dialed side has the last word; until its first ping nothing is up."""
    left = recorder()
    served = 0

    async def serve(stream: trio.SocketStream) -> None:
        nonlocal served
        responder = Responder(handshakes(1))
        session, received = None, b""
        while session is None:
            received += await stream.receive_some()
            frame = framing.split_plain_frame(received)
            if not isinstance(frame, tuple):
                continue
            received = frame[2]
            if responder.claimed_principal is None:
                await stream.send_all(framing.plain_frame(HANDSHAKE, responder.receive_hello(frame[1])))
            else:
                session = responder.finish(frame[1])
        served += 1
        kind = framing.GOODBYE if answer == "goodbye" else CONTROL if answer == "message" else PING
        header = framing.pack_header(8 + framing.LENGTH_BEYOND, kind)
        sealed = header + b"\n8 bytes" + session.seal(header, b"\n8 bytes")
        if answer == "refusal":
            sealed = framing.plain_frame(framing.REFUSAL, b"no")
        elif answer == "forged":
            sealed = altered(sealed)
        if answer != "silence":
            await stream.send_all(sealed)
        while await stream.receive_some():
            pass

    limits = dataclasses.replace(quick, handshake_timeout=0.05)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            lambda task_status: trio.serve_tcp(serve, 0, host="127.0.0.1", task_status=task_status)
        )
        peers = {1: listeners[0].socket.getsockname()}
        async with tcp.hub(0, left, peers=peers, limits=limits) as hub:
            await left.until(lambda: served >= 3)
            assert (left.ups, left.downs, left.bodies) == ([], [], [])
            assert hub.connected() == frozenset()
            kinds = {kind for _, kind in hub.statistics().refusals}
            assert kinds == ({counted} if counted else set())
        nursery.cancel_scope.cancel()


async def test_unproven_initiator_is_refused(tcp: Any, recorder: Any, handshakes: Any) -> None:
    """Who claims to be a replica but cannot sign for it gets a refusal and no link."""
    right = recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0)) as hub:
        initiator = Initiator(handshakes(0), 1)
        stream = await trio.open_tcp_stream(*hub.addresses[0])
        await stream.send_all(framing.plain_frame(HANDSHAKE, initiator.hello()))
        received = b""
        while not isinstance(frame := framing.split_plain_frame(received), tuple):
            received += await stream.receive_some()
        third, _ = initiator.receive(frame[1])
        await stream.send_all(framing.plain_frame(HANDSHAKE, altered(third)))
        received = frame[2]
        with trio.fail_after(20):
            while data := await stream.receive_some():
                received += data
        assert received[4] == framing.REFUSAL
        assert hub.statistics().refusals == {(None, "handshake-bad-signature"): 1}
        assert right.ups == []
        await stream.aclose()
