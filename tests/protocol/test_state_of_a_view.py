"""A view may begin from a state that one correct replica has, and for which no q have signed: the others fetch it."""

from __future__ import annotations

from cluster import Cluster, Member
from signed_views import group, sealed_by_sender

from pbft.messages import Commit, Fetch, Message, PrePrepare, Suspect, ViewChange, encode
from pbft.protocol.decision import GENESIS

LIAR, FRIEND = 0, 1


def fetch(c: Cluster) -> None:
    """What state transfer does: who wants a state gets it from one that has just executed up to there."""
    for m in c.up:
        wanted = m.replica.state_wanted
        if wanted is None:
            continue
        for other in c.up:
            if other.executor.number >= wanted[0] and len(other.executed) >= wanted[0]:
                found = other.executor.back_at(wanted[0])
                assert found.state == wanted[1]
                m.executor = found
                m.host.replica.on_installed(found.start())
                m.host.checkpoint_durable(wanted[0])
                m.flush()
                break
    c.settle()


def lie(c: Cluster, view: int, digest: bytes) -> ViewChange:
    """It names the state that its friend has too, and nothing prepared."""
    return sealed_by_sender(c, ViewChange(LIAR, 0, view, 0, (GENESIS, (4, digest)), (), (), b""))


def one_alone_at_the_checkpoint() -> tuple[Cluster, Member, object]:
    """Batch 4, the last one before a checkpoint, is committed at the friend alone; 3 has not even seen it."""
    c = group(4, view_timeout=600)
    c.order(2)

    def dropped(sender: int, to: int, message: Message) -> bool:
        if sender != LIAR:
            return False
        if isinstance(message, PrePrepare):
            return to == 3
        return to != FRIEND if isinstance(message, Commit) else True

    c.dropped = dropped
    request = c.ask()
    assert [len(m.executed) for m in c.members[1:]] == [4, 3, 3]
    c.members[LIAR].down = True
    friend = c.members[FRIEND]
    said: set[int] = set()

    def speak(sender: int, to: int, message: Message) -> bool:
        if isinstance(message, Suspect) and message.view + 1 not in said:
            said.add(message.view + 1)
            c.wire.extend((LIAR, i, encode(lie(c, message.view + 1, state))) for i in (1, 2, 3))
        # The network is slow besides: 3 does not get the batch by asking for it before the view changes.
        return isinstance(message, Fetch) and friend.replica.core.view == 0

    state = friend.executor.state
    c.dropped = speak
    return c, friend, request


def test_a_view_that_begins_from_a_state_of_one_correct_replica_alone_goes_on() -> None:
    """f+1 C entries, one a liar's. What lies below is not agreed again, and nobody else could ever execute it."""
    c, _, request = one_alone_at_the_checkpoint()
    requests = [request]
    for step in range(200):
        c.wait(0.05)
        fetch(c)
        if step % 50 == 0:
            requests.append(c.ask())
    c.wait(1)
    assert [m.replica.core.log.low for m in c.members[1:]] >= [4, 4, 4], "those who fetched it sign it: h moves"
    executed = {m.executor.number for m in c.members[1:]}
    assert len(executed) == 1 and executed.pop() >= len(requests) + 3
    assert len({m.executor.state for m in c.members[1:]}) == 1
    for r in requests[1:]:
        assert [m.times(r) for m in c.members[1:]] == [1, 1, 1]


def test_a_fetched_state_that_is_not_stable_lets_nothing_of_the_log_go() -> None:
    """2 prepared batch 4 and says so in its next VIEW-CHANGE too, although it stands at state 4 now, also restarted."""
    c, friend, _ = one_alone_at_the_checkpoint()
    two = c.members[2]
    p = dict(two.replica.core.log.p)
    assert 4 in p
    for _ in range(100):
        c.wait(0.05)
        if two.replica.state_wanted is not None:
            break
    wanted = two.replica.state_wanted
    assert wanted == (4, friend.executor.state)
    two.executor = friend.executor.back_at(4)
    two.host.replica.on_installed(two.executor.start())
    two.host.checkpoint_durable(4)
    two.flush()
    assert (two.replica.core.log.low, two.log.cut_below) == (0, 0)
    assert two.replica.core.log.own_checkpoints[4].digest == wanted[1]
    two.boot(checkpoint=4)
    log = two.replica.core.log
    assert log.p[4] == p[4] and p[4][0] in log.q[4]
    assert (4, wanted[1]) in log.testimony()[0]
    assert log.find(4, p[4][0]) is not None, "its body can be given to a view that begins below"
