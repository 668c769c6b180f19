"""Open-loop load: operations begin by a schedule, whether or not earlier ones were answered. A process of its own.

Latency counts from the scheduled instant. So many operations may be outstanding at one time; beyond that the next ones
are dropped, which counts as not served. The service is the counter, so that results can be judged: no count is told
twice, and none is below one that was told before its operation began.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio

from pbft.apps.counter import get, inc
from pbft.benchmarks.load import percentiles_ms
from pbft.benchmarks.partial_macs import PartialClient
from pbft.cli.status import ask_all
from pbft.client import Call, Client, ClientError
from pbft.config_file import ClusterConfig

_TICK = 0.002
"""Seconds between two looks at the schedule."""
_TIMEOUT = 10.0
_STATUS_SECONDS = 3.0
_END_SECONDS = 15.0
"""For the last question: what the counter says."""
_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")

Row = dict[str, Any]


@dataclass
class Tally:
    """What was seen of one kind of clients during the window."""

    completed: int = 0
    latencies: list[float] = field(default_factory=list)


@dataclass
class Seen:
    """What one run has seen. Counters of the window unless said otherwise."""

    seconds: float = 0.0
    offered: int = 0
    completed: int = 0
    completed_of_faulty: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    dropped: int = 0
    errors: dict[str, int] = field(default_factory=dict)
    issued: int = 0
    """Since the start; so are `acknowledged` and `wrong`."""
    acknowledged: int = 0
    wrong: int = 0
    total: int | None = None
    """What the counter said at the end; None: nobody answered."""
    busy: int = 0
    retransmissions: int = 0
    requests: int = 0
    before: list[Row] = field(default_factory=list)
    after: list[Row] = field(default_factory=list)
    """Status of all replicas at the window's ends."""
    attacker_cpu_s: float | None = None
    load_cpu_s: float = 0.0
    machine_cpu_s: float | None = None
    """CPU that everybody used, strangers included."""


class Judge:
    """Whether what the counter told can be true."""

    def __init__(self) -> None:
        self.highest = 0
        """The highest count that was told."""
        self.issued = self.acknowledged = self.wrong = 0
        self._told: set[int] = set()

    def told(self, count: int, highest_before: int) -> None:
        """`highest_before`: what `highest` was when the operation began."""
        self.acknowledged += 1
        self.wrong += count in self._told or count <= highest_before
        self._told.add(count)
        self.highest = max(self.highest, count)

    @property
    def least(self) -> int:
        """What the counter must stand at by now: everything acknowledged was counted."""
        return max(self.acknowledged, self.highest)

    def ends(self, total: int, least: int) -> None:
        """Exactly once: nothing was counted that was not asked for. `least`: what it was when `total` was asked for."""
        self.wrong += not least <= total <= self.issued


class Schedule:
    """Begins operations when they are due, client by client in turn."""

    def __init__(self, clients: list[Client], faulty: int, rate: float, outstanding_max: int) -> None:
        """The first `faulty` clients are so."""
        self._clients, self._faulty = clients, faulty
        self._rate, self._outstanding_max = rate, outstanding_max
        self.judge = Judge()
        self.correct, self.of_faulty = Tally(), Tally()
        self.errors: dict[str, int] = {}
        self.measuring = False
        self.dropped = 0
        self._outstanding = 0

    async def run(self) -> None:
        """Until cancelled."""
        begun = trio.current_time()
        number = 0
        while True:
            due = int((trio.current_time() - begun) * self._rate)
            for n in range(number, due):
                self._begin(n % len(self._clients), begun + n / self._rate)
            number = max(number, due)
            await trio.sleep(_TICK)

    def _begin(self, client: int, scheduled: float) -> None:
        if self._outstanding >= self._outstanding_max:
            self.dropped += self.measuring
            return
        self._outstanding += 1
        self.judge.issued += 1
        ended = partial(self._ended, scheduled, self.judge.highest, client < self._faulty)
        self._clients[client].start_call(inc(), _TIMEOUT, False, ended)

    def _ended(self, scheduled: float, highest_before: int, faulty: bool, call: Call) -> None:
        self._outstanding -= 1
        if not isinstance(call.result, bytes):
            name = type(call.result).__name__
            self.errors[name] = self.errors.get(name, 0) + self.measuring
            return
        self.judge.told(int(call.result), highest_before)
        if self.measuring:
            tally = self.of_faulty if faulty else self.correct
            tally.completed += 1
            tally.latencies.append(trio.current_time() - scheduled)


def process_cpu(pid: int) -> float | None:
    """CPU seconds of a process with all its threads; None where /proc does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def machine_cpu() -> float | None:
    """CPU seconds that all processes of this machine have used; None where /proc does not tell."""
    try:
        fields = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    except OSError:
        return None
    return (sum(fields[:3]) + sum(fields[5:7])) / _TICKS_A_SECOND


@dataclass(frozen=True, slots=True)
class _Sample:
    """Counters at one moment."""

    rows: list[Row]
    attackers: float | None
    load: float
    machine: float | None
    busy: int
    retransmissions: int
    requests: int


async def _sample(config: ClusterConfig, clients: list[Client], attackers: list[int]) -> _Sample:
    rows = await trio.to_thread.run_sync(ask_all, config, _STATUS_SECONDS)
    used = [process_cpu(pid) for pid in attackers]
    told = [client.statistics() for client in clients]
    return _Sample(
        rows=rows,
        attackers=None if None in used else sum(seconds or 0.0 for seconds in used),
        load=time.process_time(),
        machine=machine_cpu(),
        busy=sum(r.busy for s in told for r in s.replicas),
        retransmissions=sum(s.retransmissions for s in told),
        requests=sum(s.requests for s in told),
    )


def _between(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else round(after - before, 3)


async def run(
    config: ClusterConfig,
    names: list[str],
    faulty: int,
    rate: float,
    warm_up: float,
    seconds: float,
    outstanding_max: int,
    attackers: list[int],
) -> Seen:
    """Load the cluster; measure for `seconds` after a warm-up. `attackers`: processes whose CPU is told too."""
    async with AsyncExitStack() as stack:
        clients = []
        for number, name in enumerate(names):
            kind = PartialClient if number < faulty else Client
            clients.append(await stack.enter_async_context(kind.connect(config, name=name)))
        for client in clients:
            await client.wait_connected()
        schedule = Schedule(clients, faulty, rate, outstanding_max)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(schedule.run)
            await trio.sleep(warm_up)
            before = await _sample(config, clients, attackers)
            begun = trio.current_time()
            schedule.measuring = True
            await trio.sleep(seconds)
            schedule.measuring = False
            elapsed = trio.current_time() - begun
            after = await _sample(config, clients, attackers)
            nursery.cancel_scope.cancel()
        total = await _total(clients[-1], schedule.judge)
    return _seen(schedule, elapsed, int(rate * elapsed), total, before, after)


async def _total(client: Client, judge: Judge) -> int | None:
    least = judge.least  # operations still in flight go on counting
    try:
        total = int(await client.query(get(), timeout=_END_SECONDS))
    except ClientError:
        return None
    judge.ends(total, least)
    return total


def _seen(schedule: Schedule, elapsed: float, offered: int, total: int | None, before: _Sample, after: _Sample) -> Seen:
    judge = schedule.judge
    latencies = schedule.correct.latencies + schedule.of_faulty.latencies
    p50, p99 = percentiles_ms(latencies) if latencies else (None, None)
    return Seen(
        seconds=round(elapsed, 3),
        offered=offered,
        completed=len(latencies),
        completed_of_faulty=schedule.of_faulty.completed,
        p50_ms=None if p50 is None else round(p50, 3),
        p99_ms=None if p99 is None else round(p99, 3),
        dropped=schedule.dropped,
        errors=schedule.errors,
        issued=judge.issued,
        acknowledged=judge.acknowledged,
        wrong=judge.wrong,
        total=total,
        busy=after.busy - before.busy,
        retransmissions=after.retransmissions - before.retransmissions,
        requests=after.requests - before.requests,
        before=before.rows,
        after=after.rows,
        attacker_cpu_s=_between(before.attackers, after.attackers),
        load_cpu_s=round(after.load - before.load, 3),
        machine_cpu_s=_between(before.machine, after.machine),
    )


def main() -> int:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("cluster", type=Path)
    parser.add_argument("--clients", required=True, help="names, comma-separated")
    parser.add_argument("--faulty", type=int, default=0, help="how many of them send partial authenticators")
    parser.add_argument("--rate", type=float, required=True, help="operations a second")
    parser.add_argument("--warm-up", type=float, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--outstanding", type=int, required=True)
    parser.add_argument("--attacker", type=int, action="append", default=[], metavar="PID")
    args = parser.parse_args()
    names = args.clients.split(",")
    config = ClusterConfig.load(args.cluster)
    seen = trio.run(
        run, config, names, args.faulty, args.rate, args.warm_up, args.seconds, args.outstanding, args.attacker
    )
    print(json.dumps(asdict(seen)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
