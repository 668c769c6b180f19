"""What one replica or client can make the others send or keep. 4 #26, #27, #40; rule 1.15."""

from __future__ import annotations

import pytest
from cluster import ALICE, sealed
from signed_views import executed_once, group, proposal, view_change

from pbft.config import Group
from pbft.messages import Checkpoint, NewView, Prepare, Refusal, Stable, Status, Suspect, ViewChange, decode
from pbft.protocol import retransmission
from pbft.protocol.core import Refused


def test_a_view_change_stuffed_with_q_entries_does_not_hold_up_the_new_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """A liar fills its VIEW-CHANGE as far as one message goes. Beside others it would make the NEW-VIEW longer than any
    link carries; the primary waits for smaller ones and names those."""
    c = group()
    monkeypatch.setattr(Group, "message_max_bytes", 12_000)
    stuffed = view_change(c, 3, 1, q={(n, bytes([i]) * 32): 0 for n in range(1, 9) for i in range(48)})
    c.members[1].give(3, stuffed)
    c.dropped = lambda s, t, m: s == 3 or (s == 2 and t == 1 and isinstance(m, ViewChange))
    c.suspect_all(0, 2)
    assert [m.promised for m in c.members[:3]] == [1] * 3
    assert [m.view for m in c.members[:3]] == [0] * 3, "the three that primary 1 holds are too long together"
    c.dropped = lambda s, t, m: s == 3
    c.wait(0.5)
    assert [m.view for m in c.members[:3]] == [1] * 3
    began_by = c.members[2].replica.core.log.new_view
    assert began_by is not None and [sender for sender, _ in began_by.named] == [0, 1, 2]


def test_votes_are_resent_within_a_budget_of_each_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A STATUS that lacks everything, as often as it is answered: who sends it cannot make a replica send for ever, and
    in the next interval is served again."""
    c = group(checkpoint_interval=32, log_window=64)
    backup = c.members[1]
    for number in range(2, 42):
        backup.give(0, proposal(c, number, c.request()))
    monkeypatch.setattr(retransmission, "_BYTES_PER_INTERVAL", 50 * 2048)
    lacking = Status(0, 0, 0, 1, 1, b"", b"", b"")

    def resent() -> int:
        c.wire.clear()
        for _ in range(3):
            backup.give(3, lacking)
        return sum(to == 3 for _, to, _ in c.wire)

    backup.tick(0.3)
    c.wire.clear()
    assert resent() == 51
    assert resent() == 0 and backup.refused(3, Refused.TOO_OFTEN) > 0
    backup.tick(0.3)
    assert resent() == 51


def test_a_budget_of_one_peer_is_not_that_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """A correct replica is brought up to date whatever another one asks for."""
    c = group()
    backup = c.members[1]
    backup.give(0, proposal(c, 2, c.request()))
    monkeypatch.setattr(retransmission, "_BYTES_PER_INTERVAL", 1)
    backup.tick(0.3)
    lacking = Status(0, 0, 0, 1, 1, b"", b"", b"")
    for _ in range(30):
        backup.give(3, lacking)
    c.wire.clear()
    backup.give(2, lacking)
    assert [to for _, to, _ in c.wire] == [2]


def test_requests_that_cannot_be_judged_yet_take_no_room() -> None:
    """Of a session that may be opened by a batch which has not executed here. Its client hears `busy` and comes again;
    nothing is kept, or a few clients could fill every queue with what nothing ever clears."""
    c = group()
    for m in c.members:
        for i in range(40):
            m.give(ALICE, c.request(id=i + 1, session=3 << 16, authenticator=b"\x01"))
        assert m.replica.requests.queue.count == 0
        assert m.replica.requests.oldest_awaited(1) is None
    c.settle()
    told = [m for _, to, m in c.replies if to == ALICE and isinstance(m, Refusal)]
    assert len(told) == 160 and {m.reason for m in told} == {"busy"}
    c.order()
    assert {len(m.executed) for m in c.members} == {2}


def test_a_proposal_that_is_sent_again_and_again_is_looked_at_once() -> None:
    """Whether held or accepted: what a primary repeats costs no second vote."""
    c = group()
    backup, message = c.members[1], proposal(c, 2, c.request())
    backup.give(0, message)
    votes = len(c.wire)
    for _ in range(20):
        assert backup.replica.ordering.knows_proposal(message)
        backup.give(0, message)
    assert len(c.wire) == votes
    assert sum(isinstance(m, Prepare) for m in (decode(body) for _, _, body in c.wire)) == 3


def test_a_primary_proposes_nothing_where_something_is_committed_already() -> None:
    """An old primary that slept, and whose executor has not caught up yet, knows by COMMITTED what the numbers after
    hold: a request that it proposed there would never execute, and would be awaited for ever."""
    c = group(checkpoint_interval=128, log_window=256)
    old = c.members[0]
    old.down = True
    c.wire.clear()
    c.suspect_all(1, 2, 3)
    c.order(60)
    old.down, old.hold_execution = False, True
    c.dropped = lambda s, t, m: t == 0 and isinstance(m, (NewView, ViewChange, Suspect))
    c.tick_all(0.25)
    c.tick_all(0.25)
    assert old.view == 0 and old.replica.delivery.committed_through > old.replica.delivery.handed
    request = c.request(authenticator=b"\x01")
    old.give(ALICE, request)
    c.settle()
    c.dropped = lambda s, t, m: False
    c.wait(1)
    while old.held:
        old.host.executed(old.executor.execute(*old.held.pop(0)))
        old.flush()
    old.hold_execution = False
    c.wait(5)
    assert executed_once(c, request) and old.replica.suspicion.waited is None


def test_a_status_of_one_that_slept_for_very_long_is_still_a_message() -> None:
    """What it has accepted far above what it has executed is told in pieces; peers understand all that it says."""
    c = group(checkpoint_interval=128, log_window=256)
    sleeper, number = c.members[3], 1024 * 129
    for peer in (0, 1, 2):
        sleeper.give(peer, Status(0, 0, number, number, 1, b"", b"", b""))
    made = [Checkpoint(i, 0, number, b"s" * 32, 1, 1, (), b"") for i in range(3)]
    stable = tuple(m._replace(seal=sealed(m.sender, m.signed_body(c.group.cluster, 0))) for m in made)
    sleeper.give(0, Stable(stable))
    sleeper.give(0, proposal(c, number + 1, c.request(authenticator=b"\x01")))
    c.wire.clear()
    sleeper.tick(0.3)
    said = [body for sender, to, body in c.wire if to == 0]
    assert any(isinstance(decode(body), Status) for body in said)


def test_huge_view_changes_for_views_far_away_do_not_go_round_all_the_time() -> None:
    """In limbo everybody relays what others lack. A STATUS does not say who has the VIEW-CHANGE of a view that its
    sender has not left for; so a copy goes to each once in a while, not at every STATUS."""
    c = group()
    far = view_change(c, 3, 1 << 40)
    c.members[3].crash()
    c.members[0].give(3, far)
    c.dropped = lambda s, t, m: isinstance(m, NewView)
    c.suspect_all(0, 1, 2)
    assert [m.promised for m in c.members[:3]] == [1] * 3
    copies = 0

    def count(sender: int, to: int, message: object) -> bool:
        nonlocal copies
        copies += message == far
        return isinstance(message, NewView)

    c.dropped = count
    c.wait(3.2)
    assert 2 <= copies <= 3 * 2 * 3


def test_signatures_in_a_second_proposal_are_not_looked_at() -> None:
    """One batch for each number and view: of others nothing waits to be verified."""
    c = group()
    backup = c.members[3]
    deferred: list[object] = []
    backup.host.inbound._defer = lambda request, source: deferred.append(request) is None
    backup.host.inbound._authentication.request_is_authentic = lambda request: None  # type: ignore[method-assign]
    for number in range(20):
        backup.give(0, proposal(c, 2, c.request(id=number + 2, floor=1, authenticator=b"\x01")))
    assert len(deferred) == 1 and backup.refused(0, Refused.EQUIVOCATION) == 19
