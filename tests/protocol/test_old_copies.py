"""A replica that is started on an old copy of its data finds out by asking, before it votes. Rule 1.7 d."""

from __future__ import annotations

import copy

import pytest
from cluster import Cluster, Member, sealed
from signed_views import group
from test_recovery import recovered, votes_of

from pbft.messages import Commit, Hello, Message, Position, Prepare, Request, Shown, Status
from pbft.protocol.positions import OLD_COPY
from pbft.protocol.records import PeerPosition, decode_record


def position(c: Cluster, sender: int, at: int, incarnation: int = 0, boot: int = 1) -> Position:
    """A POSITION with a good seal."""
    message = Position(sender, incarnation, boot, at, b"")
    return message._replace(seal=sealed(sender, message.signed_body(c.group.cluster, 0)))


def copied(m: Member) -> list[bytes]:
    return copy.copy(m.log.records[: m.log.durable_position])


def put_back(m: Member, records: list[bytes]) -> None:
    """Its disk holds what it held then, and the process begins."""
    m.down = False
    m.log.records[:] = records
    m.log.durable_position, m.log.cut_below = len(records), 0
    m.boot()


def kept(m: Member, sender: int) -> Position:
    return m.replica.core.log.peer_positions[sender]


def test_while_it_votes_a_replica_says_how_far_its_log_reaches() -> None:
    """Once a second if it grows, and the others keep the newest, on disk; an idle group says and writes nothing."""
    c = group()
    c.order(3)
    c.wait(1.2)
    for m in c.members:
        for other in c.members:
            if m is not other:
                assert kept(m, other.me).position == min(other.log.durable_position, other.replica.core.bound)
    c.wait(3)
    before = [len(m.log.records) for m in c.members]
    c.wait(5)
    assert [len(m.log.records) for m in c.members] == before
    m = c.members[1]
    m.restart()
    assert set(m.replica.core.log.peer_positions) == {0, 2, 3}


def test_an_old_copy_is_found_and_recovers() -> None:
    """It votes for nothing before, is told by those who kept its word, and then has a new incarnation."""
    c = group()
    c.order(2)
    m = c.members[3]
    old = copied(m)
    c.order(8)
    c.wait(1.2)
    m.crash()
    put_back(m, old)
    said = votes_of(c, 3)
    assert m.replica.core.unheard and "0 of 2 others have said" in m.replica.status().halted
    c.settle()
    assert m.replica.core.lost == OLD_COPY and m.replica.status().lost
    c.order(1)
    assert not said
    recovered(c, m)
    assert m.replica.core.incarnation == 1 and m.executed[-1] == c.primary.executed[-1]
    c.members[2].down = True
    c.order(1)


@pytest.mark.parametrize("has_voted", [True, False])
def test_a_copy_from_the_middle_of_a_recovery_does_not_end_it_a_second_time(has_voted: bool) -> None:
    """After the first end it voted in the incarnation that the copy waits for: it must have another one. Where it never
    came to that, the copy goes on with the RECOVER that it has signed."""
    c = group()
    c.order(10)
    m = c.members[3]
    m.lose()
    c.dropped = lambda sender, to, message: isinstance(message, Request) and sender == 3
    c.wait(3)
    assert m.replica.core.log.recovering is not None
    c.dropped = lambda sender, to, message: False
    old = copied(m)
    if has_voted:
        recovered(c, m)
        c.order(3)
        c.wait(1.2)
        assert kept(c.members[0], 3).incarnation == 1
    m.crash()
    m.lost = "its disk is gone"
    put_back(m, old)
    said = votes_of(c, 3)
    assert m.replica.core.unheard and m.replica.core.lost
    c.settle()
    assert not said and (m.replica.core.lost == OLD_COPY) is has_voted
    recovered(c, m)
    assert m.replica.core.incarnation == 1 + has_voted
    c.members[2].down = True
    c.order(1)


def test_a_copy_of_another_start_is_found_by_its_count() -> None:
    """Both have written as much; the other one was started more often."""
    c = group()
    c.order(2)
    m = c.members[3]
    m.restart()
    m.boot()
    reach = m.replica.positions._start
    m.give(1, Shown(1, (position(c, 3, reach, boot=2),)))
    assert m.replica.core.lost == OLD_COPY


@pytest.mark.parametrize("what", ["older", "none", "ended"])
def test_what_says_no_more_than_the_log_is_an_answer(what: str) -> None:
    """An earlier position, none, or one of an incarnation that has ended."""
    c = group()
    c.order(2)
    m = c.members[3]
    m.boot()
    core, reach = m.replica.core, m.replica.positions._start
    shown = {"older": (position(c, 3, reach),), "none": (), "ended": (position(c, 3, reach + 50),)}[what]
    if what == "ended":
        core.incarnation = 1
    for peer in (1, 2):
        assert core.unheard
        m.give(peer, Shown(1, shown))
    assert not core.unheard and not core.lost


def test_the_unsigned_word_of_a_peer_counts_for_nothing() -> None:
    """Nor does another's signature, an answer to another start, or a second answer of one peer."""
    c = group()
    c.order(2)
    m = c.members[3]
    m.boot()
    far = position(c, 3, 10_000)
    assert m.give(0, Shown(1, (far._replace(seal=bytes(160)),))) == "bad-seal"
    assert m.give(0, Shown(1, (position(c, 2, 10_000),))) == "wrong-role"
    assert m.give(0, Shown(7, ())) == "not-wanted"
    for _ in range(3):
        m.give(0, Shown(1, ()))
    assert m.replica.core.unheard and not m.replica.core.lost
    m.give(1, Shown(1, ()))
    assert not m.replica.core.unheard


def test_a_replica_says_nothing_of_others_and_keeps_only_what_is_newer() -> None:
    """POSITIONs come from their signers alone; an older one is not looked at, and writes nothing."""
    c = group()
    m = c.members[3]
    assert m.give(1, position(c, 2, 5)) == "wrong-role"
    m.give(2, position(c, 2, 50))
    before = len(m.log.records)
    for stale in (position(c, 2, 50), position(c, 2, 49)):
        m.give(2, stale)
    assert len(m.log.records) == before and kept(m, 2).position == 50
    m.give(2, position(c, 2, 3, incarnation=1))
    assert kept(m, 2).incarnation == 1


def test_all_started_at_once_answer_each_other_and_go_on() -> None:
    """Whoever waits for answers gives them: else a group that was killed would never vote again."""
    c = group()
    c.order(3)
    c.wait(1.2)
    for m in c.members:
        m.crash()
    for m in c.members:
        m.down = False
        m.boot()
    assert all(m.replica.core.unheard for m in c.members)
    c.settle()
    assert not any(m.replica.core.unheard or m.replica.core.lost for m in c.members)
    c.order(3)
    assert len({len(m.executed) for m in c.members}) == 1


def test_it_asks_until_enough_have_answered() -> None:
    """What it said first was lost with the links."""
    c = group()
    c.order(1)
    m = c.members[3]
    asked: list[Message] = []

    def lost(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Hello):
            asked.append(message)
        return isinstance(message, Hello) and len(asked) < 12

    c.dropped = lost
    m.boot()
    c.wait(3)
    assert not m.replica.core.unheard and 12 <= len(asked) < 40


def test_what_is_kept_of_others_is_written_again_above_a_cut() -> None:
    """It binds as long as they live."""
    c = group()
    c.order(3)
    c.wait(1.2)
    c.order(5)
    m = c.members[0]
    m.host.checkpoint_durable(m.replica.core.log.low)
    m.flush()
    assert m.log.cut_below > 1
    found = [decode_record(r) for r in m.log.records[m.log.cut_below - 1 :]]
    assert {r.position[0].sender for r in found if isinstance(r, PeerPosition)} == {1, 2, 3}


@pytest.mark.scenario("B02")
def test_votes_that_came_while_it_was_unheard_do_not_make_its_own_durable() -> None:
    """What prepares the moment it may vote again is written first, and counts as its COMMIT after that (rule 1.5)."""
    c = group()
    c.order(1)
    m = c.members[3]
    c.dropped = lambda sender, to, message: to == 3 and isinstance(message, (Prepare, Commit, Status))
    before = len(m.executed)
    c.order(1)
    slot = m.replica.core.log.slots[max(m.replica.core.log.slots)]
    assert slot.digest is not None and not slot.prepared_at and len(m.executed) == before
    m.crash()
    m.down = False
    m.auto_sync = False
    m.boot()
    number, digest = slot.number, slot.digest
    for peer in (1, 2):
        m.give(peer, Prepare(0, number, digest))
    for peer in (0, 1):
        m.give(peer, Commit(0, number, digest))
    for peer in (1, 2):
        m.give(peer, Shown(1, ()))
    assert not m.replica.core.unheard
    assert m.replica.core.log.slots[number].prepared_at and not m.replica.core.log.slots[number].committed
    m.sync()
    assert m.replica.core.log.slots[number].committed
