"""Faulty clients, and a faulty primary that helps them, against the requests of others. Rules 1.11, 1.17; 4 #5."""

from __future__ import annotations

import pytest
from cluster import ALICE, BOB, Cluster
from signed_views import executed_once, group, proposal

from pbft.batch import ClientRequest, decode_batch, operations_body
from pbft.config import CLIENT_PRINCIPAL
from pbft.messages import Nack, Refusal, Request, Suspect, encode
from pbft.protocol.queue import IN_FLIGHT, Queue


def test_a_request_whose_authenticator_the_primary_spoiled_waits_again_as_it_was() -> None:
    """The primary proposes a copy with a signature that nobody can verify of a request that one backup knows, and that
    backup alone accepts: after the view change it is not that copy which waits there, for ever, whoever leads."""
    c = group(checkpoint_interval=128, log_window=256)
    liar, victim = c.members[0], c.members[3]
    liar.crash()
    request = c.request(authenticator=b"\x00\x03")  # its MAC is good at the victim alone
    victim.give(ALICE, request)
    victim.give(0, proposal(c, 2, Request(request.body, b"\x01spoiled")))
    c.wire.clear()
    for step in range(400):
        for m in c.up if step % 5 == 0 else ():
            c.wire.append((0, m.me, encode(Suspect(m.promised))))
        c.tick_all(0.05)
    assert {m.view for m in c.up} == {1}
    assert victim.replica.suspicion.waited is None
    mine = c.ask()
    assert executed_once(c, mine)


def test_a_signed_request_that_was_spoiled_waits_as_its_client_signed_it() -> None:
    """The robust profile: once its client has sent it to all, as it does when no answer comes, it executes in the next
    view, once."""
    c = group(signed_requests=1)
    c.members[0].crash()
    request = c.request(authenticator=b"\x01")
    c.members[3].give(ALICE, request)
    c.members[3].give(0, proposal(c, 2, Request(request.body, b"\x01spoiled")))
    c.wire.clear()
    c.wait(2)
    for m in c.up:
        m.give(ALICE, request)
    c.wait(6)
    assert executed_once(c, request) and {m.view for m in c.up} == {1}


def test_requests_that_nobody_else_can_verify_do_not_shut_out_others() -> None:
    """One client fills the queue of every replica with requests whose MACs are good at that replica alone, and says
    nothing more. Such ones are never ordered; who holds most makes room for others."""
    c = Cluster(4, checkpoint_interval=128, log_window=256, pending_per_client=16, pending_total=16)
    c.open()
    c.open(BOB)
    for m in c.members:
        for i in range(16):
            m.give(ALICE, c.request(ALICE, b"%d-%d" % (m.me, i), bytes([0, m.me]), id=i + 2, floor=0))
    c.settle()
    request = c.request(BOB, authenticator=b"\x01")
    for _ in range(30):
        for m in c.members:
            m.give(BOB, request)
        c.wait(0.5)
    assert executed_once(c, request)


def queued(client: int, number: int, size: int = 0, signed: bool = False) -> ClientRequest:
    """A request with so many bytes of operation."""
    body = operations_body(client, 1 << 16, number + 1, 0, 255, [b"x" * size])
    return ClientRequest(body, b"\x01" + bytes(64) if signed else b"\x00mac")


@pytest.mark.parametrize("by_bytes", [False, True])
def test_who_holds_most_of_a_full_queue_makes_room(by_bytes: bool) -> None:
    """By count or by bytes; the newest goes first. Nobody makes room for who would hold as much, unless what goes is
    unsigned and what comes is signed."""
    size = 1000 if by_bytes else 0
    room = 8 * queued(ALICE, 1, size).size + 7
    queue = Queue(100, 100, room) if by_bytes else Queue(100, 8, 1 << 20)
    for number in range(8):
        assert queue.add(queued(ALICE, number, size)) == []
    assert queue.add(queued(ALICE, 8, size)) is None
    for number in range(4):
        assert [r.id for r in queue.add(queued(BOB, number, size)) or ()] == [8 - number]
    assert queue.add(queued(BOB, 4, size)) is None
    if not by_bytes:
        assert [r.id for r in queue.add(queued(BOB + 1, 1, signed=True)) or ()] == [4]
    assert queue.count == 8 and queue.bytes <= (room if by_bytes else 1 << 20)


def test_what_makes_no_room_in_vain_stays() -> None:
    """One that would need more than others hold evicts nobody."""
    queue = Queue(100, 100, 5000)
    for number in range(4):
        assert queue.add(queued(ALICE, number, 1000)) == []
    before = queue.requests()
    assert queue.add(queued(BOB, 1, 4600)) is None
    assert {r.digest for r in queue.requests()} == {r.digest for r in before}
    assert queue.count == 4 and queue.bytes == sum(r.size for r in before)


def test_who_does_not_fit_into_a_batch_is_first_in_the_next() -> None:
    """Else clients with large requests fill every batch up to where another one's does not fit."""
    queue = Queue(128, 4096, 64 << 20)
    honest = queued(ALICE, 1, 250_000)
    number = 0
    for _ in range(3):
        for client in (BOB, BOB + 1, BOB + 2):
            number += 1
            assert queue.add(queued(client, number, 256_000)) == []
    assert queue.add(honest) == []
    assert honest not in queue.take(1_000_000, lambda r: True)
    assert honest in queue.take(1_000_000, lambda r: True)


def test_what_backups_pass_on_takes_the_place_of_its_clients_newest() -> None:
    """A client keeps its own room at the primary full, and gives one request more to the backups alone: they wait for
    it, and the primary orders it."""
    c = group(signed_requests=1, pending_per_client=4)
    primary = c.primary
    for number in range(2, 8):
        c.dropped = lambda s, t, m: True
        primary.give(ALICE, c.request(id=number, floor=0, authenticator=b"\x01"))
    c.wire.clear()
    c.dropped = lambda s, t, m: False
    request = c.request(id=20, floor=0, authenticator=b"\x01")
    for m in c.backups:
        m.give(ALICE, request)
    c.wait(5)
    assert executed_once(c, request) and {m.view for m in c.members} == {0}


def test_an_insistent_request_takes_no_room_of_others() -> None:
    """Of its own client alone."""
    queue = Queue(2, 100, 1 << 20)
    for number in range(2):
        assert queue.add(queued(ALICE, number)) == []
        assert queue.add(queued(BOB, number)) == []
    assert queue.add(queued(ALICE, 5)) is None
    assert [(r.client, r.id) for r in queue.add(queued(ALICE, 5), insistent=True) or ()] == [(ALICE, 2)]
    assert queue.count == 4


def test_a_signed_copy_stands_where_the_unsigned_one_stood() -> None:
    """In the order of its client's requests, and in its client's turn; its bytes count once."""
    queue = Queue(100, 100, 1 << 20)
    for client in (ALICE, BOB):
        for number in range(2):
            assert queue.add(queued(client, number)) == []
    before = queue.bytes
    signed = queued(ALICE, 0, signed=True)
    assert queue.add(signed) == []
    assert (queue.count, queue.operations) == (4, 4)
    assert queue.bytes == before + signed.size - queued(ALICE, 0).size
    taken = queue.take(1 << 20, lambda _: True)
    assert [(r.client, r.is_signed) for r in taken] == [(ALICE, True), (BOB, False), (ALICE, False), (BOB, False)]
    assert taken[0].digest == signed.digest and (queue.count, queue.bytes) == (0, 0)


def test_a_request_that_waits_again_has_waited_since_it_came() -> None:
    """A view change takes its batch away: it stays in front of what came after it, and the timer runs for it."""
    c = group(checkpoint_interval=128, log_window=256)
    requests = c.members[1].replica.requests
    first, second = (c.request(ALICE, operation, b"\x01") for operation in (b"1", b"2"))
    for request in (first, second):
        c.members[1].give(ALICE, request)
    batch = (ClientRequest(*first),)
    requests.ordered(9, batch)
    assert requests.oldest_unproposed == ClientRequest(*second).digest
    requests.wait_again(batch, 1)
    assert requests.oldest_unproposed == requests.oldest_awaited(0) == batch[0].digest


def test_a_client_that_floods_has_a_bounded_part_of_what_is_in_flight() -> None:
    """Else every batch is as costly as its queue is long, and others wait for that."""
    queue = Queue(100, 200, 1 << 20)
    for number in range(3 * IN_FLIGHT):
        queue.add(queued(ALICE, number))
    for number in range(3):
        queue.add(queued(BOB, number))
    taken = [r.client for r in queue.take(1 << 20, lambda _: True)]
    assert (taken.count(ALICE), taken.count(BOB)) == (IN_FLIGHT, 3)
    assert queue.take(1 << 20, lambda _: True, {ALICE: IN_FLIGHT}) == []
    assert len(queue.take(1 << 20, lambda _: True, {ALICE: IN_FLIGHT - 2, BOB: IN_FLIGHT})) == 2


def test_of_a_client_that_floods_no_more_is_verified_than_can_be_of_use() -> None:
    """Each replica's queue holds others of its requests, most of which are never ordered."""
    c = group(checkpoint_interval=128, log_window=256)
    requests = c.members[1].replica.requests
    for number in range(IN_FLIGHT):
        assert requests.wants_more(ALICE)
        c.members[1].give(ALICE, c.request(ALICE, b"%d" % number, b"\x01"))
    assert not requests.wants_more(ALICE) and requests.wants_more(BOB)


def test_what_a_full_queue_refuses_costs_no_look_at_its_signature() -> None:
    """A client that floods valid requests hears `busy` before any of them is verified; what waits already, sent again,
    is no more than that."""
    c = group(checkpoint_interval=128, log_window=256, pending_per_client=4)
    c.open(BOB)
    c.members[0].crash()
    m, looked = c.members[1], 0
    inbound = m.host.inbound
    real = inbound._authentication.request_is_authentic

    def look(request: ClientRequest) -> bool | None:
        nonlocal looked
        looked += 1
        return real(request)

    inbound._authentication.request_is_authentic = look  # type: ignore[method-assign]
    requests = [c.request(ALICE, b"%d" % i, b"\x01") for i in range(20)]
    for request in requests:
        m.give(ALICE, request)
    assert looked == 4 == m.replica.requests.queue.count
    assert len(c.take(Refusal)) == 16
    m.give(ALICE, requests[0])
    assert len(c.take(Refusal)) == 16
    m.give(BOB, c.request(BOB, authenticator=b"\x01"))
    assert m.replica.requests.queue.count == 5


def test_of_each_client_one_request_is_awaited() -> None:
    """One that floods fills each queue with other requests: no primary could order in time all that backups hold. Its
    next one waits from when the one before has its place."""
    c = group(checkpoint_interval=128, log_window=256)
    c.open(BOB)
    m = c.members[1]
    first, second = (ClientRequest(*c.request(ALICE, operation, b"\x01")) for operation in (b"1", b"2"))
    other = ClientRequest(*c.request(BOB, authenticator=b"\x01"))
    for client, request in ((ALICE, first), (ALICE, second), (BOB, other)):
        m.give(client, request.message())
    requests = m.replica.requests
    assert requests.oldest_unproposed == first.digest
    requests.ordered(9, (first,))
    assert requests.oldest_unproposed == other.digest, "it has waited longer than the second, which begins now"
    requests.ordered(10, (other,))
    assert requests.oldest_unproposed == second.digest
    requests.executed(ALICE, second.digest)
    assert requests.oldest_unproposed is None


def test_what_a_backup_waits_for_is_next_at_the_primary() -> None:
    """Whatever its client has queued there before it; of one that has much waiting, a backup passes on only that."""
    c = group(checkpoint_interval=128, log_window=256, pending_per_client=64)
    waiting = [c.request(ALICE, b"%d" % i, b"\x01") for i in range(40)]
    backup = c.members[1]
    for request in waiting:
        backup.give(ALICE, request)
    c.wire.clear()
    c.now += 1.0
    backup.tick(1.0)
    passed_on = [m for _, to, m in c.take(Request) if to == 0]
    assert passed_on == waiting[:1]
    queue = Queue(64, 100, 1 << 20)
    for number in range(1, 20):
        queue.add(queued(ALICE, number))
    awaited = queued(ALICE, 0, signed=True)
    assert queue.add(awaited, insistent=True) == []
    assert queue.take(awaited.size, lambda _: True) == [awaited]
    again = next(iter(queue.of(ALICE)))
    queue.to_front(last := list(queue.of(ALICE))[-1])
    assert list(queue.of(ALICE))[:2] == [last, again]


def test_the_next_request_of_a_client_is_awaited_however_many_were_verified_since() -> None:
    """What is queued and signed was verified when it came; nobody can make a replica forget that."""
    c = group(checkpoint_interval=128, log_window=256)
    requests = c.members[1].replica.requests
    first, second = (ClientRequest(*c.request(ALICE, operation, b"\x01")) for operation in (b"1", b"2"))
    for request in (first, second):
        c.members[1].give(ALICE, request.message())
    for number in range(10_000):
        requests.note_verified(queued(BOB, number + 1))
    requests.ordered(9, (first,))
    assert requests.oldest_unproposed == second.digest
    requests.review(9)
    assert requests.oldest_unproposed == second.digest


def test_an_old_request_that_a_replica_passes_on_is_not_answered() -> None:
    """Its client asked nobody: one liar could let all others send it results as often as it likes."""
    c = group()
    request = c.ask()
    m = c.members[1]
    assert m.times(request) == 1
    c.wire.clear()
    for _ in range(100):
        m.give(3, request)
    assert not [to for _, to, _ in c.wire if to == ALICE]
    assert m.give(ALICE, request) is None
    assert ALICE in [to for _, to, _ in c.wire]


def test_a_backup_passes_on_a_request_however_large() -> None:
    """What an operator allows to be sent must reach the primary from every replica."""
    size = 3 << 20
    c = group(checkpoint_interval=128, log_window=256, operation_max_bytes=size, batch_max_bytes=8 << 20)
    backup = c.members[1]
    request = c.request(ALICE, b"x" * (size - 200), b"\x01")
    backup.give(ALICE, request)
    backup.give(ALICE, c.request(ALICE, b"small", b"\x01"))
    c.wire.clear()
    backup.tick(1.0)
    assert [m for _, to, m in c.take(Request) if to == 0] == [request]


def test_asking_again_for_what_is_answered_has_a_budget() -> None:
    """It costs a client nothing, and each answer brings the whole result: a flood of it must not stop the others."""
    c = group()
    c.open(BOB)
    request = c.ask()
    m = c.members[1]
    c.wire.clear()
    assert sum(m.give(ALICE, request) is None for _ in range(1000)) == 64
    old = [c.ask() for _ in range(100)]
    m.tick(1.0)
    c.wire.clear()
    refused = sum(m.give(ALICE, r) is not None for r in old)
    answers = [to for _, to, _ in c.wire if to == ALICE]
    assert len(answers) + refused == 100 and len(answers) == 64
    m.tick(1.0)
    assert m.give(ALICE, request) is None, "in the next interval it is answered again"
    m.replica.requests.note_answer(ALICE, 2 << 20)
    assert m.give(ALICE, old[0]) is not None, "long answers are fewer"
    m.tick(1.0)
    taken = [m.host.receive(ALICE, encode(r)) for r in old[:20]]  # all in one sweep: nobody knows yet how long they are
    assert taken.count(None) <= 4
    m.flush()
    assert m.give(BOB, c.request(BOB)) is None, "the budget of one client is not that of another"


def test_a_proof_that_no_client_makes_is_refused_whoever_vouches_for_it() -> None:
    """f+1 backups forward a request; a liar's copy has an authenticator that fits in no batch: it is not queued, and
    one that claims to be signed and is not is never taken on the word of others."""
    c = group()
    for authenticator in (b"\x00" * 4000, b"\x01" + b"x" * 4000, b"\x01x"):
        request = c.request(ALICE, authenticator=authenticator)
        for sender in (1, 2, 3):
            c.primary.give(sender, request)
        assert not c.primary.replica.requests.queue.count
    request = c.request(ALICE, authenticator=b"\x00\x01")
    for sender in (1, 3):
        c.primary.give(sender, request)
    c.settle()
    assert c.primary.times(request) == 1, "one with MACs that two vouch for is"


def test_a_demoted_client_finds_room_for_what_it_signs() -> None:
    """Its unsigned requests, which nobody orders any more, fill its part of each queue."""
    c = group(pending_per_client=4, checkpoint_interval=128, log_window=256)
    m = c.members[1]
    for i in range(4):
        m.give(ALICE, c.request(ALICE, b"%d" % i))
    assert m.replica.requests.queue.count_of(ALICE) == 4
    m.replica.requests.demote(ALICE, m.replica.delivery.executed)
    assert m.replica.requests.queue.count_of(ALICE) == 0
    assert m.give(ALICE, c.request(ALICE, b"unsigned")) == "unauthentic-request"
    signed = c.request(ALICE, b"signed", b"\x01")
    assert m.give(ALICE, signed) is None
    assert [r.digest for r in m.replica.requests.queue.of(ALICE)] == [ClientRequest(*signed).digest]


def test_a_signed_request_takes_the_place_of_the_newest_unsigned_one_of_its_client() -> None:
    """Its client signs what it sends again: that must not wait behind what it gave up."""
    queue = Queue(2, 100, 1 << 20)
    old, new = queued(ALICE, 1), queued(ALICE, 2)
    assert queue.add(old) == [] and queue.add(new) == []
    signed, more = queued(ALICE, 3, signed=True), queued(ALICE, 4, signed=True)
    assert not queue.is_full_for(signed) and queue.is_full_for(queued(ALICE, 5))
    assert queue.add(signed) == [new] and queue.add(more) == [old]
    assert queue.add(queued(ALICE, 6, signed=True)) is None and queue.is_full_for(signed)


def test_a_proposal_with_a_request_that_nobody_can_have_authenticated_is_not_held() -> None:
    """A correct primary proposes no such thing; a window of large ones would only be in the way."""
    c = group()
    m = c.members[1]
    nobody = c.request(ALICE, authenticator=b"")
    assert m.give(0, proposal(c, 2, nobody)) == "malformed"
    stranger = Request(operations_body(CLIENT_PRINCIPAL | 99, 1 << 16, 1, 0, 255, [b"op"]), b"\x01")
    assert m.give(0, proposal(c, 2, stranger)) == "malformed"
    assert 2 not in m.replica.core.log.slots


def test_of_what_does_not_verify_in_a_proposal_one_of_each_client_is_told() -> None:
    """A NACK for each of thousands would be a flood of its own."""
    c = group()
    m = c.members[1]
    bad = [c.request(ALICE, b"%d" % i, b"\x01") for i in range(20)]
    message = proposal(c, 2, *bad)
    batch = decode_batch(message.batch)
    m.replica.on_pre_prepare(0, message, batch, (), tuple(r.digest for r in batch.requests))
    c.wire.clear()
    for request in batch.requests:
        m.replica.on_request_verified(request, False)
    m.flush()
    assert len(c.take(Nack)) == 3, "one, to each other replica"


def test_the_backlog_is_what_could_be_proposed_now() -> None:
    """The floor compares primaries under one backlog: much of one client, which is ordered a few at a time, is not as
    much of many. Else clients that take turns have one correct primary after the other replaced."""
    c = group(checkpoint_interval=128, log_window=256)
    c.open(BOB)
    requests = c.members[1].replica.requests
    mine = [c.request(ALICE, b"%d" % i, b"\x01") for i in range(30)]
    for request in mine:
        c.members[1].give(ALICE, request)
    assert requests.queue.count == 30 and requests.unproposed == IN_FLIGHT
    requests.ordered(9, tuple(ClientRequest(*r) for r in mine[:3]))
    assert requests.unproposed == IN_FLIGHT - 3
    c.members[1].give(BOB, c.request(BOB, b"x", b"\x01"))
    assert requests.unproposed == IN_FLIGHT - 3 + 1
    requests.ordered(10, tuple(ClientRequest(*r) for r in mine[3:IN_FLIGHT]))
    assert requests.unproposed == 1
