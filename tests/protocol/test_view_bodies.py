"""Bodies that a new view lacks, votes that come before it, and votes that are missing after it. Rules 1.3 (A3), 1.13,
1.14; 4 #18."""

from __future__ import annotations

import pytest
from cluster import ALICE, Cluster
from signed_views import executed_once, group

from pbft.messages import (
    Body,
    Commit,
    Committed,
    Fetch,
    NewView,
    Prepare,
    PrePrepare,
    encode,
)
from pbft.protocol.inbound import _EARLY_MESSAGES


def lacking(c: Cluster) -> bytes:
    """A batch is prepared at 2 and pre-prepared at 0 and 3; replica 1, the next primary, has never seen it."""
    c.dropped = lambda s, t, m: (
        (isinstance(m, PrePrepare) and t == 1) or (isinstance(m, Prepare) and t != 2) or isinstance(m, Commit)
    )
    c.primary.give(ALICE, c.request())
    c.settle()
    digest = c.members[2].replica.core.log.p[2][0]
    c.members[3].crash()
    return digest


def test_a_new_primary_fetches_what_it_lacks_from_who_vouched() -> None:
    """The decision does not wait for bodies: those who pre-prepared a batch have it, and are asked (A3, 4 #18)."""
    c = group()
    digest = lacking(c)
    asked: list[int] = []
    c.dropped = lambda s, t, m: isinstance(m, Fetch) and asked.append(t) is not None
    c.suspect_all(0, 1, 2)
    assert {m.view for m in c.up} == {1} and set(asked) <= {0, 2} and asked
    assert {m.executed[1] for m in c.up} == {digest}
    c.order()
    assert [len(m.executed) for m in c.up] == [3] * 3


def test_no_fresh_proposal_before_every_body_is_here() -> None:
    """A3 is waited for: until it has accepted all that the view begins with the primary proposes nothing."""
    c = group()
    digest = lacking(c)
    c.dropped = lambda s, t, m: isinstance(m, Body)
    c.suspect_all(0, 1, 2)
    c.primary.give(ALICE, c.request())
    c.wait(0.5)
    assert c.primary.me == 1 and c.primary.replica.status().missing_bodies == 1
    assert [n for n, s in c.primary.replica.core.log.slots.items() if s.digest] == [1]
    assert c.primary.replica.requests.queue.count == 1
    c.dropped = lambda s, t, m: False
    c.wait(0.5)
    assert [len(m.executed) for m in c.up] == [3] * 3 and c.primary.executed[1] == digest


def test_a_primary_is_counted_only_for_what_it_holds() -> None:
    """A NEW-VIEW is no vote. If it were: 2 counts primary 1, which lacks the body, itself and the liar 3, and says
    prepared in view 1; then 3 is silent, 2 alone vouches for that, and no view can ever begin again."""
    c = group()
    digest = lacking(c)
    c.dropped = lambda s, t, m: isinstance(m, (Fetch, Body, PrePrepare)) or (t == 0 and isinstance(m, NewView))
    c.suspect_all(0, 1, 2)
    c.members[2].give(3, Prepare(1, 2, digest))
    c.settle()
    assert [m.view for m in c.up] == [0, 1, 1]
    assert c.members[2].replica.core.log.p[2] == (digest, 0), "two votes and a NEW-VIEW are not q"
    c.dropped = lambda s, t, m: False
    c.suspect_all(0, 1, 2)
    c.wait(3)
    assert c.view >= 2 and {m.executed[1] for m in c.up} == {digest}


def test_a_primarys_vote_for_a_chosen_batch_ends_with_its_keys() -> None:
    """For what the view begins with it is a PREPARE like any other, under a MAC: at the end of a key refresh it is
    dropped from an incomplete certificate and asked for again (1.18)."""
    c = group()
    m = c.members[3]
    c.dropped = lambda s, t, m: isinstance(m, Commit)
    c.order()
    c.dropped = lambda s, t, m: isinstance(m, Prepare) and s == 2 and m.view == 1
    c.members[0].crash()
    c.suspect_all(1, 2, 3)
    slot = m.replica.core.log.slots[2]
    assert slot.prepares.of(1) == slot.digest and not slot.prepared_at
    m.replica.on_keys_ended(1)
    assert slot.prepares.of(1) is None
    c.dropped = lambda s, t, m: False
    c.wait(1)
    assert slot.committed and c.view == 1


def test_a_chosen_batch_needs_nothing_but_its_body() -> None:
    """Authenticity and time were judged when it was fresh; f+1 vouched (1.14). Here its time lies ahead of a replica
    which cannot verify its request either."""
    c = group()
    late = c.members[3]
    request = c.request(authenticator=b"\x00\x00\x01\x02")
    c.dropped = lambda s, t, m: isinstance(m, Commit) or t == 3
    c.primary.give(ALICE, request)
    c.settle()
    late.host.set_time(c.now, c.wall - 60_000_000)
    c.dropped = lambda s, t, m: False
    c.suspect_all()
    assert late.replica.core.log.slots[2].digest == c.primary.executed[1]
    assert c.view == 1 and executed_once(c, request)


# ---- what comes early, and what is missing later


@pytest.mark.scenario("A19")
def test_votes_for_a_view_that_has_not_begun_here_are_kept() -> None:
    """NEW-VIEW is late at one backup, the votes of the view are not: it takes them up, and nothing is asked again."""
    c = group()
    late = c.members[3]
    held = []
    c.dropped = lambda s, t, m: t == 3 and isinstance(m, NewView) and held.append(m) is None
    c.suspect_all()
    c.order(2)
    assert late.view == 0 and [len(m.executed) for m in c.members] == [3, 3, 3, 1]
    late.give(1, held[0])
    assert late.view == 1 and late.executed == c.primary.executed
    assert late.refused(1, "other-view") > 0


@pytest.mark.scenario("D05")
def test_what_is_kept_for_later_views_is_bounded_for_each_sender() -> None:
    """The newest messages of each sender stay, so that one who floods displaces nobody else's (4 #42)."""
    c = group()
    m = c.members[3]
    m.give(2, Prepare(1, 2, b"x" * 32))
    for number in range(3 * _EARLY_MESSAGES):
        m.host.receive(0, encode(Commit(1 + number, 2, b"x" * 32)))
        m.host.receive(1, encode(PrePrepare(7, number, b"x" * 32, bytes(1 << 16))))
    m.flush()
    kept = {sender: [len(body) for _, body, _ in early] for sender, early in m.host.inbound._early.items()}
    assert len(kept[2]) == 1 and len(kept[0]) == _EARLY_MESSAGES
    assert 3 << 20 < sum(kept[1]) <= 4 << 20


def test_a_vote_is_resent_to_who_executed_in_an_earlier_view() -> None:
    """n = 4, one down: 2 alone executed before the view changed, and lost the PREPAREs of view 1. Its COMMIT is needed:
    the others tell it again though it lacks nothing, and no further view is."""
    c = group()
    c.dropped = lambda s, t, m: (isinstance(m, Commit) and t != 2) or isinstance(m, Committed)
    request = c.ask()
    c.primary.crash()
    c.dropped = lambda s, t, m: isinstance(m, Committed) or (t == 2 and isinstance(m, Prepare))
    c.suspect_all(1, 2, 3)
    assert [m.times(request) for m in c.up] == [0, 1, 0]
    c.dropped = lambda s, t, m: isinstance(m, Committed)
    c.wait(1)
    assert {m.view for m in c.up} == {1} and executed_once(c, request)
