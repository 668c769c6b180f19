"""Each batch executed a second time by another instance of the application, on a state of its own: what the two do
differently is not a function of the batch. For tests and staging, at twice the cost (`double_execution`).

Both run in one process, so that what differs between processes alone, as the order of a set of strings, is for
`pbft apps check`, and for the comparison of checkpoints.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import islice

from pbft.application import Application
from pbft.batch import Batch
from pbft.config import Group
from pbft.execution import Executor
from pbft.execution.results import Executed
from pbft.execution.snapshots import told_key
from pbft.state import PagedBucket, State
from pbft.transfer import copies

log = logging.getLogger("pbft.application")

_NAMED = 8


class Shadow:
    """The second execution. Used by the executor's thread."""

    def __init__(
        self,
        group: Group,
        application: Callable[[State], Application],
        first: Executor,
        paging: type[PagedBucket] | None = None,
    ) -> None:
        """Begins where `first` stands; raises what `Executor.installed` does."""
        self._group, self._application, self._paging = group, application, paging
        self.compared = 0
        """Batches."""
        self.differing = 0
        self.last = ""
        """The newest sentence about a difference."""
        self.follow(first)

    def follow(self, first: Executor) -> None:
        """Go on from where another executor stands."""
        self._first, at = first, first.snapshot()
        spaces = copies(at, self._paging)
        self._second = Executor.installed(self._group, self._application, spaces, at.number, at.history, at.digest)

    def execute(self, number: int, batch: Batch, done: Executed) -> None:
        """The batch that the first executor has just executed, once more. After a difference it follows the first."""
        again = self._second.execute(number, batch)
        self.compared += 1
        results = [mine == its for mine, its in zip(done.results, again.results, strict=True)]
        if all(results) and done.state_digest == again.state_digest:
            return
        self.differing += 1
        self.last = f"batch {number} executed twice {self._told(results)}"
        log.error("the application is not deterministic: %s", self.last)
        self.follow(self._first)

    def _told(self, results: list[bool]) -> str:
        if not all(results):
            return f"gives other results: of requests {[i for i, is_same in enumerate(results) if not is_same]}"
        found: list[str] = []
        pairs = zip(self._first.snapshot().spaces, self._second.snapshot().spaces, strict=True)
        for space, (mine, its) in enumerate(pairs):
            found += [told_key(space, key) for key, _, _ in islice(mine.diff(its), _NAMED + 1)]
        keys = ", ".join(found[:_NAMED]) + (", and more" if len(found) > _NAMED else "")
        return f"gives other states since the checkpoint before: {keys}"
