"""Which NEW-VIEWs begin a view, and who is to blame for the others. Rules 1.2, 1.3, 1.12, 1.13."""

from __future__ import annotations

import pytest
from cluster import Cluster, Member
from naive_decision import A, B
from signed_views import group, new_view, push, silent, view_change

from pbft.messages import Committed, NewView, Reply, Status, ViewChange


def left(m: Member) -> None:
    """It waits for the NEW-VIEW of view 1."""
    push(m, 1)
    m.cluster.wire.clear()


def forged(message: ViewChange) -> ViewChange:
    return message._replace(seal=b"f" * 160)


INVALID = {
    "fewer than q": lambda c: silent(c, 0, 2),
    "one sender twice": lambda c: silent(c, 0, 2, 2),
    "a stranger": lambda c: silent(c, 0, 2, 4),
    "more than there are replicas": lambda c: silent(c, 0, 1, 2, 3, 4),
    "of another view": lambda c: [*silent(c, 0, 2), *silent(c, 3, view=2)],
    "inconsistent": lambda c: [*silent(c, 0, 2), view_change(c, 3, 1, {1: (A, 1)})],
    "with a bad seal": lambda c: [*silent(c, 0, 2), forged(view_change(c, 3, 1))],
    "undecided": lambda c: [*silent(c, 0, 2), view_change(c, 3, 1, {1: (A, 0)}, {(1, A): 0})],
}


@pytest.mark.scenario("G12")
@pytest.mark.parametrize("named", INVALID.values(), ids=INVALID.keys())
def test_a_signed_invalid_new_view_leads_to_the_next_view_at_once(named: object) -> None:
    """No correct primary signs it, so its view is over here, and the others get to see it, once (1.12)."""
    c = Cluster()
    m = c.members[3]
    left(m)
    invalid = new_view(c, 1, *named(c))  # type: ignore[operator]
    m.give(1, invalid)
    assert (m.view, m.promised) == (0, 2) and {e.culprit for e in m.evidence} == {1}
    assert [t for _, t, _ in c.take(NewView, 3)] == [0, 1, 2] and len(c.take(ViewChange, 3)) == 3
    c.wire.clear()
    m.give(1, invalid)
    assert not c.wire and len(m.evidence) == 1


@pytest.mark.scenario("G19")
def test_a_new_view_that_names_too_many_costs_no_verification() -> None:
    """At most one VIEW-CHANGE of each replica can count, so more than n are not looked at (4 #26)."""
    c = Cluster()
    m = c.members[3]
    left(m)
    crowd = new_view(c, 1, *[view_change(c, i, 1) for i in range(20)])
    looked_at = []
    authentication = m.host.inbound._authentication
    is_authentic = authentication.seal_is_authentic
    authentication.seal_is_authentic = lambda x: looked_at.append(x) or is_authentic(x)  # type: ignore[method-assign]
    m.give(1, crowd)
    assert looked_at == [crowd] and m.promised == 2


def test_an_invalid_new_view_takes_along_all_that_wait_for_it() -> None:
    """It is relayed with what it names: whoever waits for that view leaves too."""
    c = Cluster()
    for m in (c.members[0], c.members[2], c.members[3]):
        left(m)
    c.members[1].down = True
    c.members[3].give(1, new_view(c, 1, *silent(c, 0, 2)))
    c.settle()
    assert {m.view for m in c.up} == {2}


def test_an_attachment_that_is_not_the_named_one_is_the_relays_fault() -> None:
    """The seal of a NEW-VIEW covers what it names, not what is attached: nothing changes and nobody is accused."""
    c = Cluster()
    m = c.members[3]
    left(m)
    good = new_view(c, 1, *silent(c, 0, 1, 2))
    swapped = view_change(c, 2, 1, {1: (A, 0)})
    for attached in (good.view_changes[:2], (*good.view_changes[:2], swapped), good.view_changes[::-1]):
        m.give(2, good._replace(view_changes=attached))
    assert m.refused(2, "wrong-digest") == 3 and (m.view, m.promised) == (0, 1) and not m.evidence
    m.give(2, good)
    assert m.view == 1, "relayed as it was, it counts"


@pytest.mark.scenario("G10")
def test_a_new_view_of_anybody_but_the_primary_is_refused() -> None:
    """Whoever relays it, it must be signed by primary(v)."""
    c = Cluster()
    m = c.members[3]
    left(m)
    s = silent(c, 0, 1, 2)
    m.give(2, new_view(c, 1, *s, sender=2))
    m.give(1, new_view(c, 1, *s)._replace(seal=b"f" * 160))
    m.give(1, new_view(c, 1, *s, sender=2)._replace(sender=1))
    assert m.refused(2, "not-primary") == 1 and m.refused(1, "bad-seal") == 2
    assert m.promised == 1 and not m.evidence


@pytest.mark.scenario("G20")
def test_of_two_view_changes_of_one_sender_the_named_one_counts() -> None:
    """Replica 2 told this one A and the primary B: it is accused, with both as proof, and the view begins with what
    the NEW-VIEW names (1.3)."""
    c = Cluster()
    m = c.members[3]
    left(m)
    told = view_change(c, 2, 1, {1: (A, 0)}, {(1, A): 0})
    named = view_change(c, 2, 1, {1: (B, 0)}, {(1, B): 0})
    m.give(2, told)
    other = view_change(c, 0, 1, {}, {(1, B): 0})
    m.give(1, new_view(c, 1, *silent(c, 1), named, other))
    assert m.view == 1 and m.replica.core.log.chosen == {1: B}
    assert [(e.culprit, e.kind, e.signed) for e in m.evidence] == [(2, "two-view-changes", (told, named))]


@pytest.mark.scenario("G20")
def test_two_view_changes_for_one_view_are_evidence() -> None:
    """A replica signs one VIEW-CHANGE a view; the first one counts here until a NEW-VIEW names another (2.6)."""
    c = Cluster()
    m = c.members[3]
    first, second = view_change(c, 2, 1), view_change(c, 2, 1, {1: (A, 0)})
    for message in (first, first, second):
        m.give(2, message)
    assert m.replica.views.collected == {2: first}
    assert [(e.culprit, e.signed) for e in m.evidence] == [(2, (first, second))]


def test_one_new_view_per_view_is_accepted() -> None:
    """A second one with another set is evidence and begins nothing; the same again is nothing new (1.3)."""
    c = Cluster()
    m = c.members[3]
    first = new_view(c, 1, *silent(c, 0, 1, 2))
    second = new_view(c, 1, *silent(c, 0, 1), view_change(c, 2, 1, {1: (A, 0)}, {(1, A): 0}), *silent(c, 3))
    m.give(1, first)
    records = len(m.log.records)
    m.give(1, first)
    assert (m.view, len(m.log.records), m.evidence) == (1, records, [])
    m.give(2, second)
    assert m.replica.core.log.new_view == first and len(m.log.records) == records
    assert [(e.culprit, e.kind) for e in m.evidence] == [(1, "two-new-views")]


def test_a_new_view_below_the_promised_one_is_refused() -> None:
    """Who has left for view 3 takes part in no view below it; a NEW-VIEW above brings it along."""
    c = Cluster()
    m = c.members[3]
    push(m, 3)
    m.give(1, new_view(c, 1, *silent(c, 0, 1, 2)))
    m.give(2, new_view(c, 2, *silent(c, 0, 1, 2, view=2)))
    assert (m.view, m.promised) == (0, 3) and m.refused(1, "stale-view") == m.refused(2, "stale-view") == 1
    m.give(1, new_view(c, 5, *silent(c, 0, 1, 2, view=5)))
    assert (m.view, m.promised) == (5, 5)


def test_view_changes_and_new_views_are_relayed() -> None:
    """Signed messages may come over any link: one replica that hears the primary is enough for all (1.2, 1.13)."""
    c = group()
    c.dropped = lambda s, t, m: (
        (isinstance(m, NewView) and s == 1 and t != 2)
        or (isinstance(m, ViewChange) and s == m.sender and t != (s + 1) % 4)
    )
    c.suspect_all()
    c.wait(2)
    assert {m.view for m in c.members} == {1}
    assert {m.refused(i, "bad-seal") for m in c.members for i in range(4)} == {0}


@pytest.mark.scenario("A16")
def test_answers_to_who_slept_are_bounded() -> None:
    """NEW-VIEW and VIEW-CHANGEs are large: once an interval for each peer, however often it asks (4 #27)."""
    c = group()
    c.suspect_all()
    m = c.members[3]
    m.tick(1.0)
    c.wire.clear()
    for _ in range(16):
        m.give(2, Status(0, 0, 0, 1, 1, b"", b"", b""))
    assert len(c.take(NewView)) == 1 and len(c.take(Committed)) == 0


@pytest.mark.scenario("A30")
def test_votes_cast_just_before_a_restart_leave_the_group_working() -> None:
    """1 and 2 vote for view 1, then 2 and 3 are restarted, then 3 votes: either view, and the request executes."""
    c = group()
    c.primary.crash()
    for i in (1, 2):
        push(c.members[i], 1)
    c.wire.clear()
    c.members[2].restart()
    c.members[3].restart()
    push(c.members[3], 1)
    request = c.ask()
    c.wait(4)
    assert {m.times(request) for m in c.up} == {1} and len(c.acknowledged(Reply)) >= 3
