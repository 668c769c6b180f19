"""What a run does: sizes, weather, faults, adversaries. Everything follows from these values and the seed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from random import Random

from pbft.config import Quorums
from pbft.misbehaviour import MISBEHAVIOURS, split
from pbft.simulation.disk_faults import WAYS
from pbft.simulation.network import Weather

FAULTS = (
    *("weather", "crash", "stop", "partition", "pause", "skew", "alarm", "replica", "twin", "client"),
    *("restart-client", "loss"),
)
_LARGE = 0.06
"""Share of the scenarios with ten replicas: each costs as much as several of the usual size."""
_FORGETFUL = 0.15
"""Share of the scenarios in which little is retained."""
_LOSS = 0.15
"""Share of the scenarios in which a disk is lost, where one more may be faulty."""

_COUNTS = (
    "crashes", "power_cuts", "partitions", "pauses", "skew", "false_alarms", "ambushes", "absences", "losses",
    "client_restarts",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Scenario:
    """A configuration, the faults that come to it, and who misbehaves."""

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
    signed_requests: bool = False
    """The robust profile: clients sign every request."""
    fault_seconds: float = 2.0
    weather: Weather = field(default_factory=Weather)
    crashes: int = 0
    power_cuts: int = 0
    partitions: int = 0
    pauses: int = 0
    skew: float = 0.0
    timeout: int = 500
    """First view timeout in milliseconds; a short one makes correct replicas suspect correct primaries."""
    gap: int = 1500
    """Longest pause between proposals, in milliseconds, that backups put up with."""
    false_alarms: int = 0
    """How often replicas suspect their primary for nothing, or a primary resigns."""
    ambushes: int = 0
    """How often a replica is killed while it is between two views; none by chance, by `--set ambushes=N` alone."""
    absences: int = 0
    """Replicas that are down for most of the time that faults last, and crash again after that."""
    losses: int = 0
    """How often one replica, which counts as one of those that may be faulty, loses its disk. Rule 1.7"""
    losing: str = "disk"
    """How: see `disk_faults`."""
    adversary: str = ""
    """Misbehaviours of the faulty replica, joined by "+"."""
    faulty: int = 0
    """Which replica misbehaves, has a twin, or stops for ever."""
    accomplice: str = ""
    """Misbehaviours of a second one, where two may be faulty. The same as `adversary`: both share what they draw."""
    second: int = 1
    """Which replica that is."""
    forges: bool = False
    """Misbehaving replicas make up messages besides."""
    twin: bool = False
    """The faulty replica runs twice: one identity, two disks, and each peer reaches one of them, or both."""
    stops: bool = False
    """The faulty replica is switched off once, and not on again."""
    retained: int = 64 << 20
    """Bytes of old batches that replicas keep for others; with few, who was away needs a state."""
    bad_client: bool = False
    relentless: bool = False
    """Whoever makes up messages goes on when the faults end."""
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
        usual = random.choice((4, 4, 4, 5, 6, 7))
        n = n or (10 if Random(f"size {seed}").random() < _LARGE else usual)
        misbehaves = maybe("replica", 0.5)
        forgetful = Random(f"retained {seed}").random() < _FORGETFUL
        losing = Random(f"loss {seed}")
        losses = losing.choice((1, 1, 2, 3)) if losing.random() < _LOSS and "loss" in faults else 0
        first, other = _some_names(random), _some_names(random)
        second = random.choice(("", first, other)) if Quorums(n).f > 1 else ""
        return cls(
            seed=seed,
            retained=4096 if forgetful else 64 << 20,
            absences=int(forgetful and "crash" in faults),
            losses=losses,
            losing=losing.choice(WAYS) if losses else "disk",
            app=app or random.choice(("counter", "counter", "kv")),
            n=n,
            clients=random.randint(1, 3),
            callers=random.randint(1, 5),
            operations=random.choice((10, 20, 40)),
            interval=interval,
            window=interval * random.choice((2, 3)),
            pipeline=random.choice((1, 2, 4, 8)),
            sessions=random.choice((1, 2, 4)),
            signed_requests=random.random() < 0.2,
            weather=weather,
            crashes=random.randint(1, 4) if maybe("crash", 0.5) else 0,
            power_cuts=random.randint(1, 2) if maybe("crash", 0.25) else 0,
            partitions=random.randint(1, 3) if maybe("partition", 0.3) else 0,
            pauses=random.randint(1, 3) if maybe("pause", 0.3) else 0,
            skew=random.choice((0.2, 3.0)) if maybe("skew", 0.2) else 0.0,
            timeout=random.choice((60, 150)) if maybe("alarm", 0.25) else 500,
            gap=random.choice((300, 1500)),
            false_alarms=random.choice((1, 3, 10, 25)) if maybe("alarm", 0.4) else 0,
            adversary=first if misbehaves else "",
            faulty=random.choice((0, 0, 0, *range(n))),
            accomplice=second if misbehaves else "",
            second=random.randrange(n),
            forges=random.random() < 0.3 and misbehaves,
            twin=maybe("twin", 0.1),
            stops=maybe("stop", 0.2),
            bad_client=maybe("client", 0.3),
            relentless=random.random() < 0.5,
            client_restarts=random.randint(1, 3) if maybe("restart-client", 0.25) else 0,
        )

    @property
    def misbehaving(self) -> dict[int, str]:
        """Replica -> what it does wrong. Never more than may be faulty."""
        found = {self.faulty % self.n: self.adversary} if self.adversary else {}
        second = self.second % self.n
        if self.accomplice and Quorums(self.n).f > 1 and second != self.faulty % self.n:
            found[second] = self.accomplice
        return found

    @property
    def collude(self) -> bool:
        """Whether two misbehave alike."""
        return self.accomplice == self.adversary

    @property
    def all_faulty(self) -> tuple[int, ...]:
        """Replicas that no oracle holds to the rules."""
        first = {self.faulty % self.n: ""} if self.twin or self.stops else {}
        return tuple(first | self.misbehaving)

    @property
    def loser(self) -> int | None:
        """Which replica loses its disk; None if none does, or if so many are faulty that none may."""
        faulty = self.all_faulty
        if not self.losses or len(faulty) >= Quorums(self.n).f:
            return None
        return next(i % self.n for i in range(self.faulty, self.faulty + self.n) if i % self.n not in faulty)

    @property
    def is_quiet(self) -> bool:
        """No fault at all."""
        quiet = Scenario(0)
        names = (*_COUNTS, "weather", "timeout", "bad_client", "stops", "twin", "adversary", "accomplice")
        return all(getattr(self, name) == getattr(quiet, name) for name in names)

    @property
    def is_undisturbed(self) -> bool:
        """Nothing is wrong but that one backup complains: that is nobody's reason to leave a view."""
        complains = self.adversary in ("suspecting", "high-views") and self.faulty % self.n != 0
        return replace(self, adversary="").is_quiet and not self.forges and (complains or not self.adversary)

    def smaller(self) -> list[Scenario]:
        """Simpler scenarios to try when this one fails: each takes one thing away."""
        found = [replace(self, **{name: 0}) for name in _COUNTS if getattr(self, name)]  # type: ignore[arg-type]
        found += [replace(self, adversary="", forges=False)] if self.adversary and not self.accomplice else []
        if self.accomplice:
            found.append(replace(self, accomplice=""))
            found.append(replace(self, adversary=self.accomplice, faulty=self.second, accomplice=""))
        for name in ("adversary", "accomplice"):
            parts = split(getattr(self, name)) if getattr(self, name) else []
            if len(parts) > 1:
                found += [replace(self, **{name: "+".join(p for p in parts if p != out)}) for out in parts]  # type: ignore[arg-type]
        found += [
            replace(self, **{name: False})  # type: ignore[arg-type]
            for name in ("forges", "twin", "stops", "bad_client", "relentless")
            if getattr(self, name)
        ]
        found += [replace(self, losing="disk")] if self.losing != "disk" else []
        found += [replace(self, timeout=500)] if self.timeout != 500 else []
        found += [replace(self, retained=64 << 20)] if self.retained != 64 << 20 else []
        found += [replace(self, weather=Weather())] if self.weather != Weather() else []
        found += [replace(self, clients=1)] if self.clients > 1 else []
        found += [replace(self, callers=1)] if self.callers > 1 else []
        found += [replace(self, operations=self.operations // 2)] if self.operations > 2 else []
        if self.n > 4:
            found.append(replace(self, n=4, faulty=self.faulty % 4))
        return found


def _some_names(random: Random) -> str:
    """One misbehaviour, now and then two at once."""
    names = sorted(MISBEHAVIOURS)
    pair = random.sample(names, 2)
    return "+".join(pair) if random.random() < 0.25 else pair[0]
