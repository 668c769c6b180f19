"""The library of misbehaviours: what each one lets out, that its lies are well-formed, and that it signs as itself."""

from __future__ import annotations

from random import Random

import pytest

from pbft.batch import NULL_DIGEST, ClientRequest, decode_batch, encode_batch, operations_body
from pbft.config import CLIENT_PRINCIPAL, ConfigError, Group, Tunables
from pbft.messages import (
    Body,
    Checkpoint,
    Commit,
    Committed,
    Message,
    NewView,
    Prepare,
    PrePrepare,
    Reply,
    Request,
    Stable,
    Status,
    Suspect,
    ViewChange,
    decode,
    encode,
)
from pbft.misbehaviour import MISBEHAVIOURS, Adversary, Late, Sent, make, split, table
from pbft.misbehaviour.new_views import WRONGS, WrongNewView
from pbft.protocol.decision import decide, is_consistent, judge_new_view
from pbft.protocol.replica import Replica
from pbft.simulation.keys import SimulatedAuthentication, signature

ALICE, BOB = CLIENT_PRINCIPAL | 1, CLIENT_PRINCIPAL | 2
ME = 1
GROUP = Group(
    cluster=b"c" * 32,
    app="test",
    replicas=tuple(bytes([i]) * 32 for i in range(4)),
    clients={ALICE: b"a" * 32, BOB: b"b" * 32},
    tunables=Tunables(checkpoint_interval=4, log_window=8),
)
OTHERS = (0, 2, 3)
VERIFIES = SimulatedAuthentication(GROUP, 0).seal_is_authentic


def request(client: int, request_id: int) -> ClientRequest:
    return ClientRequest(operations_body(client, 1 << 16, request_id, 0, 255, [b"inc"]), b"\x00" + b"m" * 96)


BATCH = encode_batch(1_000_000, b"s" * 16, [request(ALICE, 1), request(BOB, 1)])
PROPOSAL = PrePrepare(1, 3, BATCH.digest, BATCH.encoded)


def sealed(message: ViewChange | NewView | Checkpoint) -> Message:
    return message._replace(seal=signature(message.sender, message.signed_body(GROUP.cluster, GROUP.epoch), 160))


def view_change(sender: int, view: int = 5) -> ViewChange:
    prepared = ((1, BATCH.digest, 1),) if sender != 3 else ()
    unsealed = ViewChange(sender, 0, view, 0, ((0, bytes(32)),), prepared, ((1, BATCH.digest, 1),), b"")
    made = sealed(unsealed)
    assert isinstance(made, ViewChange)
    return made


def new_view(senders: tuple[int, ...] = (0, 1, 2)) -> NewView:
    found = tuple(view_change(i) for i in senders)
    made = sealed(NewView(ME, 0, 5, tuple((m.sender, m.digest) for m in found), b"", found))
    assert isinstance(made, NewView)
    return made


CHECKPOINT = sealed(Checkpoint(ME, 0, 4, b"d" * 32, 1, 1, (), b""))
EVERYTHING: tuple[Message, ...] = (
    PROPOSAL,
    PrePrepare(1, 4, NULL_DIGEST, b""),
    Prepare(0, 1, b"p" * 32),
    Commit(1, 3, BATCH.digest),
    CHECKPOINT,
    Committed(1, (b"d" * 32,)),
    Status(1, 1, 0, 2, 1, b"", b"", b""),
    Body(1, BATCH.digest, BATCH.encoded),
    Suspect(1),
    view_change(ME),
    view_change(0),
    new_view(),
    new_view((0, 1, 2, 3)),
    Reply(1, 1 << 16, ((1, False, b"d" * 32, b"\x82\x00\x80"), (2, False, b"d" * 32, b""))),
)


def adversary(name: str, seed: int = 1) -> Adversary:
    return make(name, ME, GROUP, Random(seed), lambda body: signature(ME, body, 160))


def sent(name: str, message: Message, seed: int = 1) -> dict[int, list[Message]]:
    """What each other replica gets."""
    one = adversary(name, seed)
    return {to: [s.message for s in one.outgoing(to, message)] for to in OTHERS}


@pytest.mark.parametrize("name", sorted(MISBEHAVIOURS))
def test_everything_that_leaves_can_be_encoded_and_is_signed_by_nobody_else(name: str) -> None:
    """Whatever carries a good seal is the adversary's own, or was said by its sender before."""
    said = {encode(m) for m in (*map(view_change, range(4)), CHECKPOINT)}
    for seed in range(5):
        one = adversary(name, seed)
        one.hears(0, encode(view_change(0)))
        one.hears(0, encode(PROPOSAL._replace(view=0)))
        for message in EVERYTHING:
            receiver = ALICE if isinstance(message, Reply) else 2
            for other in (receiver, receiver if isinstance(message, Reply) else 3):
                for leaving in one.outgoing(other, message):
                    again = decode(encode(leaving.message))
                    assert again == leaving.message
                    assert leaving.delay >= 0
                    assert leaving.to != ME
                    signed = again.checkpoints if isinstance(again, Stable) else (again,)
                    signed = again.view_changes if isinstance(again, NewView) else signed
                    for part in signed:
                        if isinstance(part, (Checkpoint, ViewChange)) and VERIFIES(part):
                            assert part.sender == ME or encode(part) in said


@pytest.mark.parametrize("name", sorted(MISBEHAVIOURS))
def test_the_same_seed_does_the_same(name: str) -> None:
    """A run of the simulator replays exactly."""
    first, second = adversary(name), adversary(name)
    for message in EVERYTHING:
        assert first.outgoing(2, message) == second.outgoing(2, message)


def test_an_equivocating_primary_has_two_batches_of_the_same_requests() -> None:
    """Both are valid; each backup is told one, and told the same again when it asks."""
    for seed in range(10):
        one = adversary("equivocating-primary", seed)
        told = {to: one.outgoing(to, PROPOSAL)[0].message for to in OTHERS}
        batches = {to: decode_batch(m.batch) for to, m in told.items() if isinstance(m, PrePrepare)}
        assert len(dict.fromkeys(b.digest for b in batches.values())) == 2
        for to, batch in batches.items():
            assert sorted(r.digest for r in batch.requests) == sorted(r.digest for r in BATCH.requests)
            assert one.outgoing(to, PROPOSAL)[0].message == told[to]
            for leaving in one.outgoing(to, Commit(1, 3, BATCH.digest)):
                assert leaving.message == Commit(1, 3, batch.digest)


@pytest.mark.parametrize("name", ["equivocating-narrowly", "partial-multicast"])
def test_q_minus_one_backups_can_commit_with_the_primary(name: str) -> None:
    """Nobody else is told the same."""
    found = sent(name, PROPOSAL)
    assert sum(PROPOSAL in messages for messages in found.values()) == GROUP.quorums.strong - 1


def test_spoilt_authenticators_are_in_the_very_same_batch() -> None:
    """The digest does not cover them."""
    for messages in sent("corrupt-authenticators", PROPOSAL).values():
        assert isinstance(messages[0], PrePrepare)
        assert messages[0].digest == decode_batch(messages[0].batch).digest == BATCH.digest


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("silent-preprepare", PrePrepare),
        ("silent-prepare", Prepare),
        ("silent-commit", Commit),
        ("silent-view-change", ViewChange),
        ("silent-view-change", Suspect),
        ("silent-new-view", NewView),
    ],
)
def test_silence_in_one_phase(name: str, kind: type[Message]) -> None:
    """Everything else is said."""
    one = adversary(name)
    for message in EVERYTHING:
        gone = one.outgoing(2, message) == []
        assert gone == isinstance(message, kind) or (name == "silent-view-change" and gone)


def test_delays_stay_below_the_timeout() -> None:
    """Later than that would be silence."""
    limit = GROUP.tunables.view_timeout / 1000
    assert 0 < adversary("delaying").outgoing(2, Suspect(1))[0].delay < limit
    assert 0.5 * limit < adversary("slow-primary").outgoing(2, PROPOSAL)[0].delay < limit
    assert adversary("slow-primary").outgoing(2, Suspect(1))[0].delay == 0


def test_a_slowing_primary_is_later_with_each_number_up_to_the_timeout() -> None:
    """All backups alike, and nothing but proposals."""
    limit = GROUP.tunables.view_timeout / 1000
    one = adversary("slowing-primary")
    delays = []
    for number in range(3, 20003):
        moved = PROPOSAL._replace(number=number)
        told = {one.outgoing(to, moved)[0].delay for to in OTHERS}
        assert len(told) == 1
        delays += told
    assert delays == sorted(delays)
    assert 0 < delays[0] < delays[100] < 0.05 * limit
    assert 0.5 * limit < delays[-1] < limit
    assert one.outgoing(2, Suspect(1))[0].delay == 0


def test_a_censored_client_is_heard_neither_itself_nor_through_others() -> None:
    """The other client is."""
    one = adversary("censoring")
    heard = {c: one.hears(c, encode(request(c, 1).message())) for c in (ALICE, BOB)}
    relayed = {c: one.hears(0, encode(request(c, 1).message())) for c in (ALICE, BOB)}
    assert sorted(heard.values()) == [False, True]
    assert heard == relayed
    assert one.hears(0, b"\x83\x01")


@pytest.mark.parametrize(
    "name",
    [
        "forged-prepared",
        "forged-preprepared",
        "forgetful-view-change",
        "falling-silent",
        "false-testimony",
        "stuffed-view-change",
        "two-view-changes",
    ],
)
def test_false_testimony_is_consistent_and_signed(name: str) -> None:
    """No rule about a single VIEW-CHANGE gives the liar away; one lie per view."""
    silent = 0
    for seed in range(20):
        one = adversary(name, seed)
        lies = [s.message for to in OTHERS for s in one.outgoing(to, view_change(ME))]
        if name == "falling-silent" and not lies:
            silent += 1
            continue
        assert any(lie != view_change(ME) for lie in lies)
        assert len(dict.fromkeys(lies)) == (2 if name == "two-view-changes" else 1)
        for lie in lies:
            assert isinstance(lie, ViewChange)
            assert VERIFIES(lie)
            assert is_consistent(lie, GROUP.tunables.log_window)
    assert silent < 20


@pytest.mark.parametrize("kind", WRONGS)
def test_every_wrong_new_view_is_refused(kind: str) -> None:
    """By what it names, by who signed it, or by a seal inside."""
    captive = adversary("wrong-new-view")._captive
    wrong = WrongNewView(captive).wrong(kind, new_view())
    assert VERIFIES(wrong)
    views = Replica(GROUP, 0, lambda body: b"", b"").views
    judged = judge_new_view(GROUP.quorums, GROUP.tunables.log_window, wrong)
    sound = all(map(VERIFIES, wrong.view_changes))
    assert views.refuse_new_view(wrong) is not None or not sound or judged is None


def test_two_new_views_are_both_valid() -> None:
    """Each follows from what it names."""
    for seed in range(20):
        for messages in sent("two-new-views", new_view((0, 1, 2, 3)), seed).values():
            for message in messages:
                assert isinstance(message, NewView)
                assert VERIFIES(message)
                assert all(map(VERIFIES, message.view_changes))
                assert decide(GROUP.quorums, GROUP.tunables.log_window, message.view_changes) is not None


def test_some_are_told_of_a_new_view_and_some_are_not() -> None:
    """And always the same ones."""
    one = adversary("partial-new-view")
    first = [bool(one.outgoing(to, new_view())) for to in OTHERS]
    assert first == [bool(one.outgoing(to, new_view())) for to in OTHERS]
    assert sorted(set(first)) == [False, True]


def test_a_resigning_primary_leaves_whatever_it_says() -> None:
    """While it is none, it behaves."""
    one = adversary("resigning")
    one.outgoing(2, Status(0, 0, 0, 0, 1, b"", b"", b""))
    assert one.outgoing(2, Prepare(0, 1, b"p" * 32)) == [Sent(2, Prepare(0, 1, b"p" * 32))]
    status = Status(1, 1, 0, 0, 1, b"", b"", b"")
    leaving = [s.message for s in one.outgoing(2, status)]
    assert [type(m) for m in leaving] == [Status, ViewChange]
    assert isinstance(leaving[1], ViewChange)
    assert leaving[1].view == 2
    assert VERIFIES(leaving[1])


def test_names_are_composed() -> None:
    """What one lets out goes through the next; delays add up; each may be deaf."""
    one = adversary("silent-commit+lying-replies+delaying")
    assert one.outgoing(2, Commit(1, 1, b"d" * 32)) == []
    reply = Reply(0, 1 << 16, ((1, False, b"d" * 32, b"\x82\x00\x80"),))
    (leaving,) = one.outgoing(ALICE, reply)
    assert leaving.message != reply
    assert leaving.delay > 0
    deaf = adversary("lying-replies+censoring")
    assert not all(deaf.hears(c, encode(request(c, 1).message())) for c in (ALICE, BOB))
    assert one.name == "silent-commit+lying-replies+delaying"


@pytest.mark.parametrize("names", ["", "kind", "silent+", "silent+kind"])
def test_unknown_names_are_refused(names: str) -> None:
    """With the names that exist."""
    with pytest.raises(ConfigError, match=r"these are: .*silent-commit"):
        split(names)


def test_the_table_names_and_describes_all() -> None:
    """It is shown by `--help`."""
    lines = table().splitlines()
    assert [line.split()[0] for line in lines] == sorted(MISBEHAVIOURS)
    assert all(len(line.split()) > 2 for line in lines)


def test_late_messages_leave_in_the_order_in_which_they_are_due() -> None:
    """And not before."""
    late = Late()
    for due, to in ((2.0, 1), (1.0, 2), (1.0, 3)):
        late.put(due, Sent(to, Suspect(1), due))
    assert late.take(0.9) == []
    assert [s.to for s in late.take(1.5)] == [2, 3]
    assert [s.to for s in late.take(2.0)] == [1]


def test_what_a_captive_hears_is_kept_within_bounds() -> None:
    """Garbage is nothing to it."""
    one = adversary("stale-replays")
    for view in range(1, 2000):
        one.hears(0, encode(Request(b"x", b"y")))
        one.hears(0, encode(view_change(0)._replace(view=view)))
        one.hears(0, b"\x88\x0f")
        one.outgoing(2, Suspect(view))
    assert len(one._captive.signed) <= 256
    assert len(one._captive.view_changes) == 1
