"""Checkpoints, stable certificates, watermarks: [CL99 §4.3], rules 1.4, 1.6, 1.8."""

from __future__ import annotations

import pytest
from cluster import Cluster, Member, sealed

from pbft.messages import Checkpoint, Stable
from pbft.protocol.records import OwnCheckpoint, StableCertificate, decode_record


def signed(cluster: Cluster, sender: int, number: int, digest: bytes) -> Checkpoint:
    """A CHECKPOINT with a good seal."""
    c = Checkpoint(sender, 0, number, digest, 1, 1, (), b"s" * 160)
    return c._replace(seal=sealed(sender, c.signed_body(cluster.group.cluster, 0)))


def low(m: Member) -> int:
    return m.replica.status().low_watermark


def test_a_checkpoint_becomes_stable_with_q_signatures() -> None:
    """q matching CHECKPOINTs move the low watermark, fewer do not."""
    c = Cluster()
    m = c.members[1]
    m.give(2, signed(c, 2, 4, b"d" * 32))
    m.give(3, signed(c, 3, 4, b"d" * 32))
    assert low(m) == 0
    m.give(0, signed(c, 0, 4, b"d" * 32))
    assert low(m) == 4


def test_checkpoints_with_different_digests_do_not_count_together() -> None:
    """Equal values count (rule 1.10)."""
    c = Cluster()
    m = c.members[1]
    for sender, digest in ((0, b"d"), (2, b"e"), (3, b"d")):
        m.give(sender, signed(c, sender, 4, digest * 32))
    assert low(m) == 0


def test_a_relayed_checkpoint_counts_for_its_signer() -> None:
    """Signed messages are transferable, and nobody counts twice by relaying (rule 1.2)."""
    c = Cluster()
    m = c.members[1]
    for relay in (0, 2, 3):
        m.give(relay, signed(c, 2, 4, b"d" * 32))
    assert low(m) == 0


@pytest.mark.scenario("G10")
def test_a_seal_of_somebody_else_is_refused() -> None:
    """Nobody can sign for another replica."""
    c = Cluster()
    m = c.members[1]
    forged = signed(c, 2, 4, b"d" * 32)._replace(sender=3)
    m.give(2, forged)
    m.give(2, signed(c, 2, 4, b"d" * 32)._replace(sender=77))
    assert m.refused(2, "bad-seal") == 2


def test_a_number_that_is_no_multiple_of_k_is_refused() -> None:
    c = Cluster()
    c.members[1].give(2, signed(c, 2, 5, b"d" * 32))
    assert c.members[1].refused(2, "not-a-checkpoint-number") == 1


def test_two_signed_digests_for_one_number_are_evidence() -> None:
    """A replica signs at most one digest per number (rule 1.4)."""
    c = Cluster()
    m = c.members[1]
    m.give(2, signed(c, 2, 4, b"d" * 32))
    m.give(2, signed(c, 2, 4, b"e" * 32))
    assert [(e.culprit, e.kind) for e in m.evidence] == [(2, "two-checkpoints")]


def test_a_certificate_convinces_who_missed_the_votes() -> None:
    """q seals in one message, from anybody; q - 1 or a repeated one do not."""
    c = Cluster()
    m = c.members[1]
    votes = [signed(c, i, 4, b"d" * 32) for i in (0, 2, 3)]
    m.give(2, Stable((votes[0], votes[1])))
    m.give(2, Stable((votes[0], votes[1], votes[1])))
    m.give(2, Stable((votes[0], votes[1], signed(c, 3, 4, b"e" * 32))))
    assert low(m) == 0 and m.refused(2, "not-certified") == 3
    m.give(2, Stable((votes[0], votes[1], votes[2]._replace(seal=bytes(160)))))
    assert m.refused(2, "bad-seal") == 1
    m.give(2, Stable(tuple(votes)))
    assert low(m) == 4


@pytest.mark.parametrize("liar_first", [True, False])
def test_an_own_state_that_differs_from_the_quorums_stops_the_replica(liar_first: bool) -> None:
    """The own digest is always compared, also when the quorum came first (rule 1.8)."""
    c = Cluster()
    odd = c.members[3]
    odd.executor.lie = True
    c.open()
    if liar_first:
        c.order(4)
    else:
        odd.hold_execution = True
        c.order(4)
        for _ in range(10):
            if odd.held:
                odd.host.executed(odd.executor.execute(*odd.held.pop(0)))
            odd.flush()
            c.settle()
    assert "differs" in odd.replica.status().halted
    assert not c.primary.replica.status().halted
    c.order(4)
    assert len(c.primary.executed) == 9


@pytest.mark.scenario("D04")
def test_a_late_replica_stabilises_on_an_idle_system() -> None:
    """Who missed the CHECKPOINTs gets the certificate by STATUS, without any new request."""
    c = Cluster()
    c.open()
    c.dropped = lambda s, t, m: t == 3 and isinstance(m, Checkpoint)
    c.order(4)
    assert low(c.members[3]) == 0
    c.dropped = lambda s, t, m: False
    c.tick_all()
    assert len({(low(m), m.replica.status().stable_digest) for m in c.members}) == 1 and low(c.members[3]) == 4


@pytest.mark.scenario("D03")
def test_the_log_is_collected() -> None:
    """What lies at or below h leaves memory; the executed tail is bounded in bytes."""
    c = Cluster(retained_log_bytes=1 << 16)
    c.open()
    for m in c.members:
        m.replica.core.log.kept_from = 1 << 40
    for _ in range(300):
        c.primary.give(0x8000000000000001, c.request(operation=b"x" * 1000))
        c.settle()
    for m in c.members:
        log = m.replica.core.log
        assert len(log.slots) <= 8 and len(log.q) <= 8 and len(log.p) <= 8
        assert len(log.bodies) <= 8 and len(log.own_checkpoints) <= 3
        assert log.tail_bytes <= (1 << 16) + 4000
        assert len(m.replica.requests.in_flight) <= 8


@pytest.mark.scenario("D02")
def test_the_log_is_cut_below_a_durable_checkpoint() -> None:
    """The cut comes after everything small that still binds was written again and synced (rule 1.6)."""
    c = Cluster(retained_log_bytes=1 << 16)
    c.open()
    for _ in range(200):
        c.primary.give(0x8000000000000001, c.request(operation=b"x" * 1000))
        c.settle()
    m = c.members[1]
    m.auto_sync = False
    h = low(m)
    m.host.checkpoint_durable(h)
    m.flush()
    assert m.log.cut_below == 0, "nothing is cut before the rewritten records are synced"
    m.sync()
    assert m.log.cut_below > 100
    kept = [decode_record(r) for r in m.log.records[m.log.cut_below - 1 :]]
    assert any(isinstance(r, StableCertificate) and r.checkpoints[0].number == h for r in kept)


def test_a_replica_whose_log_was_cut_starts_from_its_checkpoint() -> None:
    """Records above the cut and the executor's checkpoint are enough."""
    from pbft.execution.results import ExecutionStart
    from pbft.host import restore

    c = Cluster(retained_log_bytes=1 << 16)
    c.open()
    for _ in range(200):
        c.primary.give(0x8000000000000001, c.request(operation=b"x" * 1000))
        c.settle()
    m = c.members[1]
    h = low(m)
    m.host.checkpoint_durable(h)
    m.flush()
    records = list(enumerate(m.log.records, 1))[m.log.cut_below - 1 :]
    replica = restore(c.group, 1, lambda b: sealed(1, b), b"", records, 2, ExecutionStart(h, b"", (), ()))
    assert replica.status().low_watermark == h
    assert replica.delivery.executed == h
    assert [e.number for e in replica.take_effects().execute] == list(range(h + 1, len(m.executed) + 1))


@pytest.mark.scenario("G19")
def test_a_useless_checkpoint_costs_no_verification() -> None:
    """Duplicates, and numbers below the window or of no checkpoint, are told before a seal is looked at."""
    c = Cluster()
    m = c.members[1]
    seen = []
    verify = m.host.inbound._authentication.seal_is_authentic
    m.host.inbound._authentication.seal_is_authentic = lambda message: seen.append(message) or verify(message)  # type: ignore[method-assign,func-returns-value]
    for _ in range(50):
        m.give(2, signed(c, 2, 4, b"d" * 32))
        m.give(2, signed(c, 2, 5, b"d" * 32))
        m.give(2, signed(c, 2, 0, b"d" * 32))
    assert len(seen) == 1


@pytest.mark.scenario("D04")
@pytest.mark.parametrize("checkpoint", [0, 4])
def test_a_diverged_replica_that_is_started_again_is_found_again(checkpoint: int) -> None:
    """Whether it executes its log once more or loads the state from its disk, that is compared with the certificate in
    its log; and once it is right it goes on, without a second digest for any number."""
    c = Cluster()
    odd = c.members[3]
    odd.executor.lie = True
    c.open()
    c.order(4)
    assert odd.replica.core.diverged
    odd.boot(checkpoint)
    c.settle()
    assert odd.replica.core.diverged and odd.replica.core.is_mute
    odd.executor.lie = False
    odd.boot(checkpoint)
    c.settle()
    assert not odd.replica.core.diverged
    c.wait(1)
    c.members[2].down = True
    c.order(4)
    c.wait(1)
    assert len(c.primary.executed) == len(odd.executed) == 9
    signed = [r for r in map(decode_record, odd.log.records) if isinstance(r, OwnCheckpoint)]
    assert len({r.checkpoint[0].number for r in signed}) == len(signed) == 2


@pytest.mark.scenario("J02")
def test_an_application_that_is_not_deterministic_is_named() -> None:
    """Two and two: no quorum can agree on a state any more, and each replica says at which number, and who signed what.
    One liar, or one that is late, is not called that."""
    c = Cluster()
    for m in c.members[2:]:
        m.executor.lie = True
    c.open()
    c.order(4)
    for m in c.members:
        said = m.replica.status().disagreement
        assert said.startswith("4: ") and "by 0, 1" in said and "by 2, 3" in said
        assert low(m) == 0 and not m.replica.core.diverged
    one = Cluster()
    one.members[3].executor.lie = True
    one.members[2].down = True
    one.open()
    one.order(4)
    assert not any(m.replica.status().disagreement for m in one.members)


@pytest.mark.scenario("C10")
def test_f_wrong_digests_neither_hold_a_checkpoint_up_nor_lead_a_late_replica_astray() -> None:
    """n = 7: two sign another one each time, first of all; the five others' becomes stable."""
    c = Cluster(7)
    late = c.members[4]
    for number in (4, 8):
        for liar in (5, 6):
            late.give(liar, signed(c, liar, number, b"w" * 32))
        for honest in (0, 1, 2, 3):
            late.give(honest, signed(c, honest, number, b"d" * 32))
        assert low(late) == number - 4, "six have spoken, and no five agree"
        late.give(0, Stable(tuple(signed(c, i, number, b"d" * 32) for i in (0, 1, 2, 3, 4))))
        assert low(late) == number and late.replica.status().stable_digest == (b"d" * 32).hex()
