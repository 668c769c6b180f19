"""One run: a configuration drawn from the seed, faults, then calm; every oracle on. Its outcome says what was wrong."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from random import Random

from pbft.config import Tunables
from pbft.misbehaviour import MISBEHAVIOURS
from pbft.protocol.effects import InvariantViolated
from pbft.simulation import oracles
from pbft.simulation.adversaries import ActiveReplica, BadClient
from pbft.simulation.keys import client_principal, group_of
from pbft.simulation.machine import Machine
from pbft.simulation.network import Network, Weather
from pbft.simulation.services import SERVICES
from pbft.simulation.workload import SimulatedClient
from pbft.simulation.world import START, Violation, World

CALM_SECONDS = 40.0
"""Virtual time in which everything has to come to an end once faults have ended."""

PROMPT_SECONDS = 0.6
"""No call takes longer in a run without faults: slow disks, and nothing sent twice."""

FAULTS = ("weather", "crash", "stop", "partition", "pause", "skew", "replica", "client", "restart-client")


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that a run does follows from these values and the seed."""

    seed: int
    app: str = "counter"
    n: int = 4
    clients: int = 2
    callers: int = 3
    operations: int = 30
    """Per client."""
    interval: int = 4
    window: int = 8
    pipeline: int = 4
    sessions: int = 2
    fault_seconds: float = 2.0
    weather: Weather = field(default_factory=Weather)
    crashes: int = 0
    power_cuts: int = 0
    partitions: int = 0
    pauses: int = 0
    skew: float = 0.0
    adversary: str = ""
    faulty: int = 0
    """Which replica misbehaves, or stops for ever."""
    stops: bool = False
    """The faulty replica is switched off once, and not on again."""
    bad_client: bool = False
    client_restarts: int = 0

    @classmethod
    def draw(
        cls, seed: int, n: int | None = None, faults: Collection[str] = FAULTS, app: str | None = None
    ) -> Scenario:
        """Swarm testing: each run has its own mix of faults, many have few."""
        random = Random(f"scenario {seed}")

        def maybe(fault: str, probability: float) -> bool:
            wanted = random.random() < probability
            return wanted and fault in faults

        weather = Weather()
        if maybe("weather", 0.6):
            weather = Weather(
                delay=random.choice((0.0005, 0.001, 0.01)),
                spread=random.choice((0.0005, 0.002, 0.02)),
                loss=random.choice((0.0, 0.01, 0.05, 0.2)),
                duplication=random.choice((0.0, 0.02, 0.2)),
                straggling=random.choice((0.0, 0.01)),
            )
        interval = random.choice((2, 3, 4, 8))
        return cls(
            seed=seed,
            app=app or random.choice(("counter", "counter", "kv")),
            n=n or random.choice((4, 4, 4, 5, 6, 7)),
            clients=random.randint(1, 3),
            callers=random.randint(1, 5),
            operations=random.choice((10, 20, 40)),
            interval=interval,
            window=interval * random.choice((2, 3)),
            pipeline=random.choice((1, 2, 4, 8)),
            sessions=random.choice((1, 2, 4)),
            weather=weather,
            crashes=random.randint(1, 4) if maybe("crash", 0.5) else 0,
            power_cuts=random.randint(1, 2) if maybe("crash", 0.25) else 0,
            partitions=random.randint(1, 3) if maybe("partition", 0.3) else 0,
            pauses=random.randint(1, 3) if maybe("pause", 0.3) else 0,
            skew=random.choice((0.2, 3.0)) if maybe("skew", 0.2) else 0.0,
            adversary=random.choice(sorted(MISBEHAVIOURS)) if maybe("replica", 0.5) else "",
            faulty=random.choice((0, 0, 1, 2, 3)),
            stops=maybe("stop", 0.2),
            bad_client=maybe("client", 0.3),
            client_restarts=random.randint(1, 3) if maybe("restart-client", 0.25) else 0,
        )

    @property
    def is_quiet(self) -> bool:
        """No fault at all."""
        quiet = Scenario(0)
        names = ("weather", "crashes", "power_cuts", "partitions", "pauses", "skew", "adversary", "bad_client", "stops")
        return all(getattr(self, name) == getattr(quiet, name) for name in (*names, "client_restarts"))

    def smaller(self) -> list[Scenario]:
        """Simpler scenarios to try when this one fails: each takes one thing away."""
        found = [
            replace(self, **{name: 0})  # type: ignore[arg-type]
            for name in ("crashes", "power_cuts", "partitions", "pauses", "skew", "client_restarts")
            if getattr(self, name)
        ]
        found += [replace(self, adversary="")] if self.adversary else []
        found += [replace(self, stops=False)] if self.stops else []
        found += [replace(self, bad_client=False)] if self.bad_client else []
        found += [replace(self, weather=Weather())] if self.weather != Weather() else []
        found += [replace(self, clients=1)] if self.clients > 1 else []
        found += [replace(self, callers=1)] if self.callers > 1 else []
        found += [replace(self, operations=self.operations // 2)] if self.operations > 2 else []
        found += [replace(self, n=4)] if self.n > 4 else []
        return found


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `kind`: "" well, "wrong" (an oracle), "stuck" (liveness), "crashed" (an exception)."""

    scenario: Scenario
    kind: str
    oracle: str
    text: str
    fingerprint: str
    events: int
    executed: int
    calls: int
    trace: tuple[str, ...]


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
            status_interval=100,
            view_timeout=500,
            view_timeout_max=8000,
            batch_max_bytes=4096,
            operation_max_bytes=1024,
        )
        self.group = group_of(s.n, s.clients + 1, tunables)
        quorums = self.group.quorums
        faulty = (s.faulty,) if s.adversary or s.stops else ()
        watchers = (
            oracles.Agreement(),
            oracles.Validity(),
            oracles.DurableVotes(),
            oracles.DurableReplies(quorums, len(faulty)),
            oracles.Certificates(quorums),
            oracles.Bounds(),
            oracles.Accusations(faulty),
        )
        observer = oracles.All(watchers)
        self.machines = [
            Machine(
                self.world,
                self.network,
                self.group,
                self.service.application,
                i,
                observer,
                MISBEHAVIOURS[s.adversary](i, self.group, self.world.adversary)
                if i in faulty and s.adversary
                else None,
            )
            for i in range(s.n)
        ]
        self.clients = [
            SimulatedClient(
                self.world, self.network, self.group, i, self.service, s.callers, s.operations, s.fault_seconds
            )
            for i in range(s.clients)
        ]
        self.faulty = faulty
        self.stopped: int | None = None
        forging = faulty if s.adversary else ()
        self.active = [ActiveReplica(self.world, self.network, self.group, i, self._seen) for i in forging]
        bad = client_principal(s.clients)
        self.bad = [BadClient(self.world, self.network, self.group, bad, client_principal(0))] if s.bad_client else []

    @property
    def hostile(self) -> list[ActiveReplica | BadClient]:
        """Who makes up messages."""
        return [*self.active, *self.bad]

    @property
    def correct(self) -> list[Machine]:
        """Machines that oracles hold to the rules."""
        return [m for m in self.machines if m.me not in self.faulty]

    def _seen(self) -> int:
        return max((m.host.replica.delivery.executed for m in self.machines if m.up), default=0)

    # ---- the run

    def play(self) -> None:
        """Faults first, then calm and the demand for progress. Raises Violation."""
        world, s = self.world, self.scenario
        for machine in self.machines:
            machine.on_up = self._link_up
            machine.on_down = self._link_down
            if machine.me and s.skew:
                machine.skew = world.faults.uniform(-s.skew, s.skew)
            machine.start()
        for client in self.clients:
            client.begin()
        for adversary in self.hostile:
            adversary.begin()
        self._plan_faults()
        world.run(START + s.fault_seconds)
        self._calm()
        done = world.run(START + s.fault_seconds + CALM_SECONDS, self._is_finished)
        if not done:
            raise Violation("liveness", self._why_unfinished())
        self._check_end()

    def _link_up(self, me: int) -> None:
        for client in self.clients:
            client.link_up(me)

    def _link_down(self, me: int) -> None:
        for client in self.clients:
            client.link_down(me)

    def _plan_faults(self) -> None:
        world, s, random = self.world, self.scenario, self.world.faults
        end = s.fault_seconds * 0.9

        def at(action: object) -> None:
            world.after(random.uniform(0.05, end), action)  # type: ignore[arg-type]

        if s.stops:
            at(lambda: self._stop(self.machines[s.faulty]))
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
        for _ in range(s.client_restarts):
            client = random.choice(self.clients)
            at(client.restart)

    def _stop(self, machine: Machine) -> None:
        self.stopped = machine.me
        if machine.up:
            machine.crash()

    def _crash(self, machines: list[Machine]) -> None:
        for machine in machines:
            if machine.up:
                machine.crash()
                self.world.after(self.world.faults.uniform(0.01, 0.5), lambda m=machine: self._start(m))  # type: ignore[misc]

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

    def _calm(self) -> None:
        self.world.note("faults end")
        self.network.calm()
        for adversary in self.hostile:
            adversary.active = False
        for machine in self.machines:
            machine.pause_until = 0.0
            machine.skew = 0.0

    def _is_finished(self) -> bool:
        if not all(client.is_done for client in self.clients):
            return False
        executed = [m.host.replica.delivery.executed if m.up else -1 for m in self.correct]
        return min(executed) == max(executed)

    def _why_unfinished(self) -> str:
        parts = [
            f"{m.me}: {m.host.replica.delivery.executed}/{m.host.replica.core.log.low}" if m.up else f"{m.me}: down"
            for m in self.machines
        ]
        waiting = [f"client {c.principal & 0xFF}: {len(c._calls)} calls" for c in self.clients if not c.is_done]
        return f"not finished {CALM_SECONDS:.0f} s after the faults; executed/stable {', '.join(parts)}; {waiting}"

    def _check_end(self) -> None:
        calls = [call for client in self.clients for call in client.ended]
        for call in calls:
            if call.error and call.error != "client restarted":
                raise Violation("calls", f"a call of a correct client ended with {call.error}")
            if self.scenario.is_quiet and call.ended - call.begun > PROMPT_SECONDS:
                raise Violation("promptness", f"nothing was wrong, and a call took {call.ended - call.begun:.2f} s")
        self.service.check(calls, self.correct[0].executor.application)


def simulate(scenario: Scenario, echo: Callable[[str], None] | None = None) -> Outcome:
    """Play one scenario; `echo` gets each line of its trace."""
    run = Run(scenario, echo)
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
        scenario, kind, oracle, text, world.fingerprint, world.events, executed, calls, tuple(world.last_steps())
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
