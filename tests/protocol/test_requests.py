"""Admission of requests, their authenticity, fairness, answers: rules 1.15, 1.17, 2.4."""

from __future__ import annotations

from random import Random

import pytest
from cluster import ALICE, BOB, Cluster, Member

from pbft.application import Application, Context
from pbft.batch import ClientRequest, encode_batch, open_body, operations_body
from pbft.execution import Executor
from pbft.messages import (
    Body,
    Checkpoint,
    Commit,
    Committed,
    Fetch,
    Message,
    Nack,
    Prepare,
    PrePrepare,
    Refusal,
    Reply,
    Request,
    Stable,
    encode,
)

D = b"x" * 32
STATUS = Cluster().primary.replica.retransmission.status()
CHECKPOINT = Checkpoint(0, 0, 4, D, 1, 1, (), b"s" * 160)


def proposal_of(c: Cluster, request: Request) -> PrePrepare:
    """What a primary would send for this request at the next number."""
    number = len(c.primary.executed) + 1
    batch = encode_batch(c.wall, bytes(16), [ClientRequest(*request)])
    return PrePrepare(0, number, batch.digest, batch.encoded)


def executed_requests(c: Cluster) -> list[bytes]:
    """Digests of all requests that were executed, in order; every replica executed the same."""
    orders = {tuple(r.digest for b in m.executor.executed for r in b.requests) for m in c.members}
    [order] = orders
    return list(order)


@pytest.mark.scenario("E04")
@pytest.mark.parametrize("authenticator", [b"\x01", b"all"])
def test_a_request_that_reached_one_backup_only_is_ordered(authenticator: bytes) -> None:
    """A backup forwards it to the primary, also again if that got lost; it is executed once, without its client."""
    c = Cluster()
    c.open()
    c.dropped = lambda s, t, m: isinstance(m, Request)
    request = c.request(authenticator=authenticator)
    c.members[2].give(ALICE, request)
    c.settle()
    assert len(executed_requests(c)) == 1
    c.dropped = lambda s, t, m: False
    c.wait(1)
    assert executed_requests(c)[1:] == [ClientRequest(*request).digest]
    assert {m.replica.status().view for m in c.members} == {0}


@pytest.mark.scenario("E03")
def test_a_retransmission_of_an_executed_request_is_answered_and_not_ordered() -> None:
    """The replicated table answers, a hundred times, also after restarts; no batch is made for it."""
    c = Cluster()
    c.open()
    request = c.request()
    c.primary.give(ALICE, request)
    c.settle()
    for time in range(100):
        if time % 25 == 24:
            for m in c.members:
                m.boot()
            c.tick_all()
        c.replies.clear()
        for m in c.members:
            m.give(ALICE, request._replace(authenticator=b"\x01"))
        assert not c.take(PrePrepare)
        c.settle()
        assert sorted(s for s, _ in c.acknowledged(Reply)) == [0, 1, 2, 3]
        assert [len(m.executed) for m in c.members] == [2] * 4


@pytest.mark.scenario("E03")
def test_a_request_executed_before_a_view_change_is_answered_after_it() -> None:
    """The new primary makes no batch for what the old one had ordered."""
    c = Cluster()
    c.open()
    request = c.request()
    c.primary.give(ALICE, request)
    c.settle()
    c.primary.down = True
    up, fresh = c.members[1:], c.request(authenticator=b"\x01")
    for m in up:
        m.give(ALICE, fresh)
    c.wait(10)
    assert {m.replica.status().view for m in up} == {1}
    assert [len(m.executed) for m in up] == [3] * 3
    for _ in range(100):
        c.replies.clear()
        c.wait(0.2)
        for m in up:
            m.give(ALICE, request._replace(authenticator=b"\x01"))
        assert not c.take(PrePrepare)
        c.settle()
        assert sorted(s for s, _ in c.acknowledged(Reply)) == [1, 2, 3]
    assert [len(m.executed) for m in up] == [3] * 3


def test_a_request_in_flight_is_not_proposed_twice() -> None:
    """Duplicates before execution are seen by digest (4 #37)."""
    c = Cluster()
    c.open()
    request = c.request()
    for _ in range(5):
        c.primary.give(ALICE, request)
    c.settle()
    assert {len(m.executed) for m in c.members} == {2}


@pytest.mark.scenario("E05")
def test_an_old_request_after_newer_ones_is_answered_not_executed() -> None:
    """Below the floor or done: the table answers."""
    c = Cluster()
    c.open()
    old = c.request()
    c.primary.give(ALICE, old)
    c.settle()
    for _ in range(3):
        c.primary.give(ALICE, c.request(floor=1))
        c.settle()
    for sender in (ALICE, 2, 3):  # its client again, and slow backups that forward it
        c.primary.give(sender, old)
        c.settle()
    assert {len(m.executed) for m in c.members} == {5}
    assert len(executed_requests(c)) == len(set(executed_requests(c))) == 5


@pytest.mark.scenario("E06")
@pytest.mark.parametrize("seed", range(5))
def test_pipelined_requests_may_arrive_in_any_order(seed: int) -> None:
    """64 requests of one client at once, shuffled, some of them at a backup first: all execute, each once."""
    c = Cluster(session_window=64)
    c.open()
    requests = [c.request(floor=0, id=i) for i in range(1, 65)]
    rng = Random(seed)
    rng.shuffle(requests)
    for request in requests:
        c.members[rng.choice([0, 0, 0, 1])].give(ALICE, request)
        if rng.random() < 0.2:
            c.settle()
    c.wait(1)
    assert sorted(executed_requests(c)[1:]) == sorted(ClientRequest(*r).digest for r in requests)


class Append(Application):
    """Keeps what it is given, in order."""

    def execute(self, operation: bytes, context: Context) -> bytes:
        self.state[b"all"] = self.state.get(b"all", b"") + operation
        return self.state[b"all"]

    def query(self, operation: bytes, context: Context) -> bytes:
        return self.state.get(b"all", b"")


@pytest.mark.scenario("E07")
@pytest.mark.parametrize("first", [(0, 1), (2, 3), (1, 2), (3,)])
def test_two_requests_with_one_id_at_different_replicas_execute_once(first: tuple[int, ...]) -> None:
    """A client that says one thing to some replicas and another thing to the rest: one of the two executes, the same
    everywhere, and other clients go on."""
    c = Cluster()
    for m in c.members:
        m.executor = Executor(c.group, Append)  # type: ignore[assignment]
    for client in (ALICE, BOB):
        c.primary.give(client, Request(open_body(client, 7, 0), b"\x01"))
        c.settle()
    one, two = (Request(operations_body(ALICE, 1 << 16, 9, 0, 255, [text]), b"\x01") for text in (b"one ", b"two "))
    for m in c.members:
        m.give(ALICE, one if m.me in first else two)
    c.settle()
    c.primary.give(BOB, Request(operations_body(BOB, 2 << 16, 1, 0, 255, [b"bob"]), b"\x01"))
    c.wait(1)
    for m in c.members:  # both again, to everybody
        m.give(ALICE, one)
        m.give(ALICE, two)
    c.settle()
    states = {m.executor.application.query(b"", None) for m in c.members}  # type: ignore[attr-defined]
    assert states in ({b"one bob"}, {b"two bob"})
    assert len({m.executor.snapshot().digest for m in c.members}) == 1  # type: ignore[attr-defined]
    assert {m.replica.requests.queue.count for m in c.members} == {0}
    assert {m.replica.status().view for m in c.members} == {0}


@pytest.mark.scenario("E22")
@pytest.mark.parametrize(
    "message",
    [
        PrePrepare(0, 1, D, b""),
        Prepare(0, 1, D),
        Commit(0, 1, D),
        CHECKPOINT,
        Committed(1, (D,)),
        STATUS,
        Fetch(((1, D),)),
        Body(1, D, b""),
        Stable((CHECKPOINT,)),
        Nack(1, ALICE, D),
        Reply(0, 1 << 16, ((1, False, D, b""),)),
        Refusal(0, 1 << 16, 1, "busy"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_protocol_messages_from_a_client_are_refused(message: Message) -> None:
    """A client may send REQUEST and nothing else; it and the others are served as before."""
    c = Cluster()
    c.open()
    c.open(BOB)
    for m in c.members:
        before = m.replica.status()
        m.give(ALICE, message)
        assert m.refused(ALICE, "wrong-role") == 1
        garbage = encode(message)[:-1] + b"\xff\xff"
        assert m.host.receive(ALICE, garbage) == ("malformed" if len(garbage) <= 64 else "wrong-role")
        assert m.replica.status() == before
    assert not c.wire
    c.replies.clear()
    c.primary.give(BOB, c.request(BOB))
    c.primary.give(ALICE, c.request())
    c.settle()
    assert {(s, t) for s, t, m in c.replies if isinstance(m, Reply)} == {(s, t) for s in range(4) for t in (ALICE, BOB)}


@pytest.mark.scenario("E24")
def test_requests_without_a_valid_proof_are_refused() -> None:
    """No authenticator, a wrong one, an unknown client, another client's name: by each replica, relayed or not."""
    c = Cluster()
    stranger = Request(operations_body(1 << 63 | 99, 1 << 16, 1, 0, 255, [b"x"]), b"all")
    for m in c.members:
        for authenticator in (b"", b"\x00", b"\x05garbage"):
            m.give(ALICE, c.request(authenticator=authenticator))
        assert m.refused(ALICE, "unauthentic-request") == 3
        m.give(BOB, c.request(ALICE))
        assert m.refused(BOB, "wrong-role") == 1
        relay = (m.me + 1) % 4
        m.give(relay, stranger)
        assert m.refused(relay, "unauthentic-request") == 1
        assert m.replica.requests.queue.count == 0
    told = [(t, m.reason) for _, t, m in c.take(Refusal) if isinstance(m, Refusal)]
    assert set(told) == {(ALICE, "unauthentic")}, "who is not configured is told nothing"
    assert not c.take(Request)


@pytest.mark.scenario("E23")
def test_a_bad_request_among_good_ones_is_left_out_alone() -> None:
    """Nine good requests and a bad one wait together: the nine execute, the bad one's client is told."""
    c = Cluster()
    c.open()
    c.open(BOB)
    good = [c.request(BOB, operation=b"%d" % i) for i in range(4)] + [c.request(operation=b"%d" % i) for i in range(5)]
    bad = c.request(operation=b"bad", authenticator=b"\x01 no signature of hers")
    arriving = [*good[:6], bad, *good[6:]]
    for request in arriving:
        c.primary.give(ClientRequest(*request).client, request)
    c.settle()
    assert sorted(executed_requests(c)[2:]) == sorted(ClientRequest(*r).digest for r in good)
    assert [(t, m.id, m.reason) for _, t, m in c.replies if isinstance(m, Refusal)] == [
        (ALICE, ClientRequest(*bad).id, "unauthentic")
    ]
    assert {m.replica.status().view for m in c.members} == {0}


@pytest.mark.scenario("E23")
def test_a_request_that_backups_cannot_verify_delays_its_batch_until_it_is_signed() -> None:
    """A batch with good ones waits for its client's retransmission, which is signed; then all ten execute once."""
    c = Cluster(pipeline_depth=1)
    c.open()
    c.open(BOB)
    c.dropped = lambda s, t, m: isinstance(m, Commit)
    c.primary.give(BOB, c.request(BOB))  # keeps the pipeline busy, so that the next ten share a batch
    c.settle()
    good = [c.request(BOB) for _ in range(5)] + [c.request() for _ in range(4)]
    partial = c.request(authenticator=b"\x00\x00")  # good for the primary alone
    for request in [*good[:3], partial, *good[3:]]:
        c.primary.give(ClientRequest(*request).client, request)
    c.dropped = lambda s, t, m: False
    c.wait(1)
    assert len(executed_requests(c)) == 3
    for m in c.members:
        m.give(ALICE, partial._replace(authenticator=b"\x01"))
    c.settle()
    assert len(c.primary.executor.executed[3].requests) == 10
    assert sorted(executed_requests(c)[3:]) == sorted(ClientRequest(*r).digest for r in [*good, partial])
    assert {m.replica.status().view for m in c.members} == {0}


@pytest.mark.scenario("G14")
def test_a_request_that_the_primary_invented_is_not_accepted() -> None:
    """A backup that cannot verify a request sends NACK and does not prepare (2.4)."""
    c = Cluster()
    c.open()
    backup = c.members[1]
    backup.give(0, proposal_of(c, c.request(authenticator=b"forged")))
    assert not c.take(Prepare) and len(c.take(Nack)) == 3
    assert backup.replica.core.log.slots[2].digest is None
    for other in c.members[2:]:
        other.give(0, proposal_of(c, c.request(authenticator=b"forged")))
    c.settle()
    c.tick_all()
    assert [len(m.executed) for m in c.members] == [1] * 4


@pytest.mark.scenario("G14")
def test_a_primary_that_invents_requests_is_replaced() -> None:
    """What it proposed is never executed; the request that waits behind it is, under the next primary."""
    c = Cluster()
    c.open()
    c.primary.down = True  # it is the liar, whose part the test takes
    honest = c.members[1:]
    forged, genuine = c.request(authenticator=b"forged"), c.request(authenticator=b"\x01")
    for m in honest:
        m.give(0, proposal_of(c, forged))
        m.give(ALICE, genuine)
    c.wait(10)
    assert {m.replica.status().view for m in honest} == {1}
    orders = {tuple(r.digest for b in m.executor.executed for r in b.requests) for m in honest}
    [(_, *after)] = orders
    assert after == [ClientRequest(*genuine).digest]


@pytest.mark.scenario("G07")
def test_a_request_verified_by_f_other_backups_is_accepted() -> None:
    """2.4 c: f PREPAREs beside the PRE-PREPARE show that one correct replica verified it."""
    c = Cluster()
    c.open()
    backup = c.members[1]
    proposal = proposal_of(c, c.request(authenticator=b"\x00" + bytes([0, 2, 3])))
    backup.give(0, proposal)
    assert not c.take(Prepare)
    backup.give(2, Prepare(0, 2, proposal.digest))
    assert len(c.take(Prepare, 1)) == 3


def test_a_request_verified_here_before_is_accepted() -> None:
    """2.4 b: the client sent it here as well, signed."""
    c = Cluster()
    c.open()
    backup = c.members[1]
    request = c.request(authenticator=b"\x01")
    backup.give(ALICE, request)
    c.wire.clear()
    backup.give(0, proposal_of(c, request._replace(authenticator=b"\x00")))
    assert len(c.take(Prepare, 1)) == 3


@pytest.mark.scenario("G07")
def test_a_client_with_partial_authenticators_is_demoted() -> None:
    """f+1 NACKs: the primary takes only signed requests of that client from now on (rule 1.17)."""
    c = Cluster()
    c.open()
    c.open(BOB)
    partial = c.request(authenticator=b"\x00\x00")
    c.primary.give(ALICE, partial)
    c.settle()
    assert {len(m.executed) for m in c.members} == {2}
    assert c.primary.replica.status().demotions == 1
    c.primary.give(ALICE, c.request())
    assert c.primary.refused(ALICE, "unauthentic-request") == 1
    c.primary.give(BOB, c.request(BOB))
    assert c.primary.replica.requests.queue.count + len(c.primary.replica.requests.in_flight) == 2
    for m in c.members:  # the client retransmits, signed, to all: 2.4 b lets the batch prepare
        m.give(ALICE, partial._replace(authenticator=b"\x01"))
    c.settle()
    assert {len(m.executed) for m in c.members} == {4}


def test_a_client_cannot_do_the_same_to_each_primary_in_turn() -> None:
    """NACKs go to all, and whoever becomes primary heeds them: one view change a demotion, not one after the other."""
    c = Cluster()
    c.open()
    c.primary.give(ALICE, c.request(authenticator=b"\x00\x00"))  # only replica 0 can verify it
    c.settle()
    assert all(m.replica.requests.demotions == 1 for m in c.members)
    next_primary = c.members[1].replica.requests
    unsigned = ClientRequest(*c.request(authenticator=b"\x00\x01"))
    next_primary.queue.add(unsigned)
    assert next_primary.next_batch(1) == []  # only signed ones of that client
    assert next_primary.oldest_awaited(1) is None  # and it is not what a view timer runs for
    signed = ClientRequest(*c.request(authenticator=b"\x01"))
    next_primary.note_verified(signed)
    next_primary.wait_again((signed,), 1)
    assert next_primary.oldest_awaited(1) == signed.digest
    assert next_primary.next_batch(1) == [signed]


def unknown_at(m: Member) -> list[tuple[ClientRequest, int | None]]:
    """Let a member's authentication not know signatures; returns what it was asked to verify, and for whom."""
    asked: list[tuple[ClientRequest, int | None]] = []
    inbound = m.host.inbound
    known = inbound._authentication.request_is_authentic
    inbound._authentication.request_is_authentic = lambda r: None if r.is_signed else known(r)  # type: ignore[method-assign]
    inbound._defer = lambda request, source: asked.append((request, source)) is None
    return asked


def verdict(m: Member, request: ClientRequest, good: bool) -> None:
    """The signature was looked at."""
    m.host.inbound._authentication.request_is_authentic = lambda r: good  # type: ignore[method-assign]
    m.host.inbound.on_verified([(request, good)])
    m.flush()


def test_a_proposal_waits_for_a_signature_that_is_being_verified() -> None:
    """No PREPARE, and no NACK either, before the verdict; then one or the other."""
    for good in (True, False):
        c = Cluster()
        c.open()
        asked = unknown_at(c.members[1])
        c.primary.give(ALICE, c.request(authenticator=b"\x01"))
        [(_, _, proposal)] = c.take(PrePrepare)[:1]
        c.members[1].give(0, proposal)
        assert not c.take(Prepare, 1) and not c.take(Nack, 1)
        [(request, source)] = asked
        assert source is None
        verdict(c.members[1], request, good)
        assert bool(c.take(Prepare, 1)) is good
        assert bool(c.take(Nack, 1)) is not good


def test_a_request_waits_for_its_signature_once() -> None:
    """A copy that comes meanwhile is not verified again; after the verdict the request is taken, or refused."""
    for good in (True, False):
        c = Cluster()
        c.open()
        asked = unknown_at(c.primary)
        message = c.request(authenticator=b"\x01")
        c.primary.give(ALICE, message)
        c.primary.give(ALICE, message)
        [(request, source)] = asked
        assert source == ALICE and not c.take(PrePrepare)
        verdict(c.primary, request, good)
        assert bool(c.take(PrePrepare)) is good
        assert c.primary.refused(ALICE, "unauthentic-request") == (not good)


@pytest.mark.scenario("G18")
def test_a_request_that_is_answered_already_costs_no_verification() -> None:
    """The table has its answer, and the link says whose question it is."""
    c = Cluster()
    c.open()
    message = c.request()
    c.primary.give(ALICE, message)
    c.settle()
    asked = unknown_at(c.primary)
    for _ in range(20):
        c.primary.give(ALICE, message._replace(authenticator=b"\x01"))
    assert not asked
    assert len(c.take(Reply, 0)) == 20


def test_a_client_with_too_much_to_verify_is_told_to_back_off() -> None:
    """`busy`, and counted."""
    c = Cluster()
    c.open()
    unknown_at(c.primary)
    c.primary.host.inbound._defer = lambda request, source: False
    c.primary.give(ALICE, c.request(authenticator=b"\x01"))
    assert c.primary.refused(ALICE, "too-often") == 1
    assert [m.reason for _, _, m in c.take(Refusal)] == ["busy"]


def test_a_request_with_too_many_operations_is_refused() -> None:
    """By its receiver, and inside a PRE-PREPARE."""
    c = Cluster(operations_per_request=2)
    c.open()
    body = operations_body(ALICE, 1 << 16, 1, 0, 255, [b"a", b"b", b"c"])
    c.primary.give(ALICE, Request(body, b"all"))
    assert c.primary.refused(ALICE, "too-large") == 1
    batch = encode_batch(c.wall, b"s" * 16, [ClientRequest(body, b"all")])
    c.members[1].give(0, PrePrepare(0, 2, batch.digest, batch.encoded))
    assert c.members[1].refused(0, "too-large") == 1


def test_the_primary_takes_what_f_plus_1_backups_forward() -> None:
    """A request that the primary cannot verify, vouched for by a correct backup (rule 1.17)."""
    c = Cluster()
    c.open()
    request = c.request(authenticator=b"\x00" + bytes([1, 2, 3]))
    c.primary.give(1, request)
    assert c.primary.replica.requests.queue.count == 0 and not c.take(PrePrepare)
    c.primary.give(1, request)
    assert not c.take(PrePrepare)
    c.primary.give(2, request)
    assert c.take(PrePrepare)


@pytest.mark.scenario("E15", "G18")
def test_a_full_queue_answers_busy_and_stays_fair() -> None:
    """One client fills its share and is told so; another one is served."""
    c = Cluster(pending_per_client=16, pending_total=64, session_window=64)
    c.open()
    c.open(BOB)
    c.members[1].down = c.members[2].down = True  # nothing commits, so the queue fills
    for _ in range(100):
        c.primary.give(ALICE, c.request(floor=0))
    c.settle()
    busy = [m.id for _, m in c.acknowledged(Refusal) if isinstance(m, Refusal) and m.reason == "busy"]
    assert busy and c.primary.replica.requests.queue.count <= 16
    c.primary.give(BOB, c.request(BOB))
    assert any(r.client == BOB for r in c.primary.replica.requests.queue.requests())
    c.members[1].down = c.members[2].down = False
    c.wait(3)
    done = [r for b in c.primary.executor.executed for r in b.requests][2:]
    assert len(done) == 64 - len(busy) + 1, "whoever was not told otherwise is served; ids above 64 have their answer"
    assert not {r.id for r in done} & set(busy)
    assert c.primary.replica.requests.queue.count == 0 == len(c.primary.replica.requests.in_flight)
    c.primary.give(ALICE, c.request(floor=0, id=busy[0]))
    c.settle()
    assert executed_requests(c)[-1] == ClientRequest(*c.request(floor=0, id=busy[0])).digest
    assert {m.replica.status().view for m in c.members} == {0}


@pytest.mark.scenario("E15")
def test_the_queue_is_bounded_over_all_clients_in_requests_and_in_bytes() -> None:
    """Whichever bound is reached first, the next request is answered `busy`."""
    for bounds, size, most in (
        ({"pending_total": 5}, 10, 5),
        ({"pending_bytes": 1 << 16}, 10_000, 6),
    ):
        c = Cluster(pipeline_depth=1, **bounds)
        c.open()
        c.open(BOB)
        for m in c.backups:
            m.down = True
        for i in range(40):
            c.primary.give((ALICE, BOB)[i % 2], c.request((ALICE, BOB)[i % 2], operation=b"x" * size, floor=0))
        queue = c.primary.replica.requests.queue
        assert queue.count == most and len({r.client for r in queue.requests()}) == 2
        assert queue.bytes <= (1 << 16)
        assert {m.reason for _, _, m in c.take(Refusal) if isinstance(m, Refusal)} == {"busy"}


def test_batches_take_turns_between_clients() -> None:
    """One request per client and turn, whatever one of them has queued."""
    c = Cluster(pipeline_depth=1, batch_max_bytes=4096, operation_max_bytes=2000)
    c.open()
    c.open(BOB)
    c.primary.give(ALICE, c.request(operation=b"a" * 900))
    for _ in range(8):
        c.primary.give(ALICE, c.request(operation=b"a" * 900))
    c.primary.give(BOB, c.request(BOB, operation=b"b" * 900))
    c.settle()
    order = [r.client for b in c.primary.executor.executed for r in b.requests]
    assert order.index(BOB) <= 4


@pytest.mark.scenario("E20")
def test_an_oversized_request_is_refused_by_replicas_too() -> None:
    """The client is told; nothing is queued nor forwarded. The largest one is ordered."""
    c = Cluster(operation_max_bytes=1000, batch_max_bytes=4096)
    c.open()
    room = 1000 - len(c.request(operation=b"x" * 900).body) + 900
    for m in c.members:
        for size in (room + 1, 100_000):
            m.give(ALICE, c.request(operation=b"x" * size))
        assert m.refused(ALICE, "too-large") == 2
        assert m.replica.requests.queue.count == 0
    assert not c.take(Request)
    c.settle()
    assert [m.reason for _, m in c.acknowledged(Refusal) if isinstance(m, Refusal)] == ["too-large"] * 8
    largest = c.request(operation=b"x" * room)
    assert len(largest.body) == 1000
    c.members[1].give(ALICE, largest)
    c.settle()
    assert executed_requests(c)[1:] == [ClientRequest(*largest).digest]


@pytest.mark.scenario("E16", "E23", "G07")
def test_a_client_that_only_the_primary_can_verify_costs_one_view_change() -> None:
    """Its request, never signed, holds up a batch until the view changes; the others' requests in that batch execute
    then, and that is all it costs (rule 1.17)."""
    c = Cluster()
    c.open()
    c.open(BOB)
    bobs = [c.request(BOB, authenticator=b"\x01") for _ in range(9)]
    for request in [*bobs[:4], c.request(authenticator=b"\x00\x00"), *bobs[4:]]:
        c.primary.give(ClientRequest(*request).client, request)
    for m in c.members:  # Bob retransmits, Alice does not
        for request in bobs:
            m.give(BOB, request)
    c.wait(60)
    assert sorted(executed_requests(c)[2:]) == sorted(ClientRequest(*r).digest for r in bobs)
    assert {m.replica.status().view for m in c.members} == {1}


@pytest.mark.scenario("E19")
def test_extreme_ids_and_sessions_of_a_client_do_no_harm() -> None:
    """Ids far beyond the window and sessions that cannot exist are answered or refused, not ordered."""
    c = Cluster()
    c.open()
    huge = (1 << 64) - 1
    c.primary.give(ALICE, c.request(id=huge, floor=0))
    c.primary.give(ALICE, c.request(session=huge, id=1, floor=0))
    c.primary.give(ALICE, Request(open_body(ALICE, huge, huge), b"\x01"))
    c.settle()
    assert {len(m.executed) for m in c.members} == {1}
    c.primary.give(ALICE, c.request())
    c.settle()
    assert {len(m.executed) for m in c.members} == {2}


@pytest.mark.scenario("G17")
def test_garbage_does_not_disturb_the_messages_after_it() -> None:
    """A bad message is counted; the next one of the same peer is handled."""
    c = Cluster()
    m = c.members[1]
    for garbage in (b"", b"\x00", b"\xff" * 100, encode(Prepare(0, 1, b"x" * 32)) + b"\x00"):
        m.host.receive(2, garbage)
    assert m.refused(2, "malformed") == 4
    m.give(2, Prepare(0, 1, b"x" * 32))
    assert len(m.replica.core.log.slots[1].prepares) == 1


def test_refusals_are_counted_per_sender_and_reason_only() -> None:
    """Memory does not grow with the number of bad messages (DESIGN 1.6)."""
    c = Cluster()
    m = c.members[1]
    for number in range(1000):
        m.host.receive(2, b"garbage %d" % number)
    assert m.replica.core.refused == {(2, "malformed"): 1000}
