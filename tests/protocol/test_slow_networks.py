"""Networks on which a proposal takes longer than the shortest timeout, all replicas correct or one of them faulty: the
timeout and the floor follow, and no lie takes that back. Rule 1.11; 4 #6, #9"""

from __future__ import annotations

import pytest
from cluster import ALICE, BOB
from signed_views import group
from slow_network import Slow
from timed import timed

from pbft.batch import NULL_DIGEST
from pbft.messages import PrePrepare, Request, decode

_LARGE = 50_000


@pytest.mark.parametrize("one_way", [0.1, 0.3])
def test_far_apart_nobody_is_replaced_under_load(one_way: float) -> None:
    """Ten requests a second, for half a minute, with default settings: the floor knows how far the others are."""
    c = group(checkpoint_interval=128, log_window=256)
    slow = Slow(c, lambda body: one_way, round_trip=2 * one_way)
    asked: list[Request] = []

    def ask(step: int) -> bool:
        if step % 5 == 0 and step < 1500:
            asked.append(c.request(authenticator=b"\x01"))
            for m in c.members:
                slow.say(ALICE, m.me, asked[-1])
        return False

    slow.run(38, ask)
    assert slow.view_changes <= 1
    assert all(m.times(request) == 1 for m in c.members for request in asked)


def test_a_proposal_that_takes_longer_than_the_timeout_comes_through() -> None:
    """A hundred kilobytes at a megabit a second: the first primary may be replaced, and no more are than it takes for
    the timeout to be long enough."""
    c = group(checkpoint_interval=128, log_window=256)
    slow = Slow(c, lambda body: 0.7 if len(body) > _LARGE else 0.005, round_trip=0.01)
    request = c.request(operation=b"x" * 100_000, authenticator=b"\x01")

    def ask(step: int) -> bool:
        for m in c.members if step % 100 == 0 else ():
            slow.say(ALICE, m.me, request)
        return all(m.times(request) for m in c.members)

    assert slow.run(30, ask) * 0.02 < 10
    assert slow.view_changes <= 3


def test_batches_that_pass_over_who_waits_do_not_shorten_the_timeout() -> None:
    """NULL ones too: a faulty primary proposes 64 of them at once while a request has waited through failed views."""
    c = timed(checkpoint_interval=128, log_window=256)
    for _ in range(4):
        c.suspect_all()
    request = c.request(authenticator=b"\x01")
    c.dropped = lambda s, t, m: isinstance(m, Request)
    for m in c.members[1:]:
        m.give(ALICE, request)
    before, first = [m.replica.suspicion.timeout for m in c.members], len(c.members[1].executed)
    for number in range(first + 1, first + 65):
        for m in c.members[1:]:
            m.give(0, PrePrepare(4, number, NULL_DIGEST, b""))
        c.settle()
    assert len(c.members[1].executed) == first + 64
    assert [m.replica.suspicion.timeout for m in c.members][1:] == before[1:]


def test_a_faulty_primary_does_not_take_back_the_doubling_that_others_need() -> None:
    """Proposals with a large request take three seconds. In its views the liar orders many small ones of a colluding
    client at once and leaves out the large one, again and again."""
    c = timed(checkpoint_interval=128, log_window=256, view_timeout=600)
    c.open(BOB)
    slow = Slow(c, lambda body: 3.0 if len(body) > _LARGE else 0.005, round_trip=0.01)
    slow.keep = lambda sender, to, body: not (to == 0 and len(body) > _LARGE and type(decode(body)) is Request)
    request = c.request(operation=b"x" * 100_000, authenticator=b"\x01")
    liar, ordered = c.members[0], dict[int, int]()

    def act(step: int) -> bool:
        for m in c.members[1:] if step % 100 == 0 else ():
            slow.say(ALICE, m.me, request)
        if liar.view % 4 == 0 and liar.replica.core.is_active and ordered.get(liar.view, 0) < 110:
            for _ in range(2):
                ordered[liar.view] = ordered.get(liar.view, 0) + 1
                liar.give(BOB, c.request(BOB))
        return all(m.times(request) for m in c.members[1:])

    assert slow.run(120, act) * 0.02 < 60
    assert slow.view_changes < 12
