"""A replica that has lost its past follows, has RECOVER ordered, and votes above its recovery point. Rule 1.7."""

from __future__ import annotations

import pytest
from cluster import ALICE, Cluster, Member, sealed
from signed_views import group, sealed_by_sender, silent, view_change

from pbft.batch import ClientRequest, Kind, recover_body, signature_body
from pbft.config import Quorums
from pbft.execution.results import RECOVERY_BURST, RECOVERY_PACE
from pbft.messages import (
    Checkpoint,
    Commit,
    NewView,
    Prepare,
    PrePrepare,
    Request,
    Suspect,
    ViewChange,
    decode,
    encode,
)
from pbft.protocol.members import certified_incarnations, is_void

VOTES = (PrePrepare, Prepare, Commit, Suspect, ViewChange, NewView, Checkpoint)


def recover(c: Cluster, replica: int, incarnation: int, nonce: int = 1) -> Request:
    body = recover_body(replica, nonce, incarnation)
    digest = ClientRequest(body, b"").digest
    return Request(body, b"\x02" + sealed(replica, signature_body(c.group.cluster, 0, digest)))


def votes_of(c: Cluster, replica: int) -> list[type]:
    """What it says from now on that is a vote, and its own."""
    said: list[type] = []
    before = c.dropped

    def listen(sender: int, to: int, message: object) -> bool:
        if sender == replica and isinstance(message, VOTES) and getattr(message, "sender", replica) == replica:
            said.append(type(message))
        return before(sender, to, message)  # type: ignore[arg-type]

    c.dropped = listen
    return said


def recovered(c: Cluster, m: Member, seconds: float = 10.0) -> float:
    """Until it votes again; how long that took."""
    for step in range(round(seconds / 0.05)):
        if not m.replica.core.lost:
            return step * 0.05
        c.wait(0.05)
    raise AssertionError(m.replica.status().halted)


@pytest.mark.scenario("B06")
def test_a_lost_disk_costs_no_vote_that_contradicts_and_the_replica_comes_back_by_itself() -> None:
    """On an idle group: NULLs fill up to the recovery point, and it votes in its next incarnation; without its vote
    nothing would be ordered afterwards."""
    c = group()
    c.order(10)
    lost = c.members[2]
    lost.lose()
    said = votes_of(c, 2)
    assert lost.replica.status().recovery_point == 0 and "it recovers" in lost.replica.status().halted
    while lost.replica.core.lost:
        assert not said
        c.wait(0.05)
        assert c.now < 30
    status = lost.replica.status()
    assert (status.incarnation, status.halted) == (1, "")
    assert status.stable_checkpoint >= status.recovery_point > 10
    assert c.primary.replica.core.members.incarnation(2) == 1
    c.members[3].crash()
    c.order(3)
    assert lost.executed == c.primary.executed
    assert Commit in said


def test_it_catches_up_and_recovers_while_the_others_order() -> None:
    """Requests fill the numbers; no NULL is needed."""
    c = group()
    c.order(3)
    lost = c.members[1]
    lost.lose()
    for _ in range(40):
        c.order(2)
        c.wait(0.1)
    assert not lost.replica.core.lost
    assert lost.executed == c.primary.executed


def test_a_lost_primary_is_replaced_and_comes_back() -> None:
    """RECOVER is awaited like any request: the others replace the primary that cannot order it."""
    c = group()
    c.order(3)
    c.members[0].lose()
    recovered(c, c.members[0], 30.0)
    assert c.view >= 1
    c.wait(3)
    assert c.members[0].view == c.view
    c.members[2].crash()
    c.ask()
    c.wait(5)
    assert len({tuple(m.executed) for m in c.up}) == 1


@pytest.mark.scenario("B14")
def test_of_two_that_have_lost_their_disks_no_one_votes() -> None:
    """More than f: the group stops rather than forgets, and says so."""
    c = group()
    c.order(3)
    executed = list(c.primary.executed)
    c.members[1].lose()
    c.members[2].lose()
    said = [votes_of(c, 1), votes_of(c, 2)]
    c.ask()
    c.wait(20)
    assert said == [[], []]
    assert c.members[0].executed == c.members[3].executed == executed
    assert all("it waits for a quorum" in c.members[i].replica.status().halted for i in (1, 2))


def test_a_crash_before_it_is_noted_that_it_recovered_recovers_again() -> None:
    """The log alone is not believed: it may be an old one."""
    c = group()
    c.order(3)
    lost = c.members[3]
    lost.lose()
    lost.hold_declaration = True
    said = votes_of(c, 3)
    c.wait(10)
    assert "is about to vote" in lost.replica.status().halted and not said
    lost.hold_declaration = False
    lost.restart()
    recovered(c, lost, 20.0)
    assert lost.replica.core.incarnation == 2


def test_a_recovered_replica_remembers_its_incarnation() -> None:
    """After a restart, and after the log was cut."""
    c = group()
    lost = c.members[3]
    lost.lose()
    recovered(c, lost)
    c.order(8)
    executed = lost.replica.delivery.executed
    low = lost.replica.core.log.low
    lost.host.checkpoint_durable(low)
    lost.flush()
    assert lost.log.cut_below > 1
    lost.crash()
    lost.down = False
    lost.boot(low)
    c.wait(1)
    assert lost.replica.core.incarnation == 1 and not lost.replica.core.lost
    assert lost.replica.delivery.executed >= executed


def test_while_it_recovers_it_goes_on_after_a_restart_with_the_recover_that_it_has_signed() -> None:
    """It stands in its log, and is not signed twice."""
    c = group()
    lost = c.members[3]
    lost.lose()
    c.dropped = lambda sender, to, message: isinstance(message, Request) and sender == 3
    c.wait(3)
    signed = lost.replica.core.log.recovering
    assert signed is not None
    lost.restart()
    assert lost.replica.core.log.recovering == signed and lost.replica.core.lost
    c.dropped = lambda sender, to, message: False
    recovered(c, lost)
    assert lost.replica.core.members.nonce(3) == signed[1]


def test_a_recover_of_an_earlier_life_ends_no_wait() -> None:
    """The disk is lost twice; the RECOVER of the first life was held back and executes in the second. Whoever counted
    by the incarnation alone would vote at a recovery point that lies below what it may have voted since."""
    c = group()
    lost = c.members[3]
    lost.lose()
    held: list[bytes] = []

    def hold(sender: int, to: int, message: object) -> bool:
        if isinstance(message, Request) and ClientRequest(*message).kind is Kind.RECOVER:
            held.append(encode(message))
            return True
        return False

    c.dropped = hold
    c.wait(2)
    lost.lose()
    c.wait(2)
    first, second = held[0], held[-1]
    assert first != second
    c.dropped = lambda sender, to, message: False
    lost.down = True
    c.primary.give(2, decode(first))
    c.settle()
    assert c.primary.replica.core.members.incarnation(3) == 1
    lost.down = False
    recovered(c, lost, 20.0)
    assert lost.replica.core.incarnation == 2


@pytest.mark.parametrize("incarnation", [1, 2, 1 << 63])
def test_a_recover_for_another_incarnation_is_not_ordered(incarnation: int) -> None:
    """It is undecided here: nobody waits for it, no timer runs."""
    c = group()
    for m in c.members:
        m.give(2, recover(c, 2, incarnation))
    c.wait(3)
    assert c.view == 0 and not any(m.replica.core.members.contents() for m in c.members)
    assert all(m.replica.requests.queue.count == 0 for m in c.members)


def test_only_the_replica_itself_signs_its_recover() -> None:
    """Nobody ends another's incarnation, and no client any."""
    c = group()
    forged = Request(recover_body(2, 1, 0), b"\x02" + sealed(3, b"whatever"))
    unsigned = Request(recover_body(2, 1, 0), b"all")
    for m in c.members:
        for message in (forged, unsigned):
            m.give(3, message)
            m.give(ALICE, message)
    c.wait(3)
    assert c.view == 0 and not any(m.replica.core.members.contents() for m in c.members)


def test_a_faulty_replica_that_recovers_all_the_time_is_held_to_once_a_window() -> None:
    """The next one lies above the recovery point of the last one."""
    c = group()
    c.dropped = lambda sender, to, message: isinstance(message, PrePrepare) and message.number > 2
    c.primary.give(3, recover(c, 3, 0))
    c.settle()
    members = c.primary.replica.core.members
    assert (members.incarnation(3), members.point(3)) == (1, 8)
    c.primary.give(3, recover(c, 3, 1))
    c.settle()
    assert c.primary.refused(3, "not-wanted") == 1 and c.primary.replica.requests.queue.count == 0
    assert c.primary.executor.members.recover(8, 1, ClientRequest(*recover(c, 3, 1))) is None
    assert c.primary.executor.members.recover(9, 1, ClientRequest(*recover(c, 3, 1))) is not None


def test_a_faulty_replica_cannot_have_recoveries_ordered_for_ever() -> None:
    """Each costs a window of NULLs on an idle group, and one view change where its VIEW-CHANGE is named: after a few in
    a row there is one for each ten minutes."""
    c = group()
    liar = 3
    c.members[liar].down = True

    def ask(times: int) -> int:
        for _ in range(times):
            incarnation = c.primary.replica.core.members.incarnation(liar)
            for member in c.members[:3]:
                member.give(liar, recover(c, liar, incarnation, 7 + incarnation))
            c.wait(0.5)
        return c.primary.replica.core.members.incarnation(liar)

    assert ask(40) == RECOVERY_BURST
    ordered = len(c.primary.executed)
    assert ask(20) == RECOVERY_BURST and len(c.primary.executed) == ordered, "what does not execute is not ordered"
    c.wall += RECOVERY_PACE
    assert ask(10) == RECOVERY_BURST + 1


def test_a_durable_checkpoint_does_not_end_a_second_recovery() -> None:
    """It had recovered once and crashed before that was noted beside its log: it is lost again, in a log that says that
    it was reborn. What still binds is written again, and that it is lost binds."""
    c = group()
    c.order(5)
    lost = c.members[3]
    lost.hold_declaration = True
    lost.lose()
    for _ in range(60):
        c.wait(0.2)
        if "about to vote" in lost.replica.status().halted:
            break
    assert lost.replica.core.log.incarnation == 1
    lost.boot()
    lost.hold_declaration = False
    last = 0
    for _ in range(200):
        c.wait(0.05)
        log = lost.replica.core.log
        if lost.replica.core.lost and log.low != last:
            last, before = log.low, (log.lost, log.recovering)
            lost.host.checkpoint_durable(last)
            lost.flush()
            assert (log.lost, log.recovering) == before
    assert lost.replica.status().halted == "" and lost.replica.core.members.incarnation(3) <= 3


# ---- ended incarnations (1.7 b)


def with_a_recovered_one() -> Cluster:
    """Replica 3 has recovered; VIEW-CHANGEs of its first incarnation are void from now on."""
    c = group()
    c.members[3].lose()
    recovered(c, c.members[3])
    return c


def test_a_view_change_of_an_ended_incarnation_is_refused_and_forgotten() -> None:
    """It was held back by somebody: it counts neither for leaving nor for a new view."""
    c = group()
    old = view_change(c, 3, 1)
    keeper = c.members[1]
    keeper.give(3, old)
    assert 3 in keeper.replica.views.collected
    c.members[3].lose()
    recovered(c, c.members[3])
    assert 3 not in keeper.replica.views.collected
    keeper.give(2, old)
    assert keeper.refused(2, "ended-incarnation") == 1
    newer = sealed_by_sender(c, old._replace(incarnation=1))
    keeper.give(3, newer)
    assert keeper.replica.views.collected[3] == newer
    assert not keeper.evidence, "two VIEW-CHANGEs of two incarnations accuse nobody"


def test_nobody_votes_in_a_view_that_begins_with_a_void_view_change() -> None:
    """Its NEW-VIEW is accepted, for it proves nothing against its primary; it is suspected at once, and left."""
    c = with_a_recovered_one()
    low = c.members[2].replica.core.log.low
    named = [
        sealed_by_sender(c, m._replace(low=low, checkpoints=((low, _digest(c, low)),))) for m in silent(c, 0, 1, 3)
    ]
    message = sealed_by_sender(c, NewView(1, 0, 1, tuple((m.sender, m.digest) for m in named), b"", tuple(named)))
    backup = c.members[2]
    backup.give(1, message)
    assert backup.view == 1 and backup.replica.core.is_void
    said = votes_of(c, 2)
    backup.give(1, PrePrepare(1, low + 1, b"d" * 32, b""))
    assert backup.refused(1, "void-view") or backup.refused(1, "wrong-digest")
    c.move()
    backup.tick(0.05)
    backup.tick(0.05)
    c.settle()
    assert Suspect in said and Prepare not in said
    assert not any(e.culprit == 1 for e in backup.evidence)


def _digest(c: Cluster, number: int) -> bytes:
    return c.members[2].replica.core.log.certificate[0].digest if number else bytes(32)


def test_votes_over_a_link_of_an_ended_incarnation_are_dropped() -> None:
    """What only the link authenticates counts in the incarnation of the link; questions are answered still."""
    c = with_a_recovered_one()
    m = c.members[0]
    low = m.replica.core.log.low
    vote = Prepare(m.view, low + 1, b"d" * 32)
    assert m.host.receive(3, encode(vote), 0) == "ended-incarnation"
    assert m.host.receive(3, encode(Suspect(m.view)), 0) == "ended-incarnation"
    assert m.host.receive(3, encode(vote), 1) is None
    assert m.host.receive(3, encode(c.members[3].replica.retransmission.status()), 0) is None


def test_incarnations_stand_in_the_certificate() -> None:
    """Of each replica the (f+1)-th largest that a signer says: f liars move it neither up nor down."""
    quorums = Quorums(4)

    def signed(sender: int, *incarnations: int) -> Checkpoint:
        return Checkpoint(sender, 0, 8, b"d" * 32, 1, 1, incarnations, b"")

    honest = (signed(0, 0, 0, 2, 0), signed(1, 0, 0, 2, 0))
    assert certified_incarnations(quorums, (*honest, signed(3, 9, 9, 9, 9))) == (0, 0, 2, 0)
    assert certified_incarnations(quorums, (*honest, signed(3))) == (0, 0, 2, 0)
    assert certified_incarnations(quorums, (*honest, signed(3, *range(40)))) == (0, 0, 2, 0)
    assert certified_incarnations(quorums, (signed(0), signed(1), signed(2))) == (0, 0, 0, 0)


def test_a_view_is_judged_by_the_certificate_at_the_own_h() -> None:
    """Void for one whose h says that the incarnation has ended, not for one who stands below that."""
    c = group()
    quorums, named = c.group.quorums, silent(c, 0, 1, 3)
    message = NewView(1, 0, 1, tuple((m.sender, m.digest) for m in named), b"", tuple(named))
    after = tuple(Checkpoint(i, 0, 8, b"d" * 32, 1, 1, (0, 0, 0, 1), b"") for i in range(3))
    before = tuple(Checkpoint(i, 0, 4, b"d" * 32, 1, 1, (), b"") for i in range(3))
    assert is_void(quorums, message, after)
    assert not is_void(quorums, message, before)
    assert not is_void(quorums, message, ())
