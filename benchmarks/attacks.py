"""`pbft bench attacks`: what is served, and at what cost, while replicas and clients attack. PROTOCOL 4.

For each profile the fault-free peak is measured first, in a closed loop. Then each attack has a fresh volatile cluster,
an open-loop load at half that peak, a warm-up, and a window in which the attack is in its steady state. Attackers run
under a CPU cap. Fields of a row, besides those of all benchmarks:

- `attack`, `by`: its name; who attacks (`backups`, `primary`, `clients`, or nobody);
- `offered_per_s`: the load's schedule; None for the peak, which is a closed loop;
- `share`: operations completed in the window, of those scheduled in it, at most 1;
- `share_of_correct_clients`: the same of those clients of the load that do not attack, where others do;
- `p50_ms`, `p99_ms`: from the scheduled instant;
- `cpu_us_per_op`: CPU of a correct replica, all of them averaged, per completed operation; `cpu_ratio`: to the row
  without an attack;
- `view_changes`: in the window; `view_changes_before`: until then; `primary_replaced`: an attacking primary was;
- `demotions`: how often correct replicas were brought to propose only signed requests of a client, until the end;
- `busy`, `retransmissions`, `dropped` (outstanding operations were too many), `errors`: of the load, in the window;
- `wrong`: results that the counter cannot have told, or that were not counted exactly once. Always 0;
- `attacker_cpu`, `other_cpu`: processors' worth of CPU that attackers used, and processes which are not of this
  benchmark at all: rows with much of the latter say little. Such ones are measured again (`attempts`), and the
  least disturbed one is told;
- `capped_by`: how the attackers' CPU is bounded; `reason`: why less than 80 % was served.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from pbft.apps.counter import inc
from pbft.benchmarks.capping import Cap
from pbft.benchmarks.load import measure as closed_loop
from pbft.benchmarks.systems import System, running, start_cluster
from pbft.config import Quorums

Row = dict[str, Any]

TARGET = 0.8
"""Share that is to be served in the steady state."""
_APP = "pbft.apps.counter:Counter"
_QUIET = 0.3
"""Processors' worth of CPU that processes outside of the benchmark may use during a row."""
_OUTSTANDING_SECONDS = 2.0
"""So many seconds of the load may be outstanding."""


@dataclass(frozen=True, slots=True)
class Attack:
    """Who does what."""

    name: str
    backups: str = ""
    """What the last f replicas do."""
    primary: str = ""
    """What the first f replicas do, who lead the first f views."""
    hostile: str = ""
    """What clients beside the load do (`hostile_clients.KINDS`), and how many they are."""
    hostile_clients: int = 0
    partial: int = 0
    """Of the load's clients, how many send authenticators that convince the primary alone."""

    @property
    def by(self) -> str:
        """Who attacks."""
        if self.backups or self.primary:
            return "backups" if self.backups else "primary"
        return "clients" if self.hostile or self.partial else ""


EVERYBODY = 1 << 30
NO_ATTACK = Attack("none")
_BY_REPLICAS = (
    Attack("silent", backups="silent"),
    Attack("flooding", backups="flooding"),
    Attack("corrupt-macs", backups="corrupt-to-some"),
    Attack("equivocating-primary", primary="equivocating-primary"),
    Attack("slow-primary", primary="slow-primary"),
    Attack("slowing-primary", primary="slowing-primary"),
    Attack("censoring-primary", primary="censoring"),
    Attack("partial-multicast-primary", primary="partial-multicast"),
    Attack("spoiling-primary", primary="corrupt-authenticators"),
)
_BY_CLIENTS = (
    Attack("partial-macs-1", partial=1),
    Attack("partial-macs-10", partial=10),
    Attack("partial-macs-all", partial=EVERYBODY),
    Attack("partial-macs-never-signed", hostile="partial", hostile_clients=1),
    Attack("flooding-client", hostile="flood", hostile_clients=1),
    Attack("flooding-clients", hostile="flood", hostile_clients=8),
    Attack("garbage-client", hostile="garbage", hostile_clients=1),
)
ATTACKS = (NO_ATTACK, *_BY_REPLICAS, *_BY_CLIENTS)
SIGNED = (NO_ATTACK, *_BY_CLIENTS)
"""What is tried in the robust profile too: it is about clients."""
SMALL = ("silent", "partial-multicast-primary", "partial-macs-1")
"""A taste of it, in half a minute."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    n: int = 4
    clients: int = 20
    callers: int = 256
    seconds: float = 6.0
    warm_up: float = 6.0
    profiles: tuple[str, ...] = ("mac", "signed")
    only: tuple[str, ...] = ()
    """Names of attacks; empty: all."""
    rate: float | None = None
    """Operations a second instead of half the peak."""
    cap: float = 0.5
    """Processors that all attackers together may use."""
    attempts: int = 3
    """The peak is the best of so many; a row that strangers disturb is measured up to so many times."""
    base_port: int = 7800


def attacks(plan: Plan, profile: str) -> list[Attack]:
    """Those of the plan in this profile; the row without an attack is always there, others are compared with it."""
    known = ATTACKS if profile == "mac" else SIGNED
    return [a for a in known if not plan.only or a.name in plan.only or a is NO_ATTACK]


def measure(plan: Plan, progress: Callable[[str], None]) -> list[Row]:
    """All rows."""
    rows: list[Row] = []
    with Cap(plan.cap) as cap:
        for profile in plan.profiles:
            rate = plan.rate
            if rate is None:
                progress(f"{profile}: fault-free peak")
                peak = max((_peak(plan, profile) for _ in range(plan.attempts)), key=lambda row: row["ops_per_s"])
                rows.append(peak)
                rate = peak["ops_per_s"] / 2
            base: Row | None = None
            for attack in attacks(plan, profile):
                progress(f"{profile}: {attack.name}, {rate:,.0f} operations a second offered")
                row = _quietest(plan, profile, attack, rate, cap)
                base = base or row
                rows.append(with_ratio(row, base))
    return rows


def _peak(plan: Plan, profile: str) -> Row:
    with tempfile.TemporaryDirectory(prefix="pbft-bench-") as folder:
        system = start_cluster(
            Path(folder) / "c", n=plan.n, base_port=plan.base_port, clients=plan.clients, durable=False, app=_APP,
            signed_requests=int(profile == "signed"),
        )  # fmt: skip
        names = [entry.name for entry in system.config.clients]
        with running([system]):
            load = trio.run(closed_loop, system.config, names, plan.callers, inc, plan.seconds)
    return _common(plan, profile, NO_ATTACK) | {
        "attack": "none (peak)",
        "callers": plan.callers,
        "operations": load.operations,
        "seconds": round(load.seconds, 3),
        "ops_per_s": round(load.operations / load.seconds, 1),
        "p50_ms": round(load.latencies_ms[0], 3),
        "p99_ms": round(load.latencies_ms[1], 3),
        "errors": load.errors,
    }


def _common(plan: Plan, profile: str, attack: Attack) -> Row:
    return {
        "bench": "attacks",
        "system": "pbft",
        "attack": attack.name,
        "by": attack.by,
        "profile": profile,
        "n": plan.n,
        "clients": plan.clients,
        "request_bytes": len(inc()),
        "durable": False,
        "offered_per_s": None,
    }


def _quietest(plan: Plan, profile: str, attack: Attack, rate: float, cap: Cap) -> Row:
    """The first attempt that strangers did not disturb, else the one that they disturbed least."""
    attempts: list[Row] = []
    while len(attempts) < plan.attempts:
        attempts.append(_attacked(plan, profile, attack, rate, cap))
        if (attempts[-1]["other_cpu"] or 0.0) <= _QUIET:
            break
    return min(attempts, key=lambda row: row["other_cpu"] or 0.0) | {"attempts": len(attempts)}


def _attacked(plan: Plan, profile: str, attack: Attack, rate: float, cap: Cap) -> Row:
    f = Quorums(plan.n).f
    adversaries = dict.fromkeys(range(plan.n - f, plan.n), attack.backups) if attack.backups else {}
    if attack.primary:
        adversaries = dict.fromkeys(range(f), attack.primary)
    with tempfile.TemporaryDirectory(prefix="pbft-bench-") as folder:
        system = start_cluster(
            Path(folder) / "c", n=plan.n, base_port=plan.base_port, clients=plan.clients + attack.hostile_clients,
            durable=False, app=_APP, adversaries=adversaries, signed_requests=int(profile == "signed"),
        )  # fmt: skip
        attackers = [system.pid(i) for i in adversaries]
        with running([system]):
            for pid in attackers:
                cap.hold(pid)
            hostile = _hostile(system, plan, attack)
            try:
                if hostile is not None:
                    attackers.append(hostile.pid)
                    cap.hold(hostile.pid)
                seen = _load(system, plan, attack, rate, attackers)
            finally:
                if hostile is not None:
                    hostile.kill()
                    hostile.wait()
    row = _common(plan, profile, attack) | {"offered_per_s": round(rate, 1)} | judged(seen, plan.clients, attack)
    return row | _conduct(seen, set(adversaries), attack) | {"capped_by": cap.text if attackers else ""}


def _hostile(system: System, plan: Plan, attack: Attack) -> subprocess.Popen[bytes] | None:
    if not attack.hostile:
        return None
    names = [entry.name for entry in system.config.clients][plan.clients :]
    command = [sys.executable, "-m", "pbft.benchmarks.hostile_clients", str(system.config.path)]
    return subprocess.Popen([*command, "--clients", ",".join(names), "--kind", attack.hostile])


def _load(system: System, plan: Plan, attack: Attack, rate: float, attackers: list[int]) -> Row:
    names = [entry.name for entry in system.config.clients][: plan.clients]
    command = [
        sys.executable, "-m", "pbft.benchmarks.open_load", str(system.config.path), "--clients", ",".join(names),
        "--faulty", str(min(attack.partial, plan.clients)), "--rate", str(rate), "--warm-up", str(plan.warm_up),
        "--seconds", str(plan.seconds), "--outstanding", str(max(64, int(rate * _OUTSTANDING_SECONDS))),
    ]  # fmt: skip
    for pid in attackers:
        command += ["--attacker", str(pid)]
    limit = 60 + 4 * (plan.warm_up + plan.seconds)
    done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    if done.returncode:
        raise RuntimeError(f"the load failed under {attack.name}: {done.stderr[-2000:]} {system.output()}")
    seen: Row = json.loads(done.stdout)
    return seen


def judged(seen: Row, clients: int, attack: Attack) -> Row:
    """What the load was served."""
    partial = min(attack.partial, clients)
    offered_by_correct = seen["offered"] * (clients - partial) / clients
    correct = seen["completed"] - seen["completed_of_faulty"]
    return {
        "operations": seen["completed"],
        "seconds": seen["seconds"],
        "ops_per_s": round(seen["completed"] / seen["seconds"], 1),
        "share": round(min(1.0, seen["completed"] / max(1, seen["offered"])), 3),
        "share_of_correct_clients": round(min(1.0, correct / offered_by_correct), 3) if 0 < partial < clients else None,
        **{name: seen[name] for name in ("p50_ms", "p99_ms", "dropped", "wrong", "busy", "requests")},
        "retransmissions": seen["retransmissions"],
        "errors": sum(seen["errors"].values()),
        "counter_answered": seen["total"] is not None,
    }


def _conduct(seen: Row, faulty: set[int], attack: Attack) -> Row:
    """What the replicas did for it."""
    before = [r for r in seen["before"] if r["id"] not in faulty and r["reachable"]]
    after = [r for r in seen["after"] if r["id"] not in faulty and r["reachable"]]
    used = {r["id"]: r["cpu_s"] for r in before}
    spent = [r["cpu_s"] - used[r["id"]] for r in after if r["id"] in used]
    first, last = (max((r["view"] for r in rows), default=0) for rows in (before, after))
    primary = last % len(seen["after"])
    seconds = seen["seconds"]
    known = None not in (seen["machine_cpu_s"], seen["attacker_cpu_s"]) and len(spent) + len(faulty) == len(
        seen["after"]
    )
    others = seen["machine_cpu_s"] - seen["attacker_cpu_s"] - seen["load_cpu_s"] - sum(spent) if known else None
    return {
        "cpu_us_per_op": round(sum(spent) / len(spent) / max(1, seen["completed"]) * 1e6, 2) if spent else None,
        "view_changes": last - first,
        "view_changes_before": first,
        "primary": primary,
        "primary_replaced": primary not in faulty if attack.primary else None,
        "demotions": max((r["demotions"] for r in after), default=0),
        "loop_lag_ms_max": max((r["loop_lag_ms_max"] for r in after), default=None),
        "attacker_cpu": None if seen["attacker_cpu_s"] is None else round(seen["attacker_cpu_s"] / seconds, 2),
        "load_cpu": round(seen["load_cpu_s"] / seconds, 2),
        "other_cpu": None if others is None else round(max(0.0, others) / seconds, 2),
    }


def with_ratio(row: Row, base: Row) -> Row:
    """The row with its CPU against that without an attack, and the reason if too little was served."""
    if row["cpu_us_per_op"] is not None and base["cpu_us_per_op"]:
        row = row | {"cpu_ratio": round(row["cpu_us_per_op"] / base["cpu_us_per_op"], 2)}
    return row | {"reason": reason(row) if row["share"] < TARGET else ""}


def reason(row: Row) -> str:
    """Why less was served than wanted, from what was counted."""
    facts = []
    if row["view_changes"]:
        facts.append(f"{row['view_changes']} view changes in the window")
    if row["primary_replaced"] is False:
        facts.append(f"primary {row['primary']}, who attacks, was not replaced")
    if row["demotions"]:
        facts.append(f"clients were told {row['demotions']} times to sign their requests")
    if row["retransmissions"] * 10 > row["requests"]:
        facts.append(f"{row['retransmissions']} retransmissions of {row['requests']} requests")
    if row["busy"]:
        facts.append(f"replicas said busy {row['busy']} times")
    if row["dropped"]:
        facts.append(f"{row['dropped']} operations found {_OUTSTANDING_SECONDS:g} s of the load outstanding already")
    if row["errors"]:
        facts.append(f"{row['errors']} calls failed")
    if (row["other_cpu"] or 0.0) > 0.5:
        facts.append(f"strangers used {row['other_cpu']:.1f} CPUs of this machine")
    return "; ".join(facts) or "the replicas ordered less"
