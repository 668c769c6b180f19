"""All that the author of a replicated service sees.

A service is a class with two methods. Every replica has one instance and calls `execute` with the same
operations in the same order, so every replica must end in the same state with the same results. For that,
**what `execute` does may depend on three things only: the operation, `self.state`, and the context.**

    from pbft.application import Application, Context, OperationError

    class Counter(Application):
        def execute(self, operation: bytes, context: Context) -> bytes:
            try:
                step = int(operation)
            except ValueError:
                raise OperationError("the operation is a whole number") from None
            total = int(self.state.get(b"total", b"0")) + step
            self.state[b"total"] = b"%d" % total
            return b"%d" % total

        def query(self, operation: bytes, context: Context) -> bytes:
            return self.state.get(b"total", b"0")

**Not allowed in `execute` and `query`**, since two machines would do different things:

- clocks (`time`, `datetime.now`): use `context.time`, which is agreed and never goes back;
- `random`, `secrets`, `uuid4`, `os.urandom`: use `context.random`;
- the order of a `set`, and `hash()` of str or bytes, `id()`, `repr()` of objects: they differ from process to
  process (sort a set; a dict keeps the order of insertion);
- floats beyond + - * / and comparison: `math.sin` and `sum` have differed between platforms and Python
  versions; use whole numbers (cents, microseconds) or `fractions`;
- files, sockets, environment variables, locale, threads, tasks, caches that forget by memory or time;
- attributes of `self` or module variables that change: they are not transferred to a replica that catches up
  (see `OwnState` if the service is built around objects of its own);
- pickle and the like for values: the same object may be written in different bytes.

**Exceptions.** `OperationError` is an ordinary result: the client gets its text, and what the operation had
written is undone. Any other exception undoes the writes too; the client gets a fixed code without text (texts
differ between machines) and the replica lives on. A MemoryError or OSError may be local to one machine: the
operation is tried once more before it counts. Execution starts at a fixed stack depth with a fixed recursion
limit, so even a RecursionError is the same everywhere. A result larger than the configured limit counts as
failed, and its writes are undone. The replica's log says, once for each place, where an application failed. If a
replica alone takes another way nevertheless, it is outvoted, and its checkpoints differ from the certified ones.

**Time.** `execute` holds up everything else on its replica; keep it in the milliseconds and move long work in
steps.

**Operations and results** are any bytes, also none at all; b"" is a result like any other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, MutableSequence, Sequence
from typing import Any, TypeVar

from pbft.crypto.digests import digest
from pbft.state import State

__all__ = ["AgreedRandom", "Application", "Context", "OperationError", "OwnState", "OwnStateError"]

MAX_ERROR_BYTES = 1024
_T = TypeVar("_T")


class OperationError(Exception):
    """The application says no: a deliberate, deterministic failure. Its text reaches the client; its writes
    are undone.

    `message` is what the client gets: at most 1024 bytes, a longer text is cut (between characters). Put
    nothing into it that differs between replicas, such as the text of another exception.
    """

    def __init__(self, message: str | bytes = b"") -> None:
        if isinstance(message, str):
            encoded = message.encode("utf-8", "backslashreplace")
            cut = encoded[:MAX_ERROR_BYTES].decode("utf-8", "ignore").encode("utf-8")
        elif isinstance(message, bytes):
            cut = bytes(message[:MAX_ERROR_BYTES])
        else:
            raise TypeError(f"the text of an OperationError is str or bytes, not {type(message).__name__}")
        super().__init__(cut.decode("utf-8", "backslashreplace"))
        self.message: bytes = cut


class AgreedRandom:
    """Random numbers that are the same on every replica, and for each operation different ones.

    Specified here, since `random.Random` has changed between Python versions: key =
    BLAKE2b-256("agreed-seed", seed, u64 sequence number, u32 position); the stream is
    BLAKE2b-256("agreed-random", key, u64 counter) for counter 0, 1, 2, ..., and every method takes bytes from
    it in order, high byte first.

    A primary can bias it: it proposes the seed and may try several. Do not let a lottery with real money rest
    on it.
    """

    __slots__ = ("_counter", "_key", "_left")

    def __init__(self, seed: bytes, number: int, position: int) -> None:
        self._key = digest(b"agreed-seed", seed + number.to_bytes(8, "big") + position.to_bytes(4, "big"))
        self._counter = 0
        self._left = b""

    def bytes(self, n: int) -> bytes:
        """The next `n` bytes."""
        if n < 0:
            raise ValueError(f"cannot take {n} bytes")
        blocks = [self._left]
        have = len(self._left)
        while have < n:
            blocks.append(digest(b"agreed-random", self._key + self._counter.to_bytes(8, "big")))
            self._counter += 1
            have += 32
        stream = b"".join(blocks)
        self._left = stream[n:]
        return stream[:n]

    def bits(self, k: int) -> int:
        """A number from 0 to 2**k - 1. Takes whole bytes and drops the lowest bits left over."""
        if k < 0:
            raise ValueError(f"cannot take {k} bits")
        size = (k + 7) // 8
        return int.from_bytes(self.bytes(size), "big") >> (8 * size - k)

    def below(self, n: int) -> int:
        """A whole number from 0 to n - 1, each equally likely: what is not below n is drawn again."""
        if n < 1:
            raise ValueError(f"there is no whole number from 0 below {n}")
        k = (n - 1).bit_length()
        while True:
            value = self.bits(k)
            if value < n:
                return value

    def choice(self, sequence: Sequence[_T]) -> _T:
        """One element. Raises IndexError if there is none."""
        if not sequence:
            raise IndexError("cannot choose from nothing")
        return sequence[self.below(len(sequence))]

    def shuffle(self, items: MutableSequence[Any]) -> None:
        """Bring a list into random order, in place. [Fisher and Yates, from the end]"""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]


class Context:
    """What an operation may know beside itself and the state; equal on all replicas. Read-only.

    For a query that is answered without being ordered it describes the last executed batch, and different
    replicas may answer from different ones: a result that depends on it will often not match and be ordered
    instead.
    """

    __slots__ = ("_client", "_number", "_position", "_random", "_seed", "_time")

    def __init__(self, number: int, position: int, client: int, time: int, seed: bytes) -> None:
        self._number = number
        self._position = position
        self._client = client
        self._time = time
        self._seed = seed
        self._random: AgreedRandom | None = None

    @property
    def number(self) -> int:
        """Sequence number of the batch, from 1. (number, position) names an operation for ever."""
        return self._number

    @property
    def position(self) -> int:
        """Position of the operation in its batch, from 0."""
        return self._position

    @property
    def client(self) -> int:
        """Who sent the operation: the client's id, authenticated."""
        return self._client

    @property
    def time(self) -> int:
        """Agreed time: microseconds since 1970-01-01 UTC. Never goes back; equal within a batch.

        The primary proposes it, so it is only as exact as the bounds that the replicas check.
        """
        return self._time

    @property
    def seconds(self) -> int:
        """Agreed time in whole seconds, rounded down. Calculate with whole numbers; there is no float here."""
        return self._time // 1_000_000

    @property
    def random(self) -> AgreedRandom:
        """Random numbers equal on all replicas; one generator per operation."""
        if self._random is None:
            self._random = AgreedRandom(self._seed, self._number, self._position)
        return self._random

    def __repr__(self) -> str:
        return f"<Context {self._number}.{self._position} client {self._client:x} time {self._time}>"


class Application(ABC):
    """A deterministic service. See the head of this module for the rules."""

    def __init__(self, state: State) -> None:
        """`state` may be empty or filled; what should be there from the start is written at its first use."""
        self.state = state

    @abstractmethod
    def execute(self, operation: bytes, context: Context) -> bytes:
        """Carry out one operation; may read and write `self.state`. Raises OperationError to refuse."""

    @abstractmethod
    def query(self, operation: bytes, context: Context) -> bytes:
        """Answer from `self.state` without changing it; a write raises `pbft.state.ReadOnlyError`."""

    # ---- optional: for the command line

    @classmethod
    def parse(cls, words: list[str]) -> bytes:
        """The operation that `pbft call ... WORD...` means. Raises OperationError for words that mean none.

        Unless overridden: the words with a space between them, in UTF-8.
        """
        return " ".join(words).encode("utf-8", "surrogateescape")

    @classmethod
    def render(cls, operation_result: bytes) -> str:
        """The text that `pbft call` prints for a result.

        Unless overridden: UTF-8, with a backslash escape for what is not, and for what a terminal would obey.
        """
        text = operation_result.decode("utf-8", "backslashreplace")
        return "".join(
            [c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode("ascii") for c in text]
        )

    @classmethod
    def read_only(cls, operation: bytes) -> bool:
        """Whether the command line may send this operation as a query without being told so."""
        return False

    # ---- optional: reserved, consulted by later versions

    @classmethod
    def check(cls, operation: bytes) -> None:
        """Raises OperationError for an operation that no state would make sense of. Must not look at any
        state.

        Reserved: an operation that fails it need not be ordered at all, so `execute` must refuse it by itself
        too.
        """
        return

    @classmethod
    def keys(cls, operation: bytes) -> tuple[frozenset[bytes], frozenset[bytes]] | None:
        """The keys that `execute` would at most read and write, or None: any.

        Reserved: operations with disjoint keys may be executed at the same time.
        """
        return None

    # ---- optional: for state outside `self.state`, see `OwnState`

    def save(self) -> None:  # noqa: B027 - optional, not abstract
        """Called before each checkpoint: the last chance to write into `self.state` for it."""

    def load(self) -> None:  # noqa: B027 - optional, not abstract
        """Called when `self.state` was filled from outside: at the start, after a transfer or roll-back."""


class OwnStateError(Exception):
    """The service could not write out or take back its own state. The state is as it was before.

    Without it this replica cannot agree to a checkpoint: mend the application's `snapshot` or `restore`.
    """


class OwnState(Application):
    """A service around Python objects of its own, which writes them out as a sequence of chunks.

    At each checkpoint `snapshot()` is called and its chunks are cut into pieces of 4 KiB in `self.state`,
    under keys that begin with b"\\0own/"; only the pieces that changed are written, hashed and transferred.
    So give a stable division: one chunk for each part that grows or changes by itself (a table, a page of a
    table), always in the same order. Unlike with `State`, the cost of a checkpoint goes with the size of it
    all.

    `snapshot()` must depend on what was executed alone, and give the same chunks again after `restore()` of
    them. What an operation did to objects of one's own before it raised is **not** undone: check first, then
    change. `query` must change nothing; nobody can watch over that here.
    """

    PREFIX = b"\x00own/"
    PIECE_BYTES = 4096

    @abstractmethod
    def snapshot(self) -> Iterable[bytes]:
        """The whole of the own state, in chunks of any size."""

    @abstractmethod
    def restore(self, chunks: Iterable[bytes]) -> None:
        """Replace the own state by what `snapshot` once gave, in the same order; no chunks: begin anew."""

    def save(self) -> None:
        """Write what changed since the last time into `self.state`. Raises OwnStateError."""
        state, written = self.state, set()
        state.begin()
        try:
            for index, chunk in enumerate(self.snapshot()):
                if type(chunk) is not bytes:
                    raise TypeError(f"chunk {index} is {type(chunk).__name__}, not bytes")
                for piece in range(max(1, -(-len(chunk) // self.PIECE_BYTES))):
                    key = self._key(index, piece)
                    written.add(key)
                    state[key] = chunk[piece * self.PIECE_BYTES : (piece + 1) * self.PIECE_BYTES]
            for key in state.keys(self.PREFIX):
                if key not in written:
                    del state[key]
        except Exception as error:
            state.rollback()
            raise OwnStateError(f"{type(self).__name__}.snapshot() failed: {error!r}") from error
        except BaseException:
            state.rollback()
            raise
        state.commit()

    def load(self) -> None:
        """Hand the chunks in `self.state` to `restore`. Raises OwnStateError."""
        try:
            self.restore(self._chunks())
        except Exception as error:
            raise OwnStateError(f"{type(self).__name__}.restore() failed: {error!r}") from error

    def _chunks(self) -> Iterator[bytes]:
        """The chunks as they were given, empty ones too."""
        index = 0
        pieces: list[bytes] = []
        for key, piece in self.state.items(self.PREFIX):
            if key >= self._key(index + 1, 0):
                yield b"".join(pieces)
                index, pieces = index + 1, []
            pieces.append(piece)
        if pieces:
            yield b"".join(pieces)

    def _key(self, index: int, piece: int) -> bytes:
        return self.PREFIX + index.to_bytes(4, "big") + piece.to_bytes(4, "big")
