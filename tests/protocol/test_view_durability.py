"""What of a view change outlives a crash, and what waits for the disk. Rules 1.3, 1.5, 1.6, 1.12."""

from __future__ import annotations

import pytest
from cluster import ALICE, Cluster, Member
from naive_decision import A
from signed_views import group, new_view, proposal, push, silent, view_change

from pbft.messages import Body, Commit, Fetch, NewView, Prepare, Suspect, ViewChange, encode
from pbft.protocol.records import Accepted, Entered, Left, decode_record


def told(c: Cluster, sender: int) -> list[ViewChange]:
    """The VIEW-CHANGEs of `sender` that are on the wire."""
    return [m for _, _, m in c.take(ViewChange, sender) if isinstance(m, ViewChange) and m.sender == sender]


def binding(m: Member) -> object:
    """C, P and Q."""
    return m.replica.core.log.testimony()


# ---- VIEW-CHANGE


def test_a_view_change_is_durable_before_it_is_sent() -> None:
    """Nothing leaves before its record is on disk; the view is left at once all the same (1.5)."""
    c = group()
    m = c.members[3]
    m.auto_sync = False
    push(m, 1)
    assert m.promised == 1 and not told(c, 3)
    m.give(0, proposal(c, 2, c.request()))
    assert m.refused(0, "left-view") == 1
    m.sync()
    assert len(told(c, 3)) == 3


def test_an_own_view_change_counts_only_when_durable() -> None:
    """The next primary with q - 1 VIEW-CHANGEs of others and its own unsynced one has no quorum."""
    c = Cluster()
    m = c.members[1]
    m.auto_sync = False
    for message in silent(c, 0, 2):
        m.give(message.sender, message)
    assert m.promised == 1 and m.replica.status().view_changes == (0, 2)
    m.log.durable_position = len(m.log.records)
    m.host.durable(m.log.durable_position)
    m.flush()
    assert m.view == 1, "and now it writes its NEW-VIEW"


def test_a_view_change_is_the_same_after_a_crash() -> None:
    """At most one is ever signed for a view: the record is sent again, not made again, though more is prepared here
    than when it was signed would tell."""
    c = group()
    c.dropped = lambda s, t, m: isinstance(m, Commit)
    c.order()
    m = c.members[3]
    push(m, 1)
    before = set(told(c, 3))
    m.restart()
    assert m.promised == 1 and len(before) == 1
    c.wire.clear()
    m.give(2, c.members[2].replica.retransmission.status())
    assert set(told(c, 3)) == before and before.pop().prepared


def test_a_view_change_that_was_not_synced_was_never_sent() -> None:
    """After the crash the replica is where it was, and may go another way."""
    c = group()
    m = c.members[3]
    m.auto_sync = False
    push(m, 1)
    m.restart()
    assert m.promised == 0 and not told(c, 3)
    m.auto_sync = True
    c.order()
    assert m.executed == c.primary.executed


@pytest.mark.scenario("B03")
def test_no_vote_below_a_view_one_has_left_also_after_a_restart() -> None:
    """Its VIEW-CHANGE told what it had voted; a later vote in the old view would make that a lie (1.12)."""
    c = group()
    request = c.request()
    m = c.members[3]
    push(m, 2)
    m.restart()
    c.wire.clear()
    for view in (0, 1):
        m.give(view, proposal(c, 2, request, view=view))
        for other in (0, 1, 2):
            m.give(other, Prepare(view, 2, A))
            m.give(other, Commit(view, 2, A))
    m.give(1, new_view(c, 1, *silent(c, 0, 1, 2)))
    m.tick(1.0)
    assert m.promised == 2 and not c.take(Prepare, 3) + c.take(Commit, 3)


def test_votes_on_their_way_to_disk_are_told_in_the_view_change() -> None:
    """A COMMIT written just before the view is left still leaves, and the VIEW-CHANGE behind it has its P entry."""
    c = group()
    m = c.members[3]
    c.dropped = lambda s, t, m: isinstance(m, Prepare) and t == 3
    c.order()
    m.auto_sync = False
    digest = m.replica.core.log.slots[2].digest
    assert digest is not None
    for other in (1, 2):
        m.give(other, Prepare(0, 2, digest))
    push(m, 1)
    c.wire.clear()
    m.sync()
    assert len(c.take(Commit, 3)) == 3
    assert {v.prepared for v in told(c, 3)} == {((1, m.executed[0], 0), (2, digest, 0))}


# ---- NEW-VIEW


def test_a_new_view_is_durable_before_it_is_sent() -> None:
    """The primary signs one a view, so it must not forget having sent it (1.3)."""
    c = Cluster()
    m = c.members[1]
    m.auto_sync = False
    for message in silent(c, 0, 2):
        m.give(message.sender, message)
    m.sync()  # its VIEW-CHANGE
    assert m.view == 1 and not c.take(NewView)
    m.sync()
    assert len(c.take(NewView, 1)) == 3


def test_a_primary_signs_one_new_view_also_after_a_crash() -> None:
    """After the restart it is in its view and shows the same NEW-VIEW, whatever other VIEW-CHANGEs come now."""
    c = group()
    c.suspect_all()
    m = c.members[1]
    first = m.replica.core.log.new_view
    m.restart()
    for message in silent(c, 0, 2, 3):
        m.give(message.sender, message)
    assert (m.view, m.replica.core.log.new_view) == (1, first)
    c.wire.clear()
    m.give(3, c.members[3].replica.retransmission.status()._replace(view=0, promised=0))
    assert {v for _, _, v in c.take(NewView)} == {first}


def test_one_new_view_per_view_is_accepted_also_after_a_crash() -> None:
    """A faulty primary that signs a second one finds the first remembered."""
    c = Cluster()
    m = c.members[3]
    first = new_view(c, 1, *silent(c, 0, 1, 2))
    m.give(1, first)
    m.restart()
    assert m.view == 1
    m.give(1, new_view(c, 1, *silent(c, 0, 1), view_change(c, 2, 1, {1: (A, 0)}, {(1, A): 0}), *silent(c, 3)))
    assert m.replica.core.log.new_view == first
    assert [(e.culprit, e.kind) for e in m.evidence] == [(1, "two-new-views")]


def test_no_vote_in_a_view_before_its_new_view_is_durable() -> None:
    """PREPAREs of the new view, for chosen batches and fresh ones, rest on the record of its NEW-VIEW."""
    c = group()
    c.order()
    m = c.members[3]
    c.dropped = lambda s, t, m: t == 3 and isinstance(m, NewView)
    c.suspect_all()
    m.auto_sync = False
    m.give(1, c.members[1].replica.core.log.new_view)
    m.give(1, proposal(c, 3, c.request(), view=1))
    kinds = [type(decode_record(r)) for r in m.log.records[m.log.durable_position :]]
    assert kinds == [Entered, Accepted, Accepted, Accepted]
    assert not c.take(Prepare, 3)
    m.sync()
    assert len(c.take(Prepare, 3)) == 9
    c.wire.clear()


def test_a_crash_before_the_new_view_is_durable_leaves_the_old_one() -> None:
    """It has said nothing in the new view, so it may accept its NEW-VIEW again."""
    c = group()
    m = c.members[3]
    c.dropped = lambda s, t, m: isinstance(m, NewView) and t == 3
    c.suspect_all()
    m.auto_sync = False
    m.give(1, c.members[1].replica.core.log.new_view)
    assert (m.view, m.promised) == (1, 1)
    m.restart()
    assert (m.view, m.promised) == (0, 1)
    c.dropped = lambda s, t, m: False
    m.auto_sync = True
    c.wait(0.5)
    assert m.view == 1


# ---- restarts


def test_who_restarts_in_a_new_view_votes_on_in_it() -> None:
    """What the view began with, and what was voted in it, is found in the log; nothing is voted twice."""
    c = group()
    c.order(2)
    c.suspect_all()
    c.order()
    for m in c.members:
        before = (m.view, dict(m.replica.core.log.chosen), binding(m), m.executed)
        m.restart()
        assert (m.view, dict(m.replica.core.log.chosen), binding(m), m.executed) == before
    c.order(2)
    assert {len(m.executed) for m in c.members} == {6} and c.view == 1


@pytest.mark.parametrize("moves", range(8))
def test_all_crash_in_the_middle_of_a_view_change(moves: int) -> None:
    """However far it had come, it goes on after the restart; with the old primary back or not."""
    c = group()
    c.dropped = lambda s, t, m: isinstance(m, Commit)
    request = c.ask()
    c.dropped = lambda s, t, m: False
    c.primary.crash()
    for sender in (1, 2, 3):
        for m in c.up:
            if m.me != sender:
                m.host.receive(sender, encode(Suspect(0)))
    for m in c.up:
        m.auto_sync = moves % 2 == 0
        m.flush()
    for _ in range(moves):
        c.move()
        for m in c.up[:2]:
            m.sync()
    c.wire.clear()
    for m in c.members[moves % 2 :]:
        m.auto_sync = True
        m.restart()
    c.ask()
    c.wait(5)
    assert {m.times(request) for m in c.up} == {1} and len({tuple(m.executed) for m in c.up}) == 1


def test_what_was_pre_prepared_is_awaited_after_a_restart() -> None:
    """A batch in the log that is not committed still starts the timer: the primary that proposed it may be dead, and
    the client gone (1.11)."""
    c = group()
    c.dropped = lambda s, t, m: isinstance(m, (Prepare, Commit)) and m.view == 0
    request = c.request()
    c.primary.give(ALICE, request)
    c.settle()
    c.primary.crash()
    for m in c.up:
        m.restart()
    c.wait(6)
    assert {m.view for m in c.up} == {1} and {m.times(request) for m in c.up} == {1}


# ---- the log is cut


def cut(m: Member) -> int:
    """The stable state is durable, the log below it is gone; returns its number. Restarts from there."""
    h = m.replica.status().stable_checkpoint
    m.host.checkpoint_durable(h)
    m.flush()
    m.boot(h)
    return h


@pytest.mark.scenario("D02")
@pytest.mark.parametrize("leaves", [False, True])
def test_the_cut_keeps_view_promise_p_and_q(leaves: bool) -> None:
    """Whatever older binds was written again above the cut: view, NEW-VIEW, VIEW-CHANGE, P and Q (1.6)."""
    c = group(retained_log_bytes=1 << 16)
    m = c.members[3]
    for _ in range(3):
        c.suspect_all()
    if leaves:
        push(m, 2)
        c.settle()
    views_end = len(m.log.records)
    for _ in range(80):
        c.primary.give(ALICE, c.request(operation=b"x" * 1000))
        c.settle()
        c.tick_all(0.2)
    c.dropped = lambda s, t, m: isinstance(m, Commit)
    c.order()
    log = m.replica.core.log
    before = (m.view, m.promised, log.new_view, log.chosen, log.view_change, binding(m))
    assert (m.view, m.promised) == (3, 5 if leaves else 3) and (leaves or log.p)
    h = cut(m)
    log = m.replica.core.log
    assert m.log.cut_below > views_end and m.replica.status().low_watermark == h
    after = (m.view, m.promised, log.new_view, log.chosen, log.view_change if leaves else before[4], binding(m))
    assert after == before
    assert m.executed == c.members[0].executed[: len(m.executed)]


def test_the_cut_keeps_a_p_entry_of_an_old_view() -> None:
    """A batch prepared in view 0 whose number is not executed until much later still has its records (2.6)."""
    c = group()
    m = c.members[3]
    ahead = proposal(c, 6, c.request(authenticator=b"\x01"))
    for backup in c.backups:
        backup.give(0, ahead)
    c.settle()
    assert m.replica.core.log.p[6] == (ahead.digest, 0)
    c.order(4)
    before = binding(m)
    assert cut(m) == 4 and m.log.cut_below > 1
    assert binding(m) == before and m.replica.core.log.p[6] == (ahead.digest, 0)


def test_a_cut_between_two_records_of_one_batch_leaves_no_empty_batch() -> None:
    """Pre-prepared in view 0 and agreed again in view 1: the second record relies on the first for the body. After a
    cut between them the replica does not take an empty batch for it, and offers to others only what it has."""
    c = group(retained_log_bytes=1 << 16)
    m = c.members[3]
    c.dropped = lambda s, t, m: isinstance(m, Commit)
    for number in (2, 3):
        big = proposal(c, number, c.request(operation=b"x" * 30_000))
        for backup in c.backups:
            backup.give(0, big)
    c.settle()
    c.dropped = lambda s, t, m: False
    c.suspect_all()
    c.primary.give(ALICE, c.request(operation=b"x" * 30_000))
    c.settle()
    assert cut(m) == 4
    kept = [decode_record(r) for r in m.log.records[m.log.cut_below - 1 :]]
    assert [(r.view, r.number) for r in kept if isinstance(r, Accepted)][:3] == [(0, 3), (1, 1), (1, 2)]
    assert min(m.replica.core.log.tail) == 3
    c.wire.clear()
    m.give(0, Fetch(tuple(enumerate(m.executed, 1))))
    assert {b.number for _, _, b in c.take(Body) if b.batch} == {b.number for _, _, b in c.take(Body)} == {3, 4}


def test_records_of_a_view_change_come_in_their_order() -> None:
    """VIEW-CHANGE, NEW-VIEW, then what the view begins with."""
    c = group()
    c.order()
    m = c.members[2]
    start = len(m.log.records)
    c.suspect_all()
    kinds = [type(decode_record(r)) for r in m.log.records[start:]]
    assert kinds[:4] == [Left, Entered, Accepted, Accepted]
