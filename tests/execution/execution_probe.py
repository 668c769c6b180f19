"""An application that does as it is told, and an executor fed with batches of requests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pbft.application import Application, Context, OperationError
from pbft.batch import (
    Answer,
    Batch,
    ClientRequest,
    Kind,
    decode_result,
    encode_batch,
    open_body,
    operations_body,
)
from pbft.config import CLIENT_PRINCIPAL, Group, Tunables
from pbft.execution import Executor
from pbft.execution.results import Done, Executed, Opened
from pbft.state import State

ALICE = CLIENT_PRINCIPAL | 1
BOB = CLIENT_PRINCIPAL | 2


class Probe(Application):
    """An application that does what the operation says."""

    def execute(self, operation: bytes, context: Context) -> bytes:
        word, _, rest = operation.partition(b" ")
        if word == b"put":
            self.state[rest] = rest
        elif word == b"refuse":
            self.state[b"half"] = b"written"
            raise OperationError(rest)
        elif word == b"raise":
            self.state[b"half"] = b"written"
            raise {b"value": ValueError, b"recursion": RecursionError, b"os": OSError, b"memory": MemoryError}[rest]
        elif word == b"deep":
            return self.execute(operation, context)
        elif word == b"none":
            return None  # type: ignore[return-value]
        elif word == b"array":
            return bytearray(b"x")  # type: ignore[return-value]
        elif word == b"big":
            self.state[b"half"] = b"written"
            return b"x" * int(rest)
        elif word == b"log":
            self.state[b"log"] = self.state.get(b"log", b"") + rest
        elif word == b"once":
            if b"tried" not in self.__dict__.setdefault("seen", set()):
                self.__dict__["seen"].add(b"tried")
                raise OSError("local trouble")
        elif word == b"context":
            return b"%d %d %d %d" % (context.number, context.position, context.time, context.random.below(1 << 30))
        return b"ok"

    def query(self, operation: bytes, context: Context) -> bytes:
        if operation == b"write":
            self.state[b"half"] = b"written"
        return self.state.get(operation, b"absent")


def group(**tunables: int) -> Group:
    return Group(
        cluster=b"c" * 32,
        app="probe",
        replicas=tuple(bytes([i]) * 32 for i in range(4)),
        clients={ALICE: b"a" * 32, BOB: b"b" * 32},
        tunables=Tunables(**({"checkpoint_interval": 4, "log_window": 8} | tunables)),
    )


class Bench:
    """An executor fed with batches of requests."""

    def __init__(self, application: Callable[[State], Application] | None = None, **tunables: int) -> None:
        self.group = group(**tunables)
        self.executor = Executor(self.group, application or Probe)
        self.changes: tuple[Opened | Done, ...] = ()
        self.time = 1_000_000

    def execute(self, *requests: ClientRequest) -> Executed:
        """One batch, kept as `batch`."""
        self.time += 1000
        self.batch = encode_batch(self.time, b"s" * 16, requests)
        done = self.executor.execute(self.executor.last_executed + 1, self.batch)
        self.changes = done.changes
        return done

    def run(self, *requests: ClientRequest) -> list[tuple[Answer, object]]:
        """One batch; the decoded answers."""
        return [decode_result(r.result) for r in self.execute(*requests).results]

    def open(self, client: int = ALICE, nonce: int = 7) -> int:
        """A fresh session."""
        count = dict(self.executor.start().counts).get(client, 0)
        [(answer, session)] = self.run(opening(client, nonce, count))
        assert answer is Answer.OPENED and isinstance(session, int)
        return session


def opening(client: int, nonce: int, count: int) -> ClientRequest:
    return ClientRequest(open_body(client, nonce, count), b"")


def request(
    session: int, id: int, *operations: bytes, floor: int = 0, client: int = ALICE, kind: Kind = Kind.OPERATIONS
) -> ClientRequest:
    return ClientRequest(operations_body(client, session, id, floor, 255, operations or [b"ok"], kind), b"")


def outcomes(answer: tuple[Answer, object]) -> Sequence[tuple[int, bytes]]:
    assert answer[0] is Answer.DONE
    return answer[1]  # type: ignore[return-value]


def feed(executor: Executor, batches: list[Batch]) -> list[bytes]:
    return [executor.execute(executor.last_executed + 1, b).state_digest for b in batches]


def workload(count: int) -> list[Batch]:
    """Two clients, floors that rise, operations that fail."""
    return [encode_batch(1000, b"s" * 16, [opening(ALICE, 7, 0), opening(BOB, 8, 0)])] + [
        encode_batch(
            1000 + i,
            b"s" * 16,
            [
                request(1 << 16, i, b"put %d" % (i % 17), b"log %d" % i, floor=max(0, i - 5)),
                request(1 << 16 | 1, i, b"context", b"raise value", floor=max(0, i - 9), client=BOB),
            ],
        )
        for i in range(1, count)
    ]
