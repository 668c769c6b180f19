"""Ordered execution, exactly once: rules 1.8, 1.14, 1.15."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from execution_probe import ALICE, BOB, Bench, Probe, feed, group, opening, outcomes, request, workload
from hypothesis import given, settings
from hypothesis import strategies as st

from pbft.batch import NULL_BATCH, Answer, Kind, Outcome, decode_result, encode_batch
from pbft.config import Group
from pbft.execution import Executor, SnapshotError
from pbft.execution.results import Done, Opened
from pbft.transfer import copies


@pytest.mark.scenario("E03")
def test_a_request_executes_once_however_often_it_is_ordered() -> None:
    """The cached result comes back; the state changes once."""
    b = Bench()
    s = b.open()
    [first] = b.run(request(s, 1, b"log x"))
    [second] = b.run(request(s, 1, b"log x"))
    assert first == second
    assert outcomes(b.run(request(s, 2, b"log", kind=Kind.QUERIES))[0]) == ((0, b"x"),)


@pytest.mark.scenario("E07")
def test_the_same_id_with_another_payload_gets_the_first_result() -> None:
    """An id means one request; the second payload never executes."""
    b = Bench()
    s = b.open()
    one, two = b.run(request(s, 1, b"log a"), request(s, 1, b"log b"))
    assert one == two
    assert outcomes(b.run(request(s, 2, b"log", kind=Kind.QUERIES))[0]) == ((0, b"a"),)


@pytest.mark.scenario("E06")
@given(st.permutations(range(1, 9)))
@settings(max_examples=30, deadline=None)
def test_ids_may_come_in_any_order(ids: list[int]) -> None:
    """Requests outstanding together have no order; each executes once."""
    b = Bench()
    s = b.open()
    for i in [*ids, *ids]:
        b.run(request(s, i, b"log %d" % i))
    [answer] = b.run(request(s, 9, b"log", kind=Kind.QUERIES))
    assert sorted(outcomes(answer)[0][1]) == sorted(b"12345678")


@pytest.mark.scenario("E05", "E19")
def test_everything_that_does_not_execute_has_a_typed_answer() -> None:
    """Too old, beyond the window, unknown session, stale open: never silence (rule 1.15)."""
    b = Bench(session_window=4)
    s = b.open()
    b.run(request(s, 3, floor=2))
    huge = (1 << 64) - 1
    answers = b.run(
        request(s, 1), request(s, 2), request(s, 7, floor=2), request(s, huge, floor=2), request(s + 1, 1),
        request(huge, 1), request(s, 1, client=BOB), opening(ALICE, 9, 0), opening(ALICE, 9, 5),
    )  # fmt: skip
    assert answers == [
        (Answer.TOO_OLD, 2), (Answer.TOO_OLD, 2), (Answer.BEYOND_WINDOW, 2), (Answer.BEYOND_WINDOW, 2),
        (Answer.UNKNOWN_SESSION, s + 1), (Answer.UNKNOWN_SESSION, huge), (Answer.UNKNOWN_SESSION, s),
        (Answer.OPEN_STALE, 1), (Answer.OPEN_STALE, 1),
    ]  # fmt: skip


def test_a_floor_rises_before_ids_are_judged_and_never_falls() -> None:
    """An id that the raised floor makes room for executes; the floor of an old request lowers nothing."""
    b = Bench(session_window=4)
    s = b.open()
    assert b.run(request(s, 8, floor=5))[0][0] is Answer.DONE
    b.run(request(s, 7, floor=1))
    assert b.run(request(s, 5, floor=0)) == [(Answer.TOO_OLD, 5)]


def test_an_open_repeated_while_its_session_lives_returns_it() -> None:
    """An old signed OPEN can evict nobody (rule 1.15)."""
    b = Bench()
    s = b.open(nonce=7)
    assert b.run(opening(ALICE, 7, 0), opening(ALICE, 8, 0)) == [(Answer.OPENED, s), (Answer.OPEN_STALE, 1)]


@pytest.mark.scenario("D11")
def test_sessions_are_bounded_and_the_least_recent_of_the_same_client_goes() -> None:
    """Clients cannot evict each other; ties go by number."""
    b = Bench(sessions_per_client=2)
    other = b.open(BOB)
    first, second = b.open(), b.open()
    b.run(request(first, 1))
    third = b.open()
    assert b.run(request(second, 1)) == [(Answer.UNKNOWN_SESSION, second)]
    assert b.run(request(first, 2), request(third, 1), request(other, 1, client=BOB))[0][0] is Answer.DONE
    for _ in range(50):
        b.open()
    assert len(b.executor.start().sessions) == 3


@pytest.mark.scenario("D11")
def test_remembered_results_are_bounded_in_bytes() -> None:
    """The oldest result is dropped; that it executed is not forgotten."""
    b = Bench(result_cache_bytes=1024)
    s = b.open()
    for i in range(1, 5):
        b.run(request(s, i, b"big 400"))
    assert b.run(request(s, 1)) == [(Answer.FORGOTTEN, 1)]
    assert b.run(request(s, 4))[0][0] is Answer.DONE


def test_changes_tell_the_mirror_everything() -> None:
    """Opened and Done for all that executed; a floor that rose without execution too."""
    b = Bench()
    s = b.open()
    assert b.changes == (Opened(ALICE, s, 1, 0),)
    b.run(request(s, 3, floor=2))
    assert b.changes == (Done(ALICE, s, 3, 2),)
    b.run(request(s, 3, floor=2))
    assert b.changes == ()
    b.run(request(s, 1, floor=0), request(s + 1, 1), request(s, 900, floor=3))
    assert b.changes == (Done(ALICE, s, 0, 3),)
    small = Bench(sessions_per_client=1)
    first = small.open()
    second = small.open()
    assert small.changes == (Opened(ALICE, second, 2, first),)


@pytest.mark.scenario("E23")
@pytest.mark.parametrize(
    ("operation", "outcome"),
    [
        (b"refuse because", (Outcome.REFUSED, b"because")),
        (b"raise value", (Outcome.FAILED, b"")),
        (b"raise recursion", (Outcome.FAILED, b"")),
        (b"raise os", (Outcome.FAILED, b"")),
        (b"raise memory", (Outcome.FAILED, b"")),
        (b"deep", (Outcome.FAILED, b"")),
        (b"none", (Outcome.FAILED, b"")),
        (b"array", (Outcome.FAILED, b"")),
        (b"big 300000", (Outcome.TOO_LARGE, b"")),
    ],
)
def test_one_bad_operation_harms_no_other(operation: bytes, outcome: tuple[Outcome, bytes]) -> None:
    """Its writes are undone, those beside it stand, and the replica lives on."""
    b = Bench()
    s = b.open()
    [before, bad, after] = outcomes(b.run(request(s, 1, b"put a", operation, b"put b"))[0])
    assert (before, after) == ((0, b"ok"), (0, b"ok"))
    assert bad == outcome
    assert outcomes(b.run(request(s, 2, b"half", b"a", b"b", kind=Kind.QUERIES))[0]) == (
        (0, b"absent"), (0, b"a"), (0, b"b"),
    )  # fmt: skip


def test_local_trouble_is_retried_once() -> None:
    """An OSError may be local: the second attempt counts (DESIGN 3)."""
    b = Bench()
    assert outcomes(b.run(request(b.open(), 1, b"once"))[0]) == ((0, b"ok"),)


def test_a_query_cannot_write() -> None:
    """A read-only flag that lies is caught by the executor (4 #24)."""
    b = Bench()
    s = b.open()
    assert outcomes(b.run(request(s, 1, b"write", b"half", kind=Kind.QUERIES))[0]) == (
        (Outcome.FAILED, b""), (0, b"absent"),
    )  # fmt: skip


@pytest.mark.scenario("J06")
def test_a_huge_result_is_an_outcome_of_its_own() -> None:
    """Beyond `result_max_bytes` the operation is undone and says so, the same on every replica, however large it is;
    asked again it says the same."""
    ends = []
    for _ in range(2):
        b = Bench(result_max_bytes=1 << 20)
        s = b.open()
        sizes = [1 << 20, (1 << 20) + 1, 64 << 20]
        [answer] = b.run(request(s, 1, *[b"big %d" % size for size in sizes]))
        assert [(o, len(text)) for o, text in outcomes(answer)] == [(0, 1 << 20), *[(Outcome.TOO_LARGE, 0)] * 2]
        [after] = b.run(request(s, 2, b"half", kind=Kind.QUERIES))
        ends.append((answer, after, b.executor.snapshot().digest))
        large = request(s, 3, b"big %d" % (64 << 20))
        assert b.run(large) == b.run(large) == [(Answer.DONE, ((Outcome.TOO_LARGE, b""),))]
    assert ends[0] == ends[1]


@pytest.mark.scenario("J09")
@pytest.mark.parametrize("payload", [b"", b"\x00", bytes(range(256)), b"put "])
def test_any_bytes_are_an_operation(payload: bytes) -> None:
    b = Bench()
    assert outcomes(b.run(request(b.open(), 1, payload))[0])[0][0] in (0, 2)


@pytest.mark.scenario("J11")
def test_operations_execute_in_the_order_of_their_batch() -> None:
    """Inside a request in its order, requests in the batch's order."""
    b = Bench()
    s = b.open()
    b.run(request(s, 2, b"log a", b"log b"), request(s, 1, b"log c"))
    assert outcomes(b.run(request(s, 3, b"log", kind=Kind.QUERIES))[0]) == ((0, b"abc"),)


@pytest.mark.scenario("J12")
def test_agreed_time_never_goes_back() -> None:
    """A later batch with an older time executes at the last agreed one; NULL carries none (rule 1.14)."""
    b = Bench()
    s = b.open()
    b.time = 9_000_000
    [late] = b.run(request(s, 1, b"context"))
    b.time = 2_000_000
    b.executor.execute(b.executor.last_executed + 1, NULL_BATCH)
    [early] = b.run(request(s, 2, b"context"))
    times = [int(outcomes(a)[0][1].split()[2]) for a in (late, early)]
    assert times == [9_001_000, 9_001_000]


def test_digests_depend_on_what_was_executed_alone() -> None:
    """Queries, answers and snapshots between batches leave no trace."""
    batches = workload(30)
    quiet, busy = Executor(group(), Probe), Executor(group(), Probe)
    expected = feed(quiet, batches)
    found = []
    for b in batches:
        found += feed(busy, [b])
        busy.snapshot()
        busy.query([b"log", b"write"], ALICE)
        busy.answer(request(1 << 16, 1))
    assert found == expected and len({d for d in expected if d}) == 7


@pytest.mark.parametrize("cut", [1, 4, 17])
def test_a_restored_executor_goes_on_as_the_original(cut: int) -> None:
    """Digest, results and eviction order are those of the one that never stopped."""
    batches = workload(30)
    original = Executor(group(), Probe)
    feed(original, batches[:cut])
    snapshot = original.snapshot()
    meta, chunks = snapshot.meta(), list(snapshot.chunks())
    rest = feed(original, batches[cut:])
    restored = Executor.restore(group(), Probe, meta, chunks)
    assert restored.start().number == cut
    assert feed(restored, batches[cut:]) == rest
    assert restored.start() == original.start()


def test_a_damaged_or_foreign_snapshot_is_refused() -> None:
    original = Executor(group(), Probe)
    feed(original, workload(10))
    snapshot = original.snapshot()
    chunks = list(snapshot.chunks())
    changed = [c.replace(b"member/1", b"member/9") for c in chunks]
    for meta, content in ((snapshot.meta(), changed), (snapshot.meta(), chunks[:-1]), (b"garbage", chunks)):
        with pytest.raises(SnapshotError):
            Executor.restore(group(), Probe, meta, content)
    foreign = Group(b"d" * 32, "probe", group().replicas, group().clients, group().tunables)
    with pytest.raises(SnapshotError, match="another cluster"):
        Executor.restore(foreign, Probe, snapshot.meta(), chunks)


@pytest.mark.slow
@pytest.mark.scenario("D10")
def test_digests_do_not_depend_on_the_hash_seed() -> None:
    """Interpreters with different hash seeds agree."""
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import execution_probe as t;"
        "print([d.hex() for d in t.feed(t.Executor(t.group(), t.Probe), t.workload(40))])"
    )
    here = str(Path(__file__).parent)
    runs = {
        subprocess.run(
            [sys.executable, "-c", code, here],
            env={"PYTHONHASHSEED": seed, "PATH": ""},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert len(runs) == 1


@st.composite
def histories(draw: st.DrawFn) -> list[list[tuple[int, int]]]:
    pair = st.tuples(st.integers(1, 9), st.integers(0, 6))
    return draw(st.lists(st.lists(pair, min_size=1, max_size=5), max_size=12))


@pytest.mark.slow
@given(histories())
@settings(max_examples=150, deadline=None)
def test_exactly_once_against_a_naive_table(history: list[list[tuple[int, int]]]) -> None:
    """A set of executed ids and a floor, kept naively, agree with what executed."""
    b = Bench(session_window=5)
    s = b.open()
    floor, done, expected = 0, set(), b""
    for batch in history:
        requests = []
        for i, f in batch:
            if f >= i:
                continue
            floor = max(floor, f)
            if floor < i <= max(floor, f) + 5 and i not in done:
                done.add(i)
                expected += b"%d" % i
            requests.append(request(s, i, b"log %d" % i, floor=f))
        if requests:
            b.run(*requests)
    assert b.executor.query([b"log"], ALICE) == b.executor.query([b"log"], BOB)
    assert decode_result(b.executor.query([b"log"], ALICE))[1] == ((0, expected or b"absent"),)


@pytest.mark.scenario("C11")
def test_what_clients_were_answered_travels_with_the_state() -> None:
    """Whoever got the state from others knows what was executed for whom, and with what result."""
    b = Bench()
    s = b.open()
    done = b.run(request(s, 1, b"log x"), request(s, 2, b"context"))
    b.run()
    b.run()
    snapshot = b.executor.snapshot()
    executor = Executor.installed(b.group, Probe, copies(snapshot), snapshot.number, snapshot.history, snapshot.digest)
    for number, answer in enumerate(done, 1):
        known = executor.answer(request(s, number))
        assert known is not None and decode_result(known.result) == answer
    again = encode_batch(b.time + 1, b"s" * 16, (request(s, 1, b"log x"),))
    [result] = executor.execute(snapshot.number + 1, again).results
    assert decode_result(result.result) == done[0]
    assert executor._app_state[b"log"] == b"x"
