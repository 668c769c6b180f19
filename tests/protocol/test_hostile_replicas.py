"""What an authenticated replica can do to another one by what it sends: be counted, and nothing else.

Replica 2 lies in these tests; rules 1.10, 4 #26, #27, #42.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from cluster import ALICE, BOB, Cluster, Member, sealed
from footprint import footprint

from pbft.messages import (
    Body,
    Checkpoint,
    Commit,
    Committed,
    Fetch,
    Message,
    Nack,
    NewView,
    Prepare,
    PrePrepare,
    Refusal,
    Reply,
    Stable,
    Status,
    Suspect,
    ViewChange,
    encode,
)

LIAR = 2
TOP = (1 << 64) - 1


def checkpoint(c: Cluster, sender: int, number: int, digest: bytes, forged: bool = False) -> Checkpoint:
    """A CHECKPOINT; the liar can seal its own only."""
    unsigned = Checkpoint(sender, 0, number, digest, 1, 1, (), b"f" * 160)
    return unsigned if forged else unsigned._replace(seal=sealed(sender, unsigned.signed_body(c.group.cluster, 0)))


def status(m: Member, **fields: int | bytes) -> Status:
    """A STATUS of the liar: what `m` would say, but for these fields."""
    return m.replica.retransmission.status()._replace(**fields)  # type: ignore[arg-type]


def hear(m: Member, messages: Iterator[Message] | list[Message]) -> None:
    """The liar's messages arrive in sweeps of a hundred."""
    for count, message in enumerate(messages, 1):
        m.host.receive(LIAR, encode(message))
        if count % 100 == 0:
            m.flush()
    m.flush()


def goes_on(c: Cluster, requests: int = 5) -> None:
    """The others still order, execute the same, and call nobody but the liar to account."""
    c.dropped = lambda sender, to, message: sender == LIAR
    c.wire = [(s, t, b) for s, t, b in c.wire if s != LIAR]
    c.settle()
    before = len(c.primary.executed)
    c.order(requests)
    for _ in range(4):
        c.tick_all()
    correct = [m for m in c.members if m.me != LIAR]
    assert {tuple(m.executed) for m in correct} == {tuple(c.primary.executed)}
    assert len(c.primary.executed) == before + requests
    assert not any(m.replica.status().halted for m in correct)
    assert {e.culprit for m in correct for e in m.evidence} <= {LIAR}


@pytest.mark.scenario("D05")
@pytest.mark.parametrize("to", [0, 1])
def test_authentic_messages_far_outside_the_window_leave_nothing_behind(to: int) -> None:
    """Tens of thousands of votes and checkpoints for ever other numbers and views up to 2^64 take no memory."""
    c = Cluster()
    c.open()
    m = c.members[to]
    rng = random.Random(to)

    def far() -> Iterator[Message]:
        for _ in range(4000):
            number, view = rng.randrange(9, TOP + 1), rng.randrange(1, TOP + 1)
            yield Prepare(0, number, b"x" * 32)
            yield Prepare(view, 3, b"x" * 32)
            yield Commit(0, number, b"x" * 32)
            yield Commit(view, 3, b"x" * 32)
            yield PrePrepare(view, number, b"x" * 32, b"")
            yield checkpoint(c, LIAR, number // 4 * 4, b"x" * 32)
            yield Committed(number, (b"x" * 32, b"y" * 32))

    hear(m, [message for _, message in zip(range(700), far(), strict=False)])
    before = footprint(m.host.inbound)
    hear(m, far())
    assert footprint(m.host.inbound) - before < 4096
    goes_on(c)


@pytest.mark.scenario("D05")
def test_votes_inside_the_window_are_bounded_by_slots_and_senders() -> None:
    """Ever other digests for the numbers that are open take the room of one vote each."""
    c = Cluster()
    c.open()
    m = c.members[1]

    def votes(start: int) -> Iterator[Message]:
        for i in range(start, start + 3000):
            digest = i.to_bytes(32, "big")
            for number in range(2, 9):
                yield from (Prepare(0, number, digest), Commit(0, number, digest), Committed(number, (digest,)))

    hear(m, votes(0))
    before = footprint(m.host.inbound)
    m.evidence.clear()
    hear(m, votes(3000))
    assert footprint(m.host.inbound) - before < 4096
    assert {e.culprit for e in m.evidence} == {LIAR}


@pytest.mark.scenario("G18")
@pytest.mark.parametrize("to", [0, 1])
def test_valid_messages_in_masses_take_no_memory_and_cause_few_messages(to: int) -> None:
    """The same good vote, checkpoint, STATUS and question thousands of times: answers are bounded per interval."""
    c = Cluster()
    c.open()
    c.members[LIAR].down = True
    c.order(6)
    m, digest = c.members[to], c.primary.executed[6]
    good: list[Message] = [
        Prepare(0, 7, digest),
        Commit(0, 7, digest),
        checkpoint(c, LIAR, 8, b"d" * 32),
        status(m, stable=0, last_executed=0, first_retained=0),
        status(m, accepted=b"\xff" * 64),
        Committed(2, tuple(c.primary.executed[1:4])),
        Fetch(tuple((2 + n % 4, c.primary.executed[1 + n % 4]) for n in range(256))),
        Nack(7, ALICE, digest),
    ]
    hear(m, good * 50)
    before = footprint(m.host.inbound)
    hear(m, good * 1000)
    assert footprint(m.host.inbound) - before < 4096
    assert 2 << 20 < sum(len(body) for sender, _, body in c.wire if sender == m.me) < 5 << 20
    assert 1 <= len(c.take(Committed, m.me)) <= 16, "to STATUS"
    assert m.refused(LIAR, "too-often") > 2900, "of 2100 STATUS and 1050 FETCH"
    goes_on(c)


@pytest.mark.scenario("G21")
def test_absurd_questions_have_no_answer() -> None:
    """Bodies of numbers that nobody has, or under another digest, and STATUS from nowhere: nothing is sent for them."""
    c = Cluster()
    c.open()
    c.order(4)
    m = c.members[1]
    known = c.primary.executed[1]
    for number in (0, 1 << 31, 1 << 60, TOP):
        m.give(LIAR, Fetch(((number, known),) * 256))
        m.give(LIAR, Fetch(((2, number.to_bytes(32, "big")),) * 256))
        far = {"last_executed": TOP - number // 2, "first_retained": number}
        m.give(LIAR, status(m, **far, accepted=b"\xff" * 9000, prepared=b"\xff" * 9000))
        m.give(LIAR, Body(number, known, c.primary.executor.executed[1].encoded))
    assert not [t for s, t, _ in c.wire if s == m.me]
    m.give(LIAR, Fetch(((1, c.primary.executed[0]), (TOP, known), (2, known))))
    bodies = [b for _, _, b in c.take(Body) if isinstance(b, Body)]
    assert [(b.number, b.digest) for b in bodies] == [(1, c.primary.executed[0]), (2, known)]
    goes_on(c)


@pytest.mark.scenario("G23")
def test_an_own_checkpoint_that_comes_back_counts_once() -> None:
    """A peer that echoes this replica's CHECKPOINT, alone or in a certificate, does not raise its weight."""
    c = Cluster()
    c.open()
    c.dropped = lambda sender, to, message: isinstance(message, Checkpoint)
    c.order(3)
    m = c.members[1]
    [own] = m.replica.core.log.own_checkpoints.values()
    liars = checkpoint(c, LIAR, 4, own.digest)
    for _ in range(5):
        m.give(LIAR, own)
        m.give(LIAR, liars)
    m.give(LIAR, Stable((own, own, liars)))
    m.give(LIAR, Stable((own, liars)))
    assert m.replica.status().low_watermark == 0
    third = c.primary.replica.core.log.own_checkpoints[4]
    m.give(LIAR, Stable((own, liars, third)))
    assert m.replica.status().low_watermark == 4


@pytest.mark.scenario("G07")
@pytest.mark.parametrize("reached", [{1}, {1, 3}])
def test_a_liar_that_speaks_to_some_only_cannot_make_the_others_differ(reached: set[int]) -> None:
    """Whoever hears its votes and whoever does not come to the same, also where it is one of the quorum."""
    c = Cluster()
    c.open()
    c.dropped = lambda sender, to, message: sender == LIAR and to not in reached
    c.order(10)
    for _ in range(4):
        c.tick_all()
    assert len({tuple(m.executed) for m in c.members if m.me != LIAR}) == 1
    assert len(c.primary.executed) == 11


# ---- anything that can be encoded


def numbers(rng: random.Random) -> int:
    near = [0, 1, 2, 3, 4, 5, 7, 8, 9, 12, 255, 256, 512, 513]
    far = [1 << 16, 1 << 31, 1 << 32, 1 << 62, 1 << 63, TOP, rng.getrandbits(64)]
    return rng.choice(near if rng.random() < 0.6 else far)


def view_change(c: Cluster, rng: random.Random, sender: int) -> ViewChange:
    """P, Q and C full of nonsense, under the liar's own seal or a forged one."""

    def rows(width: int) -> tuple[tuple[int, ...], ...]:
        digest = rng.choice([b"x" * 32, *c.primary.executed])
        return tuple((numbers(rng), digest, numbers(rng))[:width] for _ in range(rng.choice([0, 1, 2, 9])))  # type: ignore[misc]

    low = rng.choice([0, 4, 8, numbers(rng)])
    named = ((low, rng.choice([bytes(32), b"x" * 32])), *rows(2))
    message = ViewChange(sender, 0, rng.choice([1, 2, 6, numbers(rng)]), low, named, rows(3), rows(3), b"f" * 160)  # type: ignore[arg-type]
    if sender != LIAR:
        return message
    return message._replace(seal=sealed(LIAR, message.signed_body(c.group.cluster, 0)))


def new_view(c: Cluster, rng: random.Random, senders: tuple[int, ...]) -> NewView:
    """A NEW-VIEW of the liar, whose view it may be, from VIEW-CHANGEs that it made up."""
    changes = tuple(view_change(c, rng, sender) for sender in senders)
    named = tuple((m.sender, rng.choice([m.digest, m.digest, b"x" * 32])) for m in changes)
    message = NewView(LIAR, 0, rng.choice([1, 2, 6, numbers(rng)]), named, b"f" * 160, changes[: rng.randrange(4)])
    return message._replace(seal=sealed(LIAR, message.signed_body(c.group.cluster, 0)))


def absurd(c: Cluster, rng: random.Random) -> Message:
    """A well-formed message with fields that fit nothing; seals are the liar's own or forged."""
    executed = c.primary.executor.executed
    digest = rng.choice([b"x" * 32, bytes(32), *[b.digest for b in executed]])
    batch = rng.choice([b"", b"no batch", *[b.encoded for b in executed]])
    view = rng.choice([0, 0, 0, numbers(rng)])
    number = numbers(rng)
    bitmap = rng.randbytes(rng.choice([0, 1, 9, 1 << 14]))
    senders = rng.choice([(2,), (0, 1, 2), (2, 2, 2), (0, 2, 3), (2, 3, 9), (65535,)])
    made: dict[str, Callable[[], Message]] = {
        "request": lambda: c.request(ALICE, id=max(1, number), floor=0, session=max(1, numbers(rng))),
        "pre-prepare": lambda: PrePrepare(view, number, digest, batch),
        "prepare": lambda: Prepare(view, number, digest),
        "commit": lambda: Commit(view, number, digest),
        "checkpoint": lambda: checkpoint(c, senders[0], number, digest, forged=senders[0] != LIAR),
        "committed": lambda: Committed(number, (digest,) * rng.choice([1, 2, 256])),
        "status": lambda: Status(
            *(numbers(rng) if type(v) is int else bitmap for v in status(c.primary))  # type: ignore[arg-type]
        )._replace(view=view),
        "fetch": lambda: Fetch(tuple((numbers(rng), digest) for _ in range(rng.choice([1, 3, 256])))),
        "body": lambda: Body(number, digest, batch),
        "stable": lambda: Stable(tuple(checkpoint(c, s, number, digest, forged=s != LIAR) for s in senders)),
        "nack": lambda: Nack(number, rng.choice([ALICE, BOB, numbers(rng)]), digest),
        "reply": lambda: Reply(view, number, ((number, False, digest, b"r"),)),
        "refusal": lambda: Refusal(view, number, number, "busy"),
        "suspect": lambda: Suspect(view),
        "view-change": lambda: view_change(c, rng, senders[0]),
        "new-view": lambda: new_view(c, rng, senders),
    }
    return made[rng.choice(sorted(made))]()


@pytest.mark.slow
@pytest.mark.scenario("G16")
@pytest.mark.parametrize("seed", range(4))
def test_no_message_whatever_breaks_a_replica(seed: int) -> None:
    """Well-formed messages with absurd fields, and these with a few bytes changed, between honest ones: nothing
    raises, every invariant holds, and the group goes on."""
    c = Cluster()
    c.open()
    rng = random.Random(seed)
    c.dropped = lambda sender, to, message: sender == LIAR
    for step in range(6000):
        body = encode(absurd(c, rng))
        if rng.random() < 0.1:
            at = rng.randrange(min(len(body), 60))
            body = body[:at] + rng.randbytes(rng.randrange(3)) + body[at + rng.randrange(3) :]
        m = c.members[rng.choice([0, 1, 3])]
        m.host.receive(LIAR, body)
        if step % 20 == 0:
            m.flush()
            c.settle()
        if step % 500 == 0:
            c.tick_all()
            c.order()
    goes_on(c)
    refused = {reason for m in c.members for sender, reason in m.replica.core.refused if sender == LIAR}
    assert len(refused) >= 12, "the messages reach many different checks"


def test_view_changes_in_masses_are_heard_within_a_budget_and_none_is_read_that_is_too_long() -> None:
    """Each names a higher view and is sealed, so each would be decoded and verified: 4 #26, #27."""
    c = Cluster(4)
    c.open()
    m = c.members[0]
    most = c.group.view_change_max_bytes
    long = ViewChange(
        LIAR, 0, 5, 0, ((0, bytes(32)),), (), tuple((1, i.to_bytes(32), 1) for i in range(most // 36)), b"s" * 160
    )
    m.host.receive(LIAR, encode(long))
    assert m.refused(LIAR, "too-large") == 1
    hear(m, (sealed_change(c, view) for view in range(1, 400)))
    looked_at = 399 - m.refused(LIAR, "too-often")
    assert looked_at <= 4 * 4 * most // 4096
    assert m.replica.views.collected[LIAR].view == looked_at
    c.wait(0.5)
    assert m.give(LIAR, sealed_change(c, 400)) is None, "in the next interval it is heard again"
    goes_on(c)


def sealed_change(c: Cluster, view: int) -> ViewChange:
    """The liar's VIEW-CHANGE for a view, empty and well sealed."""
    unsigned = ViewChange(LIAR, 0, view, 0, ((0, bytes(32)),), (), (), b"s" * 160)
    return unsigned._replace(seal=sealed(LIAR, unsigned.signed_body(c.group.cluster, 0)))
