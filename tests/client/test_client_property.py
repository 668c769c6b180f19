"""Whatever the network and f liars do: no wrong result is believed, and every call ends. Rules 1.15, 1.16."""

from __future__ import annotations

import random

import pytest
from client_world import Driver, done, reply, shared_key
from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.batch import Answer, ClientRequest, Kind, Outcome, encode_answer, encode_done, result_digest
from pbft.client import ClientError
from pbft.messages import Refusal, Reply, encode


class Honest:
    """What correct replicas answer: an execution that they agree on, here the same pure function on all of them."""

    def __init__(self) -> None:
        self.sessions: dict[int, int] = {}

    def result(self, request: ClientRequest) -> bytes:
        if request.kind is Kind.OPEN:
            if request.floor != 3 and request.id not in self.sessions:
                return encode_answer(Answer.OPEN_STALE, 3)
            return encode_answer(Answer.OPENED, self.sessions.setdefault(request.id, (len(self.sessions) + 1) << 16))
        return done(request)


def lie(rng: random.Random, request: ClientRequest) -> bytes:
    """Something a liar may say about a request."""
    wrong = rng.choice(
        [
            encode_done([(Outcome.OK, b"wrong")] * max(1, len(request.operations))),
            encode_done([]),
            encode_answer(Answer.UNKNOWN_SESSION, request.session),
            encode_answer(Answer.OPENED, 999),
            encode_answer(Answer.OPEN_STALE, 77),
            encode_answer(Answer.FORGOTTEN, request.id),
            b"\xff",
        ]
    )
    view = rng.choice([0, 1, 1 << 62])
    match rng.randrange(5):
        case 0:
            return encode(Refusal(view, request.session, request.id, rng.choice(["busy", "too-large", "malformed"])))
        case 1:
            row = (request.id, rng.random() < 0.5, result_digest(done(request)), wrong)
            return encode(Reply(view, request.session, (row,)))
        case 2:
            return rng.randbytes(rng.randrange(40))
        case _:
            return reply(
                request.session, request.id, wrong, view=view, tentative=rng.random() < 0.3, full=rng.random() < 0.8
            )


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), n=st.sampled_from([4, 5, 6, 7]), loss=st.sampled_from([0.0, 0.2, 0.5]))
def test_no_wrong_result_is_believed_and_all_calls_end(seed: int, n: int, loss: float) -> None:
    """n-f honest replicas and f liars that agree with each other; replies lost, doubled and reordered; links that come
    and go: every call ends, with its own result or an error, and with its result once the network is good."""
    rng = random.Random(seed)
    driver = Driver(n, window=2)
    honest = Honest()
    liars = set(rng.sample(range(n), driver.group.quorums.f))
    network: list[tuple[int, bytes]] = []
    calls = {}
    first_half_over = False
    for step in range(240):
        first_half_over = step >= 120
        lossy = 0.0 if first_half_over else loss
        if step < 160 and rng.random() < 0.4:
            operation = b"%d" % step
            timeout = 60.0 if first_half_over else rng.choice([0.3, 2.0, 60.0])
            calls[driver.invoke(operation, timeout, rng.random() < 0.3)] = (operation, timeout)
        if not first_half_over and rng.random() < 0.05:
            replica = rng.randrange(n)
            driver.core.on_link_down(replica, driver.now)
            driver.core.on_link_up(replica, shared_key(replica), driver.now)
        for replica, request in driver.settle() + driver.wait(rng.choice([0.0, 0.05, 0.5]), step=0.05):
            if rng.random() < lossy:
                continue
            # With MACs only one replica has it; it relays it, or lies and does not.
            receivers = [replica] if request.is_signed else [] if replica in liars else list(range(n))
            for receiver in receivers:
                if receiver in liars:
                    network += [(receiver, lie(rng, request)) for _ in range(3)]
                else:
                    full = request.is_signed or request.replier == receiver
                    answer = reply(request.session, request.id, honest.result(request), full=full)
                    network += [(receiver, answer)] * rng.choice([1, 1, 2])
        rng.shuffle(network)
        keep = 0 if first_half_over else len(network) // 3
        for receiver, body in network[keep:]:
            if rng.random() >= lossy:
                driver.hear(receiver, body)
        del network[keep:]
    driver.wait(70.0, step=0.5)
    assert set(driver.ended) == set(calls)
    for call, (operation, timeout) in calls.items():
        result = driver.ended[call]
        if isinstance(result, ClientError):
            assert timeout < 60.0, f"{operation!r} should have succeeded: {result}"
        else:
            assert result == b"r:" + operation
    assert driver.core.next_wakeup() is None
    statistics = driver.core.statistics()
    assert {r.replica for r in statistics.replicas if r.outvoted} <= liars
    assert statistics.waiting == statistics.outstanding == 0
