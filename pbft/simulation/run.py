"""One run: a configuration drawn from the seed, faults, then calm; every oracle on. Its outcome says what was wrong."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

from pbft.config import Tunables
from pbft.misbehaviour import Adversary, make
from pbft.protocol.effects import InvariantViolated
from pbft.simulation import oracles
from pbft.simulation.adversaries import ActiveReplica
from pbft.simulation.bad_client import BadClient
from pbft.simulation.disk_faults import losses
from pbft.simulation.keys import client_principal, group_of, signature
from pbft.simulation.machine import Machine
from pbft.simulation.network import Network
from pbft.simulation.recovery_oracles import Incarnations
from pbft.simulation.rules import Rules
from pbft.simulation.scenario import Scenario
from pbft.simulation.services import SERVICES
from pbft.simulation.state_oracles import Mirrors, Replays
from pbft.simulation.testimony_oracles import Cuts, NewViews, Prepares, Testimony
from pbft.simulation.twins import Twins
from pbft.simulation.workload import SimulatedClient
from pbft.simulation.world import START, Violation, World

CALM_SECONDS = 40.0
"""Virtual time in which everything has to come to an end once faults have ended."""

SETTLE_SECONDS = 20.0
"""Virtual time after the last answer in which replicas forget what they waited for."""

PROMPT_SECONDS = 0.6
"""No call takes longer in a run without faults: slow disks, and nothing sent twice."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `kind`: "" well, "wrong" (an oracle), "stuck" (liveness), "crashed" (an exception)."""

    scenario: Scenario
    kind: str
    oracle: str
    text: str
    fingerprint: str
    seconds: float
    """Of virtual time."""
    events: int
    executed: int
    calls: int
    trace: tuple[str, ...]
    rules: dict[str, int]
    """What was exercised, how often (`pbft.simulation.rules`)."""


class Run:
    """The parts of one simulated cluster."""

    def __init__(self, scenario: Scenario, echo: Callable[[str], None] | None = None) -> None:
        s = self.scenario = scenario
        self.world = World(s.seed, echo)
        self.network = Network(self.world, s.weather)
        self.service = SERVICES[s.app]()
        tunables = Tunables(
            checkpoint_interval=s.interval,
            log_window=s.window,
            pipeline_depth=s.pipeline,
            sessions_per_client=s.sessions,
            signed_requests=int(s.signed_requests),
            status_interval=100,
            view_timeout=s.timeout,
            view_timeout_max=8000,
            proposal_gap_max=s.gap,
            fairness_batches=8,
            batch_max_bytes=4096,
            retained_log_bytes=s.retained,
            operation_max_bytes=1024,
        )
        self.group = group_of(s.n, s.clients + 1, tunables)
        quorums = self.group.quorums
        self.faulty = s.all_faulty
        missing = len(self.faulty) + (s.loser is not None)
        """Disks that no oracle can count on."""
        doubtful = () if s.losing == "disk" or s.loser is None else (s.loser,)
        self.rules = Rules(quorums.weak)
        self._agreement = oracles.Agreement()
        self._observer = oracles.All(
            (
                self._agreement,
                oracles.Validity(),
                oracles.DurableVotes(),
                oracles.Views(),
                NewViews(),
                Prepares(quorums, missing),
                Testimony(),
                Cuts(),
                Replays(),
                oracles.DurableReplies(quorums, missing),
                oracles.Certificates(self.group),
                oracles.Bounds(),
                oracles.Accusations((*self.faulty, *doubtful)),
                Mirrors(),
                Incarnations(),
                self.rules,
            )
        )
        self.machines = [self._machine(i) for i in range(s.n)]
        self.twins: Twins | None = None
        if s.twin:
            self._divide(s.faulty % s.n)
        self.clients = [
            SimulatedClient(
                self.world, self.network, self.group, i, self.service, s.callers, s.operations, s.fault_seconds
            )
            for i in range(s.clients)
        ]
        self.stopped: int | None = None
        self.active = [self._active(i) for i in s.misbehaving] if s.forges else []
        bad = client_principal(s.clients)
        self.bad = [BadClient(self.world, self.network, self.group, bad, client_principal(0))] if s.bad_client else []

    def _machine(self, me: int) -> Machine:
        misbehaviours = self.scenario.misbehaving
        adversary = self._adversary(me) if me in misbehaviours else None
        return Machine(self.world, self.network, self.group, self.service.application, me, self._observer, adversary)

    def _adversary(self, me: int) -> Adversary:
        collude = self.scenario.collude
        random = self.world.adversary if collude else self.world.stream(f"adversary {me}")
        name = self.scenario.misbehaving[me]
        return make(name, me, self.group, random, lambda body: signature(me, body, 160))

    def _divide(self, me: int) -> None:
        """Replica `me` runs twice."""
        self.twins = Twins(self.world, self.network, me)
        application = self.service.application
        pair = [
            Machine(
                self.world,
                self.twins.port(),
                self.group,
                application,
                me,
                self._observer,
                self._adversary(me) if me in self.scenario.misbehaving else None,
                twin,
            )
            for twin in "ab"
        ]
        self.machines[me : me + 1] = pair

    def _active(self, me: int) -> ActiveReplica:
        random = self.world.stream(f"forger {me}")
        active = ActiveReplica(self.world, self.network, self.group, me, random, self._seen)
        for machine in self.machines:
            if machine.me == me:
                machine.on_heard = active.capture
        return active

    @property
    def hostile(self) -> list[ActiveReplica | BadClient]:
        """Who makes up messages."""
        return [*self.active, *self.bad]

    @property
    def correct(self) -> list[Machine]:
        """Machines that oracles hold to the rules."""
        return [m for m in self.machines if m.me not in self.faulty]

    def _seen(self) -> tuple[int, int]:
        replicas = [m.host.replica for m in self.correct if m.up]
        view = max((r.core.view for r in replicas), default=0)
        return view, max((r.delivery.executed for r in replicas), default=0)

    # ---- the run

    def play(self) -> None:
        """Faults first, then calm and the demand for progress. Raises Violation."""
        world, s = self.world, self.scenario
        for machine in self.machines:
            machine.on_up = self._link_up
            machine.on_down = self._link_down
            machine.on_found = self._count_loss
            if machine.me and s.skew:
                machine.skew = world.faults.uniform(-s.skew, s.skew)
            machine.start()
        for client in self.clients:
            client.begin()
        for adversary in self.hostile:
            adversary.begin()
        if self.twins is not None:
            self.twins.begin()
        self._plan_faults()
        world.run(START + s.fault_seconds)
        self._calm()
        done = world.run(START + s.fault_seconds + CALM_SECONDS, self._is_finished)
        if not done:
            raise Violation("liveness", self._why_unfinished())
        if not self.hostile and not self.faulty and not world.run(world.now + SETTLE_SECONDS, self._is_settled):
            raise Violation("nothing awaited", "every call has ended, and replicas still wait for a request")
        self._check_end()

    def _link_up(self, me: int) -> None:
        for client in self.clients:
            client.link_up(me)

    def _link_down(self, me: int) -> None:
        if any(m.up for m in self.machines if m.me == me):
            return  # its twin is there
        for client in self.clients:
            client.link_down(me)

    def _plan_faults(self) -> None:
        world, s, random = self.world, self.scenario, self.world.faults
        end = s.fault_seconds * 0.9

        def at(action: object) -> None:
            world.after(random.uniform(0.05, end), action)  # type: ignore[arg-type]

        if s.stops:
            at(lambda: self._stop(s.faulty % s.n))
        for _ in range(s.crashes):
            machine = random.choice(self.machines)
            at(lambda m=machine: self._crash([m]))
        for _ in range(s.power_cuts):
            at(lambda: self._crash(self.machines))
        for _ in range(s.partitions):
            at(self._partition)
        for _ in range(s.pauses):
            machine, length = random.choice(self.machines), random.uniform(0.05, 1.0)
            at(lambda m=machine, seconds=length: m.pause(seconds))
        for _ in range(s.false_alarms):
            at(self._alarm)
        for _ in range(s.client_restarts):
            client = random.choice(self.clients)
            at(client.restart)
        for _ in range(s.absences):
            self._send_away(random.choice(self.machines), end)
        if s.loser is not None:
            times = [random.uniform(0.05, end) for _ in range(s.losses)]
            losses(s.losing, times, self._lose, self.machines[s.loser], random)
        if s.ambushes:
            self._ambush(s.ambushes, START + end)

    def _send_away(self, machine: Machine, end: float) -> None:
        """One that is down for long, and crashes again while it fetches what it missed, or after."""
        random = self.world.faults
        back = random.uniform(0.6, 0.9) * end
        self.world.after(random.uniform(0.05, 0.3), lambda: machine.crash() if machine.up else None)
        self.world.after(back, lambda: None if machine.up else self._start(machine))
        for _ in range(3):
            self.world.after(random.uniform(back, end), lambda: self._crash([machine]))

    def _stop(self, me: int) -> None:
        self.stopped = me
        for machine in self.machines:
            if machine.me == me and machine.up:
                machine.crash()

    def _crash(self, machines: list[Machine]) -> None:
        for machine in machines:
            if machine.up:
                machine.crash()
                self.world.after(self.world.faults.uniform(0.01, 0.5), lambda m=machine: self._start(m))  # type: ignore[misc]

    def _count_loss(self, what: str) -> None:
        if what != "old copy":  # counted where the protocol finds it
            self.rules.counts["disk lost" if what == "disk" else "rot found"] += 1

    def _lose(self, time: float, action: Callable[[], None]) -> None:
        """Something happens to a disk; if its machine is down afterwards, it comes back."""
        assert self.scenario.loser is not None
        machine = self.machines[self.scenario.loser]

        def act() -> None:
            if machine.up:
                action()
                if not machine.up:
                    self.world.after(self.world.faults.uniform(0.01, 0.5), lambda: self._start(machine))

        self.world.after(time, act)

    def _ambush(self, left: int, end: float) -> None:
        """Look, at any instants, for replicas that have left a view and not begun the next one, and kill one."""
        random = self.world.faults
        between = [m for m in self.machines if m.up and not m.host.replica.core.is_active]
        if between and random.random() < 0.3:
            self.rules.counts["killed between views"] += 1
            self._crash([random.choice(between)])
            left -= 1
        if left and self.world.now < end:
            self.world.after(random.uniform(0.0002, 0.004), lambda: self._ambush(left, end))

    def _start(self, machine: Machine) -> None:
        if machine.me != self.stopped:
            machine.start()

    def _partition(self) -> None:
        random = self.world.faults
        one_way = random.random() < 0.5
        ids = list(range(self.scenario.n))
        random.shuffle(ids)
        cut = random.randint(1, self.scenario.n - 1)
        self.world.note(f"partition {sorted(ids[:cut])} {'->' if one_way else '|'} {sorted(ids[cut:])}")
        for a in ids[:cut]:
            for b in ids[cut:]:
                self.network.cut(a, b)
                if not one_way:
                    self.network.cut(b, a)
        self.world.after(random.uniform(0.1, 0.8), self.network.heal)

    def _alarm(self) -> None:
        """Timers are right at no time that anybody could rely on, so they may run out at any time."""
        random = self.world.faults
        up = [m for m in self.machines if m.up]
        if random.random() < 0.3:
            self.world.note("whoever is primary resigns")
            for machine in up:
                machine.resign()
            return
        nervous = random.sample(up, random.randint(min(len(up), self.group.quorums.weak), len(up)))
        self.world.note(f"false alarm at {sorted(m.me for m in nervous)}")
        for machine in nervous:
            machine.suspect()

    def _calm(self) -> None:
        self.world.note("faults end")
        self.network.calm()
        for adversary in self.hostile:
            adversary.active = self.scenario.relentless
        for machine in self.machines:
            machine.pause_until = 0.0
            machine.skew = 0.0

    def _is_finished(self) -> bool:
        if not all(client.is_done for client in self.clients):
            return False
        if any(m.up and m.host.replica.core.lost for m in self.correct):
            return False
        executed = [m.host.replica.delivery.executed if m.up else -1 for m in self.correct]
        return min(executed) == max(executed) >= self._agreement.executed

    def _is_settled(self) -> bool:
        """Whether nobody awaits a request: who awaits a dead one suspects every primary. Rule 1.15"""
        replicas = [m.host.replica for m in self.machines if m.up]
        return not any(r.requests.oldest_awaited(r.delivery.committed_through) for r in replicas)

    def _why_unfinished(self) -> str:
        parts = [f"{m.me}{m.twin}: {_standing(m)}" for m in self.machines]
        waiting = [f"client {c.principal & 0xFF}: {len(c._calls)} calls" for c in self.clients if not c.is_done]
        told = f"executed/stable/view/promised {', '.join(parts)}; {waiting}"
        return f"not finished {CALM_SECONDS:.0f} s after the faults; {told}"

    def _check_end(self) -> None:
        calls = [call for client in self.clients for call in client.ended]
        for call in calls:
            if call.error and call.error != "client restarted":
                raise Violation("calls", f"a call of a correct client ended with {call.error}")
            if self.scenario.is_quiet and call.ended - call.begun > PROMPT_SECONDS:
                raise Violation("promptness", f"nothing was wrong, and a call took {call.ended - call.begun:.2f} s")
        if self.scenario.is_undisturbed and (view := self._seen()[0]):
            raise Violation("one disturbs nobody", f"the primary did nothing wrong, and the group is in view {view}")
        self.service.check(calls, self.correct[0].executor.application)


def _standing(machine: Machine) -> str:
    if not machine.up:
        return "down"
    log = machine.host.replica.core.log
    return f"{machine.host.replica.delivery.executed}/{log.low}/{log.view}/{log.promised}"


def simulate(scenario: Scenario, echo: Callable[[str], None] | None = None) -> Outcome:
    """Play one scenario; `echo` gets each line of its trace."""
    return outcome_of(Run(scenario, echo))


def outcome_of(run: Run) -> Outcome:
    """Play a run that is set up."""
    kind = oracle = text = ""
    try:
        run.play()
    except Violation as violation:
        kind = "stuck" if violation.oracle == "liveness" else "wrong"
        oracle, text = violation.oracle, violation.text
    except InvariantViolated as error:
        kind, oracle, text = "wrong", "invariants", str(error)
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        kind, oracle = "crashed", type(error).__name__
        text = f"{error!r} at {frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} in {frame.name}"
    executed = max((m.host.replica.delivery.executed for m in run.machines if m.up), default=0)
    calls = sum(len(client.ended) for client in run.clients)
    world = run.world
    return Outcome(
        run.scenario,
        kind,
        oracle,
        text,
        world.fingerprint,
        world.now - START,
        world.events,
        executed,
        calls,
        tuple(world.last_steps()),
        dict(run.rules.total()),
    )


def shrink(outcome: Outcome, tries: int = 60) -> Outcome:
    """A simpler scenario in which the same oracle fails, found greedily."""
    best = outcome
    progress = True
    while progress and tries > 0:
        progress = False
        for scenario in best.scenario.smaller():
            tries -= 1
            found = simulate(scenario)
            if (found.kind, found.oracle) == (outcome.kind, outcome.oracle):
                best, progress = found, True
                break
            if tries <= 0:
                break
    return best
