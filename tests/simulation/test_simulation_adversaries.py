"""Misbehaviours, twins and bad clients in simulated clusters: no oracle fails, and the cluster goes on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pbft.batch import ClientRequest, Kind
from pbft.cli.main import main
from pbft.messages import Commit, Request, decode
from pbft.misbehaviour import MISBEHAVIOURS
from pbft.simulation.bad_client import BadClient
from pbft.simulation.keys import SimulatedAuthentication, client_principal, group_of
from pbft.simulation.network import Network, Weather
from pbft.simulation.run import Run, simulate
from pbft.simulation.scenario import Scenario
from pbft.simulation.twins import Twins
from pbft.simulation.world import World

SMALL = Scenario(3, operations=6, clients=2, callers=2, fault_seconds=0.5, timeout=150, false_alarms=3)


@pytest.mark.parametrize("faulty", [0, 2], ids=["primary", "backup"])
@pytest.mark.parametrize("name", sorted(MISBEHAVIOURS))
def test_every_misbehaviour_is_survived(name: str, faulty: int) -> None:
    """While views change now and then, so that the faulty one leads, leaves and testifies."""
    outcome = simulate(replace(SMALL, adversary=name, faulty=faulty))
    assert outcome.kind == "", outcome.text
    assert outcome.calls == 12


@pytest.mark.parametrize(
    "scenario",
    [
        replace(SMALL, adversary="silent-commit+lying-replies"),
        replace(SMALL, n=7, adversary="forged-prepared", accomplice="forged-prepared", second=1, forges=True),
        replace(SMALL, n=7, adversary="equivocating-primary", accomplice="two-view-changes+hasty-commits", second=3),
        replace(SMALL, twin=True, faulty=0),
        replace(SMALL, twin=True, faulty=1, crashes=2, adversary="lying-replies"),
        replace(SMALL, n=7, twin=True, faulty=0, adversary="silent", accomplice="two-new-views", second=1),
        replace(SMALL, bad_client=True),
        replace(SMALL, bad_client=True, adversary="censoring", forges=True),
    ],
    ids=["composed", "colluding", "two", "twins", "lying twins", "twins and another", "bad client", "all hostile"],
)
@pytest.mark.slow
def test_combinations_are_survived(scenario: Scenario) -> None:
    """Up to f faulty replicas, whatever they do; and clients that are none of them."""
    outcome = simulate(scenario)
    assert outcome.kind == "", outcome.text


def test_colluders_share_what_they_draw() -> None:
    """Two that misbehave alike tell the same lies; two that do not, draw by themselves."""
    alike = Run(replace(SMALL, n=7, adversary="silent", accomplice="silent", second=1))
    unlike = Run(replace(SMALL, n=7, adversary="silent", accomplice="suspecting", second=1))
    for run, shared in ((alike, True), (unlike, False)):
        first, second = (run.machines[i].adversary for i in (0, 1))
        assert first is not None
        assert second is not None
        assert (first._captive.random is second._captive.random) == shared


def test_never_more_than_f_are_faulty() -> None:
    """Whatever is drawn or fixed."""
    for seed in range(500):
        scenario = Scenario.draw(seed)
        bound = group_of(scenario.n, 1, Run(SMALL).group.tunables).quorums.f
        assert len(scenario.all_faulty) <= bound
        assert all(0 <= i < scenario.n for i in scenario.all_faulty)
    assert Scenario(0, n=4, adversary="silent", accomplice="silent", second=2).all_faulty == (0,)
    assert Scenario(0, n=7, adversary="silent", accomplice="silent", second=0).all_faulty == (0,)
    assert Scenario(0, n=7, faulty=3, twin=True, adversary="silent", accomplice="delaying").all_faulty == (3, 1)


def test_draws_reach_every_misbehaviour_and_every_fault() -> None:
    """Alone and composed, as primary and as backup, by one and by two."""
    drawn = [Scenario.draw(seed) for seed in range(2000)]
    names = {name for s in drawn for name in s.adversary.split("+")} - {""}
    assert names == set(MISBEHAVIOURS)
    assert any("+" in s.adversary for s in drawn)
    assert any(len(s.misbehaving) == 2 and s.collude for s in drawn)
    assert any(len(s.misbehaving) == 2 and not s.collude for s in drawn)
    assert any(s.twin and not s.adversary for s in drawn)
    assert {s.faulty for s in drawn if s.n == 7} == set(range(7))


def test_shrinking_takes_adversaries_away_one_by_one() -> None:
    """The second one, one of two names, what they make up, the twin."""
    smaller = Scenario(0, n=7, adversary="silent+delaying", accomplice="flooding", forges=True, twin=True).smaller()
    changed = [(s.adversary, s.accomplice, s.forges, s.twin) for s in smaller]
    assert ("silent+delaying", "", True, True) in changed
    assert ("flooding", "", True, True) in changed
    assert ("silent", "flooding", True, True) in changed
    assert ("silent+delaying", "flooding", False, True) in changed
    assert ("silent+delaying", "flooding", True, False) in changed


def test_twins_reach_different_peers() -> None:
    """Each peer talks to one of them or to both, and hears from the same."""
    world = World(1)
    network = Network(world, Weather())
    twins = Twins(world, network, 0)
    got: list[tuple[str, int]] = []
    ports = [twins.port(), twins.port()]
    for name, port in zip("ab", ports, strict=True):
        port.attach(0, lambda sender, body, name=name: got.append((name, sender)))  # type: ignore[misc]
    heard: list[tuple[int, bytes]] = []
    for peer in range(1, 9):
        network.attach(peer, lambda sender, body, peer=peer: heard.append((peer, body)))  # type: ignore[misc]
        network.send(peer, 0, b"x")
        for name, port in zip((b"a", b"b"), ports, strict=True):
            port.send(0, peer, name)
    world.run(world.now + 1)
    assert sorted((peer, name.decode()) for peer, name in heard) == sorted((peer, name) for name, peer in got)
    assert {name for name, _ in got} == {"a", "b"}
    assert len(got) < 16
    before = list(got)
    twins.begin()
    world.run(world.now + 10)
    for peer in range(1, 9):
        network.send(peer, 0, b"x")
    world.run(world.now + 1)
    assert got[len(before) :] != before


def test_a_bad_client_tries_what_it_can() -> None:
    """Authenticators that convince some only, two bodies under one id, others' requests, masses."""
    world = World(5)
    network = Network(world, Weather())
    group = group_of(4, 2, Run(SMALL).group.tunables)
    bad = BadClient(world, network, group, client_principal(1), client_principal(0))
    authentic = [SimulatedAuthentication(group, i) for i in range(4)]
    seen: dict[bytes, list[tuple[bool, ...]]] = {}
    ids: dict[tuple[int, int], dict[bytes, bool]] = {}

    def arrived(sender: int, body: bytes) -> None:
        try:
            message = decode(body)
            assert isinstance(message, Request)
            request = ClientRequest(message.body, message.authenticator)
        except ValueError:
            return
        verdict = tuple(a.request_is_authentic(request) for a in authentic)
        seen.setdefault(request.body, []).append(verdict)
        if request.kind is Kind.OPERATIONS and any(verdict):
            ids.setdefault((request.session, request.id), {})[request.digest] = True

    for replica in range(4):
        network.attach(replica, arrived)
    bad.begin()
    world.run(world.now + 5)
    verdicts = [v for found in seen.values() for v in found]
    assert any(any(v) and not all(v) for v in verdicts)
    assert any(len(digests) > 1 for digests in ids.values())
    assert any((False, False, False, False) in found and (True, True, True, True) in found for found in seen.values())
    assert len(verdicts) > 1000


def test_names_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    """One, or several; anything else is refused in one sentence."""
    fixed = [w for name in ("operations=3", "clients=1", "weather=calm", "crashes=0") for w in ("--set", name)]
    assert main(["simulate", "--seed", "4", *fixed, "--set", "adversary=silent-commit+lying-replies"]) == 0
    capsys.readouterr()
    assert main(["simulate", "--seed", "4", "--set", "adversary=gremlins"]) == 2
    assert "'gremlins' is no misbehaviour; these are: backing-the-loser, censoring" in capsys.readouterr().err
    assert main(["simulate", "--help"]) == 0
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in MISBEHAVIOURS)


def test_a_late_message_of_a_machine_that_crashed_is_lost() -> None:
    """What a delaying replica has not said yet dies with it."""
    run = Run(replace(SMALL, adversary="delaying", faulty=1, false_alarms=0))
    for machine in run.machines:
        machine.start()
    said: list[bytes] = []
    run.network.attach(0, lambda sender, body: said.append(body) if sender == 1 else None)
    run.machines[1]._send(0, b"", Commit(0, 1, bytes(32)))
    run.machines[1].crash()
    run.world.run(run.world.now + 1)
    assert said == []
