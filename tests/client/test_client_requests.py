"""What a client sends, to whom, and when again; how calls share requests. Rules 1.15, 1.17, 2.3."""

from __future__ import annotations

import itertools
import tracemalloc

import pytest
from client_world import ALICE, PRINCIPAL, SESSION, Driver, done, reply, shared_key

from pbft.batch import Answer, ClientRequest, Kind, Outcome, encode_answer, encode_done
from pbft.client import OutcomeUnknown, RequestRejected
from pbft.client.pending import request_digest
from pbft.crypto import client_id
from pbft.messages import Refusal, encode


def test_first_transmission_goes_to_the_primary_alone_with_macs() -> None:
    """A fresh request costs one message, which each replica can verify by its entry."""
    driver = Driver()
    _, request = driver.send(b"a")
    assert [(replica, r.digest) for replica, r in driver.sent if r.kind is Kind.OPERATIONS] == [(0, request.digest)]
    assert not request.is_signed
    assert all(driver.is_authentic(replica, request) for replica in range(4))
    assert request_digest(request.body) == request.digest


def test_open_is_signed_and_goes_to_everybody() -> None:
    """No session is opened before the first call; then by a signed OPEN with count 0, whose session is used."""
    driver = Driver()
    assert driver.settle() == []
    driver.invoke(b"a")
    sent = driver.settle()
    assert [(replica, r.kind, r.is_signed, r.floor) for replica, r in sent] == [
        (i, Kind.OPEN, True, 0) for i in range(4)
    ]
    driver.answer([2], sent[0][1], encode_answer(Answer.OPENED, SESSION + 1))
    driver.answer([1, 3], sent[0][1], encode_answer(Answer.OPENED, SESSION))
    [(_, request)] = driver.settle()
    assert (request.session, request.id, request.floor, request.client) == (SESSION, 1, 0, client_id(ALICE.public))
    assert request.client == PRINCIPAL


def test_a_stale_open_is_repeated_with_the_count_that_weak_many_told() -> None:
    """One replica's word on the open count is not followed; f+1 are, under a fresh nonce."""
    driver = Driver()
    call = driver.invoke(b"a")
    opening = driver.settle()[0][1]
    driver.answer([3, 3, 3], opening, encode_answer(Answer.OPEN_STALE, 900))
    assert driver.settle() == []
    driver.answer([0, 1], opening, encode_answer(Answer.OPEN_STALE, 12))
    sent = driver.settle()
    assert {(r.kind, r.floor) for _, r in sent} == {(Kind.OPEN, 12)}
    assert sent[0][1].id != opening.id
    driver.open()
    [(_, request)] = driver.settle()
    driver.answer([0, 1], request, done(request))
    assert driver.outcome(call) == b"r:a"


def test_an_unknown_client_is_told_so() -> None:
    """Where the replicated table does not know the client's key, waiting calls end as rejected."""
    driver = Driver()
    call = driver.invoke(b"a")
    opening = driver.settle()[0][1]
    driver.answer([0, 1], opening, encode_answer(Answer.UNKNOWN_SESSION, 0))
    error = driver.outcome(call)
    assert isinstance(error, RequestRejected)
    assert error.reason == "unknown-client"


def test_calls_of_a_lost_session_are_never_repeated() -> None:
    """f+1 "unknown session" end what was sent with an unknown outcome; what waits goes on in a new session."""
    driver = Driver(window=1)
    (sent,), request = driver.send(b"a")
    waiting = driver.invoke(b"b")
    driver.answer([3, 3], request, encode_answer(Answer.UNKNOWN_SESSION, SESSION))
    assert not driver.has_ended(sent)
    driver.answer([1], request, encode_answer(Answer.UNKNOWN_SESSION, SESSION))
    error = driver.outcome(sent)
    assert isinstance(error, OutcomeUnknown)
    assert error.executed is None
    driver.open(SESSION + 99)
    [(_, second)] = driver.settle()
    assert (second.session, second.id, list(second.operations)) == (SESSION + 99, 1, [b"b"])
    driver.answer([0, 1], second, done(second))
    assert driver.outcome(waiting) == b"r:b"
    assert sum(b"a" in r.operations for _, r in driver.sent) == 1


@pytest.mark.scenario("E03")
def test_a_retransmission_is_the_same_request_signed_to_everybody() -> None:
    """It has the digest of the first transmission, so replicas answer it from the table; intervals grow."""
    driver = Driver()
    (call,), request = driver.send(b"a", timeout=30.0)
    times = []
    for _ in range(2000):
        sent = driver.wait(0.01)
        if sent:
            assert [replica for replica, _ in sent] == [0, 1, 2, 3]
            assert all(r.digest == request.digest and r.is_signed for _, r in sent)
            times.append(driver.now)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[0] < 0.8
    assert all(1.4 < gap < 2.6 for gap in gaps[3:])
    driver.answer([1, 2], request, done(request))
    assert driver.outcome(call) == b"r:a"
    assert driver.wait(5) == []


def test_link_loss_of_the_primary_retransmits_at_once() -> None:
    """What only the primary has goes to everybody else the moment its link drops; a backup's link changes nothing."""
    driver = Driver()
    _, request = driver.send(b"a")
    driver.core.on_link_down(2, driver.now)
    assert driver.settle() == []
    driver.core.on_link_down(0, driver.now)
    assert [(replica, r.is_signed) for replica, r in driver.settle()] == [(1, True), (3, True)]
    driver.core.on_link_down(0, driver.now)
    assert driver.settle() == []
    driver.core.on_link_up(0, shared_key(0), driver.now)
    assert [(replica, r.digest) for replica, r in driver.settle()] == [(0, request.digest)]


@pytest.mark.scenario("E13")
def test_links_that_open_late_are_brought_up_to_date() -> None:
    """With more than f links missing a request is signed; each replica gets it as its link comes up, and counts."""
    driver = Driver(links=[3])
    call = driver.invoke(b"a")
    assert [(replica, r.kind) for replica, r in driver.settle()] == [(3, Kind.OPEN)]
    driver.core.on_link_up(1, shared_key(1), driver.now)
    assert [(replica, r.kind) for replica, r in driver.settle()] == [(1, Kind.OPEN)]
    driver.open()
    sent = driver.settle()
    assert [(replica, r.is_signed) for replica, r in sent] == [(1, True), (3, True)]
    driver.core.on_link_up(0, shared_key(0), driver.now)
    assert [replica for replica, _ in driver.settle()] == [0]
    driver.answer([0, 3], sent[0][1], done(sent[0][1]))
    assert driver.outcome(call) == b"r:a"


def test_nothing_is_sent_or_signed_without_links() -> None:
    """Without any link calls wait, and say at the deadline that nothing was sent."""
    driver = Driver(links=[])
    call = driver.invoke(b"a", timeout=1.0)
    assert driver.wait(2.0) == []
    assert driver.outcome(call).executed is False  # type: ignore[union-attr]


def test_calls_of_one_moment_share_a_request_and_kinds_do_not_mix() -> None:
    """Operations travel together in call order; queries travel in a REQUEST of their own."""
    driver = Driver()
    driver.send(b"x")
    for i in range(5):
        driver.invoke(b"op%d" % i)
        driver.invoke(b"query%d" % i, query=True)
    sent = [request for _, request in driver.settle()]
    assert {(r.kind, tuple(r.operations)) for r in sent} == {
        (Kind.OPERATIONS, tuple(b"op%d" % i for i in range(5))),
        (Kind.QUERIES, tuple(b"query%d" % i for i in range(5))),
    }


@pytest.mark.scenario("E06")
def test_the_window_bounds_what_is_outstanding_and_replies_may_come_in_any_order() -> None:
    """While the window is full calls wait and become one request; ids name distinct requests, floors rise behind the
    lowest one outstanding, and each call gets its own result."""
    driver = Driver(window=3)
    calls, requests = [], []
    for i in range(3):
        more, request = driver.send(b"%d" % i)
        calls += more
        requests.append(request)
    waiting = [driver.invoke(b"w%d" % i) for i in range(64)]
    assert driver.settle() == []
    driver.answer([0, 1], requests[2], done(requests[2]))
    [(_, following)] = driver.settle()
    assert (following.id, following.floor, len(following.operations)) == (4, 0, 64)
    for request in (following, requests[1], requests[0]):
        driver.answer([2, 1], request, done(request))
    results = [driver.outcome(call) for call in (*calls, *waiting)]
    assert results == [b"r:0", b"r:1", b"r:2", *(b"r:w%d" % i for i in range(64))]
    _, last = driver.send(b"z")
    assert (last.id, last.floor) == (5, 4)


def test_no_id_leaves_the_session_window() -> None:
    """While the lowest request is outstanding, no id is used that replicas would find beyond the window."""
    driver = Driver(session_window=4, window=2)
    (stuck,), first = driver.send(b"stuck", timeout=60.0)
    for i in range(2, 5):
        (call,), request = driver.send(b"%d" % i)
        assert request.id - request.floor <= 4
        driver.answer([0, 1], request, done(request))
        assert driver.has_ended(call)
    waiting = driver.invoke(b"waits")
    assert driver.settle() == []
    driver.answer([0, 1], first, done(first))
    [(_, request)] = driver.settle()
    assert (request.id, request.floor) == (5, 4)
    driver.answer([0, 1], request, done(request))
    assert driver.outcome(stuck) == b"r:stuck"
    assert driver.outcome(waiting) == b"r:waits"


def test_requests_are_bounded_in_operations_and_bytes() -> None:
    """More calls than fit travel in several requests, each within both limits."""
    driver = Driver(operations_per_request=10, operation_max_bytes=4096)
    driver.send(b"x")
    calls = [driver.invoke(bytes(1000)) for _ in range(5)] + [driver.invoke(b"s") for _ in range(25)]
    done_calls = 0
    for _ in range(20):
        for _, request in driver.settle():
            assert len(request.body) <= 4096
            assert len(request.operations) <= 10
            done_calls += len(request.operations)
            driver.answer([0, 1], request, done(request))
    assert done_calls == 30
    assert all(driver.outcome(call) is not None for call in calls)


def test_large_results_make_requests_smaller() -> None:
    """After results that replicas could not remember together, fewer calls share a request."""
    driver = Driver(result_cache_bytes=8192, result_max_bytes=1024)
    _, request = driver.send(b"a")
    driver.answer([0, 1], request, done(request, prefix=bytes(500)))
    for _ in range(10):
        driver.invoke(b"b")
    sizes = [len(r.operations) for _, r in driver.settle()]
    assert max(sizes) <= 2
    assert len(sizes) >= 3


def test_full_results_are_asked_of_the_connected_replicas_in_turn() -> None:
    """The designated replier goes round among those with a link."""
    driver = Driver()
    driver.core.on_link_down(2, driver.now)
    repliers = []
    for i in range(6):
        _, request = driver.send(b"%d" % i)
        repliers.append(request.replier)
        driver.answer([0, 1], request, done(request))
    assert sorted(set(repliers)) == [0, 1, 3]
    assert repliers[:3] == repliers[3:]


@pytest.mark.scenario("E20")
def test_an_oversized_operation_is_rejected_before_it_is_sent() -> None:
    """The largest operation works and fits; one byte more is refused with the limit, and nothing leaves."""
    driver = Driver(operation_max_bytes=2048)
    largest = driver.core.operation_max
    (call,), request = driver.send(bytes(largest))
    assert len(request.body) <= 2048
    driver.answer([0, 1], request, done(request))
    assert isinstance(driver.outcome(call), bytes)
    before = len(driver.sent)
    for size in (largest + 1, 100 * largest):
        with pytest.raises(RequestRejected, match=str(largest)) as caught:
            driver.invoke(bytes(size))
        assert caught.value.reason == "too-large"
    assert driver.settle() == []
    assert len(driver.sent) == before


def test_a_request_sent_to_a_former_primary_follows_the_view() -> None:
    """When f+1 replicas name a later view, what only the old primary has goes to everybody."""
    driver = Driver(window=2)
    driver.send(b"a")
    _, second = driver.send(b"b")
    driver.answer([1, 2], second, done(second), view=1)
    sent = driver.wait(0.02)
    assert sorted(replica for replica, _ in sent) == [0, 1, 2, 3]
    assert {tuple(r.operations) for _, r in sent} == {(b"a",)}


def test_a_replica_with_other_keys_gets_a_signature() -> None:
    """`unauthentic` from the primary brings the signed copy forward; from a backup it changes nothing."""
    driver = Driver()
    _, request = driver.send(b"a")
    driver.refuse([2], request, "unauthentic")
    assert driver.wait(0.05) == []
    driver.refuse([0], request, "unauthentic")
    assert all(r.is_signed for _, r in driver.wait(0.02))
    assert isinstance(request, ClientRequest)


def test_a_replier_that_failed_is_passed_over_for_a_while_and_then_tried_again() -> None:
    """A designated replier that sends nothing in full is not designated for several turns, but not for ever."""
    driver = Driver()
    repliers = []
    for i in range(60):
        (call,), request = driver.send(b"%d" % i)
        repliers.append(request.replier)
        if request.replier == 2:
            driver.answer([0, 1], request, done(request), full=False)
            assert any(r.is_signed for _, r in driver.wait(0.3))
        driver.answer([0, 1], request, done(request))
        assert driver.has_ended(call)
    gaps = [later - earlier for earlier, later in itertools.pairwise(i for i, r in enumerate(repliers) if r == 2)]
    assert len(gaps) >= 1
    assert min(gaps) > 4
    assert gaps == sorted(gaps)


def test_whatever_a_liar_sends_takes_bounded_memory() -> None:
    """Thousands of different replies, full results and refusals of one replica, for requests outstanding, over and
    unknown, leave no more behind than a few of them."""
    driver = Driver()
    (_,), over = driver.send(b"over")
    driver.answer([0, 1], over, done(over))
    (call,), request = driver.send(b"a")
    tracemalloc.start()
    try:
        for i in range(2000):
            wrong = encode_done([(Outcome.OK, b"%04d" % i * 250)])
            for request_id in (request.id, over.id, 1000 + i):
                for tentative in (False, True):
                    row = reply(request.session, request_id, wrong, view=i, tentative=tentative)
                    driver.core.on_message(3, row, driver.now)
            driver.hear(3, encode(Refusal(i, request.session, request.id, f"reason {i}")))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 50_000
    driver.answer([0, 1], request, done(request))
    assert driver.outcome(call) == b"r:a"


def test_a_call_that_had_no_room_for_its_result_travels_again_with_less_company() -> None:
    """CROWDED changed nothing: the client asks again by itself, in the order of the calls, and nobody sees an error."""
    driver = Driver(result_cache_bytes=4096, result_max_bytes=2048)
    calls, request = driver.send(b"a", b"b", b"c")
    big = b"x" * 2000
    driver.answer(range(4), request, encode_done([(Outcome.OK, big), (Outcome.CROWDED, b""), (Outcome.CROWDED, b"")]))
    assert driver.outcome(calls[0]) == big
    assert not driver.has_ended(calls[1]) and not driver.has_ended(calls[2])
    again = [r for _, r in driver.sent if r.kind is Kind.OPERATIONS and r.id > request.id]
    assert [operation for r in again for operation in r.operations] == [b"b", b"c"]
    for r in again:
        driver.answer(range(4), r, encode_done([(Outcome.OK, b"r:" + o) for o in r.operations]))
    assert [driver.outcome(c) for c in calls[1:]] == [b"r:b", b"r:c"]


def test_in_the_robust_profile_every_request_is_signed_and_goes_to_everybody() -> None:
    """Backups know it before it is proposed."""
    driver = Driver(signed_requests=1)
    _, request = driver.send(b"a")
    assert request.is_signed
    assert [replica for replica, r in driver.sent if r.digest == request.digest] == [0, 1, 2, 3]
