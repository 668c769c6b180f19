"""A primary that leaves somebody out: what f+1 backups have prepared is as good as its PRE-PREPARE."""

from __future__ import annotations

from signed_views import group

from pbft.messages import Commit, Committed, Fetch, Message, Prepare, PrePrepare

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
