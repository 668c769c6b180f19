"""Admission of requests, their authenticity, fairness, answers: rules 1.15, 1.17, 2.4."""

from __future__ import annotations

import pytest
from cluster import ALICE, BOB, Cluster

from pbft.batch import ClientRequest, encode_batch, open_body, operations_body
from pbft.messages import Commit, Nack, Prepare, PrePrepare, Refusal, Reply, Request, encode


def proposal_of(c: Cluster, request: Request) -> PrePrepare:
    """What a primary would send for this request at the next number."""
    number = len(c.primary.executed) + 1
    batch = encode_batch(c.wall, bytes(16), [ClientRequest(*request)])
    return PrePrepare(0, number, batch.digest, batch.encoded)


@pytest.mark.scenario("E04")
def test_a_request_that_reached_one_backup_only_is_ordered() -> None:
    """A backup forwards it to the primary."""
    c = Cluster()
    c.open()
    c.members[2].give(ALICE, c.request(authenticator=b"\x01"))
    c.settle()
    assert {len(m.executed) for m in c.members} == {2}


@pytest.mark.scenario("E03")
def test_a_retransmission_of_an_executed_request_is_answered_and_not_ordered() -> None:
    """The replicated table answers; nothing executes again."""
    c = Cluster()
    c.open()
    request = c.request()
    c.primary.give(ALICE, request)
    c.settle()
    c.replies.clear()
    for m in c.members:
        m.give(ALICE, request._replace(authenticator=b"\x01"))
    c.settle()
    assert {len(m.executed) for m in c.members} == {2}
    assert sorted(s for s, _ in c.acknowledged(Reply)) == [0, 1, 2, 3]


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
    c.primary.give(ALICE, old)
    c.settle()
    assert {len(m.executed) for m in c.members} == {5}


@pytest.mark.scenario("E22")
@pytest.mark.parametrize(
    "message",
    [Prepare(0, 1, b"x" * 32), Commit(0, 1, b"x" * 32), PrePrepare(0, 1, b"x" * 32, b""), Nack(1, ALICE, b"x" * 32)],
)
def test_protocol_messages_from_a_client_are_refused(message: object) -> None:
    """A client may send REQUEST and nothing else."""
    c = Cluster()
    c.members[1].give(ALICE, message)  # type: ignore[arg-type]
    assert c.members[1].refused(ALICE, "wrong-role") == 1
    assert not c.members[1].replica.core.log.slots


@pytest.mark.scenario("E24")
def test_requests_without_a_valid_proof_are_refused() -> None:
    """No authenticator, a wrong one, an unknown client, another client's name."""
    c = Cluster()
    for authenticator in (b"", b"\x00", b"\x05garbage"):
        c.primary.give(ALICE, c.request(authenticator=authenticator))
    assert c.primary.refused(ALICE, "unauthentic-request") == 3
    c.primary.give(BOB, c.request(ALICE))
    assert c.primary.refused(BOB, "wrong-role") == 1
    stranger = Request(operations_body(1 << 63 | 99, 1 << 16, 1, 0, 255, [b"x"]), b"all")
    c.primary.give(2, stranger)
    assert c.primary.refused(2, "unauthentic-request") == 1
    assert c.primary.replica.requests.queue.count == 0


@pytest.mark.scenario("G14")
def test_a_request_that_the_primary_invented_is_not_accepted() -> None:
    """A backup that cannot verify a request sends NACK and does not prepare (2.4)."""
    c = Cluster()
    c.open()
    backup = c.members[1]
    backup.give(0, proposal_of(c, c.request(authenticator=b"forged")))
    assert not c.take(Prepare) and len(c.take(Nack)) == 3
    assert backup.replica.core.log.slots[2].digest is None


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
    busy = [m for _, m in c.acknowledged(Refusal) if m.reason == "busy"]
    assert busy and c.primary.replica.requests.queue.count <= 16
    c.primary.give(BOB, c.request(BOB))
    assert any(r.client == BOB for r in c.primary.replica.requests.queue.requests())


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
    """The client is told; nothing is queued."""
    c = Cluster(operation_max_bytes=1000, batch_max_bytes=4096)
    c.open()
    c.primary.give(ALICE, c.request(operation=b"x" * 2000))
    c.settle()
    assert [m.reason for _, m in c.acknowledged(Refusal)] == ["too-large"]
    assert c.primary.replica.requests.queue.count == 0


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
