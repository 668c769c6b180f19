"""What the primary of a view proposes, and when: batching and pipelining. [CL99 §5.1.2], rules 1.7 e, 2.6.

Rules of this file: sends PRE-PREPARE and nothing else; that a proposal is written and counted is `ordering.py`'s.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from pbft.batch import NULL_BATCH, NULL_DIGEST, SEED_SIZE, Batch, ClientRequest, encode_batch
from pbft.config import LEAD, PROPOSALS_PER_NUMBER
from pbft.crypto.digests import digest
from pbft.messages import PrePrepare, ViewChange
from pbft.protocol.core import Core
from pbft.protocol.delivery import Delivery
from pbft.protocol.effects import ALL, invariant
from pbft.protocol.log import Slot
from pbft.protocol.requests import Requests

GROWTH = 16
"""Operations that must wait, per batch in flight, before another batch is proposed beside those (DESIGN 4)."""


class Proposer:
    """The side of the primary. `accept(slot, batch)` writes a batch as pre-prepared here; returns the log position."""

    def __init__(
        self, core: Core, requests: Requests, delivery: Delivery, accept: Callable[[Slot, Batch], int], secret: bytes
    ) -> None:
        self._core = core
        self._requests = requests
        self._delivery = delivery
        self._accept = accept
        self._secret = secret
        self.next_number = 1
        """Invariant for a primary: above every number accepted in this view, and above h."""
        self._crowded: frozenset[int] = frozenset()
        """Numbers at which, by the VIEW-CHANGEs for this view, somebody accepts nothing new. A liar may name any, so no
        more are believed than a correct replica can name: those up to LEAD above what this view begins with."""

    def start(self) -> None:
        """After a restart, in the view that the log tells of."""
        log = self._core.log
        accepted = max(log.slots, default=0)
        self.next_number = max(self.next_number, accepted + 1, log.low + 1, log.executing + 1, log.last_chosen + 1)
        if log.new_view is not None:
            self._avoid(log.new_view.view_changes)

    def on_entered(self, testimony: Iterable[ViewChange]) -> None:
        """A new view begins; `testimony` as for `Ordering.on_entered`."""
        log = self._core.log
        self.next_number = max(log.last_chosen, log.low) + 1
        self._avoid(testimony)

    def on_window_moved(self) -> None:
        """The low watermark moved."""
        self.next_number = max(self.next_number, self._core.log.low + 1)

    def _avoid(self, testimony: Iterable[ViewChange]) -> None:
        last = self._core.log.last_chosen
        self._crowded = frozenset(
            n
            for message in testimony
            for n, entries in Counter(n for n, d, _ in message.preprepared if d != NULL_DIGEST).items()
            if entries >= PROPOSALS_PER_NUMBER and last < n <= last + LEAD
        )

    def propose(self) -> None:
        """Send PRE-PREPAREs for what waits: one at once, more beside it only when they are worth it. [CL99 §5.1.2]
        While a recovery point is not stable and nothing waits, NULLs, so that it becomes so (rule 1.7 e)."""
        core, queue = self._core, self._requests.queue
        if not core.is_primary or not core.may_vote:
            return
        while queue.count or core.members.fills(core.log.low):
            number = max(self.next_number, core.log.low + 1, self._delivery.committed_through + 1)
            if number <= core.log.high and (number in self._crowded or core.log.is_crowded(number)):
                self._send_proposal(number, NULL_BATCH)  # anything else somebody would refuse
                continue
            flying = number - 1 - self._delivery.handed
            if flying >= core.tunables.pipeline_depth or number > core.log.high:
                return
            if flying > 0 and queue.operations < GROWTH * flying:
                return
            requests = self._requests.next_batch(self._delivery.executed)
            if requests:
                self._propose(number, requests)
            elif flying == 0 and core.members.fills(core.log.low):
                self._send_proposal(number, NULL_BATCH)
            else:
                return

    def _propose(self, number: int, requests: list[ClientRequest]) -> None:
        core = self._core
        invariant(
            number not in core.log.slots or core.log.slots[number].digest is None,
            "one proposal",
            number=number,
        )
        seed = digest(b"seed", self._secret + core.view.to_bytes(8, "big") + number.to_bytes(8, "big"))[:SEED_SIZE]
        self._send_proposal(number, encode_batch(core.wall, seed, requests))

    def _send_proposal(self, number: int, batch: Batch) -> None:
        core = self._core
        self.next_number = number + 1
        position = self._accept(core.log.slot(number), batch)
        # The PRE-PREPARE is the primary's vote: it does not leave while its write is under way (rule 1.5).
        core.send(ALL, PrePrepare(core.view, number, batch.digest, batch.encoded), position)
