"""Leaving a view and beginning the next one: VIEW-CHANGE, NEW-VIEW. Rules 1.3, 1.5, 1.12, 2.6; [CL99 §4.4].

Who leaves v for v' signs one VIEW-CHANGE for v', durable before it is sent, and never votes below v' again. primary(v')
names q of them in its NEW-VIEW; what the view begins with follows from those by `decision.decide`, which everybody
recomputes on exactly the named ones.

Rules of this file: the only place that leaves or enters a view; knows no time (`suspicion.py` does).
"""

from __future__ import annotations

from pbft.messages import NewView, ViewChange, encode
from pbft.protocol.core import Core, Refused
from pbft.protocol.decision import decide, is_consistent, judge_new_view
from pbft.protocol.effects import ALL, invariant
from pbft.protocol.ordering import Ordering
from pbft.protocol.records import Entered, Left
from pbft.protocol.suspicion import Suspicion


class ViewChanges:
    """VIEW-CHANGEs of everybody, the newest of each; who leaves, who begins."""

    def __init__(self, core: Core, ordering: Ordering, suspicion: Suspicion) -> None:
        self._core = core
        self._ordering = ordering
        self._suspicion = suspicion
        self.collected: dict[int, ViewChange] = {}
        """Sender -> its VIEW-CHANGE of the highest view (4 #40: one each, however far the view)."""
        self._own: tuple[int, ViewChange] | None = None
        """(log position, own VIEW-CHANGE that is being written)."""
        self._invalid: int | None = None
        """A view, promised when it came, whose primary signed an invalid NEW-VIEW."""
        self._changed = True
        """Something came that `step` has not looked at."""

    def start(self) -> None:
        """After a restart the own VIEW-CHANGE counts again; it is on disk."""
        own = self._core.log.view_change
        if own is not None and not self._core.is_active:
            self.collected[self._core.me] = own
            self._suspicion.on_left()

    # ---- VIEW-CHANGE

    def refuse_view_change(self, message: ViewChange) -> Refused | None:
        """The cheap reasons, before the seal is looked at (4 #26). A duplicate changes nothing and is no fault."""
        core = self._core
        if not 0 <= message.sender < core.quorums.n or message.sender == core.me:
            return Refused.WRONG_ROLE
        if core.members.has_ended(message.sender, message.incarnation):
            return Refused.ENDED  # it would testify that nothing was prepared (rule 1.7 b)
        known = self.collected.get(message.sender)
        if known is not None and known.incarnation != message.incarnation:
            if known.incarnation > message.incarnation:
                return Refused.ENDED
            known = None
        if message.view <= core.log.view or (known is not None and message.view < known.view):
            return Refused.STALE_VIEW
        if not is_consistent(message, core.tunables.log_window):
            return Refused.INCONSISTENT
        return None

    def holds(self, message: ViewChange) -> bool:
        """Whether this very VIEW-CHANGE was verified here before."""
        return self.collected.get(message.sender) == message

    def on_view_change(self, sender: int, message: ViewChange) -> Refused | None:
        """VIEW-CHANGE(v', ...) of its sender, relayed by anybody, its seal verified."""
        core = self._core
        if reason := self.refuse_view_change(message):
            return core.refuse(sender, reason)
        known = self.collected.get(message.sender)
        if known is not None and known[1:3] == message[1:3]:
            if known[:7] != message[:7]:
                text = f"two signed VIEW-CHANGEs for view {message.view}"
                core.accuse(message.sender, "two-view-changes", text, known, message)
                return core.refuse(sender, Refused.EQUIVOCATION)
            return None
        self.collected[message.sender] = message
        self._changed = True
        return None

    def forget_ended(self) -> None:
        """Somebody has a new incarnation: a VIEW-CHANGE of an older one counts no longer, neither for leaving nor in a
        NEW-VIEW of this replica (rule 1.7 b)."""
        ended = self._core.members.has_ended
        self.collected = {s: m for s, m in self.collected.items() if not ended(s, m.incarnation)}

    # ---- leaving (rule 1.12)

    def step(self) -> None:
        """At the end of each sweep: leave if f+1 replicas say so, begin the view if this is its primary."""
        core = self._core
        if core.is_mute:
            return
        while (view := self._reason_to_leave()) is not None:
            self.leave(view)
        if core.is_active or not self._changed:
            return
        self._changed = False
        promised = core.log.promised
        if sum(m.view >= promised for m in self.collected.values()) >= core.quorums.strong:
            self._suspicion.await_new_view()
        self._try_new_view(promised)

    def _reason_to_leave(self) -> int | None:
        """The view to go to: f+1 distinct replicas suspect this one now or have left it, or its primary has resigned
        or signed an invalid NEW-VIEW."""
        core = self._core
        current, weak = core.log.promised, core.quorums.weak
        suspects = self._suspicion.fresh(current)
        if not suspects and not self.collected:  # as in almost every sweep
            return current + 1 if self._invalid == current else None
        above = {s: m.view for s, m in self.collected.items() if m.view > current}
        if len(above) >= weak:
            return sorted(above.values(), reverse=True)[weak - 1]
        if len(suspects | above.keys()) >= weak:
            return current + 1
        if core.quorums.primary(current) in above or self._invalid == current:
            return current + 1
        return None

    def leave(self, view: int) -> None:
        """Entered when: `_reason_to_leave`, or a primary resigns. Signs the one VIEW-CHANGE for `view` (rule 1.5)."""
        core = self._core
        invariant(view > core.log.promised, "views are left upwards", view=view, promised=core.log.promised)
        c, p, q = core.log.testimony()
        unsigned = ViewChange(core.me, core.incarnation, view, core.log.low, c, p, q, b"")
        message = unsigned._replace(seal=core.sign(unsigned.signed_body(core.group.cluster, core.group.epoch)))
        position = core.record(Left((message,)))
        core.send(ALL, message, position)
        self._own = (position, message)
        self._changed = True
        self.collected = {s: m for s, m in self.collected.items() if m.view >= view}
        self._ordering.on_left()
        self._suspicion.on_left()

    def on_durable(self, durable: int) -> None:
        """The own VIEW-CHANGE is on disk: it counts from now on."""
        if self._own is not None and self._own[0] <= durable:
            message = self._own[1]
            self._own = None
            if message.view == self._core.log.promised and not self._core.is_active:
                self.collected[self._core.me] = message
                self._changed = True

    # ---- the new primary

    def _try_new_view(self, view: int) -> None:
        """Entered when: this is primary(view), has left for it, and the VIEW-CHANGEs for it decide."""
        core = self._core
        if core.quorums.primary(view) != core.me or core.me not in self.collected:
            return
        s = self._deciding(view)
        if s is None:
            return
        named = tuple((m.sender, m.digest) for m in s)
        unsigned = NewView(core.me, core.incarnation, view, named, b"", s)
        message = unsigned._replace(seal=core.sign(unsigned.signed_body(core.group.cluster, core.group.epoch)))
        core.send(ALL, message, self._enter(message))

    def _deciding(self, view: int) -> tuple[ViewChange, ...] | None:
        """The smallest VIEW-CHANGEs for `view` that decide. A liar may send one with as many Q entries as a message
        holds; in a NEW-VIEW beside others it would make that longer than any link carries, in every view."""
        core = self._core
        by_size = sorted((len(encode(m)), s) for s, m in self.collected.items() if m.view == view)
        for count in range(core.quorums.strong, len(by_size) + 1):
            smallest = by_size[:count]
            if sum(size for size, _ in smallest) + 64 * count + 512 > core.group.message_max_bytes:
                return None
            s = tuple(self.collected[sender] for sender in sorted(sender for _, sender in smallest))
            if decide(core.quorums, core.tunables.log_window, s) is not None:
                return s
        return None

    # ---- NEW-VIEW

    def refuse_new_view(self, message: NewView) -> Refused | None:
        """The cheap reasons, before any seal is looked at. What is attached must be what the primary named: if it is
        not, the relay is to blame and not the primary."""
        core = self._core
        is_past = message.view <= core.log.view or message.view < core.log.promised
        if is_past and not self.is_second(message):
            return Refused.STALE_VIEW
        if message.view == self._invalid:
            return Refused.INVALID_NEW_VIEW
        if not 0 <= message.sender < core.quorums.n or message.sender != core.quorums.primary(message.view):
            return Refused.NOT_PRIMARY
        if message.named != tuple((m.sender, m.digest) for m in message.view_changes):
            return Refused.WRONG_DIGEST
        return None

    def is_second(self, message: NewView) -> bool:
        """Whether it is for the present view and not the NEW-VIEW that began it: evidence, if its seal verifies."""
        mine = self._core.log.new_view
        if mine is None or message[:3] != mine[:3]:  # sender, incarnation, view
            return False
        return message.named != mine.named

    def on_new_view(self, sender: int, message: NewView, seals_verify: bool) -> Refused | None:
        """NEW-VIEW(v, S), its own seal verified; `seals_verify`: those of the VIEW-CHANGEs it names do too."""
        core = self._core
        if core.is_mute:
            return core.refuse(sender, Refused.NOT_VOTING)
        if reason := self.refuse_new_view(message):
            return core.refuse(sender, reason)
        if message.sender == core.me:
            return core.refuse(sender, Refused.STALE_VIEW)
        if self.is_second(message):
            assert core.log.new_view is not None
            text = f"two signed NEW-VIEWs for view {message.view}"
            core.accuse(message.sender, "two-new-views", text, core.log.new_view, message)
            if core.is_active:
                self._ordering.contradicted = True
            return core.refuse(sender, Refused.EQUIVOCATION)
        if not seals_verify or judge_new_view(core.quorums, core.tunables.log_window, message) is None:
            self._on_invalid(message)
            return core.refuse(sender, Refused.INVALID_NEW_VIEW)
        self._compare(message)
        self._enter(message)
        return None

    def _on_invalid(self, message: NewView) -> None:
        """primary(v) signed what no correct replica signs: go to v+1 at once, and let the others see it, once. One for
        another view than the awaited one is accused and forgotten: its primary could make us relay for ever."""
        core = self._core
        text = f"a signed NEW-VIEW for view {message.view} from which nothing follows"
        core.accuse(message.sender, "invalid-new-view", text, message)
        if message.view == core.log.promised:
            self._invalid = message.view
            core.send(ALL, message, 0)

    def vouchers(self, number: int, digest: bytes) -> list[int]:
        """Who says in the present NEW-VIEW that it holds this batch. Rule A3, 4 #18."""
        message = self._core.log.new_view
        found = message.view_changes if message is not None else ()
        return [
            m.sender
            for m in found
            if m.sender != self._core.me and any(e[:2] == (number, digest) for e in m.preprepared)
        ]

    def _compare(self, message: NewView) -> None:
        """A replica that gave the primary another VIEW-CHANGE than us lies; the named one counts all the same."""
        for named in message.view_changes:
            known = self.collected.get(named.sender)
            if known is not None and known[1:3] == named[1:3] and known[:7] != named[:7]:
                text = f"two signed VIEW-CHANGEs for view {named.view}"
                self._core.accuse(named.sender, "two-view-changes", text, known, named)

    def _enter(self, message: NewView) -> int:
        """Entered when: a valid NEW-VIEW for a view at or above the promised one is here, own or accepted. One per view
        is ever accepted, across crashes too: it is in the log before any vote in its view."""
        core = self._core
        old = dict(core.log.slots)
        position = core.record(Entered(encode(message)))
        testimony = (*message.view_changes, *(m for m in self.collected.values() if m.view == message.view))
        self.collected = {s: m for s, m in self.collected.items() if m.view > message.view}
        self._own = None
        self._ordering.on_entered(old, testimony)
        self._suspicion.on_entered()
        return position
