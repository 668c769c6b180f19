"""Which rules of the protocol a run exercised, counted. A rule with 0 was not tested by any run, whatever passed.

An `Observer` beside the oracles, fed by what correct machines record, send, execute and accuse, and at the end by
counters that replicas keep anyway: the core knows nothing of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import cast

from pbft.batch import NULL_DIGEST, Batch
from pbft.execution.results import Executed, Opened, Recovered
from pbft.messages import (
    Body,
    Committed,
    Fetch,
    Message,
    Nack,
    NewView,
    Refusal,
    Stable,
    StatePiece,
    Suspect,
    ViewChange,
    decode,
)
from pbft.protocol.core import Refused
from pbft.protocol.decision import decide
from pbft.protocol.effects import Evidence
from pbft.protocol.records import (
    Accepted,
    Entered,
    Executing,
    Installed,
    Left,
    Prepared,
    Reborn,
    Record,
    StableCertificate,
)
from pbft.simulation.machine import Machine
from pbft.simulation.oracles import Oracle

RULES: Mapping[str, str] = {
    "batch pre-prepared": "2.4",
    "batch prepared": "2.4",
    "batch executed": "2.4",
    "batch learned by COMMITTED": "1.13",
    "COMMITTED served": "1.13",
    "body fetched": "1.13",
    "body served": "1.13",
    "state installed": "2.9",
    "piece of a state served": "2.9",
    "certificate": "1.4",
    "certificate relayed": "1.4",
    "log cut": "1.6",
    "restart": "1.5",
    "SUSPECT": "1.12",
    "killed between views": "1.5",
    "disk lost": "1.7",
    "rot found": "1.7",
    "RECOVER executed": "1.7 a",
    "vote regained": "1.7",
    "NULL fills up to a recovery point": "1.7 e",
    "view void": "1.7 b",
    "floor: gap": "4 #6",
    "floor: share": "4 #6",
    "floor: fairness": "4 #7",
    "left a view": "1.12",
    "left by f+1 VIEW-CHANGEs above": "1.12",
    "left views while waiting for one": "1.12",
    "VIEW-CHANGE relayed": "1.12",
    "view entered": "1.3",
    "view entered late, by relayed NEW-VIEW": "1.13",
    "decision: batch by A": "2.6 A1 A2",
    "decision: P entry without A1 or A2 lost": "1.3",
    "decision: several candidates": "1.3",
    "decision: NULL by A": "1.3",
    "decision: NULL by B": "2.6 B",
    "decision: from a checkpoint": "2.6",
    "decision: more than q VIEW-CHANGEs needed": "2.6",
    "chosen batch had executed here": "2.6",
    "chosen body was missing here": "2.6 A3",
    "NACK": "1.17",
    "client demoted": "1.17",
    "session opened": "1.15",
    "session evicted": "1.15",
    "answered without executing": "1.15",
    "busy": "1.15",
    **{f"accused: {kind}": "1.10" for kind in ("equivocation", "two-view-changes", "two-checkpoints")},
    "accused: two-new-views": "1.3",
    "accused: invalid-new-view": "1.12",
    **{f"refused: {reason.value}": "" for reason in Refused},
}
"""What is counted -> the section that says it."""

_FLOOR = {
    "no PRE-PREPARE while requests wait": "floor: gap",
    "less is ordered than before under the same backlog": "floor: share",
    "a request is passed over": "floor: fairness",
}


class Rules(Oracle):
    """Counts; raises nothing."""

    def __init__(self, weak: int) -> None:
        self.counts: Counter[str] = Counter()
        self._weak = weak
        self._blamed: dict[int, str] = {}
        self._void: dict[tuple[int, int], bool] = {}
        self._known: dict[tuple[int, int], bool] = {}
        self._refused: dict[tuple[int, int], dict[tuple[int, str], int]] = {}
        self._demoted: dict[tuple[int, int], int] = {}

    # ---- what machines do

    def on_record(self, machine: Machine, position: int, record: Record) -> None:
        """Phases, and views."""
        match record:
            case Accepted():
                self.counts["batch pre-prepared"] += 1
            case Prepared():
                self.counts["batch prepared"] += 1
            case Executing(_, digest, encoded):
                self.counts["batch executed"] += 1
                self.counts["batch learned by COMMITTED"] += bool(encoded) and digest != NULL_DIGEST
            case StableCertificate():
                self.counts["certificate"] += 1
            case Reborn() if machine.host.replica.core.lost:
                self.counts["vote regained"] += 1
            case Installed():
                self.counts["state installed"] += 1
            case Left((message,)) if (machine.me, -message.view) not in self._known:
                self._known[machine.me, -message.view] = True
                self._left(machine, message)
            case Entered(new_view):
                self._entered(machine, cast(NewView, decode(new_view)))
            case _:
                pass

    def on_cut(self, machine: Machine, below: int) -> None:
        """A state is on disk."""
        self.counts["log cut"] += 1

    def on_crash(self, machine: Machine) -> None:
        """Counters of this boot end with it."""
        self.counts["restart"] += 1

    def on_send(self, machine: Machine, to: int, message: Message) -> None:
        """By type, and whose message it is."""
        me = machine.me
        match message:
            case ViewChange() | NewView() if message.sender != me:
                self.counts["VIEW-CHANGE relayed"] += isinstance(message, ViewChange)
            case Refusal(_, _, _, reason):
                self.counts["busy"] += reason == "busy"
            case Committed():
                self.counts["COMMITTED served"] += 1
            case Body():
                self.counts["body served"] += 1
            case StatePiece():
                self.counts["piece of a state served"] += 1
            case Fetch():
                self.counts["body fetched"] += 1
            case Stable():
                self.counts["certificate relayed"] += 1
            case Suspect():
                self.counts["SUSPECT"] += 1
            case Nack():
                self.counts["NACK"] += 1
            case _:
                pass

    def on_executed(self, machine: Machine, batch: Batch, done: Executed) -> None:
        """Sessions; requests that the table answered although they were ordered."""
        opened = [change for change in done.changes if isinstance(change, Opened)]
        self.counts["RECOVER executed"] += sum(isinstance(change, Recovered) for change in done.changes)
        self.counts["NULL fills up to a recovery point"] += batch.is_null and bool(
            machine.host.replica.core.members.contents()
        )
        self.counts["session opened"] += len(opened)
        self.counts["session evicted"] += sum(change.evicted != 0 for change in opened)
        self.counts["answered without executing"] += len(done.results) > len(done.changes)

    def on_evidence(self, machine: Machine, evidence: Evidence) -> None:
        """By kind."""
        self.counts[f"accused: {evidence.kind}"] += 1

    def on_step(self, machine: Machine) -> None:
        """What has changed since the last step of this boot in the counters that a replica keeps."""
        replica, me = machine.host.replica, machine.me
        blamed = replica.suspicion.blamed_for
        if blamed and blamed != self._blamed.get(me):
            self.counts[_FLOOR[blamed]] += 1
        self._blamed[me] = blamed
        view = (me, replica.core.view)
        if replica.core.is_void and view not in self._void:
            self._void[view] = True
            self.counts["view void"] += 1
        self._refused[me, machine.boots] = replica.core.refused
        self._demoted[me, machine.boots] = replica.requests.demotions

    # ---- views

    def _left(self, machine: Machine, message: ViewChange) -> None:
        core, collected = machine.host.replica.core, machine.host.replica.views.collected
        self.counts["left a view"] += 1
        above = [m for s, m in collected.items() if s != machine.me and m.view >= message.view]
        self.counts["left by f+1 VIEW-CHANGEs above"] += len(above) >= self._weak
        self.counts["left views while waiting for one"] += message.view > core.log.view + 1

    def _entered(self, machine: Machine, message: NewView) -> None:
        replica, counts = machine.host.replica, self.counts
        log = replica.core.log
        if log.new_view != message or (machine.me, message.view) in self._known:
            return  # written again before the log is cut, or left behind in the same sweep
        self._known[machine.me, message.view] = True
        counts["view entered"] += 1
        own = log.view_change
        counts["view entered late, by relayed NEW-VIEW"] += own is None or own.view < message.view
        executed = [n for n in log.chosen if n <= replica.delivery.executed]
        counts["chosen batch had executed here"] += len(executed)
        counts["chosen body was missing here"] += len(replica.ordering.missing_chosen())
        counts["decision: from a checkpoint"] += log.last_chosen > len(log.chosen)
        quorums, window = replica.core.quorums, replica.core.tunables.log_window
        found = message.view_changes
        counts["decision: more than q VIEW-CHANGEs needed"] += len(found) > quorums.strong and (
            decide(quorums, window, found[: quorums.strong]) is None
        )
        for number, digest in log.chosen.items():
            told = {(d, v) for m in found for n, d, v in m.prepared if n == number}
            is_by_a = any(d == digest for d, _ in told)
            kind = "NULL" if digest == NULL_DIGEST else "batch"
            counts[f"decision: {kind} by {'A' if is_by_a else 'B'}"] += 1
            counts["decision: several candidates"] += len(told) > 1
            counts["decision: P entry without A1 or A2 lost"] += bool(told) and max(told, key=_view)[0] != digest

    # ---- at the end

    def total(self) -> Counter[str]:
        """All counts, with those that replicas kept themselves."""
        found = Counter(self.counts)
        for refused in self._refused.values():
            for (_, reason), times in refused.items():
                found[f"refused: {reason}"] += times
        found["client demoted"] = sum(self._demoted.values())
        return +found


def lines(counts: Mapping[str, int]) -> Iterable[str]:
    """One for each rule, those that nothing exercised marked."""
    for name, rule in RULES.items():
        count = counts.get(name, 0)
        yield f"  {name:42} {rule:10} {count if count else 'NEVER'}".rstrip()


def _view(entry: tuple[bytes, int]) -> int:
    return entry[1]
