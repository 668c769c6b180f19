"""Who leaves a view, when, and how those who left alone or slept come back. Rules 1.12, 1.13."""

from __future__ import annotations

import pytest
from cluster import ALICE, Cluster
from signed_views import group, new_view, proposal, push, silent, view_change

from pbft.messages import Checkpoint, Message, NewView, Prepare, PrePrepare, Request, Suspect, ViewChange, encode


def moved(c: Cluster, kind: type) -> list[tuple[int, int, Message]]:
    """What of one kind arrives from now on."""
    seen: list[tuple[int, int, Message]] = []
    c.dropped = lambda s, t, m: isinstance(m, kind) and seen.append((s, t, m)) is not None
    return seen


# ---- suspecting


@pytest.mark.scenario("A10", "F06", "F16")
def test_who_suspects_alone_goes_on_voting_and_disturbs_nobody() -> None:
    """An isolated replica with a request waiting says SUSPECT for ever and stays in its view. When it comes back it
    drops into the work of the others, and its votes are needed and count."""
    c = group()
    lonely = c.members[3]
    c.dropped = lambda s, t, m: 3 in (s, t)
    lonely.give(ALICE, c.request(authenticator=b"\x01"))
    for _ in range(5):
        c.order()
        c.wait(2)
    assert 3 in lonely.replica.status().suspects and lonely.promised == 0
    c.dropped = lambda s, t, m: False
    c.wait(1)
    assert {m.promised for m in c.members} == {0} and lonely.executed == c.primary.executed
    c.members[2].crash()
    c.order(3)
    assert len({len(m.executed) for m in c.up}) == 1


def test_f_plus_1_distinct_replicas_that_suspect_at_one_time_let_a_replica_leave() -> None:
    """Not one that repeats itself, not one that suspects another view (1.10, 1.12)."""
    c = group(7)
    m = c.members[6]
    for _ in range(3):
        m.give(1, Suspect(0))
    m.give(2, Suspect(0))
    m.give(3, Suspect(1))
    assert m.promised == 0
    m.give(3, Suspect(0))
    assert m.promised == 1 and [v.view for _, _, v in c.take(ViewChange, 6)] == [1] * 6


def test_a_suspect_counts_for_two_periods() -> None:
    """It is repeated while its cause lasts, so an old one says nothing about now."""
    c = group()
    m = c.members[3]
    m.give(1, Suspect(0))
    for _ in range(11):
        m.tick(0.05)
    m.give(2, Suspect(0))
    assert m.promised == 0, "0.55 seconds old"
    for _ in range(9):
        m.tick(0.05)
    m.give(1, Suspect(0))
    assert m.promised == 1, "0.45 seconds old"


def test_a_view_change_counts_as_suspicion_of_every_view_below_it_however_old() -> None:
    """One that left alone is heard again when somebody else suspects: together they are f+1 (1.12)."""
    c = group()
    m = c.members[3]
    m.give(2, view_change(c, 2, 5))
    for _ in range(200):
        m.tick(0.05)
    assert m.promised == 0
    m.give(1, Suspect(0))
    assert m.promised == 1, "to the next view, not to the far one of a single replica"


@pytest.mark.scenario("A11")
def test_f_replicas_cannot_make_anybody_leave() -> None:
    """Two of seven ask for ever higher views, say SUSPECT, and send it to everybody; nobody moves, one VIEW-CHANGE
    each is remembered (4 #40)."""
    c = group(7)
    for view in range(1, 200):
        for liar in (5, 6):
            for m in c.members[:5]:
                m.host.receive(liar, encode(view_change(c, liar, view)))
                m.host.receive(liar, encode(Suspect(0)))
                m.flush()
    c.members[5].down = c.members[6].down = True
    c.order(3)
    c.wait(1)
    assert {m.promised for m in c.up} == {0} and {len(m.executed) for m in c.up} == {4}
    assert {len(m.replica.views.collected) for m in c.up} == {2}
    assert not [e for m in c.up for e in m.evidence]


def test_a_view_change_tells_every_digest_until_something_newer_is_prepared() -> None:
    """Q keeps all that was pre-prepared at a number, the newest view of each: with the newest digest alone the last
    witness of a prepared batch could be gone. What is older than the own P entry leaves (2.6)."""
    c = group()
    m = c.members[3]
    first, second = proposal(c, 2, c.request()), proposal(c, 2, c.request(), view=1)
    m.give(0, first)
    m.give(1, new_view(c, 1, *silent(c, 0, 1, 2)))
    m.give(1, second)
    push(m, 1)
    q = m.replica.core.log.view_change.preprepared
    assert {e for e in q if e[0] == 2} == {(2, first.digest, 0), (2, second.digest, 1)}
    m.give(
        2, new_view(c, 2, *[view_change(c, i, 2, {2: (second.digest, 1)}, {(2, second.digest): 1}) for i in (0, 1, 2)])
    )
    for other in (1, 2):
        m.give(other, Prepare(2, 2, second.digest))
    push(m, 1)
    told = m.replica.core.log.view_change
    assert [e for e in told.prepared if e[0] == 2] == [(2, second.digest, 2)]
    assert [e for e in told.preprepared if e[0] == 2] == [(2, second.digest, 2)]


# ---- following


@pytest.mark.scenario("A12")
@pytest.mark.parametrize(("n", "views", "expected"), [(4, (5, 3), 3), (7, (9, 4, 6), 4), (7, (9, 4, 6, 8), 6)])
def test_f_plus_1_view_changes_pull_to_the_f_plus_1_th_largest_view(
    n: int, views: tuple[int, ...], expected: int
) -> None:
    """A correct replica is at or above that view. No timer is waited for; fewer than f+1 move nobody."""
    c = group(n)
    m = c.members[0]
    for sender, view in enumerate(views, 1):
        assert m.promised == 0 or sender > c.group.quorums.weak
        m.give(sender, view_change(c, sender, view))
    assert m.promised == expected
    assert m.replica.core.log.view_change.view == expected


def test_the_newest_view_change_of_each_sender_counts_once() -> None:
    """One sender with many views is one sender; an older one that comes late is stale."""
    c = group()
    m = c.members[0]
    for view in (3, 2, 4, 7):
        m.give(1, view_change(c, 1, view))
    assert m.promised == 0 and m.refused(1, "stale-view") == 1
    m.give(2, view_change(c, 2, 2))
    assert m.promised == 2


@pytest.mark.scenario("H12")
def test_a_primary_that_leaves_its_view_resigns() -> None:
    """VIEW-CHANGE of the primary of a view is enough to leave it: a planned stop costs no timeout (4 #46)."""
    c = group()
    c.primary.replica.resign()
    c.primary.flush()
    c.primary.crash()
    c.settle()
    assert {m.view for m in c.up} == {1}
    c.members[2].replica.resign()
    c.members[2].flush()
    c.settle()
    assert {m.promised for m in c.up} == {1}, "only a primary can"


def test_a_primary_can_resign_before_its_view_has_begun() -> None:
    """The same while waiting for its NEW-VIEW (1.12)."""
    c = group()
    m = c.members[3]
    push(m, 1)
    m.give(2, view_change(c, 2, 3))
    assert m.promised == 1, "2 is not its primary"
    m.give(1, view_change(c, 1, 2))
    assert m.promised == 3, "1 is, and then two are above 2"


@pytest.mark.scenario("A10")
def test_who_left_alone_follows_and_counts_later() -> None:
    """It executes by COMMITTED what the others go on to do, votes in no view below its own, and once they stop its
    VIEW-CHANGE is one of the f+1, and of the q for a new view."""
    c = group()
    alone = c.members[3]
    push(alone, 1)
    c.settle()
    votes = moved(c, Prepare)
    c.order(5)
    c.wait(1)
    assert alone.executed == c.primary.executed and {m.view for m in c.members} == {0}
    assert {s for s, _, _ in votes} == {1, 2}
    c.members[0].crash()
    request = c.ask()
    c.suspect_all(1)
    assert {m.view for m in c.up} == {1} and {m.times(request) for m in c.up} == {1}


def test_an_ex_primary_that_follows_proposes_at_no_number_that_has_executed() -> None:
    """It has not heard of view 1 and takes a request into view 0; what it learned by COMMITTED has its number already.
    The request stays with it until it hears, and executes without being asked again."""
    c = group()
    old = c.members[0]
    c.dropped = lambda s, t, m: (t == 0 and isinstance(m, (NewView, ViewChange, Suspect))) or s == 0
    c.suspect_all(1, 2, 3)
    c.order(2)
    c.dropped = lambda s, t, m: t == 0 and isinstance(m, (NewView, ViewChange, Suspect))
    c.wait(0.5)
    assert old.view == 0 and old.executed == c.primary.executed
    request = c.request()
    old.give(ALICE, request)
    assert min(m.number for _, _, m in c.take(PrePrepare, 0)) == 4
    c.dropped = lambda s, t, m: False
    c.wait(1)
    assert {m.times(request) for m in c.members} == {1}


def test_who_left_far_alone_is_passed_by_and_reached() -> None:
    """A replica that was led to view 5 takes no NEW-VIEW below it. The group passes through views without it and,
    where it needs it, comes to 5."""
    c = group(view_timeout=300, view_timeout_max=1000)
    push(c.members[3], 5)
    c.settle()
    c.suspect_all(0, 1)
    assert [m.view for m in c.members] == [1, 1, 1, 0]
    c.order(2)
    c.wait(1)
    assert c.members[3].executed == c.primary.executed and c.members[3].promised == 5
    c.members[0].crash()
    request = c.ask()
    c.suspect_all(1, 2)
    c.wait(10)
    assert {m.view for m in c.up} == {5} and {m.times(request) for m in c.up} == {1}


@pytest.mark.scenario("A15", "A16", "A18", "B22", "D04")
@pytest.mark.parametrize("views", [1, 3, 7])
def test_who_slept_through_views_is_brought_in_on_an_idle_cluster(views: int) -> None:
    """One NEW-VIEW is enough, however many were missed; within a few STATUS intervals and without any request. An old
    primary among them proposes nothing in its old view, and its votes count."""
    c = group(view_timeout=2000)
    asleep = c.members[0]
    asleep.crash()
    for _ in range(views):
        c.suspect_all(1, 2, 3)
        c.wait(10)
    c.order(2)
    current = c.view
    asleep.restart()
    asleep.give(ALICE, c.request())
    c.wait(1)
    assert {m.view for m in c.members} == {current} and current >= views
    assert asleep.executed == c.members[1].executed
    [other] = [m for m in c.backups if m.me != 0][:1]
    other.crash()
    c.order(2)
    assert len({tuple(m.executed) for m in c.up}) == 1


@pytest.mark.parametrize("dead", [None, 0, 3])
def test_replicas_in_four_different_views_come_together(dead: int | None) -> None:
    """Led to views 2, 5, 7 and 9 while they could not hear each other, they need only time, also with one dead. With
    all alive q of them meet; the fourth follows and is not waited for."""
    c = group(view_timeout=300, view_timeout_max=1000)
    for m, views in zip(c.members, (2, 5, 7, 9), strict=True):
        push(m, views)
    c.wire.clear()
    if dead is not None:
        c.members[dead].crash()
    request = c.ask()
    c.wait(15)
    assert {m.times(request) for m in c.up} == {1}
    assert sum(m.view == c.view for m in c.up) == 3


@pytest.mark.scenario("A07")
def test_view_changes_that_were_all_lost_are_sent_again() -> None:
    """Also with no new request: STATUS tells who lacks whose (4 #11)."""
    c = group()
    c.primary.crash()
    request = c.ask()
    c.dropped = lambda s, t, m: True
    c.suspect_all(1, 2, 3)
    for m in c.up:
        push(m, 1)
    c.wait(3)
    assert {m.view for m in c.up} == {0} and {m.promised for m in c.up} == {1}
    c.dropped = lambda s, t, m: False
    c.wait(1)
    assert {m.view for m in c.up} == {1} and {m.times(request) for m in c.up} == {1}


@pytest.mark.scenario("A29")
def test_old_view_changes_cause_no_work() -> None:
    """After the view has begun they are stale: nothing is written, sent or verified because of them."""
    c = group()
    seen = moved(c, (ViewChange, NewView))
    c.suspect_all()
    c.dropped = lambda s, t, m: False
    m = c.members[3]
    records = len(m.log.records)
    for _ in range(50):
        for _, _, message in seen:
            m.give(2, message)
    assert len(m.log.records) == records and not c.wire
    assert sum(m.refused(2, reason) for reason in ("stale-view", "wrong-role", "too-often")) == 50 * len(seen)
    assert m.refused(2, "stale-view") > len(seen)


def test_a_request_whose_batch_lost_waits_again() -> None:
    """Replica 3 accepted it at number 2 in view 1, left alone, and learned from the others that 2 is another batch:
    the request is in flight no more. When 3 is primary and the client asks again, it is proposed."""
    c = group()
    lonely = c.members[3]
    c.dropped = lambda s, t, m: isinstance(m, (NewView, ViewChange, Checkpoint)) or 3 in (s, t)
    lost = c.request()
    lonely.give(0, proposal(c, 2, lost))
    push(lonely, 1)
    c.order(1)
    assert lonely.replica.requests.in_flight
    c.dropped = lambda s, t, m: isinstance(m, Request)
    c.wait(1)
    assert lonely.executed == c.primary.executed and lonely.times(lost) == 0
    assert not lonely.replica.requests.in_flight and lonely.replica.status().pending_requests == 1
    c.dropped = lambda s, t, m: False
    for _ in range(3):
        c.suspect_all()
    assert c.primary is lonely
    c.wait(0.5)
    assert {m.times(lost) for m in c.members} == {1}


@pytest.mark.scenario("A13")
def test_view_numbers_that_have_come_far_apart_meet_again() -> None:
    """Four replicas in four views, none of which can begin: once they hear each other q of them meet in one. The one
    that was led furthest follows them, and is reached when it is needed."""
    c = group(view_timeout=300, view_timeout_max=1000)
    c.order(2)
    c.dropped = lambda s, t, m: True
    for m, views in zip(c.members, (20, 22, 25, 31), strict=True):
        push(m, views)
    c.settle()
    assert [m.promised for m in c.members] == [20, 22, 25, 31]
    c.dropped = lambda s, t, m: False
    c.wait(5)
    c.order(2)
    c.wait(1)
    assert [m.view for m in c.members[:3]] == [25] * 3
    assert {tuple(m.executed) for m in c.members} == {tuple(c.primary.executed)}
    c.members[0].crash()
    request = c.ask()
    c.wait(20)
    assert {m.view for m in c.up} == {31} and {m.times(request) for m in c.up} == {1}
