"""Which results a client believes, and whom it catches lying. Rule 1.16."""

from __future__ import annotations

import pytest
from client_world import Driver, done, reply

from pbft.batch import Answer, Outcome, encode_answer, encode_done, result_digest
from pbft.client import OperationFailed, OutcomeUnknown, RequestTimeout
from pbft.messages import Prepare, Reply, encode

WRONG = encode_done([(Outcome.OK, b"wrong")])


@pytest.mark.parametrize("n", [4, 6, 7])
def test_weak_certificate_of_committed_replies_proves_a_result(n: int) -> None:
    """f matching committed replies prove nothing; one more proves the result."""
    driver = Driver(n)
    (call,), request = driver.send(b"a")
    f = driver.group.quorums.f
    driver.answer(range(f), request, done(request))
    assert not driver.has_ended(call)
    driver.answer([f], request, done(request))
    assert driver.outcome(call) == b"r:a"


@pytest.mark.scenario("E08")
@pytest.mark.parametrize("tentative", [False, True])
def test_a_replica_never_counts_twice(tentative: bool) -> None:
    """A liar that repeats its wrong reply, under whatever view, neither completes the call nor blocks it."""
    driver = Driver()
    (call,), request = driver.send(b"a")
    for view in range(20):
        driver.answer([3], request, WRONG, view=view, tentative=tentative)
    assert not driver.has_ended(call)
    driver.answer([0, 1], request, done(request))
    assert driver.outcome(call) == b"r:a"


def test_first_tentative_then_committed_word_of_one_replica_counts_once() -> None:
    """The tentative and the committed reply of one replica are one vote."""
    driver = Driver()
    (call,), request = driver.send(b"a")
    driver.answer([0, 1], request, done(request), tentative=True)
    driver.answer([0], request, done(request))
    assert not driver.has_ended(call)
    driver.answer([2], request, done(request), tentative=True)
    assert driver.outcome(call) == b"r:a"


@pytest.mark.parametrize("n", [4, 6])
def test_tentative_replies_need_a_strong_quorum_of_one_view(n: int) -> None:
    """q tentative replies prove a result only if they name one view; committed ones of any view count among them."""
    driver = Driver(n)
    strong = driver.group.quorums.strong
    (call,), request = driver.send(b"a")
    driver.answer(range(strong - 1), request, done(request), view=2, tentative=True)
    driver.answer([strong - 1], request, done(request), view=3, tentative=True)
    assert not driver.has_ended(call)
    driver.answer([strong - 1], request, done(request), view=7)
    assert driver.outcome(call) == b"r:a"


def test_tentative_reply_of_an_older_view_is_not_taken() -> None:
    """What a replica said of an older view does not replace what it said of a newer one."""
    driver = Driver()
    (call,), request = driver.send(b"a")
    driver.answer([0, 1], request, done(request), view=5, tentative=True)
    driver.answer([2], request, done(request), view=6, tentative=True)
    driver.answer([2], request, done(request), view=5, tentative=True)
    assert not driver.has_ended(call)


@pytest.mark.scenario("E21")
def test_a_certificate_of_digests_waits_for_the_full_result() -> None:
    """Digests alone complete nothing; the full result is asked for soon, signed and from everybody, and then taken."""
    driver = Driver()
    (call,), request = driver.send(b"a")
    driver.answer([0, 1, 2], request, done(request), full=False)
    assert not driver.has_ended(call)
    again = driver.wait(0.2)
    assert sorted(replica for replica, _ in again) == [0, 1, 2, 3]
    assert all(r.digest == request.digest and r.is_signed for _, r in again)
    driver.answer([2], request, done(request))
    assert driver.outcome(call) == b"r:a"


@pytest.mark.scenario("E21")
def test_a_full_result_that_does_not_hash_to_its_digest_counts_for_nothing() -> None:
    """A designated replier that sends other bytes under the right digest is neither believed nor counted as a vote."""
    driver = Driver()
    (call,), request = driver.send(b"a")
    row = (request.id, False, result_digest(done(request)), WRONG)
    driver.answer([0], request, done(request), full=False)
    driver.hear(3, encode(Reply(0, request.session, (row,))))
    assert not driver.has_ended(call)
    assert driver.core.statistics().replicas[3].outvoted == 1
    driver.answer([1], request, done(request))
    assert driver.outcome(call) == b"r:a"


def test_full_result_and_certificate_may_come_from_different_replicas() -> None:
    """The full result of a replica that is the only one to send it completes the others' digests, in any order."""
    driver = Driver()
    (call,), request = driver.send(b"a")
    driver.answer([3], request, done(request))
    driver.answer([1], request, done(request), full=False)
    assert driver.outcome(call) == b"r:a"


def test_an_oversized_result_of_a_liar_is_not_kept() -> None:
    """A full result larger than this request can have does not serve a certificate."""
    driver = Driver(result_max_bytes=64)
    (call,), request = driver.send(b"a")
    huge = encode_done([(Outcome.OK, bytes(5000))])
    driver.answer([0, 1, 2], request, huge)
    assert not driver.has_ended(call)
    assert isinstance(driver.wait(6) and driver.outcome(call), RequestTimeout)


@pytest.mark.scenario("E08")
def test_the_liar_is_named() -> None:
    """Replies that disagree with the accepted result are counted once per request, before it and after it."""
    driver = Driver()
    (_,), first = driver.send(b"a")
    driver.answer([3, 3, 0, 1, 2, 3], first, done(first))
    (_,), second = driver.send(b"b")
    driver.answer([3], second, WRONG)
    driver.answer([0, 1, 2], second, done(second))
    (_,), third = driver.send(b"c")
    driver.answer([0, 1, 2], third, done(third))
    driver.answer([3, 3, 3], third, WRONG, full=False)
    driver.settle()
    assert [r.outvoted for r in driver.core.statistics().replicas] == [0, 0, 0, 2]


def test_a_replica_that_forgot_a_result_is_no_liar() -> None:
    """Answers of the replicated table beside an accepted result are not held against a replica."""
    driver = Driver()
    (_,), request = driver.send(b"a")
    driver.answer([2], request, encode_answer(Answer.FORGOTTEN, request.id))
    driver.answer([0, 1], request, done(request))
    driver.answer([3], request, encode_answer(Answer.TOO_OLD, request.id))
    driver.settle()
    assert [r.outvoted for r in driver.core.statistics().replicas] == [0, 0, 0, 0]


def test_a_replica_may_come_to_say_forgotten() -> None:
    """Replicas that first answered and, asked again, have forgotten the result still form a certificate: the call ends
    with what is known, namely that it executed."""
    driver = Driver()
    (call,), request = driver.send(b"a")
    driver.answer([0], request, done(request))
    driver.answer([0, 1], request, encode_answer(Answer.FORGOTTEN, request.id))
    error = driver.outcome(call)
    assert isinstance(error, OutcomeUnknown)
    assert error.executed is True


def test_outcomes_of_operations_come_apart() -> None:
    """One REQUEST's operations end each in its own way, in the order of the calls."""
    driver = Driver()
    calls, request = driver.send(b"a", b"b", b"c", b"d")
    assert list(request.operations) == [b"a", b"b", b"c", b"d"]
    rows = [(Outcome.OK, b""), (Outcome.REFUSED, b"no money"), (Outcome.FAILED, b""), (Outcome.TOO_LARGE, b"")]
    driver.answer([0, 3], request, encode_done(rows))
    results = [driver.outcome(call) for call in calls]
    assert results[0] == b""
    errors = results[1:]
    assert all(isinstance(error, OperationFailed) for error in errors)
    assert [e.outcome for e in errors] == [Outcome.REFUSED, Outcome.FAILED, Outcome.TOO_LARGE]  # type: ignore[union-attr]
    assert errors[0].message == b"no money"  # type: ignore[union-attr]
    assert str(errors[0]) == "no money"


@pytest.mark.parametrize("result", [b"\x00", encode_done([]), encode_answer(Answer.TOO_OLD, 1)])
def test_an_agreed_answer_without_a_result_ends_the_call(result: bytes) -> None:
    """Whatever f+1 replicas agree on ends the call, with a typed error where it is no result."""
    driver = Driver()
    (call,), request = driver.send(b"a")
    driver.answer([0, 1], request, result)
    assert isinstance(driver.outcome(call), OutcomeUnknown)


@pytest.mark.scenario("E22")
def test_other_messages_are_counted_and_dropped() -> None:
    """Bytes that are no message, and messages that replicas send to no client, disturb no other reply."""
    driver = Driver()
    (call,), request = driver.send(b"a")
    for junk in (b"", b"\xff" * 40, encode(Prepare(0, 1, bytes(32))), reply(1, 1, WRONG) + b"\x00"):
        driver.hear(2, junk)
    driver.core.on_message(77, reply(request.session, request.id, WRONG), driver.now)
    driver.answer([0, 1], request, done(request))
    assert driver.outcome(call) == b"r:a"
    assert [r.malformed for r in driver.core.statistics().replicas] == [0, 0, 4, 0]


def test_replies_to_other_sessions_and_ids_do_not_count() -> None:
    """A reply counts only for the session and the id that it names."""
    driver = Driver()
    (call,), request = driver.send(b"a")
    for replica in range(4):
        driver.hear(replica, reply(request.session + 1, request.id, WRONG))
        driver.hear(replica, reply(request.session, request.id + 1, WRONG))
    assert not driver.has_ended(call)
    driver.answer([0, 1], request, done(request))
    assert driver.outcome(call) == b"r:a"


def test_view_is_the_weak_certificates_largest() -> None:
    """f liars cannot raise the believed view, and cannot keep it down."""
    driver = Driver()
    (_,), request = driver.send(b"a")
    driver.answer([3], request, done(request), view=1 << 60)
    assert driver.core.statistics().view == 0
    driver.answer([1], request, done(request), view=5)
    assert driver.core.statistics().view == 5
    _, following = driver.send(b"b")
    assert driver.sent[-1] == (1, following)
    driver.answer([0, 2], following, done(following), view=6)
    assert driver.core.statistics().view == 6
