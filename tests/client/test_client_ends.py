"""Every call ends, with an error that says what is known. DESIGN 3, rules 1.15, 1.16."""

from __future__ import annotations

import pytest
from client_world import Driver, done, shared_key

from pbft.batch import Outcome, encode_done
from pbft.client import ClientClosed, Overloaded, RequestRejected, RequestTimeout
from pbft.client.calls import Call, Deadlines


@pytest.mark.scenario("E10")
def test_a_timeout_says_that_the_outcome_is_unknown() -> None:
    """Without a quorum the call ends at its deadline; the error names who replied and that nobody disagreed."""
    driver = Driver()
    (call,), request = driver.send(b"a", timeout=5.0)
    driver.answer([2], request, done(request))
    driver.wait(4.9)
    assert not driver.has_ended(call)
    driver.wait(0.2)
    error = driver.outcome(call)
    assert isinstance(error, RequestTimeout)
    assert (error.executed, error.replied, error.disagreed) == (None, (2,), False)
    assert "outcome is unknown" in str(error)
    assert "1 of 4 replicas replied (2)" in str(error)
    assert "ordering needs 3 working replicas, and a result is believed once 2 give the same" in str(error)
    assert driver.wait(10) == [], "nobody waits for it any more"


def test_a_timeout_says_that_replicas_disagreed() -> None:
    """Different answers without a certificate are told as such."""
    driver = Driver(7)
    (call,), request = driver.send(b"a")
    driver.answer([0, 1], request, done(request))
    driver.answer([5, 6], request, encode_done([(Outcome.OK, b"wrong")]))
    driver.wait(5.1)
    error = driver.outcome(call)
    assert isinstance(error, RequestTimeout)
    assert error.disagreed
    assert error.replied == (0, 1, 5, 6)


@pytest.mark.scenario("E10")
def test_an_abandoned_request_lies_below_the_next_floor() -> None:
    """After a timeout the request's slot is free and the next floor covers it: arriving late it does not execute."""
    driver = Driver(window=1)
    (call,), first = driver.send(b"a", timeout=1.0)
    driver.wait(1.1)
    assert driver.has_ended(call)
    (other,), second = driver.send(b"b")
    assert second.floor >= first.id
    driver.answer([0, 1], first, done(first))
    assert not driver.has_ended(other)
    driver.answer([0, 1], second, done(second))
    assert driver.outcome(other) == b"r:b"


def test_busy_replicas_are_left_alone_longer_and_named_at_the_deadline() -> None:
    """f+1 `busy` postpone the next transmission; f+1 busy to the end make the error Overloaded."""
    quiet, driver = Driver(), Driver()
    _, unanswered = quiet.send(b"a", timeout=3.0)
    (call,), request = driver.send(b"a", timeout=3.0)
    assert unanswered.digest == request.digest
    sent = 0
    for _ in range(310):
        transmission = driver.wait(0.01)
        sent += len(transmission)
        driver.refuse([replica for replica, _ in transmission], request, "busy")
    assert sent < len(quiet.wait(3.1))
    error = driver.outcome(call)
    assert isinstance(error, Overloaded)
    assert error.executed is None
    assert all(replica.busy for replica in driver.core.statistics().replicas)


@pytest.mark.parametrize("reason", ["busy", "too-large", "malformed", "unknown-client", "unauthentic", "nonsense"])
def test_a_refusal_of_f_replicas_ends_nothing(reason: str) -> None:
    """One liar that refuses, however often, neither ends the call nor makes it Overloaded."""
    driver = Driver()
    (call,), request = driver.send(b"a", timeout=1.0)
    driver.refuse([3] * 10, request, reason)
    assert not driver.has_ended(call)
    driver.wait(1.1)
    assert type(driver.outcome(call)) is RequestTimeout


@pytest.mark.parametrize("reason", ["too-large", "malformed", "unknown-client"])
@pytest.mark.parametrize("opening", [False, True])
def test_a_final_refusal_of_weak_many_ends_the_call(reason: str, opening: bool) -> None:
    """f+1 replicas that give one final reason end the call before its deadline, during OPEN too."""
    driver = Driver()
    if opening:
        call = driver.invoke(b"a")
        request = driver.settle()[0][1]
    else:
        (call,), request = driver.send(b"a")
    driver.refuse([1], request, "malformed" if reason != "malformed" else "too-large")
    driver.refuse([2], request, reason)
    assert not driver.has_ended(call)
    driver.refuse([3], request, reason)
    error = driver.outcome(call)
    assert isinstance(error, RequestRejected)
    assert error.reason == reason


def test_a_call_that_was_never_sent_says_so() -> None:
    """With no session, or no room in the window, the deadline's error says that nothing was executed."""
    driver = Driver(window=1)
    unopened = driver.invoke(b"a", timeout=0.5)
    driver.wait(0.6)
    assert driver.outcome(unopened).executed is False  # type: ignore[union-attr]
    driver.open()  # late, and good all the same
    (sent,), _ = driver.send(b"b", timeout=9.0)
    waiting = driver.invoke(b"c", timeout=0.5)
    driver.wait(0.6)
    error = driver.outcome(waiting)
    assert isinstance(error, RequestTimeout)
    assert error.executed is False
    assert not driver.has_ended(sent)


def test_a_cancelled_call_is_forgotten_and_its_companions_are_not() -> None:
    """A call that is cancelled never ends otherwise; those that share its request get their results."""
    driver = Driver()
    (first, second), request = driver.send(b"a", b"b")
    driver.core.cancel(first)
    driver.core.cancel(first)
    driver.answer([0, 1], request, done(request))
    assert driver.outcome(second) == b"r:b"
    assert not driver.has_ended(first)
    (third,), _ = driver.send(b"c")
    driver.core.cancel(third)
    waits = driver.invoke(b"d")
    driver.core.cancel(waits)
    assert driver.wait(10) == []
    assert driver.core.statistics().outstanding == driver.core.statistics().waiting == 0
    assert driver.core.next_wakeup() is None


def test_closing_ends_all_calls() -> None:
    """Sent and unsent calls end with ClientClosed, which tells them apart; later calls are refused."""
    driver = Driver(window=1)
    (sent,), _ = driver.send(b"a")
    waiting = driver.invoke(b"b")
    driver.core.close()
    errors = driver.outcome(sent), driver.outcome(waiting)
    assert all(isinstance(error, ClientClosed) for error in errors)
    assert [error.executed for error in errors] == [None, False]  # type: ignore[union-attr]
    with pytest.raises(ClientClosed):
        driver.invoke(b"c")


@pytest.mark.scenario("E11")
def test_a_client_outlives_a_restart_of_all_replicas() -> None:
    """After all links were gone for half a minute and came back, the same session goes on; the next call succeeds."""
    driver = Driver()
    (first,), request = driver.send(b"a", timeout=60.0)
    for replica in range(4):
        driver.core.on_link_down(replica, driver.now)
    driver.settle()
    assert driver.wait(30) == []
    for replica in range(4):
        driver.core.on_link_up(replica, shared_key(replica), driver.now)
    assert [r.digest for _, r in driver.settle()] == [request.digest] * 4
    driver.answer([0, 3], request, done(request))
    assert driver.outcome(first) == b"r:a"
    (second,), request = driver.send(b"b")
    driver.answer([0, 3], request, done(request))
    assert driver.outcome(second) == b"r:b"


def test_deadlines_are_found_in_time_and_leave_nothing_behind() -> None:
    """Each call is found between its deadline and 1/64 s or 1/128 of its timeout later; removed ones never are."""
    deadlines = Deadlines()
    calls = [Call(b"", 50.0, 50.0 + timeout) for timeout in (0.0, 0.01, 0.5, 4.0, 10.0, 100.0, 86_400.0)]
    removed = [Call(b"", 50.0, 50.0 + i / 7) for i in range(100)]
    for call in (*calls, *removed):
        deadlines.add(call)
    for call in removed:
        deadlines.remove(call)
    found = []
    while (due := deadlines.next()) is not None:
        assert not list(deadlines.expired(due - 1e-6))
        for call in deadlines.expired(due):
            assert call.deadline <= due <= call.deadline + max(1 / 64, (call.deadline - 50) / 128) + 1e-9
            found.append(call)
    assert found == calls
