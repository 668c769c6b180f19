"""One replica's agreement: takes events, hands them to the parts, and gives out their effects.

Start here. Events: `on_request`, `on_message` (decoded and authenticated by `inbound.py`), `on_durable`, `on_executed`,
`on_answered`, `on_peer_up`, `on_tick`; after any number of them `finish()` closes the sweep and `take_effects()` hands
out what they caused, in the order that `effects.py` defines.
"""

from __future__ import annotations

from dataclasses import dataclass

from pbft.batch import Batch, ClientRequest
from pbft.config import Group
from pbft.execution.results import Executed, ExecutionStart, Recovered, Result
from pbft.messages import (
    Body,
    Checkpoint,
    Commit,
    Committed,
    Fetch,
    Hello,
    Message,
    Nack,
    NewView,
    Position,
    Prepare,
    PrePrepare,
    Shown,
    Stable,
    Status,
    Suspect,
    ViewChange,
)
from pbft.protocol.checkpoints import Checkpoints
from pbft.protocol.core import Core, Refused, Sign
from pbft.protocol.delivery import Delivery
from pbft.protocol.effects import Effects, invariant
from pbft.protocol.floor import Floor
from pbft.protocol.log import Log
from pbft.protocol.ordering import Ordering
from pbft.protocol.positions import OLD_COPY, Positions
from pbft.protocol.records import Boot, ClientKey, Record
from pbft.protocol.recovery import Recovery
from pbft.protocol.requests import Requests
from pbft.protocol.retransmission import Retransmission
from pbft.protocol.sessions import SessionMirror
from pbft.protocol.suspicion import NO_CONDITIONS, Conditions, Suspicion
from pbft.protocol.view_change import ViewChanges


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """A snapshot for operators, logs, tests and the simulator."""

    id: int
    view: int
    primary: int
    in_view_change: bool
    last_executed: int
    incarnation: int
    """The one in which it votes, or last did as far as it knows. Rule 1.7."""
    recovery_point: int
    """It votes in its present incarnation since a state at or above this was stable; 0 if it never recovered."""
    stable_checkpoint: int
    stable_digest: str
    low_watermark: int
    high_watermark: int
    pending_requests: int
    halted: str
    """Why this replica does not vote; empty while it does."""
    disagreement: str
    """Number of a checkpoint on whose state no quorum can agree any more, and who signed which; else empty."""
    lost: bool
    """It has lost its past and has not recovered: it needs a quorum of others that have theirs. Rule 1.7."""
    behind: bool
    """Further behind than what the others retain: it waits for somebody who still has what it lacks."""
    demotions: int
    retained_from: int
    promised: int
    """The view that it has left for; its view while it is active there."""
    view_changes: tuple[int, ...]
    """Whose VIEW-CHANGEs for `promised` or above are here."""
    suspects: tuple[int, ...]
    """Who suspects the primary of `promised` now, this replica included."""
    request_waited_s: float | None
    blamed_for: str
    """Why it holds the present primary to be below the floor; empty if it does not."""
    timer_s: float | None
    """Seconds until its view timer runs out; None while it does not run."""
    missing_bodies: int
    """Batches that the view begins with and that are not here yet."""


class Replica:
    """The agreement of one replica. Pure: the same events give the same effects."""

    def __init__(self, group: Group, me: int, sign: Sign, secret: bytes, log: Log | None = None) -> None:
        """`sign` seals bytes with this incarnation's key; `secret` seeds the randomness that this primary proposes;
        `log` is the fold of the records found on disk."""
        self.core = Core(group, me, sign, log or Log(group.quorums, group.tunables))
        self.mirror = SessionMirror(group.tunables.session_window, self.core.members)
        self.requests = Requests(self.core, self.mirror)
        self.delivery = Delivery(self.core, self.requests, self.mirror)
        self.ordering = Ordering(self.core, self.requests, self.delivery, secret)
        self.checkpoints = Checkpoints(self.core)
        self.suspicion = Suspicion(self.core, self.requests)
        self.floor = Floor(self.core, self.requests, self.suspicion)
        self.views = ViewChanges(self.core, self.ordering, self.suspicion)
        self.retransmission = Retransmission(
            self.core, self.requests, self.delivery, self.ordering, self.checkpoints, self.views
        )
        self.positions = Positions(self.core)
        self._wants_state = False
        self.recovery = Recovery(self.core, self.delivery, self.retransmission, secret)

    def start(self, position: int, boot: int, execution: ExecutionStart, lost: str = "") -> None:
        """Begin: the log reaches `position`, all of it durable; the executor stands at `execution`.

        `lost` says how this replica has lost its past, if so: it recovers before it votes (rule 1.7).
        """
        core = self.core
        core.outbox.position = core.outbox.durable = position
        core.boot = boot
        core.record(Boot(boot))
        self.recovery.start(lost)
        self.checkpoints.start()
        self.delivery.start(execution)
        self.checkpoints.on_loaded(execution.number, execution.state_digest)
        self.positions.start(position)
        if not core.unheard:
            self._take_part()

    def _take_part(self) -> None:
        """What is in the log counts again, and this replica votes, unless something else keeps it from that."""
        self.ordering.start()
        self.views.start()

    # ---- events

    def set_time(self, now: float, wall: int) -> None:
        """`now`: seconds that never go back; `wall`: microseconds since the epoch by this machine's clock."""
        self.core.now = max(self.core.now, now)
        self.core.wall = self.mirror.wall = wall

    def on_request(self, sender: int, request: ClientRequest, authentic: bool) -> Refused | None:
        """A REQUEST from its client, or forwarded by a backup."""
        return self.requests.on_request(sender, request, authentic, self.delivery.executed)

    def on_pre_prepare(
        self,
        sender: int,
        message: PrePrepare,
        batch: Batch,
        unverified: tuple[bytes, ...],
        unknown: tuple[bytes, ...] = (),
    ) -> Refused | None:
        """A PRE-PREPARE with its parsed batch; `unverified` are digests of requests that failed verification here,
        `unknown` of those whose signatures are being verified: `on_request_verified` tells."""
        return self.ordering.on_pre_prepare(sender, message, batch, unverified, unknown)

    def on_request_verified(self, request: ClientRequest, verdict: bool) -> None:
        """A signature that was unknown when its request came, alone or in a PRE-PREPARE, was looked at."""
        if verdict:
            self.requests.note_verified(request)
        else:
            self.ordering.held.on_unverifiable(request)

    def on_message(self, sender: int, message: Message) -> Refused | None:
        """Any other message of a replica, authenticated as from `sender`, its seals verified."""
        match message:
            case Prepare():
                return self.ordering.on_prepare(sender, message)
            case Commit():
                return self.ordering.on_commit(sender, message)
            case Checkpoint():
                return self.checkpoints.on_checkpoint(sender, message)
            case Stable():
                return self.checkpoints.on_stable(sender, message)
            case Committed():
                refused = self.delivery.on_committed(sender, message)
                if refused is None:
                    self.retransmission.note_offer(message.first, len(message.digests))
                return refused
            case Status():
                return self.retransmission.on_status(sender, message)
            case Fetch():
                return self.retransmission.on_fetch(sender, message)
            case Body():
                return self.retransmission.on_body(sender, message)
            case Nack():
                self.requests.on_nack(sender, message, self.delivery.executed)
                return None
            case Position():
                return self.positions.on_position(sender, message)
            case Hello():
                return self.positions.on_hello(sender, message)
            case Shown():
                return self._on_shown(sender, message)
            case Suspect():
                return self.suspicion.on_suspect(sender, message)
            case ViewChange():
                return self.views.on_view_change(sender, message)
            case _:
                return self.core.refuse(sender, Refused.WRONG_ROLE)

    def _on_shown(self, sender: int, message: Shown) -> Refused | None:
        was_unheard = self.core.unheard
        refused = self.positions.on_shown(sender, message)
        if self.core.is_old_copy:
            self.core.is_old_copy = False
            self.recovery.start_again(OLD_COPY)
            self.core.accuse(self.core.me, "lost", f"{OLD_COPY}; it recovers before it votes")
        if was_unheard and not self.core.unheard:
            self._take_part()
        return refused

    def on_new_view(self, sender: int, message: NewView, seals_verify: bool) -> Refused | None:
        """A NEW-VIEW, its own seal verified; `seals_verify`: those of the VIEW-CHANGEs that it names do too."""
        return self.views.on_new_view(sender, message, seals_verify)

    def on_durable(self, position: int) -> None:
        """The log is on disk up to `position`: what waited leaves, own votes count."""
        self.core.outbox.release(position, self.core.effects.sends)
        self.recovery.on_durable(position)
        self.ordering.on_durable(position)
        self.checkpoints.on_durable(position)
        self.views.on_durable(position)

    def on_executed(self, done: Executed) -> None:
        """The executor finished a batch."""
        self.delivery.on_executed(done)
        ended = [change.replica for change in done.changes if isinstance(change, Recovered)]
        for replica in ended:
            if replica != self.core.me:
                self.ordering.drop_votes(replica)
        if ended:
            self.views.forget_ended()
        if done.state_digest:
            self.checkpoints.on_executed(done.number, done.state_digest)
        self.retransmission.on_progress()
        self.suspicion.on_executed()
        if self.delivery.behind or self.core.log.low > done.number:
            self.suspicion.on_catching_up()

    def on_answered(self, result: Result) -> None:
        """The replicated table answered a request of `Effects.answers`."""
        self.delivery.on_answered(result)

    def on_installed(self, start: ExecutionStart) -> None:
        """The executor stands at a state that came from others; it is on disk. Rule 2.9."""
        self.delivery.install(start)
        self.checkpoints.on_loaded(start.number, start.state_digest)
        self.views.forget_ended()
        self.retransmission.on_progress()
        self.suspicion.on_catching_up()

    def on_peer_up(self, peer: int) -> None:
        """A link to another replica is up."""
        self.retransmission.on_peer_up(peer)
        self.positions.on_peer_up(peer)

    def on_client_key(self, client: int, key_id: bytes, key: bytes) -> None:
        """The key of a client's link was used for the first time: what it authenticates must be verifiable after a
        crash."""
        if key_id not in self.core.log.client_keys.get(client, {}):
            self.core.record(ClientKey(client, key_id, key))

    def on_keys_ended(self, peer: int) -> None:
        """The old session keys with a replica have ended (rule 1.18)."""
        self.ordering.drop_votes(peer)

    def on_tick(self, conditions: Conditions = NO_CONDITIONS) -> None:
        """Time has passed; called at least every 50 milliseconds."""
        self.retransmission.on_tick()
        self.floor.on_tick(self.delivery.executed)
        self.recovery.on_tick()
        self.positions.on_tick()
        self.suspicion.on_tick(conditions)

    def resign(self) -> None:
        """This replica is about to stop: a primary leaves its view, so that the others need not wait (4 #46)."""
        if self.core.is_primary and self.core.is_active and not self.core.is_mute:
            self.views.leave(self.core.view + 1)

    def on_declared(self) -> bool:
        """What `Effects.reborn` asked for is done: this replica votes from now on. False if it did already."""
        declared = self.recovery.on_declared()
        if declared:
            self._take_part()
        return declared

    def on_checkpoint_durable(self, number: int) -> None:
        """State `number`, stable, is on disk: the log below may go (rule 1.6)."""
        self.checkpoints.on_state_durable(number)

    def finish(self) -> None:
        """The sweep is over: everything that arrived is the next batch. Waiting for nothing (DESIGN 1.4)."""
        self.views.step()
        self.ordering.on_window_moved()
        self.ordering.accept_chosen()
        self.ordering.held.retry()
        self.retransmission.fetch_learned()
        self.delivery.hand_over()
        self.recovery.step()
        self.checkpoints.sign()
        self.ordering.propose()
        for requests in self.ordering.fresh:
            self.floor.on_accepted(requests)
        self.ordering.fresh.clear()
        self.requests.executor_is_full = self.delivery.is_full
        self.suspicion.watch(self.delivery.committed_through)
        if self.ordering.contradicted or (self.core.is_active and self.core.is_void):
            self.suspicion.suspect_now()

    def take_effects(self) -> Effects:
        """Everything caused since the last call."""
        effects, self.core.effects = self.core.effects, Effects()
        return effects

    # ---- looking

    @property
    def state_wanted(self) -> tuple[int, bytes] | None:
        """(number, digest) of the state to get from others: what comes next here, too few of them retain."""
        vouched = self.core.log.vouched
        if self.core.diverged and not self.core.halted:
            return vouched
        if vouched[0] <= self.delivery.executed:
            self._wants_state = False
            return None
        # Once wanted it stays so until it is here: what others say in between must not throw away what has come.
        self._wants_state = self._wants_state or self.retransmission.needs_state
        return vouched if self._wants_state else None

    def status(self) -> ReplicaStatus:
        """A frozen snapshot."""
        core = self.core
        return ReplicaStatus(
            id=core.me,
            view=core.view,
            primary=core.primary,
            in_view_change=not core.is_active,
            last_executed=self.delivery.executed,
            incarnation=core.incarnation,
            recovery_point=core.members.point(core.me),
            stable_checkpoint=core.log.low,
            stable_digest=self.checkpoints.stable_digest.hex(),
            low_watermark=core.log.low,
            high_watermark=core.log.high,
            pending_requests=self.requests.queue.count,
            halted=core.halted or core.diverged or self.recovery.text or self.positions.text,
            disagreement=self.checkpoints.split,
            lost=bool(core.lost),
            behind=core.behind,
            demotions=self.requests.demotions,
            retained_from=core.log.first_retained,
            promised=core.log.promised,
            view_changes=tuple(sorted(s for s, m in self.views.collected.items() if m.view >= core.log.promised)),
            suspects=tuple(sorted(self.suspicion.fresh(core.log.promised))),
            request_waited_s=_rounded(self.suspicion.waited),
            blamed_for=self.suspicion.blamed_for,
            timer_s=_rounded(self.suspicion.runs_out_in),
            missing_bodies=len(self.ordering.missing_chosen()),
        )

    def check_invariants(self) -> None:
        """What must hold after each step; run by the simulator and the tests."""
        core, log = self.core, self.core.log
        invariant(log.low % core.tunables.checkpoint_interval == 0, "h is a multiple of K", low=log.low)
        invariant(all(log.low < n <= log.high for n in log.slots), "slots lie in the window", low=log.low)
        invariant(all(log.low < n <= log.high for table in (log.p, log.q) for n in table), "P and Q lie in the window")
        invariant(log.view <= log.promised, "left only upwards", view=log.view, promised=log.promised)
        invariant(all(m.view > log.view for m in self.views.collected.values()), "VIEW-CHANGEs are of later views")
        invariant(self.delivery.executed <= self.delivery.handed, "executed only what was handed over")
        invariant(core.outbox.durable <= core.outbox.position, "durable within the log")
        for slot in log.slots.values():
            invariant(not slot.prepared_at or slot.digest is not None, "prepared has a digest", number=slot.number)
            invariant(not slot.committed or bool(slot.prepared_at), "committed was prepared", number=slot.number)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 2)


def fold(group: Group, records: list[tuple[int, Record]]) -> Log:
    """The log as it stood when the last of these records was written."""
    log = Log(group.quorums, group.tunables)
    for position, record in records:
        log.apply(record, position)
    return log
