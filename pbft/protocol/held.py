"""Fresh PRE-PREPAREs that cannot be accepted yet: their time lies ahead (rule 1.14), requests in them are not known to
be authentic here (2.4 b and c, rule 1.17), or too much was proposed at their numbers already. They wait in their
slots; this file decides when the wait is over.
"""

from __future__ import annotations

from collections.abc import Callable

from pbft.batch import NULL_DIGEST, Batch, ClientRequest
from pbft.config import LEAD
from pbft.messages import Nack, PrePrepare
from pbft.protocol.core import Core
from pbft.protocol.delivery import Delivery
from pbft.protocol.effects import ALL
from pbft.protocol.log import Held, Slot
from pbft.protocol.requests import Requests

HELD_BYTES = 32 << 20
"""Of PRE-PREPAREs that are held."""


class HeldProposals:
    """What the primary has proposed and this replica cannot vote for yet. `accept(slot, batch)`: the wait is over."""

    def __init__(
        self, core: Core, requests: Requests, delivery: Delivery, accept: Callable[[Slot, Batch], None]
    ) -> None:
        self._core = core
        self._requests = requests
        self._delivery = delivery
        self._accept = accept
        self._numbers: set[int] = set()
        """Numbers of slots that hold one, and perhaps of some that do no more."""

    def hold(
        self, slot: Slot, message: PrePrepare, batch: Batch, unverified: tuple[bytes, ...], unknown: tuple[bytes, ...]
    ) -> None:
        """Hold a PRE-PREPARE that nothing else speaks against; it is accepted at once if nothing is doubtful.
        `unverified`, `unknown`: as for `Ordering.on_pre_prepare`."""
        if not self._has_room(slot.number, len(batch.encoded)):
            return
        wanted = {*unverified, *unknown}
        doubtful = {r.digest: r for r in batch.requests if r.digest in wanted}
        slot.held = Held(message, batch, list(doubtful.values()), set())
        self._numbers.add(slot.number)
        self.try_accept(slot)
        if slot.held is not None and unverified:
            failed = set(unverified)
            by_client = {r.client: r for r in slot.held.doubtful if r.digest in failed}
            for request in by_client.values():  # one each: a NACK demotes its client
                self._say_unverifiable(slot.number, request)

    def _has_room(self, number: int, size: int) -> bool:
        """Whether a PRE-PREPARE of this size is held beside the others: what no backup ever accepts would fill the
        memory of all with a window of the largest batches. The lowest numbers are held, and one at least; for the
        others STATUS asks again."""
        slots = self._core.log.slots
        held = {n: slots[n].held for n in self._numbers if n in slots}
        bytes_held = size + sum(len(h.batch.encoded) for h in held.values() if h is not None)
        for n in sorted((n for n in held if held[n] is not None), reverse=True):
            if bytes_held <= HELD_BYTES or n < number:
                break
            bytes_held -= len(slots[n].held.batch.encoded)  # type: ignore[union-attr]
            slots[n].held = None
            self._numbers.discard(n)
        return bytes_held <= HELD_BYTES or not self._numbers

    def on_unverifiable(self, request: ClientRequest) -> None:
        """A signature that was being looked at does not verify: the proposals that carry it stay held."""
        for number in sorted(self._numbers):
            slot = self._core.log.slots.get(number)
            held = None if slot is None else slot.held
            if held is not None and request.client not in held.told and request in held.doubtful:
                held.told.add(request.client)  # one of each client: a NACK demotes it
                self._say_unverifiable(number, request)

    def _say_unverifiable(self, number: int, request: ClientRequest) -> None:
        """NACK, to all; and propose only signed requests of that client from now on (rule 1.17)."""
        if request.client in self._core.group.clients:
            self._core.send(ALL, Nack(number, request.client, request.digest))
            self._requests.demote(request.client, self._delivery.executed)

    def try_accept(self, slot: Slot) -> None:
        """Accept what a slot holds, if anything, once its time has come and its requests are authentic."""
        core = self._core
        held = slot.held
        if held is None or slot.digest is not None or not core.may_vote:
            return
        if slot.number > self._delivery.committed_through + LEAD:
            return  # held until this replica has come nearer
        if held.batch.time > core.wall + core.tunables.clock_skew_max * 1000:
            return  # rule 1.14: held until then, not refused
        if self._is_one_too_many(slot.number, held.batch.digest) and not self._is_prepared_by_f(slot, held):
            return
        if held.doubtful and not self._vouched(slot, held):
            return
        slot.held = None
        self._numbers.discard(slot.number)
        self._accept(slot, held.batch)

    def _vouched(self, slot: Slot, held: Held) -> bool:
        """2.4 b and c: every doubtful request was verified here before, or f backups prepared the batch, so that one
        correct replica verified it."""
        if self._is_prepared_by_f(slot, held):
            return True
        while held.doubtful and self._requests.knows(held.doubtful[-1]):
            held.doubtful.pop()
        return not held.doubtful

    def _is_prepared_by_f(self, slot: Slot, held: Held) -> bool:
        """Whether f backups have accepted it: if the primary is faulty, one of them is correct."""
        core, digest = self._core, held.message.digest
        backups = sum(1 for sender, d in slot.prepares if d == digest and sender != core.primary)
        return backups >= core.quorums.vouching_prepares

    def _is_one_too_many(self, number: int, digest: bytes) -> bool:
        """Whether Q would name more batches at this number than one replica takes by itself (`PROPOSALS_PER_NUMBER`).
        Refused for good, it would let a liar that crowds other numbers at each of the others stop every primary that
        does not hear from all of them in time what is crowded where."""
        log = self._core.log
        is_new = number > log.last_chosen and digest != NULL_DIGEST and digest not in log.q.get(number, ())
        return is_new and log.is_crowded(number)

    def retry(self) -> None:
        """A held PRE-PREPARE may have come of age, or its requests may have been verified since."""
        for number in sorted(self._numbers):
            slot = self._core.log.slots.get(number)
            if slot is None or slot.held is None:
                self._numbers.discard(number)
            else:
                self.try_accept(slot)

    def forget(self) -> None:
        """The view has been left: nothing held is voted for any more."""
        for number in self._numbers:
            if (slot := self._core.log.slots.get(number)) is not None:
                slot.held = None
        self._numbers.clear()

    def on_window_moved(self) -> None:
        """Numbers at or below the low watermark are gone."""
        if self._numbers:
            self._numbers = {n for n in self._numbers if n > self._core.log.low}
