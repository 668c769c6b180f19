"""What a faulty primary can make the VIEW-CHANGEs of correct replicas name: Q keeps everything, so it has a bound."""

from __future__ import annotations

from cluster import ALICE, Cluster, Member
from signed_views import executed_once, group, proposal, sealed_by_sender, view_change

from pbft.batch import NULL_DIGEST
from pbft.config import LEAD, PROPOSALS_PER_NUMBER
from pbft.messages import Commit, Message, Prepare, PrePrepare, Suspect, ViewChange, encode
from pbft.protocol.decision import GENESIS

LIAR = 0


def wide(**tunables: int) -> Cluster:
    return group(4, checkpoint_interval=128, log_window=256, view_timeout=600, **tunables)


def entries(m: Member, number: int) -> list[bytes]:
    """Batches besides NULL that its VIEW-CHANGE would name at a number."""
    return [d for n, d, _ in m.replica.core.log.testimony()[2] if n == number and d != NULL_DIGEST]


def crowd(c: Cluster, rounds: int, to: tuple[int, ...] = (1, 2, 3)) -> None:
    """While no view gets anything done, the liar fills the window with other batches each time that it is primary."""
    stale, forged, filled = c.request(authenticator=b"\x01"), set[bytes](), set[int]()
    honest = c.members[1:]

    def dropped(sender: int, receiver: int, message: Message) -> bool:
        if isinstance(message, PrePrepare):
            return message.digest not in forged
        return isinstance(message, Prepare | Commit)

    c.dropped = dropped
    for _ in range(1000):
        if c.view % 4 == LIAR and c.view not in filled and all(m.view == c.view == m.promised for m in honest):
            filled.add(c.view)
            for number in range(2, 258):
                message = proposal(c, number, stale, view=c.view, time=c.wall - len(filled))
                forged.add(message.digest)
                c.wire.extend((LIAR, i, encode(message)) for i in to)
            c.settle(2000)
            if len(filled) == rounds:
                break
            for m in c.members:
                m.give(ALICE, stale)
        c.wait(0.05)
    assert len(filled) == rounds
    c.members[LIAR].down = True
    c.dropped = lambda sender, to, message: False


def test_what_q_keeps_is_bounded_however_many_views_a_liar_leads() -> None:
    """h stands still, and each of its views brings other batches: an entry for each could never be forgotten."""
    c = wide(view_timeout_max=600)
    crowd(c, PROPOSALS_PER_NUMBER + 3)
    for m in c.members[1:]:
        assert len(entries(m, 3)) == PROPOSALS_PER_NUMBER, "and not fewer: nothing is forgotten"
        assert not [n for n in m.replica.core.log.q if n > m.replica.delivery.committed_through + LEAD]
        assert all(len(q.keys() - {NULL_DIGEST}) <= PROPOSALS_PER_NUMBER for q in m.replica.core.log.q.values())


def test_a_group_with_crowded_numbers_goes_on_with_null_there() -> None:
    """The primary knows from the VIEW-CHANGEs where something new would be refused."""
    c = wide(view_timeout_max=600)
    crowd(c, PROPOSALS_PER_NUMBER + 1)
    c.wait(5)
    requests = [c.ask() for _ in range(3)]
    c.wait(5)
    assert executed_once(c, *requests)
    assert NULL_DIGEST in c.up[0].executed


def test_one_replica_alone_whose_numbers_are_crowded_is_heeded() -> None:
    """The liar proposed to it alone, and votes no more: without its vote nothing is decided."""
    c = wide(view_timeout_max=600)
    crowd(c, PROPOSALS_PER_NUMBER + 1, to=(3,))
    assert not entries(c.members[1], 3) and len(entries(c.members[3], 3)) == PROPOSALS_PER_NUMBER
    requests = [c.ask() for _ in range(3)]
    c.wait(2)
    assert executed_once(c, *requests)
    assert c.view % 4 == 1, "in the view of the next primary, at which nothing is crowded"


def test_a_liar_that_says_its_numbers_are_crowded_costs_a_bounded_number_of_nulls() -> None:
    """A correct replica accepts nothing more than LEAD above what it knows to be committed."""
    c = wide()
    c.order(2)
    c.members[LIAR].down = True
    lie = {(n, bytes([i]) * 32): 0 for n in range(1, 250) for i in range(PROPOSALS_PER_NUMBER)}
    c.wire.extend((LIAR, i, encode(view_change(c, LIAR, 1, {}, lie))) for i in (1, 2, 3))
    c.wait(0.1)
    request = c.ask()
    c.wait(3)
    assert c.view == 1 and executed_once(c, request)
    assert c.members[1].executed.count(NULL_DIGEST) <= LEAD


def test_a_proposal_far_above_what_is_committed_is_held_until_that_has_come_nearer() -> None:
    """It is not lost, and nothing has to be asked for again."""
    c = wide()
    m = c.members[1]
    requests = [c.request(ALICE, b"%d" % i) for i in range(LEAD + 10)]
    messages = [proposal(c, n, r) for n, r in enumerate(requests, 2)]
    for message in messages:
        m.give(LIAR, message)
    accepted = [n for n, slot in m.replica.core.log.slots.items() if slot.digest is not None]
    assert max(accepted) == 1 + LEAD
    for message in messages[:5]:
        for sender in (2, 3):
            m.give(sender, Prepare(0, message.number, message.digest))
            m.give(sender, Commit(0, message.number, message.digest))
    accepted = [n for n, slot in m.replica.core.log.slots.items() if slot.digest is not None]
    assert max(accepted) == 1 + LEAD + 5


def crowd_one_each(c: Cluster) -> None:
    """In four of its views the liar proposes each number to one backup alone."""
    stale, forged, filled = c.request(authenticator=b"\x01"), set[bytes](), set[int]()
    honest = c.members[1:]

    def dropped(sender: int, receiver: int, message: Message) -> bool:
        if isinstance(message, PrePrepare):
            return message.digest not in forged
        return isinstance(message, Prepare | Commit)

    c.dropped = dropped
    for _ in range(2000):
        if c.view % 4 == LIAR and c.view not in filled and all(m.view == c.view == m.promised for m in honest):
            filled.add(c.view)
            for number in range(2, 2 + LEAD):
                message = proposal(c, number, stale, view=c.view, time=c.wall - len(filled))
                forged.add(message.digest)
                c.wire.append((LIAR, owner(number), encode(message)))
            c.settle(2000)
            if len(filled) == PROPOSALS_PER_NUMBER + 1:
                return
            for m in c.members:
                m.give(ALICE, stale)
        c.wait(0.05)
    raise AssertionError("the liar never led so many views")


def owner(number: int) -> int:
    """The backup at which a number is crowded."""
    return 1 + number % 3


def test_a_primary_that_does_not_hear_in_time_what_is_crowded_where_gets_on() -> None:
    """Each correct replica has other crowded numbers. The liar's VIEW-CHANGE is prompt, so that of whose number comes
    next is always the one that comes too late; what the others prepare there it accepts all the same."""
    c = wide(view_timeout_max=600)
    crowd_one_each(c)
    c.members[LIAR].down = True
    said: set[int] = set()

    def hook(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Suspect | ViewChange):
            view = message.view + isinstance(message, Suspect)
            if view not in said and view % 4 != LIAR:
                said.add(view)
                lie = encode(sealed_by_sender(c, ViewChange(LIAR, 0, view, 0, (GENESIS,), (), (), b"")))
                for m in c.members[1:]:
                    m.host.receive(LIAR, lie)
        if isinstance(message, ViewChange) and to == message.view % 4:
            number = c.members[to].replica.delivery.committed_through + 1
            while owner(number) == to:
                number += 1
            return message.sender == owner(number)
        return False

    c.dropped = hook
    requests = [c.ask() for _ in range(2)]
    begun, view = c.now, c.view
    while not executed_once(c, *requests):
        c.wait(0.05)
        assert c.now - begun < 10 and c.view - view < 12
