"""Incarnations and recovery points as replicated state. Rule 1.7 a."""

from __future__ import annotations

import pytest

from pbft.apps.counter import Counter
from pbft.batch import Answer, ClientRequest, decode_result, encode_batch, recover_body
from pbft.config import Group, Tunables
from pbft.execution import Executor, SnapshotError
from pbft.execution.results import RECOVERY_PACE, Recovered

GROUP = Group(
    cluster=b"c" * 32,
    app="counter",
    replicas=tuple(bytes([i]) * 32 for i in range(4)),
    clients={},
    tunables=Tunables(checkpoint_interval=4, log_window=8),
)


def recover(replica: int, incarnation: int, nonce: int = 7) -> ClientRequest:
    return ClientRequest(recover_body(replica, nonce, incarnation), b"\x02" + bytes(160))


def executed(executor: Executor, *requests: ClientRequest) -> tuple[object, ...]:
    """What a batch with these requests changes."""
    done = executor.execute(executor.last_executed + 1, encode_batch(1, bytes(16), requests))
    assert len(done.results) == len(requests)
    return done.changes


def test_a_recover_ends_the_present_incarnation_once() -> None:
    """It raises the incarnation and sets the recovery point, a window above the last checkpoint number before it; one
    for another incarnation, and one at or below the previous recovery point, changes nothing."""
    executor = Executor(GROUP, Counter)
    assert executed(executor, recover(2, 1)) == ()
    assert executed(executor, recover(2, 0)) == (Recovered(2, 1, 8, 7, 1 + RECOVERY_PACE),)
    assert executed(executor, recover(2, 0)) == ()
    assert executed(executor, recover(2, 1)) == ()
    for _ in range(4):
        assert executed(executor, recover(3, 9)) == ()
    assert executor.last_executed == 8
    assert executed(executor, recover(2, 1, 8)) == (Recovered(2, 2, 16, 8, 1 + 2 * RECOVERY_PACE),)
    assert executor.start().members == (Recovered(2, 2, 16, 8, 1 + 2 * RECOVERY_PACE),)


def test_the_answer_names_the_incarnation() -> None:
    """Whether or not something was changed."""
    executor = Executor(GROUP, Counter)
    done = executor.execute(1, encode_batch(1, bytes(16), [recover(1, 0), recover(1, 5), recover(4, 0)]))
    answers = [decode_result(result.result) for result in done.results]
    assert answers == [(Answer.RECOVERED, 1), (Answer.RECOVERED, 1), (Answer.RECOVERED, 0)]
    assert executor.answer(recover(1, 0)) is None


def test_recoveries_are_part_of_the_digest_and_of_a_snapshot() -> None:
    """Two replicas that have executed the same agree, and one that starts from the snapshot knows them."""
    one, other, none = (Executor(GROUP, Counter) for _ in range(3))
    for executor in (one, other):
        executed(executor, recover(2, 0))
    executed(none, recover(2, 3))
    assert one.snapshot().spaces[2].digest == other.snapshot().spaces[2].digest != none.snapshot().spaces[2].digest
    snapshot = one.snapshot()
    restored = Executor.restore(GROUP, Counter, snapshot.meta(), snapshot.chunks())
    assert restored.start().members == one.start().members == (Recovered(2, 1, 8, 7, 1 + RECOVERY_PACE),)


@pytest.mark.parametrize(("key", "value"), [(b"incarnation/1", b"x"), (b"recovery/1", bytes(17))])
def test_a_stored_state_with_other_shapes_is_refused(key: bytes, value: bytes) -> None:
    """It hashes to what its own meta says, and was made by another program."""
    executor = Executor(GROUP, Counter)
    executor._system[key] = value
    snapshot = executor.snapshot()
    with pytest.raises(SnapshotError):
        Executor.restore(GROUP, Counter, snapshot.meta(), snapshot.chunks())
