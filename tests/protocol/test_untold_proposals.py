"""A primary that leaves somebody out: what f+1 backups have prepared is as good as its PRE-PREPARE."""

from __future__ import annotations

import pytest
from signed_views import group, proposal

from pbft.batch import NULL_BATCH, decode_batch, encode_batch
from pbft.messages import Commit, Committed, Fetch, Message, Prepare, PrePrepare
from pbft.protocol.held import HELD_BYTES

LIAR, FRIEND, LEFT_OUT = 0, 1, 3


def test_on_an_idle_group_the_one_who_was_left_out_helps_the_others_to_execute() -> None:
    """The liar lets one alone execute and falls silent. Its client has its answer, nobody else asks anything, and one
    other replica holds a prepared batch for ever: alone it cannot make the view end."""
    c = group(4, view_timeout=600)
    c.order(1)

    def dropped(sender: int, to: int, message: Message) -> bool:
        if sender != LIAR:
            return False
        if isinstance(message, PrePrepare):
            return to == LEFT_OUT
        return to != FRIEND if isinstance(message, Commit) else True

    c.dropped = dropped
    before = len(c.members[FRIEND].executed)
    c.order(1)
    assert [len(m.executed) - before for m in c.members[1:]] == [1, 0, 0]
    c.members[LIAR].down = True
    c.wait(2)
    assert [len(m.executed) - before for m in c.members[1:]] == [1, 1, 1]
    assert [m.view for m in c.members[1:]] == [0, 0, 0], "nobody had to complain"
    assert c.members[LEFT_OUT].replica.core.log.p, "it votes for it, and testifies to it"


def test_what_fewer_than_f_plus_1_backups_prepared_is_not_asked_for() -> None:
    """It may be a liar's invention: the body that it would send is nobody's proposal."""
    c = group(4, view_timeout=60_000)
    c.order(1)
    number = len(c.members[LEFT_OUT].executed) + 1
    c.members[LEFT_OUT].give(FRIEND, Prepare(0, number, b"d" * 32))
    c.members[LEFT_OUT].give(LIAR, Prepare(0, number, b"d" * 32))  # the primary's PREPARE is none
    asked: list[Message] = []

    def watching(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Fetch):
            asked.append(message)
        return isinstance(message, Committed)

    c.dropped = watching
    c.wait(2)
    assert not asked and not c.members[LEFT_OUT].replica.ordering.untold()


@pytest.mark.parametrize("rival", ["null", "ahead"])
def test_who_is_given_another_proposal_than_the_others_complains(rival: str) -> None:
    """The left-out backup is fed NULL, which nobody awaits, or a batch of a far time, which it holds for ever. It sees
    what f+1 others have prepared: the primary has proposed two, and must go."""
    c = group(4, view_timeout=600)
    c.order(1)
    given = False

    def dropped(sender: int, to: int, message: Message) -> bool:
        nonlocal given
        if sender != LIAR:
            return False
        if isinstance(message, PrePrepare) and to == LEFT_OUT:
            if not given:
                given = True
                same = decode_batch(message.batch).requests
                batch = NULL_BATCH if rival == "null" else encode_batch(1 << 60, bytes(16), same)
                other = PrePrepare(message.view, message.number, batch.digest, batch.encoded)
                c.members[LEFT_OUT].give(LIAR, other)
            return True
        return not isinstance(message, PrePrepare) and (to != FRIEND or not isinstance(message, Commit))

    c.dropped = dropped
    before = len(c.members[FRIEND].executed)
    c.order(1)
    assert given and len(c.members[FRIEND].executed) - before == 1
    c.members[LIAR].down = True
    c.wait(5)
    assert [len(m.executed) - before for m in c.members[1:]] == [1, 1, 1]
    assert all(m.view == 1 for m in c.members[1:])
    assert any(e.culprit == LIAR and e.kind == "equivocation" for e in c.members[LEFT_OUT].evidence)


def test_two_proposals_seen_by_one_replica_alone_make_it_complain() -> None:
    """Nobody else can be shown them, and on an idle group nobody waits: all who see it suspect."""
    c = group(4, view_timeout=600)
    c.order(1)
    number = len(c.members[1].executed) + 1
    request = c.request(authenticator=b"\x01")
    c.dropped = lambda sender, to, message: isinstance(message, Prepare | Commit)
    for m in c.members[1:3]:
        m.give(LIAR, PrePrepare(0, number, NULL_BATCH.digest, NULL_BATCH.encoded))
        assert m.give(LIAR, proposal(c, number, request)) == "equivocation"
    c.members[LIAR].down = True
    c.wait(3)
    assert [m.view for m in c.members[1:]] == [1, 1, 1]


def test_what_a_primary_has_held_is_bounded_in_bytes() -> None:
    """A window of the largest batches of a far time, which nobody ever accepts; the lowest numbers are kept."""
    c = group(4, checkpoint_interval=128, log_window=256, view_timeout=60_000)
    m = c.members[LEFT_OUT]
    requests = [c.request(operation=bytes(250 << 10), authenticator=b"\x01") for _ in range(4)]
    for number in reversed(range(2, 257)):
        m.give(LIAR, proposal(c, number, *requests, time=c.wall + 10**15 + number))
    held = {n: len(s.held.batch.encoded) for n, s in m.replica.core.log.slots.items() if s.held is not None}
    assert (HELD_BYTES >> 20) - 2 <= sum(held.values()) >> 20 <= HELD_BYTES >> 20
    assert sorted(held) == list(range(2, 2 + len(held)))
