"""STATUS, and who resends what to whom. Rules 1.13, 2.7; 4 #27.

Any replica serves what another one lacks: batch bodies by digest, stable certificates, and by COMMITTED what it has
executed, as far below as its retained log reaches. What a peer can make this replica send is bounded per interval.
"""

from __future__ import annotations

from pbft.batch import decode_batch
from pbft.codec import CodecError
from pbft.messages import Body, Commit, Committed, Fetch, Prepare, PrePrepare, Stable, Status, ViewChange, encode
from pbft.protocol.checkpoints import Checkpoints
from pbft.protocol.core import Core, Refused
from pbft.protocol.delivery import Delivery
from pbft.protocol.effects import ALL
from pbft.protocol.log import Slot
from pbft.protocol.ordering import Ordering
from pbft.protocol.requests import Requests
from pbft.protocol.view_change import ViewChanges

_COMMITTED_AT_ONCE = 256
_FETCH_AT_ONCE = 64
_BYTES_PER_INTERVAL = 4 << 20
"""What one peer can make this replica send between two of its own STATUS."""
_VOTE_COST = 2048
"""A small message costs its handling, not its bytes."""
_STATUS_PER_INTERVAL = 16
_FETCH_REPLY_BYTES = 1 << 20
_STATUS_BITS = 1 << 16
"""Numbers above the executed one that a STATUS tells of: one that slept long says so in pieces."""
_STARVED = 8
"""STATUS intervals without word from f+1 others of what comes next, after which a certified state is fetched."""
_SILENT = 16
"""STATUS intervals for which one that did not send a body is asked only if there is nobody else."""
_RELAY_PAUSE = 8
"""STATUS intervals between two copies of a VIEW-CHANGE that a peer cannot tell us it has."""


class Retransmission:
    """Asks for what is missing here and answers what is missing elsewhere."""

    def __init__(
        self,
        core: Core,
        requests: Requests,
        delivery: Delivery,
        ordering: Ordering,
        checkpoints: Checkpoints,
        views: ViewChanges,
    ) -> None:
        self._core = core
        self._requests = requests
        self._delivery = delivery
        self._ordering = ordering
        self._checkpoints = checkpoints
        self._views = views
        self._next_status = 0.0
        self._next_interval = 0.0
        self._served: dict[int, int] = {}
        self._answered: dict[int, int] = {}
        self._shown_view: set[int] = set()
        """Peers that were sent NEW-VIEW and VIEW-CHANGEs in this interval: they are large, so once each (4 #27)."""
        self._relayed: dict[tuple[int, int], tuple[int, float]] = {}
        """(peer, origin) -> (view, when) of the last VIEW-CHANGE of `origin` that went to `peer` from here."""
        self._asked: dict[int, tuple[float, int, int]] = {}
        """Number -> (when its body was asked for, how many times, of whom last)."""
        self._silent: dict[int, float] = {}
        """Who did not send a body that it was asked for -> until when others are asked first."""
        self._untold: set[tuple[int, bytes]] = set()
        """What `Ordering.untold` said an interval ago."""
        self._offered_to = 0
        """Highest number that some COMMITTED named: executed up to here, more is asked for at once."""
        self._peers: dict[int, Status] = {}
        self._fed_at: float | None = None
        """When this replica last stood at the newest vouched state, or f+1 vouched for what comes next here."""

    @property
    def interval(self) -> float:
        """Seconds between two STATUS messages."""
        return self._core.tunables.status_interval / 1000

    # ---- asking

    def on_tick(self) -> None:
        """Send STATUS when its time has come, or at once after something above the window was missed."""
        core = self._core
        if core.log.vouched[0] <= self._delivery.executed or self._delivery.behind or self._fed_at is None:
            self._fed_at = core.now
        if core.now >= self._next_interval:
            # On a schedule of its own: who makes this replica ask early all the time must not keep the budgets of the
            # others from being filled again.
            self._next_interval = core.now + self.interval
            self._served.clear()
            self._answered.clear()
            self._shown_view.clear()
            self._requests.begin_interval()
            self._requests.review(self._delivery.executed)
            self._requests.forward_again()
        if core.now < self._next_status and not self._ordering.ask_now:
            return
        if core.now < self._next_status - self.interval * 0.5:
            return  # never much more often than the interval, whatever others send
        self._next_status = core.now + self.interval
        self._fetch_untold()
        core.behind = self.cannot_catch_up
        self._ordering.ask_now = False
        core.send(ALL, self.status())

    def on_peer_up(self, peer: int) -> None:
        """A link to a replica is up: tell it what is missing here. What went over an earlier one may be lost."""
        self._relayed = {key: last for key, last in self._relayed.items() if key[0] != peer}
        self._core.send(peer, self.status())

    def status(self) -> Status:
        """What this replica has. [rule 2.7]"""
        core, base = self._core, self._delivery.executed + 1
        accepted = prepared = 0
        for number, slot in core.log.slots.items():
            if base <= number < base + _STATUS_BITS:
                accepted |= (slot.digest is not None) << (number - base)
                prepared |= bool(slot.prepared_at) << (number - base)
        held = sum(1 << s for s, m in self._views.collected.items() if m.view == core.log.promised)
        return Status(
            core.view,
            core.log.promised,
            core.log.low,
            base - 1,
            core.log.first_retained,
            _bitmap(accepted),
            _bitmap(prepared),
            _bitmap(held),
        )

    def fetch_learned(self) -> None:
        """For numbers that f+1 say are committed: take the body from the log, or fetch it from one who has it."""
        core, delivery = self._core, self._delivery
        wanted: dict[int, list[tuple[int, bytes]]] = {}
        for count, (number, digest) in enumerate(delivery.learned()):
            if count >= _FETCH_AT_ONCE:
                break
            body = core.log.find(number, digest)
            if body is not None:
                delivery.learn(number, digest, body)
            else:
                self._want(number, digest, delivery.claimants(number, digest), wanted)
        for number, digest in self._ordering.missing_chosen()[:_FETCH_AT_ONCE]:
            others = [i for i in range(core.quorums.n) if i != core.me]
            self._want(number, digest, self._views.vouchers(number, digest) or others, wanted)
        self._fetch(wanted)

    def _fetch_untold(self) -> None:
        """Proposals that have not come for a whole interval, although f+1 backups have them."""
        untold = self._ordering.untold()
        wanted: dict[int, list[tuple[int, bytes]]] = {}
        for number, digest in [entry for entry in untold if entry in self._untold][:_FETCH_AT_ONCE]:
            votes = self._core.log.slots[number].prepares
            self._want(number, digest, [s for s, d in votes if d == digest and s != self._core.primary], wanted)
        self._untold = set(untold)
        self._fetch(wanted)

    def _fetch(self, wanted: dict[int, list[tuple[int, bytes]]]) -> None:
        for peer, entries in wanted.items():
            self._core.send(peer, Fetch(tuple(entries)))

    def _want(self, number: int, digest: bytes, holders: list[int], wanted: dict[int, list[tuple[int, bytes]]]) -> None:
        """Ask one of those who should have a body, another one each time; who did not send one is asked after the
        others: a liar claims everything first, and would have half of all bodies come an interval later."""
        now = self._core.now
        when, times, last = self._asked.get(number, (-1e9, 0, self._core.me))
        if now - when < self.interval:
            return
        if times:
            self._silent[last] = now + _SILENT * self.interval
        prompt = [h for h in holders if self._silent.get(h, 0.0) <= now] or holders
        holder = prompt[(number + self._core.me + times) % len(prompt)]
        self._asked[number] = (now, times + 1, holder)
        wanted.setdefault(holder, []).append((number, digest))

    def on_body(self, sender: int, message: Body) -> Refused | None:
        """A body that was asked for; believed because it hashes to the digest that f+1 vouch for."""
        core, delivery = self._core, self._delivery
        wanted = (message.number, message.digest)
        is_learned, is_chosen = wanted in delivery.learned(), wanted in self._ordering.missing_chosen()
        is_untold = wanted in self._untold and wanted in self._ordering.untold()
        if message.number not in self._asked or not (is_learned or is_chosen or is_untold):
            return core.refuse(sender, Refused.NOT_WANTED)
        try:
            batch = decode_batch(message.batch)
        except CodecError:
            return core.refuse(sender, Refused.MALFORMED)
        if batch.digest != message.digest:
            return core.refuse(sender, Refused.WRONG_DIGEST)
        del self._asked[message.number]
        if is_learned:
            delivery.learn(message.number, message.digest, batch)
        if is_chosen:
            self._ordering.supply(message.number, batch)
        if is_untold:
            self._ordering.tell(message.number, batch)
        return None

    def on_progress(self) -> None:
        """What was offered has executed: ask for the next piece now, not at the next interval."""
        if self._offered_to and self._delivery.executed >= self._offered_to:
            self._offered_to = 0
            self._core.send(ALL, self.status())
        if len(self._asked) > 2 * _FETCH_AT_ONCE:
            self._asked = {n: a for n, a in self._asked.items() if n > self._delivery.handed}

    def note_offer(self, first: int, count: int) -> None:
        """A peer offers COMMITTED numbers: when a full portion came, there may be more behind it."""
        if count >= _COMMITTED_AT_ONCE:
            self._offered_to = max(self._offered_to, first + count - 1)

    @property
    def cannot_catch_up(self) -> bool:
        """Whether f+1 others have executed more and none that answers still retains what is needed next."""
        mine = self._delivery.executed
        ahead = [s for s in self._peers.values() if s.last_executed > mine]
        weak = self._core.quorums.weak
        return len(ahead) >= weak and sum(s.first_retained <= mine + 1 for s in ahead) == 0

    @property
    def lags(self) -> bool:
        """Whether this replica has not heard of enough others, or is more than K batches behind what one correct one of
        them has executed."""
        quorums, heard = self._core.quorums, sorted(s.last_executed for s in self._peers.values())
        if len(heard) < quorums.n - quorums.f - 1:
            return True
        return heard[-quorums.weak] > self._delivery.executed + self._core.tunables.checkpoint_interval

    @property
    def needs_state(self) -> bool:
        """Asked while the newest vouched state is above what has executed here. Whether f+1 others have executed more,
        and fewer than the f+1 whose word would do retain what is needed next; one that only says it does must not keep
        this replica from fetching a state. Or whether it has waited long enough for that word: whoever says that it
        retains what is needed does not say what it is, and of those for whom a view began from a state only one correct
        replica may have it."""
        if self._fed_at is not None and self._core.now - self._fed_at > _STARVED * self.interval:
            return True
        mine, weak = self._delivery.executed, self._core.quorums.weak
        ahead = [s for s in self._peers.values() if s.last_executed > mine]
        return len(ahead) >= weak and sum(s.first_retained <= mine + 1 for s in ahead) < weak

    # ---- answering

    def on_status(self, sender: int, status: Status) -> Refused | None:
        """Resend what `sender` lacks: certificate, CHECKPOINTs, COMMITTED, and votes of the present view."""
        core = self._core
        self._answered[sender] = answered = self._answered.get(sender, 0) + 1
        if answered > _STATUS_PER_INTERVAL or self._served.get(sender, 0) > _BYTES_PER_INTERVAL:
            return core.refuse(sender, Refused.TOO_OFTEN)
        self._peers[sender] = status
        if status.stable < core.log.low:
            core.send(sender, Stable(core.log.certificate))
        for checkpoint in self._checkpoints.own_above(status.stable):
            core.send(sender, checkpoint)
        self._offer_committed(sender, status.last_executed)
        if status.view < core.view or status.promised < core.log.promised or not core.is_active:
            self._resend_views(sender, status)
        if status.view == core.view and core.may_vote:
            self._resend_votes(sender, status)
        return None

    def _resend_views(self, sender: int, status: Status) -> None:
        """Bring a replica into the present view by its NEW-VIEW, however many it slept through; and VIEW-CHANGEs, own
        and others', for views above its own that it lacks. Signed: anybody may relay them (rules 1.12, 1.13)."""
        core = self._core
        if sender in self._shown_view:
            return
        self._shown_view.add(sender)
        if core.log.new_view is not None and status.view < core.view and status.promised <= core.view:
            self._count(sender, len(encode(core.log.new_view)))
            core.send(sender, core.log.new_view, None if core.is_primary else 0)
        held = int.from_bytes(status.view_changes, "little")
        for origin, message in self._views.collected.items():
            known = held >> origin & 1 if message.view == status.promised else self._relayed_lately(sender, message)
            if origin != sender and not known and message.view >= status.promised and message.view > status.view:
                self._relayed[sender, origin] = (message.view, core.now)
                self._count(sender, len(encode(message)))
                core.send(sender, message, None if origin == core.me else 0)

    def _relayed_lately(self, peer: int, message: ViewChange) -> bool:
        """For one of a view above the one that the peer has left for, of which its STATUS says nothing: liars may send
        huge ones for views far away, and these must not go round at every STATUS of everybody (4 #27)."""
        view, when = self._relayed.get((peer, message.sender), (0, 0.0))
        return view == message.view and self._core.now - when < _RELAY_PAUSE * self.interval

    def _offer_committed(self, sender: int, executed: int) -> None:
        core, tail = self._core, self._core.log.tail
        first = executed + 1
        if first > self._delivery.executed or first < core.log.first_retained:
            return
        last = min(self._delivery.executed, executed + _COMMITTED_AT_ONCE)
        digests = tuple(tail[n].digest for n in range(first, last + 1))
        self._count(sender, 40 * len(digests))
        core.send(sender, Committed(first, digests))

    def _resend_votes(self, sender: int, status: Status) -> None:
        core = self._core
        base = status.last_executed + 1
        accepted = int.from_bytes(status.accepted, "little")
        prepared = int.from_bytes(status.prepared, "little")
        for number, slot in core.log.slots.items():
            if slot.digest is None or core.now - slot.touched < self.interval / 2:
                continue
            if number >= base:
                self._resend(sender, slot, accepted >> (number - base) & 1, prepared >> (number - base) & 1)
            elif number > self._delivery.executed:
                # It has executed this in an earlier view and says no more of it, but its COMMIT of this view may be
                # the one that is missing here: n = 4, one down, and only the sender had executed when the view changed.
                self._resend(sender, slot, 1, 0)

    def _resend(self, sender: int, slot: Slot, has_accepted: int, has_prepared: int) -> None:
        core = self._core
        assert slot.digest is not None and slot.batch is not None
        if self._served.get(sender, 0) > _BYTES_PER_INTERVAL:
            return
        self._count(sender, _VOTE_COST)
        if not has_prepared:
            if core.is_primary and not has_accepted:
                self._count(sender, len(slot.batch.encoded))
                message = PrePrepare(core.view, slot.number, slot.digest, slot.batch.encoded)
                core.send(sender, message, slot.accepted_at)
            if not core.is_primary or slot.number <= core.log.last_chosen:
                core.send(sender, Prepare(core.view, slot.number, slot.digest), slot.accepted_at)
        if slot.prepared_at:
            core.send(sender, Commit(core.view, slot.number, slot.digest), slot.prepared_at)

    def on_fetch(self, sender: int, message: Fetch) -> Refused | None:
        """Serve bodies by digest, to anyone in the group, within the peer's budget (4 #27)."""
        core = self._core
        sent = 0
        for number, digest in message.wanted:
            if self._served.get(sender, 0) > _BYTES_PER_INTERVAL:
                return core.refuse(sender, Refused.TOO_OFTEN)
            encoded = core.log.encoded(number, digest)
            if encoded is None:
                continue
            if sent and sent + len(encoded) > _FETCH_REPLY_BYTES:
                break
            sent += len(encoded)
            self._count(sender, len(encoded) + 64)
            core.send(sender, Body(number, digest, encoded))
        return None

    def _count(self, peer: int, size: int) -> None:
        self._served[peer] = self._served.get(peer, 0) + size


def _bitmap(bits: int) -> bytes:
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")
