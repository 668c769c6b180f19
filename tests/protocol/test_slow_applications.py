"""An application that takes long, or a client that makes it take long, is not the primary's fault. Rule 1.11."""

from __future__ import annotations

import pytest
from cluster import ALICE, BOB, Cluster
from signed_views import executed_once

from pbft.protocol.delivery import MAX_AT_EXECUTOR
from pbft.protocol.queue import IN_FLIGHT


def slow_cluster(**tunables: int) -> Cluster:
    c = Cluster(4, checkpoint_interval=128, log_window=256, view_timeout=600, **tunables)
    c.open()
    c.open(BOB)
    return c


def execute_all(c: Cluster) -> None:
    """What was held back at the executors happens now."""
    for m in c.up:
        m.hold_execution = False
        while m.held:
            number, batch = m.held.pop(0)
            m.host.executed(m.executor.execute(number, batch))
            m.flush()
    c.settle()


@pytest.mark.parametrize("more", [1, 4])
def test_what_no_primary_may_propose_is_not_awaited(more: int) -> None:
    """A client has as much in flight as it may, and none of it executes for seconds: the rest waits in the queue."""
    c = slow_cluster()
    for m in c.members:
        m.hold_execution = True
    requests = [c.request(ALICE, b"%d" % i, b"\x01") for i in range(IN_FLIGHT + more)]
    for request in requests:
        for m in c.members:
            m.give(ALICE, request)
        c.settle()
    assert all(len(m.held) == IN_FLIGHT for m in c.members)
    c.wait(5)
    assert c.view == 0
    execute_all(c)
    c.wait(1)
    assert c.view == 0 and executed_once(c, *requests)


def test_while_the_executor_has_as_much_as_it_may_nothing_new_is_expected() -> None:
    """Of many clients together, likewise."""
    c = slow_cluster()
    for m in c.members:
        m.hold_execution = True
    sent = 0
    for client in (ALICE, BOB):
        for i in range(IN_FLIGHT):
            c.primary.give(client, c.request(client, b"%d" % i, b"\x01"))
            c.settle()
            sent += 1
    for m in c.members:
        m.replica.delivery.executed -= MAX_AT_EXECUTOR - sent  # as if so many more waited there
        m.flush()
        assert m.replica.requests.executor_is_full
    late = c.request(BOB, b"late", b"\x01")
    for m in c.members[1:]:
        m.give(BOB, late)
    assert all(m.replica.requests.oldest_unproposed is None for m in c.members[1:])
    assert all(m.replica.requests.oldest_awaited(m.replica.delivery.committed_through) is None for m in c.members[1:])


def test_what_is_awaited_again_after_a_slow_operation_has_a_whole_timeout() -> None:
    """Its wait begins when its client may have it proposed, and then a primary that does not is replaced."""
    c = slow_cluster()
    for m in c.members:
        m.hold_execution = True
    for i in range(IN_FLIGHT + 1):
        request = c.request(ALICE, b"%d" % i, b"\x01")
        for m in c.members if i < IN_FLIGHT else c.members[1:]:
            m.give(ALICE, request)
        c.settle()
    c.wait(3)
    c.members[0].down = True
    execute_all(c)
    assert c.view == 0
    c.wait(2)
    assert c.view == 1 and all(m.times(request) == 1 for m in c.members[1:])
