"""Runs the executor in a thread of its own, so that an application that takes long, or never ends, stops neither links
nor heartbeats nor timers (J04, J05). Application code starts at the same stack depth every time.

`submit` waits a moment for the result: for quick applications that saves waking the event loop once more.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable
from queue import Empty, SimpleQueue

from pbft.batch import Batch, ClientRequest
from pbft.double_execution import Shadow
from pbft.execution import ExecutionSnapshot, Executor
from pbft.execution.results import Executed, Result

QUICK = 0.002
"""Seconds that `submit` waits; far below any timer of the protocol."""

ANSWERS_OF_CLIENT = 16
ANSWERS = 1024
"""Questions to the table that may wait for the executor, of one client and in all; what comes above that is dropped,
and its client asks again."""

_AT_ONCE = 128
"""Results that one `collect` gives out."""

RECURSION_LIMIT = 2000
STACK_BYTES = 64 << 20


class ExecutorThread:
    """One executor, one thread. All methods but the thread's own are called by the event loop's thread."""

    def __init__(self, executor: Executor, checkpoint_interval: int, notify: Callable[[], None], kept: int = 4) -> None:
        """`notify` is called in the executor's thread when results wait to be collected. `kept`: so many of the newest
        states are kept; that at h must be among them, however far a group goes on whose h stands still."""
        self._executor = executor
        self._kept = kept
        self._interval = checkpoint_interval
        self._notify = notify
        self._jobs: SimpleQueue[tuple[int, Batch] | ClientRequest | None] = SimpleQueue()
        self._results: SimpleQueue[Executed | tuple[int, Result | None]] = SimpleQueue()
        self._outstanding = 0
        self._answering: Counter[int] = Counter()
        """Client -> questions of it that wait for the executor."""
        self._waiting = False
        self._snapshots: dict[int, ExecutionSnapshot] = {}
        if executor.last_executed and executor.last_executed % checkpoint_interval == 0:
            self._keep_snapshot(executor.last_executed)  # a stored one: others may need it
        self.shadow: Shadow | None = None
        """Executes everything once more, if it is there; set before the first batch."""
        self.failure: BaseException | None = None
        """What ended the thread: a fault of this code, never of an application."""
        sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION_LIMIT))
        previous = threading.stack_size(STACK_BYTES)
        try:
            self._thread = threading.Thread(target=self._run, name="executor", daemon=True)
            self._thread.start()
        finally:
            threading.stack_size(previous)

    @property
    def outstanding(self) -> int:
        """Jobs handed in whose results were not collected."""
        return self._outstanding

    def submit(self, number: int, batch: Batch) -> Executed | None:
        """Execute a batch; its result if that was quick, else None and `collect` returns it later."""
        self._jobs.put((number, batch))
        self._outstanding += 1
        if self._outstanding > 1:
            return None
        self._waiting = True
        try:
            result = self._results.get(timeout=QUICK)
        except Empty:
            return None
        finally:
            self._waiting = False
        self._outstanding -= 1
        assert isinstance(result, Executed)
        return result

    def answer(self, request: ClientRequest) -> Result | None:
        """What the table says of a request: at once while the executor is idle, else by `collect`."""
        if not self._outstanding:
            return self._executor.answer(request)
        waiting = self._answering
        if waiting[request.client] < ANSWERS_OF_CLIENT and waiting.total() < ANSWERS:
            waiting[request.client] += 1
            self._jobs.put(request.without_operations())
            self._outstanding += 1
        return None

    def collect(self) -> list[Executed | Result]:
        """Results that have come since. Raises what ended the thread."""
        if self.failure is not None:
            raise self.failure
        found: list[Executed | Result] = []
        while not self._results.empty() and len(found) < _AT_ONCE:
            self._outstanding -= 1
            result = self._results.get_nowait()
            if isinstance(result, Executed):
                found.append(result)
                continue
            client, answer = result
            self._answering[client] -= 1
            if not self._answering[client]:
                del self._answering[client]
            if answer is not None:
                found.append(answer)
        if not self._results.empty():
            self._notify()
        return found

    def snapshot(self, number: int) -> ExecutionSnapshot | None:
        """The state after `number`, a multiple of K, if it is still kept."""
        return self._snapshots.get(number)

    def newest_snapshot(self) -> ExecutionSnapshot | None:
        """The newest state that is kept, if any is."""
        return self._snapshots[max(self._snapshots)] if self._snapshots else None

    def replace(self, executor: Executor) -> None:
        """Go on with another executor, which stands at a multiple of K; this one has nothing to do."""
        assert not self._outstanding
        self._executor = executor
        if self.shadow is not None:
            self.shadow.follow(executor)
        self._snapshots.clear()
        self._keep_snapshot(executor.last_executed)

    def close(self) -> None:
        """Let the thread end after its present job; it is not waited for."""
        self._jobs.put(None)

    # ---- the thread

    def _run(self) -> None:
        try:
            while (job := self._jobs.get()) is not None:
                if isinstance(job, ClientRequest):
                    self._results.put((job.client, self._executor.answer(job)))
                else:
                    done = self._executor.execute(*job)
                    if self.shadow is not None:
                        self.shadow.execute(*job, done)
                    if job[0] % self._interval == 0:
                        self._keep_snapshot(job[0])
                    self._results.put(done)
                if not self._waiting:
                    self._notify()
        except BaseException as error:
            self.failure = error
            self._notify()

    def _keep_snapshot(self, number: int) -> None:
        self._snapshots[number] = self._executor.snapshot()
        while len(self._snapshots) > self._kept:
            del self._snapshots[min(self._snapshots)]
