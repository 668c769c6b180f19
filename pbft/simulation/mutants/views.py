"""Seeded bugs in view changes: the decision, what is durable, when a view is left, what is resent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pbft import host
from pbft.batch import NULL_DIGEST, ClientRequest
from pbft.config import Quorums
from pbft.messages import NewView, ViewChange
from pbft.protocol import decision, log, view_change
from pbft.protocol.core import Refused
from pbft.protocol.decision import Decision
from pbft.protocol.effects import Outbox, Send
from pbft.protocol.inbound import Inbound
from pbft.protocol.log import Log
from pbft.protocol.ordering import Ordering
from pbft.protocol.records import Accepted, Entered, Left, Record
from pbft.protocol.replica import fold
from pbft.protocol.requests import Requests
from pbft.protocol.retransmission import Retransmission
from pbft.protocol.view_change import ViewChanges
from pbft.simulation.keys import SimulatedAuthentication
from pbft.simulation.mutants.base import HONEST, ROUGH, Mutant, Patch, unwritten

Decide = Callable[[Quorums, int, Sequence[ViewChange]], Decision | None]


def _decides(broken: Decide) -> list[Patch]:
    return [(module, "decide", broken) for module in (decision, view_change, log)]


# ---- what a VIEW-CHANGE names (2.6)


# ---- the decision (2.6)


def _highest_p_wins() -> list[Patch]:
    def broken(quorums: Quorums, s: Sequence[Any], number: int) -> bytes | None:
        found = [m.p[number] for m in s if number in m.p]
        return max(found, key=lambda entry: (entry[1], entry[0]))[0] if found else None

    return [(decision, "_by_a", broken)]


def _no_a1() -> list[Patch]:
    return [(decision, "_a1", lambda quorums, s, number, digest, view: True)]


def _no_a2() -> list[Patch]:
    return [(decision, "_a2", lambda quorums, s, number, digest, view: True)]


def _null_cut() -> list[Patch]:
    original = decision.decide

    def broken(quorums: Quorums, window: int, found: Sequence[ViewChange]) -> Decision | None:
        decided = original(quorums, window, found)
        if decided is None:
            return None
        chosen = list(decided.chosen)
        while chosen and chosen[-1][1] == NULL_DIGEST:
            chosen.pop()
        return replace(decided, chosen=tuple(chosen), last=decided.low + len(chosen))

    return _decides(broken)


def _small_new_view() -> list[Patch]:
    original = decision.decide

    def broken(quorums: Quorums, window: int, found: Sequence[ViewChange]) -> Decision | None:
        small = replace(quorums)
        object.__setattr__(small, "strong", quorums.strong - 1)
        return original(small, window, found)

    return _decides(broken)


def _low_of_new_view() -> list[Patch]:
    original = Log._entered

    def broken(self: Log, encoded: bytes) -> None:
        original(self, encoded)
        low = self.last_chosen - len(self.chosen)
        for number in range(self.low + 1, low + 1):
            for table in (self.p, self.q):
                table.pop(number, None)
        self.low = max(self.low, low)

    return [(Log, "_entered", broken)]


# ---- P and Q


def _testimony(p: bool, q: bool) -> list[Patch]:
    original = Log.testimony

    def broken(self: Log) -> Any:
        checkpoints, prepared, preprepared = original(self)
        return checkpoints, prepared if p else (), preprepared if q else ()

    return [(Log, "testimony", broken)]


def _newest_q_only() -> list[Patch]:
    original = Log._accepted

    def broken(self: Log, record: Accepted, position: int, batch: Any) -> None:
        self.q.pop(record.number, None)
        original(self, record, position, batch)

    return [(Log, "_accepted", broken)]


# ---- what must be durable, and bind


def _votes_after_leaving() -> list[Patch]:
    original = Ordering.refuse_place

    def broken(self: Ordering, view: int, number: int) -> Refused | None:
        reason = original(self, view, number)
        return None if reason is Refused.LEFT_VIEW and self._core.log.low < number <= self._core.log.high else reason

    return [(Ordering, "refuse_place", broken), (Ordering, "on_left", lambda self: None)]


def _view_change_too_early() -> list[Patch]:
    original = Outbox.put

    def broken(self: Outbox, send: Send, ready: list[Send]) -> None:
        original(self, send._replace(position=0) if isinstance(send.message, ViewChange) else send, ready)

    return [(Outbox, "put", broken)]


def _view_forgotten() -> list[Patch]:
    original = fold

    def broken(group: Any, records: list[tuple[int, Record]]) -> Log:
        return original(group, [(p, r) for p, r in records if not isinstance(r, (Left, Entered))])

    return [(host, "fold", broken)]


def _two_new_views() -> list[Patch]:
    original, original_entered = ViewChanges.refuse_new_view, Log._entered

    def broken(self: ViewChanges, message: NewView) -> Refused | None:
        log_, mine = self._core.log, self._core.log.new_view
        is_second = mine is not None and mine.view == message.view == log_.promised and mine.named != message.named
        return None if is_second and message.sender == self._core.primary else original(self, message)

    def entered(self: Log, encoded: bytes) -> None:
        self.slots.clear()
        original_entered(self, encoded)

    return [
        (ViewChanges, "refuse_new_view", broken),
        (ViewChanges, "is_second", lambda self, message: False),
        (Log, "_entered", entered),
    ]


def _unverified_seals() -> list[Patch]:
    return [(SimulatedAuthentication, "seal_is_authentic", lambda self, message: True)]


def _unjudged_new_view() -> list[Patch]:
    def broken(quorums: Quorums, window: int, message: NewView) -> Decision | None:
        return decision.decide(quorums, window, message.view_changes)

    return [(view_change, "judge_new_view", broken), (Inbound, "_is_set", lambda self, message: True)]


def _new_view_votes() -> list[Patch]:
    original = Ordering._accept_chosen

    def broken(self: Ordering, number: int) -> bool:
        done = original(self, number)
        slot = self._core.log.slots.get(number)
        if slot is not None and slot.digest is not None and not self._core.is_primary:
            slot.prepares.add(self._core.primary, slot.digest)
            self._try_prepared(slot)
        return done

    return [(Ordering, "_accept_chosen", broken)]


# ---- timers and retransmission


def _proposal_stops_timer() -> list[Patch]:
    original = Requests.ordered

    def broken(self: Requests, number: int, requests: tuple[ClientRequest, ...]) -> None:
        original(self, number, requests)
        for request in requests:
            self._awaited.pop(request.digest, None)

    return [(Requests, "ordered", broken)]


def _views_not_resent() -> list[Patch]:
    return [(Retransmission, "_resend_views", lambda self, sender, status: None)]


_FEW = {"n": 4, "accomplice": "", "false_alarms": 25, "operations": 20}
_LOSING = {"n": 4, "faulty": 0, "accomplice": "", "false_alarms": 25, "weather": ROUGH}

VIEW_CHANGE = (
    Mutant(
        "highest-p-wins",
        "a new view takes the P entry of the highest view, without A1 and A2",
        _highest_p_wins,
        "forged-prepared",
        "1.3",
        _FEW,
    ),
    Mutant(
        "no-a1",
        "a batch is chosen although no q replicas agree with it",
        _no_a1,
        "backing-the-loser",
        "2.6 A1",
        {**HONEST, "n": 4, "faulty": 0, "adversary": "backing-the-loser", "false_alarms": 25, "crashes": 0},
    ),
    Mutant(
        "no-a2", "a batch is chosen although no f+1 have pre-prepared it", _no_a2, "forged-prepared", "2.6 A2", _FEW
    ),
    Mutant(
        "null-cut",
        "NULLs chosen at the end of a view's beginning are not agreed again",
        _null_cut,
        "null-primary",
        "1.3",
        _LOSING,
    ),
    Mutant(
        "small-new-view",
        "a new view begins from fewer than q VIEW-CHANGEs",
        _small_new_view,
        "wrong-new-view",
        "1.3",
        {"faulty": 1, "false_alarms": 25},
    ),
    Mutant("low-of-new-view", "a new view moves h to its checkpoint, which f+1 named", _low_of_new_view, "", "1.4"),
    Mutant(
        "p-forgotten", "VIEW-CHANGEs do not tell what was prepared", lambda: _testimony(p=False, q=True), "", "2.6 P"
    ),
    Mutant(
        "q-forgotten",
        "VIEW-CHANGEs do not tell what was pre-prepared",
        lambda: _testimony(p=True, q=False),
        "",
        "2.6 Q",
    ),
    Mutant(
        "q-newest-only",
        "of batches pre-prepared at one number only the newest is remembered",
        _newest_q_only,
        "equivocating-primary",
        "2.6 Q",
        _LOSING,
    ),
    Mutant("votes-after-leaving", "a replica that has left a view still votes in it", _votes_after_leaving, "", "1.12"),
    Mutant("left-unwritten", "VIEW-CHANGEs are not written", lambda: unwritten(Left), "", "1.5"),
    Mutant("left-undurable", "VIEW-CHANGEs leave before they are on disk", _view_change_too_early, "", "1.5"),
    Mutant(
        "view-forgotten",
        "a restarted replica has forgotten views that it left and entered",
        _view_forgotten,
        "",
        "1.12",
    ),
    Mutant("new-view-twice", "a second NEW-VIEW for a view is accepted", _two_new_views, "", "1.3"),
    Mutant(
        "new-view-unjudged",
        "senders, views and consistency of VIEW-CHANGEs are not checked",
        _unjudged_new_view,
        "wrong-new-view",
        "2.6",
    ),
    Mutant("unverified-seals", "seals are not verified", _unverified_seals, "wrong-new-view", "1.2"),
    Mutant(
        "timer-stopped",
        "a proposal stops the timer",
        _proposal_stops_timer,
        "",
        "1.11",
        {
            **HONEST,
            "n": 4,
            "faulty": 0,
            "adversary": "leaving-gaps",
            "false_alarms": 0,
            "timeout": 500,
            "losses": 0,
            "stops": False,
        },
    ),
    Mutant(
        "views-not-resent",
        "VIEW-CHANGEs and NEW-VIEWs are sent once",
        _views_not_resent,
        "",
        "2.7",
        {"weather": ROUGH, "false_alarms": 25},
    ),
    Mutant(
        "new-view-votes",
        "a NEW-VIEW counts as its primary's vote for all that it begins with",
        _new_view_votes,
        "partial-multicast",
        "1.3",
        _LOSING,
    ),
)
