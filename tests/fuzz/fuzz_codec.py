"""Coverage-guided fuzzing of everything that reads bytes of a peer: codec, batches, results, `Inbound.receive`.

    python tests/fuzz/fuzz_codec.py --seconds 60 [--seed N]

An input is a short play: who sends which bytes, when the disk is done, when time passes, when the replica crashes and
comes back from what is on disk. It is given to a replica of a group of four, once as backup and once as primary, with
K = 2 so that checkpoints and the window are in reach; view changes lead through views with other primaries. Inputs that
reach new lines of code are kept and varied further. A finding is any exception, any broken invariant, any message that
decodes and does not encode to the same bytes, any message sent that does not decode or that contradicts what was sent
before, crashes or not. Senders may be more than f at once: what is tried is that a replica stays sane, not that the
group agrees. Exit code 1 if there are findings.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import blake2b
from types import CodeType, FrameType
from typing import Any, cast

import cbor2

from pbft.batch import (
    NULL_BATCH,
    ClientRequest,
    Kind,
    decode_batch,
    decode_result,
    encode_batch,
    encode_done,
    open_body,
    operations_body,
    result_digest,
)
from pbft.codec import CodecError
from pbft.config import CLIENT_PRINCIPAL, Group, Tunables, is_client
from pbft.crypto.digests import digest
from pbft.execution.results import Done, Executed, ExecutionStart, Opened, Result
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
    Request,
    Sealed,
    Shown,
    Stable,
    Status,
    Suspect,
    ViewChange,
    decode,
    encode,
)
from pbft.protocol.core import Refused
from pbft.protocol.inbound import Inbound
from pbft.protocol.records import Record, decode_record, encode_record
from pbft.protocol.replica import Replica, fold

Step = tuple[int, bytes]
"""(sender, message), or (TICK | DISK | CRASH, b"")."""
Play = list[Step]
TICK, DISK, CRASH = -1, -2, -3
ALICE, BOB = CLIENT_PRINCIPAL + 1, CLIENT_PRINCIPAL + 2
SENDERS = (0, 1, 2, 3, ALICE, BOB)
WALL = 1_700_000_000_000_000
GROUP = Group(
    cluster=b"c" * 32,
    app="fuzz",
    replicas=tuple(bytes([i]) * 32 for i in range(4)),
    clients={ALICE: b"a" * 32, BOB: b"b" * 32},
    tunables=Tunables(checkpoint_interval=2, log_window=4, pending_per_client=4, pending_total=6, view_timeout=500),
)


# ---- the world around the replica


def state_digest(number: int) -> bytes:
    """What every correct replica of this world has at a checkpoint."""
    return digest(b"fuzz-state", number.to_bytes(8, "big"))


def seal(message: Sealed) -> bytes:
    """Stands for a signature: only the fields themselves give it."""
    return blake2b(message.signed_body(GROUP.cluster, 0), digest_size=32).digest() * 5


def sealed(message: Any) -> Any:
    """The same with a good seal; a NEW-VIEW names what it brings."""
    if isinstance(message, NewView):
        message = message._replace(named=tuple((m.sender, m.digest) for m in message.view_changes))
    return message._replace(seal=seal(message))


class FakeAuthentication:
    """Requests whose authenticator begins with 0 or 1 are authentic. What is sealed is if its seal fits, or if it is of
    replica 3, which signs anything."""

    def request_is_authentic(self, request: ClientRequest) -> bool:
        return request.authenticator[:1] in (b"\x00", b"\x01")

    def seal_is_authentic(self, message: Sealed) -> bool:
        return message.sender == 3 or message.seal == seal(message)


class World:
    """One replica with a disk and an executor that answer when the play says so."""

    def __init__(self, me: int) -> None:
        self.me = me
        self.now = 0.0
        self.records: list[Record] = []
        self.said: dict[tuple[Any, ...], object] = {}
        """What was sent for one view and number, one view, or one checkpoint: nothing else may be sent for it."""
        self.left = 0
        """The highest view for which it has sent VIEW-CHANGE: no vote below it any more."""
        self.boot(0)

    def boot(self, durable: int) -> None:
        """Start from the records up to `durable`."""
        del self.records[durable:]
        self.counts: dict[int, int] = {}
        self.sessions: dict[int, int] = {}
        log = fold(GROUP, list(enumerate(self.records, 1)))
        self.replica = Replica(GROUP, self.me, lambda b: blake2b(b, digest_size=32).digest() * 5, b"secret", log)
        self.inbound = Inbound(self.replica, FakeAuthentication())
        self.replica.set_time(self.now, WALL)
        self.replica.start(durable, 1, ExecutionStart(0, bytes(32), (), ()))
        self.settle()

    def step(self, sender: int, body: bytes) -> None:
        """One event of the play, and all that follows from it."""
        if sender == TICK:
            for _ in range(6):
                self.now += 0.05
                self.replica.set_time(self.now, WALL + int(self.now * 1e6))
                self.replica.on_tick()
        elif sender == DISK:
            self.replica.on_durable(self.replica.core.outbox.position)
        elif sender == CRASH:
            self.boot(self.replica.core.outbox.durable)
            for peer in (1, 2):
                self.inbound.receive(peer, encode(Shown(self.replica.core.boot, ())))
        elif sender != self.me:
            check_bytes(body)
            answer = self.inbound.receive(sender, body)
            assert answer is None or type(answer) is Refused, f"receive returned {answer!r}"
        self.settle()

    def settle(self) -> None:
        """Carry out effects until there are none, then look at the invariants."""
        replica = self.replica
        for _ in range(100):
            self.inbound.take_up_early()
            replica.finish()
            effects = replica.take_effects()
            for record in effects.records:
                assert decode_record(encode_record(record)) == record, f"{record!r} does not survive the log"
            self.records += effects.records
            for send in effects.sends:
                assert send.position <= replica.core.outbox.durable, f"{send!r} said before durable"
                assert decode(encode(send.message)) == send.message, f"{send.message!r} does not decode"
                self.remember(send.message)
            for number, batch in effects.execute:
                replica.on_executed(self.execute(number, batch))
            for request in effects.answers:
                replica.on_answered(self.result(request, request.session, b"again"))
            for number in effects.stable:
                replica.on_checkpoint_durable(number)
            replica.check_invariants()
            if not (effects.execute or effects.answers or effects.stable):
                break
        else:
            raise AssertionError("the effects of one event never end")
        assert len(replica.core.refused) <= (len(SENDERS)) * len(Refused), "counters of refusals grow"
        replica.status()

    def remember(self, message: Message) -> None:
        """Nothing that it sends contradicts what it has sent."""
        key: tuple[Any, ...]
        match message:
            case PrePrepare(view, number, said, _) | Prepare(view, number, said):
                key = ("vote", view, number)
            case Commit(view, number, said):
                key = ("commit", view, number)
            case ViewChange() | NewView() if message.sender == self.me:
                key, said = (type(message), message.view), message
                self.left = max(self.left, message.view)
            case Checkpoint() if message.sender == self.me:
                key, said = ("checkpoint", message.number), message.digest
            case _:
                return
        assert self.said.setdefault(key, said) == said, f"{message!r} contradicts {self.said[key]!r}"
        if isinstance(message, PrePrepare | Prepare | Commit):
            assert message.view >= self.left, f"{message!r} after VIEW-CHANGE for {self.left}"

    def execute(self, number: int, batch: Any) -> Executed:
        """A session table of the simplest kind."""
        results: list[Result] = []
        changes: list[Opened | Done] = []
        for position, request in enumerate(batch.requests):
            session = request.session
            if request.kind is Kind.OPEN:
                if self.counts.get(request.client, 0) == request.floor:
                    session = number << 16 | position
                    self.counts[request.client] = request.floor + 1
                    self.sessions[session] = request.client
                    changes.append(Opened(request.client, session, request.floor + 1, 0))
            elif self.sessions.get(session) == request.client:
                changes.append(Done(request.client, session, request.id, request.floor))
            results.append(self.result(request, session, bytes(200)))
        at_checkpoint = number % GROUP.tunables.checkpoint_interval == 0
        done = state_digest(number) if at_checkpoint else b""
        return Executed(number, batch.digest, tuple(results), tuple(changes), done)

    def result(self, request: ClientRequest, session: int, text: bytes) -> Result:
        """The row of a reply."""
        result = encode_done([(0, text)])
        return Result(
            request.client, session, request.id, request.digest, request.replier, result_digest(result), result
        )


def check_bytes(body: bytes) -> None:
    """Each parser by itself: a value that encodes to exactly these bytes, or CodecError."""
    with suppress(CodecError):
        message = decode(body)
        assert encode(message) == body, "a message that does not encode to its bytes"
        if isinstance(message, PrePrepare | Body):
            check_batch(message.batch)
        if isinstance(message, Request):
            assert ClientRequest(message.body, message.authenticator).message() == message
    check_batch(body)
    for parse in (decode_result, lambda data: ClientRequest(data, b"")):
        with suppress(CodecError):
            parse(body)
    with suppress(CodecError):
        assert encode_record(decode_record(body)) == body, "a record that does not encode to its bytes"


def check_batch(data: bytes) -> None:
    """As `check_bytes`, for a batch."""
    with suppress(CodecError):
        batch = decode_batch(data)
        again = encode_batch(batch.time, batch.seed, batch.requests).encoded if batch.requests else b""
        assert again == data, "a batch that does not encode to its bytes"


def play(steps: Play) -> None:
    """Give the input to a backup and to the primary. Whatever is raised is a finding."""
    for me in (1, 0):
        world = World(me)
        for sender, body in steps:
            world.step(sender, body)


# ---- inputs to begin with


def seeds() -> list[Play]:
    """Normal case, catching up, checkpoints, each message type, and a little of everything in one play."""
    opens = [ClientRequest(open_body(c, 7, 0), b"\x00" + bytes(32)) for c in (ALICE, BOB)]
    session = 1 << 16
    calls = [ClientRequest(operations_body(ALICE, session, i, i - 1, 255, [b"op"]), b"\x01sig") for i in (1, 2, 3)]
    doubtful = ClientRequest(operations_body(ALICE, session, 4, 0, 0, [b"", b"x"]), b"\x05")
    batches = [
        encode_batch(WALL, bytes([n]) * 16, rs) for n, rs in enumerate([opens, calls[:1], calls[1:], [doubtful]])
    ]

    def vote(number: int) -> Play:
        b = batches[number - 1]
        return [
            (0, encode(PrePrepare(0, number, b.digest, b.encoded))),
            *((i, encode(Prepare(0, number, b.digest))) for i in (1, 2, 3)),
            (DISK, b""),
            *((i, encode(Commit(0, number, b.digest))) for i in (0, 2, 3)),
            (DISK, b""),
        ]

    checkpoints = []
    for number in (2, 4):
        for i in (0, 2, 3):
            bare = Checkpoint(i, 0, number, state_digest(number), 1, 5, (), bytes(160))
            checkpoints.append(bare._replace(seal=seal(bare)))
    votes = [(c.sender, encode(c)) for c in checkpoints]
    digests = tuple(b.digest for b in batches)
    learn: Play = [
        *((i, encode(Committed(1, digests))) for i in (2, 3)),
        *((2, encode(Body(n, b.digest, b.encoded))) for n, b in enumerate(batches, 1)),
        (DISK, b""),
    ]
    own_state = ((0, bytes(32)),)

    def view_change(i: int, view: int, prepared: Any = (), low: int = 0, signed: Any = own_state) -> ViewChange:
        entries = tuple((n, batches[n - 1].digest, v) for n, v in prepared)
        return cast(ViewChange, sealed(ViewChange(i, 0, view, low, signed, entries, entries, b"")))

    def new_view(view: int, *named: ViewChange) -> NewView:
        return cast(NewView, sealed(NewView(view % 4, 0, view, (), b"", named)))

    def again(view: int, *numbers: int, null: int = 0) -> Play:
        """The new view's votes for what it begins with, and for what its primary proposes."""
        rounds: Play = []
        for n in numbers:
            b = NULL_BATCH if n == null else batches[n - 1]
            rounds += [(view % 4, encode(PrePrepare(view, n, b.digest, b.encoded)))]
            rounds += [(i, encode(Prepare(view, n, b.digest))) for i in range(4)]
            rounds += [(DISK, b""), *((i, encode(Commit(view, n, b.digest))) for i in range(4)), (DISK, b"")]
        return rounds

    def change(view: int, *prepared: tuple[int, int]) -> Play:
        """To `view`: f+1 VIEW-CHANGEs pull, q of them begin it, for its primary too."""
        s = [view_change(i, view, prepared) for i in range(4)]
        told: Play = [(m.sender, encode(m)) for m in s[::-1]]
        return [*told, (DISK, b""), (view % 4, encode(new_view(view, *s[1:]))), (DISK, b"")]

    suspected: Play = [(i, encode(Suspect(view))) for view in (0, 1, 2) for i in (2, 3)]
    stuck: Play = [(ALICE, encode(opens[0].message())), *((TICK, b"") for _ in range(4)), *suspected, (DISK, b"")]
    undecided = new_view(3, *(view_change(i, 3, ((1, 0),) if i == 2 else ()) for i in (0, 1, 2)))
    short = new_view(3, *(view_change(i, 3) for i in (0, 1)))
    late = [view_change(i, 2, ((3, 0),), 2, ((2, state_digest(2)),)) for i in range(4)]
    of_views: list[Play] = [
        suspected,
        stuck,
        [*stuck, (CRASH, b""), *change(1)],
        change(1),
        [*change(1), *again(1, 1, 2), (CRASH, b""), *again(1, 3), *change(2, (1, 1), (2, 1)), *again(2, 1, 2, 3)],
        [*vote(1), *vote(2), *change(2, (1, 0), (2, 0)), *again(2, 1, 2, 3), (TICK, b"")],
        [*again(2, 1, 2), *change(2), (DISK, b""), (DISK, b""), (CRASH, b"")],
        [*vote(1), *change(3, (1, 0), (3, 0)), *again(3, 1, 2, 3, null=2), *votes[:3], (TICK, b""), (CRASH, b"")],
        [*change(2)[:2], (DISK, b""), (CRASH, b""), (2, encode(Status(0, 0, 0, 0, 1, b"", b"", b""))), *suspected],
        [(0, encode(view_change(0, 1))), (2, encode(view_change(2, 3))), (3, encode(undecided)), (3, encode(short))],
        [*vote(1), *vote(2), *votes[:3], *vote(3), *((m.sender, encode(m)) for m in late),
         (2, encode(new_view(2, *late[1:]))), (DISK, b""), *again(2, 3, 4), *votes[3:]],
        [*change(4), *again(4, 1), (2, encode(new_view(4, *(view_change(i, 4) for i in (0, 1, 2))))), *suspected],
    ]  # fmt: skip
    each: list[Message] = [
        Suspect(0), view_change(2, 1), view_change(3, 9, ((1, 0), (2, 3))), new_view(2, *late[:3]), undecided, short,
        Status(1, 3, 0, 0, 1, b"", b"", b"\x0f"),
        calls[0].message(), opens[0].message(), doubtful.message(), Status(0, 0, 0, 0, 1, b"\x01", b"", b""),
        Status(0, 1, 2, 2, 1, b"", b"\xff" * 20, b"\x07"), Fetch(tuple(enumerate(digests, 1))),
        Nack(1, ALICE, calls[0].digest), Stable(tuple(checkpoints[:3])), Stable(tuple(checkpoints[3:])),
        Reply(0, 1, ((1, False, bytes(32), b""),)),
        Refusal(0, 1, 1, "busy"),
    ]  # fmt: skip
    single: list[Play] = [[(sender, encode(m)), (DISK, b""), (TICK, b"")] for m in each for sender in (2, ALICE)]
    normal = [*vote(1), *vote(2), *votes[:3], *vote(3), (TICK, b""), *vote(4), *votes[3:], (DISK, b""), (TICK, b"")]
    client: Play = [(ALICE, encode(r.message())) for r in (opens[0], *calls)] + [(TICK, b""), (DISK, b"")]
    return [normal, learn, learn + votes, client, client + normal, *of_views, *single, [(0, b""), (2, b"\xff")]]


# ---- variation

INTERESTING = [0, 1, 2, 3, 4, 5, 6, 7, 8, 23, 24, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, (1 << 63),
               (1 << 64) - 1, 1 << 64, 1 << 20_000, -1]  # fmt: skip
ODD: list[Any] = [True, False, None, 1.0, float("nan"), "", "x", b"", b"\x00" * 32, (), {}, cbor2.undefined, [[[]]]]
RAW = [b"\xc2\x41\x01", b"\xd9\xd9\xf7", b"\xd8\x1c", b"\xd8\x1d\x00", b"\x9f", b"\xff", b"\x9b" + b"\xff" * 8,
       b"\x5b" + b"\xff" * 8, b"\x81" * 20, b"\xd8\x23\x61a", b"\x18\x00", b"\xf6"]  # fmt: skip


class Mutator:
    """Varies plays, messages and bytes; structure first, since bytes at random rarely get past the codec."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng

    def play(self, corpus: list[Play]) -> Play:
        """A variation of one play of the corpus."""
        rng = self.rng
        steps = list(rng.choice(corpus))
        for _ in range(rng.choice((1, 1, 2, 4))):
            at = rng.randrange(len(steps) + 1)
            what = rng.randrange(8)
            if what == 0:
                steps[at:at] = rng.choice(corpus)[: rng.randrange(1, 8)]
            elif what == 1:
                steps.insert(at, (rng.choice((TICK, DISK, DISK, CRASH)), b""))
            elif at == len(steps):
                steps.append((rng.choice(SENDERS), rng.randbytes(rng.randrange(40))))
            elif what == 2:
                del steps[at : at + rng.randrange(1, 4)]
            elif what == 3:
                steps[at] = (rng.choice(SENDERS), steps[at][1])
            elif what == 4:
                steps.insert(rng.randrange(len(steps) + 1), steps[at])
            else:
                steps[at] = (steps[at][0], self.message(steps[at][1]))
        return steps[:90] or [(TICK, b"")]

    def message(self, body: bytes) -> bytes:
        """A message with something else in it, often sealed anew."""
        if self.rng.random() < 0.7:
            with suppress(Exception):  # what is no CBOR, or cannot be written as such, is varied as bytes
                return self.sealed(cbor2.dumps(self.value(cbor2.loads(body))))
        return self.bytes(body)

    def sealed(self, body: bytes) -> bytes:
        """With good seals, so that what is inside is looked at."""
        if self.rng.random() < 0.3:
            return body
        with suppress(CodecError):
            message = decode(body)
            if isinstance(message, NewView):
                message = message._replace(view_changes=tuple(map(sealed, message.view_changes)))
            if isinstance(message, Checkpoint | ViewChange | NewView):
                return encode(sealed(message))
        return body

    def value(self, value: Any) -> Any:
        """A value with one part of it changed."""
        rng = self.rng
        if isinstance(value, list) and value and rng.random() < 0.9:
            at = rng.randrange(len(value))
            what = rng.randrange(12)
            if what == 0:
                return value[:at] + value[at + 1 :]
            if what == 1:
                return value[:at] + [value[at]] * rng.choice((2, 3, 300)) + value[at + 1 :]
            return [*value[:at], self.value(value[at]), *value[at + 1 :]]
        if rng.random() < 0.1:
            return rng.choice(ODD)
        if type(value) is int:
            near = value + rng.choice((-1, 1, 2, -2, 4))
            return near if rng.random() < 0.6 else rng.choice(INTERESTING)
        if type(value) is bytes:
            return self.message(value) if rng.random() < 0.3 else self.bytes(value)
        return rng.choice(ODD)

    def bytes(self, data: bytes) -> bytes:
        """Bytes with a few changed, cut out or put in."""
        rng = self.rng
        at = rng.randrange(len(data) + 1)
        what = rng.randrange(5)
        if what == 0:
            return data[:at]
        if what == 1:
            return data[:at] + rng.choice(RAW) + data[at + rng.randrange(3) :]
        if what == 2:
            return data[:at] + data[at + rng.randrange(1, 9) :]
        if what == 3:
            return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]
        return data[:at] + rng.randbytes(1) + data[at + 1 :]


# ---- coverage


class Coverage:
    """Lines of `pbft` that were reached; on Python 3.12 by `sys.monitoring`, before that by `sys.settrace`."""

    def __init__(self) -> None:
        self.points: set[tuple[CodeType, int]] = set()
        self._left: dict[CodeType, set[int]] = {}

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Collect while inside."""
        if sys.version_info >= (3, 12):
            with self._monitored():
                yield
            return
        before = sys.gettrace()
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(before)

    @contextmanager
    def _monitored(self) -> Iterator[None]:
        monitoring: Any = sys.monitoring  # type: ignore[attr-defined,unused-ignore]
        tool = 4

        def line(code: CodeType, number: int) -> Any:
            if self._is_ours(code):
                self.points.add((code, number))
            return monitoring.DISABLE  # each line is of interest once; afterwards it costs nothing

        monitoring.use_tool_id(tool, "fuzz")
        try:
            monitoring.register_callback(tool, monitoring.events.LINE, line)
            monitoring.set_events(tool, monitoring.events.LINE)
            yield
        finally:
            monitoring.set_events(tool, 0)
            monitoring.free_tool_id(tool)

    @staticmethod
    def _is_ours(code: CodeType) -> bool:
        return "pbft" in code.co_filename and __file__ != code.co_filename

    def _call(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any] | None:
        code = frame.f_code
        left = self._left.get(code)
        if left is None:
            ours = self._is_ours(code)
            left = self._left[code] = {n for _, _, n in code.co_lines() if n} if ours else set()
            left.discard(code.co_firstlineno)
        return self._line if left else None  # a function whose lines were all seen is not traced any more

    def _line(self, frame: FrameType, event: str, argument: Any) -> Callable[..., Any]:
        if event == "line":
            self.points.add((frame.f_code, frame.f_lineno))
            self._left[frame.f_code].discard(frame.f_lineno)
        return self._line


# ---- the search


def where(error: BaseException) -> str:
    """What kind of finding this is: type and place."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {last.name} at {last.filename}:{last.lineno}"


def attempt(steps: Play) -> BaseException | None:
    """What the play raises."""
    try:
        play(steps)
    except Exception as error:
        return error
    return None


def shrink(steps: Play, kind: str) -> Play:
    """Leave out steps as long as the same finding remains."""
    at = 0
    while at < len(steps):
        fewer = steps[:at] + steps[at + 1 :]
        error = attempt(fewer)
        if error is not None and where(error) == kind:
            steps = fewer
        else:
            at += 1
    return steps


def fuzz(seconds: float, seed: int) -> tuple[int, int, int, dict[str, tuple[Play, str]]]:
    """(executions, coverage points, plays kept, findings by kind)."""
    mutator, coverage = Mutator(random.Random(seed)), Coverage()
    corpus: list[Play] = []
    findings: dict[str, tuple[Play, str]] = {}
    waiting = seeds()
    executions, deadline = 0, time.monotonic() + seconds
    with coverage.watch():
        while waiting or time.monotonic() < deadline:
            steps = waiting.pop(0) if waiting else mutator.play(corpus)
            known = len(coverage.points)
            error = attempt(steps)
            executions += 1
            if error is not None:
                kind = where(error)
                if kind not in findings:
                    findings[kind] = (shrink(steps, kind), "".join(traceback.format_exception(error)))
            if len(coverage.points) > known or not corpus:
                corpus.append(steps)
    return executions, len(coverage.points), len(corpus), findings


def main() -> int:
    """Run for a while and say what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    executions, points, kept, findings = fuzz(arguments.seconds, arguments.seed)
    for kind, (steps, trace) in findings.items():
        print(f"--- {kind}\n{trace}input, to be given to play():")
        for sender, body in steps:
            print(f"    ({sender if not is_client(sender) else hex(sender)}, bytes.fromhex({body.hex()!r})),")
    print(f"seed {arguments.seed}: executions {executions}, coverage points {points}, corpus {kept}, ", end="")
    print(f"findings {len(findings)}")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
