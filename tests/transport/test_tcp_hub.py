"""Dialing, listening, large messages and key refresh over real sockets."""

from __future__ import annotations

import dataclasses
import logging
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import trio

from pbft.transport import Limits, ListenError
from pbft.transport.framing import CONTROL
from pbft.transport.listening import open_listeners, shares

CLIENT = 1 << 63


class Names(trio.abc.HostnameResolver):
    """Resolves every name to what `found` says at the moment."""

    def __init__(self, found: Any) -> None:
        self.found = found
        self.asked = 0

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        self.asked += 1
        if self.found is None:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", self.found)]

    async def getnameinfo(self, sockaddr: Any, flags: Any) -> Any:
        raise NotImplementedError


@pytest.mark.scenario("F10")
async def test_peer_that_moves_is_found_by_its_name(tcp: Any, recorder: Any) -> None:
    """Each dial resolves the name again, so a peer that comes back elsewhere is reached."""
    left, right = recorder(), recorder()
    names = Names(None)
    trio.socket.set_custom_hostname_resolver(names)
    async with tcp.hub(0, left, peers={1: ("replica-1.test", 7000)}) as first:
        await left.until(lambda: names.asked >= 2)
        async with tcp.hub(1, right, listen=("127.0.0.1", 0)) as second:
            names.found = second.addresses[0]
            await left.until(lambda: 1 in first.connected())
        await left.until(lambda: 1 not in first.connected())
        async with tcp.hub(1, right, process=1, listen=("127.0.0.1", 0)) as second:
            names.found = second.addresses[0]
            await left.until(lambda: 1 in first.connected())


@contextmanager
def black_hole() -> Iterator[tuple[str, int]]:
    """An address at which connection attempts get no answer: a full backlog."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = []
        for _ in range(4):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
            waiting.append(sock)
        try:
            yield listener.getsockname()
        finally:
            for sock in waiting:
                sock.close()


@pytest.mark.scenario("F13")
async def test_black_hole_delays_nobody_else(tcp: Any, recorder: Any, quick: Any) -> None:
    """A peer whose address never answers does not delay the link with another, nor stop being tried."""
    limits = dataclasses.replace(quick, connect_timeout=0.05, handshake_timeout=0.05)
    left, right = recorder(), recorder()
    async with tcp.hub(2, right, listen=("127.0.0.1", 0)) as live:
        with black_hole() as nowhere:
            peers = {1: nowhere, 2: live.addresses[0]}
            async with tcp.hub(0, left, peers=peers, limits=limits) as first:
                await left.until(lambda: 2 in first.connected())
                await left.until(lambda: sum(n for (who, _), n in first.statistics().refusals.items() if who == 1) >= 2)
                assert 2 in first.connected()


@pytest.mark.scenario("F13")
async def test_black_holes_that_are_waited_for_take_nothing_from_the_others(
    tcp: Any, recorder: Any, quick: Any
) -> None:
    """While dials to two peers hang for good, the link with a third comes up and carries messages both ways."""
    limits = dataclasses.replace(quick, connect_timeout=1e6, handshake_timeout=1e6)
    left, right = recorder(), recorder(lambda link, body: link.send(body))
    with black_hole() as one, black_hole() as two:
        async with tcp.hub(3, right, listen=("127.0.0.1", 0)) as live:
            peers = {1: one, 2: two, 3: live.addresses[0]}
            async with tcp.hub(0, left, peers=peers, limits=limits) as first:
                await left.until(lambda: 3 in first.connected())
                for number in range(100):
                    first.multicast([1, 2, 3], b"%d" % number)
                    first.flush()
                    await left.until(lambda number=number: len(left.bodies) == number + 1)
                assert first.connected() == {3}
                assert not first.statistics().refusals, "no dial has ended"


@pytest.mark.slow
@pytest.mark.scenario("B18")
async def test_a_restarted_process_gets_its_port_back(tcp: Any, recorder: Any, raw_peer: Any) -> None:
    """Thirty times at once after its end, with clients connected whose sockets it was the first to close."""
    left = recorder()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    async with tcp.hub(0, left, peers={1: address}) as first:
        for process in range(30):
            right = recorder()
            async with tcp.hub(1, right, process=process, listen=address) as second:
                clients = [await raw_peer.connect(address, CLIENT + i, 1, process=process) for i in range(4)]
                await left.until(lambda: 1 in first.connected())
                await right.until(lambda second=second: len(second.connected()) == 5)
            for client in clients:
                await client.until_closed()
            await left.until(lambda: 1 not in first.connected())


@pytest.mark.scenario("F12")
async def test_address_that_leads_back_is_no_link(tcp: Any, recorder: Any) -> None:
    """A hub that reaches itself under a peer's address has no link with itself, and does not break."""
    left = recorder()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    async with tcp.hub(0, left, listen=address, peers={0: address, 1: address}) as hub:
        await left.until(lambda: (1, "handshake-refused") in hub.statistics().refusals)
        assert (None, "handshake-self-connection") in hub.statistics().refusals
        assert hub.connected() == frozenset()
        assert left.ups == []


@pytest.mark.slow
@pytest.mark.scenario("F12")
async def test_simultaneous_open_settles_every_time(tcp: Any, recorder: Any, quick: Any) -> None:
    """Whenever two replicas start together, they settle on one link, the same on both sides."""
    limits = dataclasses.replace(quick, dial_backoff_min=0.0001)
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        addresses = {0: one.getsockname(), 1: two.getsockname()}
    for _ in range(30):
        left, right = recorder(), recorder()
        async with (
            tcp.hub(0, left, listen=addresses[0], peers=addresses, limits=limits) as first,
            tcp.hub(1, right, listen=addresses[1], peers=addresses, limits=limits) as second,
        ):

            def settled(first: Any = first, second: Any = second) -> bool:
                ends = first.links(1) + second.links(0)
                return (
                    len(ends) == 2
                    and ends[0].session.authenticator_key == ends[1].session.authenticator_key
                    and ends[0].rtt is not None
                    and ends[1].rtt is not None
                )

            await left.until(settled)
            assert len(left.ups) <= 3 and len(right.ups) <= 3


@pytest.mark.scenario("F21")
async def test_dead_peer_writes_few_lines(
    tcp: Any, recorder: Any, quick: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """However often a dial to a dead peer fails, the log gets a few lines of it."""
    limits = dataclasses.replace(quick, dial_backoff_min=0.001, dial_backoff_max=0.002)
    left = recorder()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = probe.getsockname()
    with caplog.at_level(logging.INFO, "pbft.transport"):
        async with tcp.hub(0, left, peers={1: nobody}, limits=limits) as hub:
            await left.until(lambda: hub.statistics().refusals.get((1, "dial-failed"), 0) >= 50)
    assert 1 <= len(caplog.records) <= limits.refusal_log_burst
    assert f"{nobody[0]}:{nobody[1]}" in caplog.records[0].getMessage()


async def test_redial_cuts_the_back_off_short(tcp: Any, recorder: Any, quick: Any) -> None:
    """After redial a peer is dialed at once, however long the back-off had become."""
    limits = dataclasses.replace(quick, dial_backoff_min=1000.0, dial_backoff_max=2000.0)
    left, right = recorder(), recorder()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = probe.getsockname()
    async with tcp.hub(0, left, peers={1: address}, limits=limits) as first:
        await left.until(lambda: (1, "dial-failed") in first.statistics().refusals)
        async with tcp.hub(1, right, listen=address):
            first.redial(1)
            first.redial(5)  # nobody we dial
            await left.until(lambda: 1 in first.connected())


@pytest.mark.scenario("F20")
async def test_control_message_overtakes_a_large_one(tcp: Any, recorder: Any) -> None:
    """A control message sent after an 8 MB message arrives before it, over the same connection."""
    left, right = recorder(), recorder()
    large = bytes(8_000_000)
    async with tcp.pair(left, right) as (first, _):
        first.send(1, large, bulk=True)
        first.flush()
        first.send(1, b"control")
        first.flush()
        await right.until(lambda: len(right.bodies) == 2)
        assert right.bodies == [b"control", large]


async def test_peer_learns_of_a_clean_stop(tcp: Any, recorder: Any) -> None:
    """A hub that is stopped says so, and what was queued before still leaves."""
    left, right = recorder(), recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0)) as second:
        async with tcp.hub(0, left, peers={1: second.addresses[0]}) as first:
            await left.until(lambda: 1 in first.connected())
            first.send(1, b"last words")
        await right.until(lambda: len(right.downs) == 1)
        assert right.bodies == [b"last words"]
        assert right.downs[0][1] == "the peer closed it: shutting down"


async def test_clients_beyond_the_limit_are_refused(tcp: Any, recorder: Any, quick: Any) -> None:
    """When all client links are taken another client is refused, and a replica is not."""
    limits = dataclasses.replace(quick, client_links_max=1)
    right, late = recorder(), recorder()
    async with tcp.hub(1, right, listen=("127.0.0.1", 0), limits=limits) as hub:
        peers = {1: hub.addresses[0]}
        async with tcp.hub(CLIENT, recorder(), peers=peers):
            await right.until(lambda: CLIENT in hub.connected())
            async with tcp.hub(CLIENT + 1, late, peers=peers), tcp.hub(0, recorder(), peers=peers):
                await right.until(lambda: (CLIENT + 1, "link-busy") in hub.statistics().refusals)
                await right.until(lambda: 0 in hub.connected())
                assert late.ups == []
                assert CLIENT in hub.connected()


async def test_new_keys_lose_nothing(tcp: Any, recorder: Any, quick: Any) -> None:
    """Under load in both directions the keys of a link change, and every message arrives in order."""
    limits = dataclasses.replace(quick, rekey_after_messages=200)
    left, right = recorder(), recorder()
    sent = [b"%d" % number for number in range(20_000)]
    async with tcp.pair(left, right, who=(CLIENT, 1), limits=limits) as (first, second):
        old = first.links(1)[0].session.authenticator_key
        for start in range(0, len(sent), 20):
            for body in sent[start : start + 20]:
                first.send(1, body)
                second.send(CLIENT, body)
            first.flush()
            second.flush()
            if not left.rekeyed or start % 2000 == 0:
                await trio.lowlevel.checkpoint()
        await right.until(lambda: len(right.rekeyed) > 0)
        await left.until(lambda: len(left.bodies) == len(right.bodies) == len(sent))
        assert left.bodies == right.bodies == sent
        await left.until(lambda: first.links(1)[0].session.authenticator_key != old)
        assert left.downs == right.downs == []
        assert first.statistics().peers[1].links_total == 1
        assert first.links(1)[0].statistics().key_refreshes >= 1


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.scenario("I08")
@pytest.mark.parametrize(
    ("host", "families"),
    [
        ("127.0.0.1", {"127.0.0.1"}),
        ("0.0.0.0", {"0.0.0.0"}),
        ("::1", {"::1"}),
        ("::", {"::"}),
        ("", {"0.0.0.0", "::"}),
        ("*", {"0.0.0.0", "::"}),
    ],
)
async def test_listens_where_told(host: str, families: set[str]) -> None:
    """Exactly the given address is bound; only an empty host or * means both families, on one port."""
    if not has_ipv6():
        if families <= {"::", "::1"}:
            pytest.skip("this machine has no IPv6")
        families = families - {"::"}
    listeners = await open_listeners((host, 0))
    try:
        assert {sock.getsockname()[0] for sock in listeners} == families
        assert len({sock.getsockname()[1] for sock in listeners}) == 1
    finally:
        for sock in listeners:
            sock.close()


@pytest.mark.scenario("I08")
async def test_name_can_be_listened_on_and_dialed(tcp: Any, recorder: Any) -> None:
    """Hosts may be names on both sides, and the address to bind may differ from the address to dial."""
    left, right = recorder(), recorder()
    async with tcp.hub(1, right, listen=("0.0.0.0", 0)) as second:
        port = second.addresses[0][1]
        async with tcp.hub(0, left, peers={1: ("localhost", port)}) as first:
            await left.until(lambda: 1 in first.connected())


@pytest.mark.scenario("I08")
@pytest.mark.parametrize("host", ["192.0.2.1", "name.invalid"])
async def test_impossible_address_is_named(tcp: Any, recorder: Any, host: str) -> None:
    """An address that is not of this machine, or does not resolve, is an error that names it."""
    if host == "name.invalid":
        trio.socket.set_custom_hostname_resolver(Names(None))
    with pytest.raises(ListenError, match=host):
        await tcp.make(0, recorder(), listen=(host, 7000)).run()


@pytest.mark.scenario("I10")
def test_few_descriptors_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 128 descriptors, strangers and clients together leave the reserve and two per peer."""
    monkeypatch.setattr(resource, "getrlimit", lambda which: (128, 128))
    strangers, clients = shares(Limits(), peers=3)
    assert strangers + clients + 2 * 3 <= 128 - Limits().reserved_descriptors
    assert strangers >= 4 and clients >= 30
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    assert shares(Limits(), peers=3) == (Limits().unauthenticated_max, Limits().client_links_max)


@pytest.mark.scenario("I10")
async def test_running_out_of_descriptors_hurts_no_link(
    tcp: Any, recorder: Any, quick: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """Out of descriptors, connections are refused with one line of log, links live on, and it recovers."""
    limits = dataclasses.replace(quick, accept_pause=0.05, handshake_timeout=60.0)
    left, right, late = recorder(), recorder(), recorder()
    async with tcp.pair(left, right, limits=limits) as (first, second):
        crowd = [socket.socket() for _ in range(20)]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            with socket.socket() as highest:
                limit = highest.fileno() + 4
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            for sock in crowd:
                sock.setblocking(False)
                sock.connect_ex(second.addresses[0])
            await right.until(lambda: (None, "no-descriptor") in second.statistics().refusals)
            first.send(1, b"still here")
            first.flush()
            await right.until(lambda: right.bodies == [b"still here"])
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for sock in crowd:
                sock.close()
        async with tcp.hub(2, late, peers={1: second.addresses[0]}):
            await right.until(lambda: 2 in second.connected())
        assert left.downs == []
        lines = [r for r in caplog.records if "open files" in r.getMessage()]
        assert 1 <= len(lines) <= limits.refusal_log_burst


async def test_clients_with_many_links_do_not_hold_up_a_sweep(
    tcp: Any, recorder: Any, raw_peer: Any, quick: Any
) -> None:
    """What all of them have sent is looked at for a few milliseconds a sweep, each client in its turn."""
    looked_at: list[tuple[int, int]] = []

    def slow(link: Any, body: bytes) -> None:
        if link.principal >= CLIENT:
            time.sleep(0.001)
        looked_at.append((right.sweeps, link.principal))

    right = recorder(slow)
    limits = dataclasses.replace(quick, client_read_max_bytes=500, dead_after=5.0)
    async with tcp.hub(1, right, listen=("127.0.0.1", 0), limits=limits) as hub:
        flooders = [await raw_peer.connect(hub.addresses[0], CLIENT, 1, process=p) for p in range(8)]
        modest = await raw_peer.connect(hub.addresses[0], CLIENT + 1, 1)
        replica = await raw_peer.connect(hub.addresses[0], 0, 1)
        await right.until(lambda: len(right.ups) == 10)
        for peer in flooders:
            await peer.stream.send_all(b"".join(peer.sealed(CONTROL, b"flood") for _ in range(400)))
        await modest.send(CONTROL, b"modest")
        await replica.send(CONTROL, b"replica")
        await right.until(lambda: len(looked_at) == 8 * 400 + 2, seconds=60)
    per_sweep = Counter(sweep for sweep, principal in looked_at if principal >= CLIENT)
    assert max(per_sweep.values()) < 60, "and not what eight links hold"
    floods = [sweep for sweep, principal in looked_at if principal == CLIENT]
    assert all(sweep < floods[-1] - 10 for sweep, p in looked_at if p != CLIENT), "the others do not wait for its end"
