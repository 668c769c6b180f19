"""Client signatures are verified in batches off the event loop: fair, bounded, proposals first. Rule 1.17, 4 #26."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from pbft.authentication import KeyAuthentication
from pbft.batch import ClientRequest, operations_body, signature_body
from pbft.config import Group, Tunables
from pbft.crypto import PrivateKey, client_id
from pbft.signature_desk import (
    PER_SOURCE,
    PER_TURN,
    WAITING_BYTES,
    WAITING_BYTES_TOTAL,
    WAITING_PER_SOURCE,
    SignatureDesk,
)

CLIENTS = [PrivateKey.from_seed(bytes([i]) * 32) for i in range(1, 4)]
IDS = [client_id(key.public) for key in CLIENTS]
GROUP = Group(
    b"c" * 32,
    "app",
    tuple(bytes([i]) * 32 for i in range(4)),
    {i: key.public.raw for i, key in zip(IDS, CLIENTS, strict=True)},
    Tunables(signed_requests=1),
)


def signed(client: int, number: int, by: int | None = None) -> ClientRequest:
    """A request of a client, signed by itself or by somebody else."""
    body = operations_body(IDS[client], 1 << 16, number, 0, 255, [b"op"])
    digest = ClientRequest(body, b"").digest
    key = CLIENTS[client if by is None else by]
    return ClientRequest(body, b"\x01" + key.sign(signature_body(GROUP.cluster, GROUP.epoch, digest)))


class Turns:
    """A desk whose turns are recorded."""

    def __init__(self, wants_more: Callable[[int], bool] = lambda source: True) -> None:
        self.authentication = KeyAuthentication(GROUP, 0)
        self.authentication.defers = True
        self.turns: list[list[tuple[ClientRequest, bool]]] = []
        self.desk = SignatureDesk(self.authentication, self.turns.append, wants_more)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.desk.run)
            yield
            nursery.cancel_scope.cancel()

    async def verdicts(self, count: int) -> list[tuple[ClientRequest, bool]]:
        with trio.fail_after(10):
            while sum(map(len, self.turns)) < count:
                await trio.sleep(0.001)
        return [row for turn in self.turns for row in turn]


async def test_verdicts_are_told_and_remembered() -> None:
    """A good signature, and one of somebody else; neither is looked at twice."""
    t = Turns()
    good, forged = signed(0, 1), signed(1, 1, by=2)
    assert t.authentication.request_is_authentic(good) is None
    async with t.running():
        assert t.desk.submit(good, IDS[0]) and t.desk.submit(forged, None)
        told = await t.verdicts(2)
    assert {(r.digest, verdict) for r, verdict in told} == {(good.digest, True), (forged.digest, False)}
    assert t.authentication.request_is_authentic(good) is True
    assert t.authentication.request_is_authentic(forged) is False
    honest = ClientRequest(forged.body, signed(1, 1).authenticator)
    assert t.authentication.request_is_authentic(honest) is None  # a forgery does not speak for the honest copy


async def test_a_client_that_floods_waits_for_itself() -> None:
    """One turn takes a bounded share of each client; beyond a bound more of it is refused."""
    t = Turns()
    flood = [signed(0, i) for i in range(1, WAITING_PER_SOURCE + 1)]
    assert all(t.desk.submit(r, IDS[0]) for r in flood)
    assert not t.desk.submit(signed(0, 9999), IDS[0])
    late = signed(1, 1)
    assert t.desk.submit(late, IDS[1])
    async with t.running():
        await t.verdicts(len(flood) + 1)
    assert late in [r for r, _ in t.turns[0]]
    assert sum(r.client == IDS[0] for r, _ in t.turns[0]) == PER_SOURCE
    assert max(map(len, t.turns)) <= PER_TURN


async def test_what_a_proposal_needs_goes_first() -> None:
    """Urgent ones are in the first turn, whatever waits."""
    t = Turns()
    for i in range(1, WAITING_PER_SOURCE + 1):
        assert t.desk.submit(signed(0, i), IDS[0])
    urgent = signed(2, 1)
    t.desk.submit(urgent, None)
    async with t.running():
        await t.verdicts(WAITING_PER_SOURCE + 1)
    assert t.turns[0][0][0] == urgent


@pytest.mark.parametrize("authenticator", [b"", b"\x00" + bytes(96), b"\x02" + bytes(64)])
def test_in_the_robust_profile_only_signatures_count(authenticator: bytes) -> None:
    """MACs that a client can make partly wrong are not looked at."""
    request = ClientRequest(signed(0, 1).body, authenticator)
    assert KeyAuthentication(GROUP, 0).request_is_authentic(request) is False


async def test_a_replica_that_relays_junk_in_a_clients_name_takes_no_place_of_it() -> None:
    """Places belong to the link over which a request came."""
    t = Turns()
    assert all(t.desk.submit(signed(0, i, by=1), 3) for i in range(1, WAITING_PER_SOURCE + 1))
    assert not t.desk.submit(signed(0, 9999, by=1), 3)
    assert t.desk.submit(signed(0, 1), IDS[0])


async def test_junk_in_proposals_is_bounded_and_leaves_half_of_each_turn() -> None:
    """A faulty primary neither fills the memory nor starves the clients; the same request waits once."""
    t = Turns()
    junk = signed(2, 1)
    for _ in range(1000):
        assert t.desk.submit(junk, None)
    for i in range(2, 200):
        t.desk.submit(signed(2, i), None)
    t.desk.submit(signed(0, 1), IDS[0])
    async with t.running():
        told = await t.verdicts(200)
    assert len(told) == 200
    assert IDS[0] in [r.client for r, _ in t.turns[0]]


async def test_who_had_nothing_of_a_full_turn_is_first_in_the_next() -> None:
    """However many flood, and however long: each turn is full of them."""
    t = Turns()
    floods = range(10, 10 + PER_TURN // PER_SOURCE)
    for source in floods:
        for i in range(3 * PER_SOURCE):
            assert t.desk.submit(signed(0, 1000 * source + i), source)
    late = signed(1, 1)
    assert t.desk.submit(late, IDS[1])
    async with t.running():
        await t.verdicts(3 * PER_TURN + 1)
    assert late in [r for r, _ in t.turns[1]]


async def test_a_source_of_which_enough_is_verified_waits() -> None:
    """Until more of it is wanted; others do not wait for that."""
    unwanted = {IDS[0]}
    t = Turns(lambda source: source not in unwanted)
    assert t.desk.submit(signed(0, 1), IDS[0]) and t.desk.submit(signed(1, 1), IDS[1])
    async with t.running():
        assert [r.client for r, _ in await t.verdicts(1)] == [IDS[1]]
        unwanted.clear()
        t.desk.look_again()
        assert [r.client for r, _ in await t.verdicts(2)] == [IDS[1], IDS[0]]


def test_what_waits_is_bounded_over_all_sources() -> None:
    """However many clients send long requests whose signatures nobody has looked at: each may wait with one."""
    t = Turns()
    body = operations_body(IDS[0], 1 << 16, 1, 0, 255, [bytes(250_000)])
    long = ClientRequest(body, b"\x01" + bytes(64))
    taken = [sum(t.desk.submit(long, source) for _ in range(WAITING_PER_SOURCE)) for source in range(100)]
    assert taken[0] * long.size <= WAITING_BYTES
    assert all(count >= 1 for count in taken)
    assert sum(taken) * long.size < 5 * WAITING_BYTES_TOTAL
    assert taken[-1] <= 2
