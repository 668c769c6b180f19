"""The client table: answers without executing, eviction, rows, against a naive model. Rule 1.15."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from execution_probe import ALICE, BOB, Bench, Probe, feed, group, opening, outcomes, request, workload
from hypothesis import given, settings
from hypothesis import strategies as st

import pbft.execution.sessions as sessions_module
from pbft.batch import NULL_BATCH, Answer, ClientRequest, Kind, decode_result
from pbft.codec import dumps, loads
from pbft.config import CLIENT_PRINCIPAL
from pbft.crypto.digests import digest
from pbft.execution import ExecutionError, Executor, SnapshotError
from pbft.execution.results import Done, ExecutionStart, Opened, SessionView

STRANGER = CLIENT_PRINCIPAL | 99


def answer(b: Bench, r: ClientRequest) -> tuple[Answer, object] | None:
    found = b.executor.answer(r)
    return None if found is None else decode_result(found.result)


@pytest.mark.scenario("E03", "E05")
def test_what_was_ordered_is_answered_without_ordering_it_again() -> None:
    """Each answer of the table equals the one that execution gives, a hundred times."""
    b = Bench(session_window=4, result_cache_bytes=1024)
    s = b.open()
    b.run(request(s, 3, b"big 700", floor=2))
    b.run(request(s, 4, b"big 700", floor=2))
    old = [
        request(s, 1), request(s, 3, floor=2), request(s, 4, floor=2), request(s, 9, floor=2),
        request(s, 90, floor=40), request(s - 1, 1), opening(ALICE, 7, 0), opening(ALICE, 8, 0),
    ]  # fmt: skip
    found = [answer(b, r) for r in old]
    assert found[:5] == [
        (Answer.TOO_OLD, 2), (Answer.FORGOTTEN, 3), (Answer.DONE, ((0, b"x" * 700),)), (Answer.BEYOND_WINDOW, 2),
        (Answer.BEYOND_WINDOW, 40),
    ]  # fmt: skip
    assert found[5:] == [(Answer.UNKNOWN_SESSION, s - 1), (Answer.OPENED, s), (Answer.OPEN_STALE, 1)]
    before = b.executor.snapshot().digest
    assert all([answer(b, r) for r in old] == found for _ in range(100))
    assert b.executor.snapshot().digest == before
    assert [b.run(r)[0] for r in [*old[:4], *old[5:], old[4]]] == [*found[:4], *found[5:], found[4]]


def test_what_is_not_decided_here_is_not_answered() -> None:
    """A replica that lags says neither "unknown session" nor "stale" of what may have executed elsewhere."""
    b = Bench()
    s = b.open()
    later = (b.executor.last_executed + 1) << 16
    undecided = [request(s, 1), request(later, 1), opening(ALICE, 7, 1), opening(ALICE, 7, 2)]
    assert [answer(b, r) for r in undecided] == [None] * 4
    b.run(request(s, 2))
    assert answer(b, request(later, 1)) == (Answer.UNKNOWN_SESSION, later)


@pytest.mark.scenario("D11")
def test_a_stranger_leaves_no_trace() -> None:
    """Clients that are not in the configuration get one answer, whatever they name, and take no memory."""
    b, quiet = Bench(), Bench()
    for count in (0, 5):
        assert b.run(opening(STRANGER, 1, count)) == [(Answer.UNKNOWN_SESSION, 0)]
        assert answer(b, opening(STRANGER, 1, count)) == (Answer.UNKNOWN_SESSION, 0)
    many = [opening(CLIENT_PRINCIPAL | 1000 + i, 1, 0) for i in range(2000)]
    assert set(b.run(*many)) == {(Answer.UNKNOWN_SESSION, 0)} and b.changes == ()
    assert b.executor.start().counts == () and b.executor.start().sessions == ()
    roots = [[s.digest for s in e.snapshot().spaces[:2]] for e in (b.executor, quiet.executor)]
    assert roots[0] == roots[1]


@pytest.mark.scenario("D11")
def test_eviction_goes_by_use_then_by_number() -> None:
    """Of sessions last used in one batch the one opened first goes; a session just evicted stays unknown."""
    b = Bench(sessions_per_client=3)
    first, second, third = b.open(), b.open(), b.open()
    b.run(request(third, 1), request(second, 1), request(first, 1))
    assert b.open() > third and b.changes[0].evicted == first  # type: ignore[union-attr]
    b.open()
    assert b.changes[0].evicted == second  # type: ignore[union-attr]
    assert answer(b, request(first, 1)) == (Answer.UNKNOWN_SESSION, first)


@pytest.mark.scenario("E19")
def test_extreme_ids_burn_their_own_session_alone() -> None:
    """A client that raises its floor to the top has used that session up; its others and other clients go on."""
    b = Bench()
    mine, other, bobs = b.open(), b.open(), b.open(BOB)
    top = (1 << 64) - 1
    assert b.run(request(mine, top, floor=top - 1))[0][0] is Answer.DONE
    assert b.run(request(mine, 1), request(mine, top, floor=top - 1))[0] == (Answer.TOO_OLD, top - 1)
    assert b.run(request(other, top)) == [(Answer.BEYOND_WINDOW, 0)]
    assert [a for a, _ in b.run(request(other, 1), request(bobs, 1, client=BOB))] == [Answer.DONE] * 2
    restored = Executor.restore(b.group, Probe, b.executor.snapshot().meta(), b.executor.snapshot().chunks())
    assert restored.start() == b.executor.start()


def test_a_batch_out_of_order_is_refused() -> None:
    """Nothing has changed after it."""
    executor = Executor(group(), Probe)
    before = executor.snapshot().digest
    for number in (0, 2):
        with pytest.raises(ExecutionError, match=f"batch {number} does not follow"):
            executor.execute(number, workload(1)[0])
    assert executor.snapshot().digest == before and executor.last_executed == 0


def test_a_session_longer_than_a_value_is_written_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """It grows and shrinks over several rows, comes back from them, and leaves none when it is evicted."""
    monkeypatch.setattr(sessions_module, "PIECE_BYTES", 1000)
    b = Bench(sessions_per_client=1)
    s = b.open()
    for i, (size, floor) in enumerate([(3000, 0), (3000, 1), (10, 2), (10, 3), (2500, 4)], 1):
        b.run(request(s, i, b"big %d" % size, floor=floor))
        snapshot = b.executor.snapshot()
        rows = [key for key, _ in snapshot.spaces[1].items(b"s")]
        assert len(rows) == 1 + size // 1000
        restored = Executor.restore(b.group, Probe, snapshot.meta(), snapshot.chunks())
        assert restored.start() == b.executor.start()
        assert decode_result(restored.answer(request(s, i)).result) == answer(b, request(s, i))  # type: ignore[union-attr]
    b.open()
    assert len(list(b.executor.snapshot().spaces[1].items(b"s"))) == 1


def test_damaged_content_is_refused_before_anything_reads_it() -> None:
    """Session rows, duplicate rows and application rows alike: one typed error, no application call."""
    original = Executor(group(), Probe)
    feed(original, workload(10))
    snapshot = original.snapshot()
    chunks = list(snapshot.chunks())

    def damaged(space: int) -> Iterable[bytes]:
        for chunk in chunks:
            (rows,) = loads(chunk)
            yield dumps((tuple((i, k, b"\xff" if i == space else v) for i, k, v in rows),))

    def untouched(state: object) -> Probe:
        raise AssertionError("the application met a state that nobody had verified")

    for content in (damaged(0), damaged(1), damaged(2), [*chunks, *chunks], []):
        with pytest.raises(SnapshotError):
            Executor.restore(group(), untouched, snapshot.meta(), content)


def test_a_snapshot_stays_what_it_was_while_execution_goes_on() -> None:
    """Its chunks, read late and in pieces, restore the number it was taken at; each is bounded."""
    b = Bench()
    s = b.open()
    for i in range(1, 9):
        b.run(request(s, i, *[b"put %03d" % (i * 50 + j) + bytes(1000) for j in range(50)], floor=i - 1))
    number, snapshot = b.executor.last_executed, b.executor.snapshot()
    pieces = snapshot.chunks()
    content = [next(pieces)]
    for i in range(9, 20):
        b.run(request(s, i, b"log x", *[b"put %03d" % (i * 50 + j) for j in range(50)], floor=i - 1))
    content += pieces
    assert len(content) > 10 and max(map(len, content)) < 70_000
    restored = Executor.restore(b.group, Probe, snapshot.meta(), content)
    assert (restored.last_executed, restored.snapshot().digest) == (number, snapshot.digest)
    assert restored.history != b.executor.history


def test_history_chains_the_digests_of_all_batches() -> None:
    """history_0 names the cluster, history_n covers history_(n-1) and batch n (door 1); so does the digest."""
    one, other = Executor(group(), Probe), Executor(group(), Probe)
    expected = digest(b"history", group().cluster)
    for b in workload(6):
        assert one.history == expected
        feed(one, [b])
        expected = digest(b"history", expected + b.digest)
    assert one.history == expected == one.start().history
    feed(other, [NULL_BATCH, *workload(6)[1:]])
    feed(one, [NULL_BATCH])
    feed(other, [NULL_BATCH])
    assert one.history != other.history and one.snapshot().digest != other.snapshot().digest


@pytest.mark.scenario("J12")
def test_agreed_time_is_part_of_the_state() -> None:
    """It is in the digest, and a restored executor does not go back behind it."""
    b, later = Bench(), Bench()
    s = b.open()
    later.time += 1
    later.open()
    roots = [[space.digest for space in e.snapshot().spaces] for e in (b.executor, later.executor)]
    assert roots[0][:2] == roots[1][:2] and roots[0][2] != roots[1][2]
    agreed, snapshot = b.time, b.executor.snapshot()
    b.executor = Executor.restore(b.group, Probe, snapshot.meta(), snapshot.chunks())
    b.time = 0
    [answer] = b.run(request(s, 1, b"context"))
    assert int(outcomes(answer)[0][1].split()[2]) == agreed


def test_a_floor_makes_room_for_results_and_forgotten_ids_are_restored() -> None:
    """What the client needs no more does not count; an id whose result was dropped never executes again."""
    b = Bench(result_cache_bytes=1024)
    s = b.open()
    for i in range(1, 9):
        b.run(request(s, i, b"big 400", floor=max(0, i - 2)))
    assert [a for a, _ in b.run(request(s, 7, floor=6), request(s, 8, floor=6))] == [Answer.DONE] * 2
    b.run(request(s, 9, b"big 400", floor=6))
    snapshot = b.executor.snapshot()
    restored = Executor.restore(b.group, Probe, snapshot.meta(), snapshot.chunks())
    b.executor = restored
    assert b.run(request(s, 7, floor=6), request(s, 8, floor=6))[0] == (Answer.FORGOTTEN, 7)
    b.run(request(s, 10, b"big 400", floor=9))
    b.run(request(s, 11, b"big 400", floor=9))
    assert [a for a, _ in b.run(request(s, 10, floor=9), request(s, 11, floor=9))] == [Answer.DONE] * 2


class NaiveTable:
    """Rule 1.15 word by word, with nothing shared with the code under test."""

    def __init__(self, window: int, most: int) -> None:
        self.window, self.most, self.number = window, most, 0
        self.counts: dict[int, int] = {}
        self.live: list[dict[str, object]] = []
        self.log: list[bytes] = []

    def batch(self, requests: list[ClientRequest]) -> list[tuple[Answer, object]]:
        self.number += 1
        return [self.open(p, r) if r.kind is Kind.OPEN else self.run(r) for p, r in enumerate(requests)]

    def open(self, position: int, r: ClientRequest) -> tuple[Answer, object]:
        count = self.counts.get(r.client, 0)
        if r.floor != count:
            for s in self.live:
                if (s["client"], s["nonce"], s["count"]) == (r.client, r.id, r.floor):
                    return Answer.OPENED, s["number"]
            return Answer.OPEN_STALE, count
        mine = sorted((s["used"], s["number"]) for s in self.live if s["client"] == r.client)  # type: ignore[type-var]
        if len(mine) == self.most:
            self.live = [s for s in self.live if s["number"] != mine[0][1]]
        self.counts[r.client] = count + 1
        number = self.number * 65536 + position
        self.live.append(
            {"client": r.client, "nonce": r.id, "count": count, "number": number, "used": self.number,
             "floor": 0, "done": {}}
        )  # fmt: skip
        return Answer.OPENED, number

    def run(self, r: ClientRequest) -> tuple[Answer, object]:
        for s in self.live:
            if (s["client"], s["number"]) == (r.client, r.session):
                break
        else:
            return Answer.UNKNOWN_SESSION, r.session
        floor = s["floor"] = max(s["floor"], r.floor)  # type: ignore[type-var]
        done: dict[int, object] = s["done"]  # type: ignore[assignment]
        if r.id <= floor:  # type: ignore[operator]
            return Answer.TOO_OLD, floor
        if r.id not in done:
            if r.id > floor + self.window:  # type: ignore[operator]
                return Answer.BEYOND_WINDOW, floor
            done[r.id] = tuple((0, b"ok") for _ in r.operations)
            s["used"] = self.number
            self.log += [o.removeprefix(b"log ") for o in r.operations]
        return Answer.DONE, done[r.id]

    def sessions(self) -> list[tuple[object, ...]]:
        return sorted(
            (s["number"], s["client"], s["floor"], tuple(sorted(i for i in s["done"] if i > s["floor"])))  # type: ignore
            for s in self.live
        )


class Mirror:
    """What agreement learns: the changes and nothing else."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.live: dict[int, tuple[int, int, set[int]]] = {}

    def update(self, changes: Iterable[Opened | Done]) -> None:
        for change in changes:
            if isinstance(change, Opened):
                self.counts[change.client] = change.opens
                self.live.pop(change.evicted, None)
                self.live[change.session] = (change.client, 0, set())
            else:
                client, _, done = self.live[change.session]
                done = {i for i in done | {change.id} if i > change.floor}
                self.live[change.session] = (client, change.floor, done)

    def agrees_with(self, start: ExecutionStart) -> bool:
        views = tuple(SessionView(c, n, f, tuple(sorted(d))) for n, (c, f, d) in sorted(self.live.items()))
        return (tuple(sorted(self.counts.items())), views) == (start.counts, start.sessions)


_STEPS = st.lists(
    st.lists(
        st.one_of(
            st.tuples(st.just("open"), st.integers(0, 1), st.integers(0, 2), st.integers(-1, 1)),
            st.tuples(st.just("run"), st.integers(0, 5), st.integers(1, 9), st.integers(0, 8)),
        ),
        min_size=1,
        max_size=6,
    ),
    max_size=14,
)


@pytest.mark.slow
@pytest.mark.scenario("E06", "E07", "D11", "D10")
@given(_STEPS, st.integers(0, 13))
@settings(max_examples=150, deadline=None)
def test_the_table_does_what_the_rule_says(steps: list[list[tuple[str, int, int, int]]], cut: int) -> None:
    """Answers, executed operations, sessions and changes are those of the naive table; a restored executor goes on
    with the same digests."""
    limits = {"session_window": 4, "sessions_per_client": 2}
    b, model, mirror = Bench(**limits), NaiveTable(4, 2), Mirror()
    twin = Executor(b.group, Probe)
    label = 0
    for index, step in enumerate(steps):
        if index == cut:
            snapshot = twin.snapshot()
            twin = Executor.restore(b.group, Probe, snapshot.meta(), snapshot.chunks())
        requests = []
        for kind, a, c, d in step:
            client = (ALICE, BOB)[a % 2]
            label += 1
            if kind == "open":
                requests.append(opening(client, c, max(0, model.counts.get(client, 0) + d)))
            elif d < c:
                numbers = [s["number"] for s in model.live] or [1 << 16]
                session = numbers[a % len(numbers)]
                operations = [b"log %d;" % label] * (1 + c % 2)
                requests.append(request(session, c, *operations, floor=d, client=client))  # type: ignore[arg-type]
        if not requests:
            continue
        executed = b.execute(*requests)
        assert [decode_result(r.result) for r in executed.results] == model.batch(requests)
        mirror.update(executed.changes)
        assert mirror.agrees_with(b.executor.start())
        copy = twin.execute(twin.last_executed + 1, b.batch)
        assert (copy.results, copy.changes) == (executed.results, executed.changes)
    assert [(s.session, s.client, s.floor, s.done) for s in b.executor.start().sessions] == model.sessions()
    assert decode_result(b.executor.query([b"log"], ALICE))[1] == ((0, b"".join(model.log) or b"absent"),)
    assert twin.snapshot().digest == b.executor.snapshot().digest


@pytest.mark.scenario("J11")
def test_a_pipelined_list_has_one_order() -> None:
    """A thousand appends, several in a request and several requests in a batch, in the order of the batches."""
    b = Bench()
    s = b.open()
    words = [b"log %d " % i for i in range(1000)]
    for start in range(0, 1000, 100):
        first = start // 25 + 1
        b.run(
            *[request(s, first + j, *words[start + 25 * j : start + 25 * (j + 1)], floor=first - 1) for j in range(4)]
        )
    [answer] = b.run(request(s, 41, b"log", kind=Kind.QUERIES, floor=40))
    assert outcomes(answer)[0][1].split() == [b"%d" % i for i in range(1000)]
