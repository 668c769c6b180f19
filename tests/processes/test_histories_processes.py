"""What clients were told, while replicas die and links fail, is what one counter could have told them. [Herlihy and
Wing 1990]"""

from __future__ import annotations

import random
import signal
from typing import NamedTuple

import pytest
import trio
from campaigns.common import Load
from playing import Play, play

from pbft.apps.counter import get, inc
from pbft.client import Client, ClientError

pytestmark = pytest.mark.slow


class Told(NamedTuple):
    """One call that ended well."""

    begun: float
    ended: float
    value: int
    adds: bool


async def ask(client: Client, load: Load, history: list[Told], rng: random.Random) -> None:
    while True:
        adds = rng.random() < 0.5
        begun = trio.current_time()
        load.unknown += adds
        try:
            value = int(await (client.invoke(inc(), timeout=20.0) if adds else client.query(get(), timeout=20.0)))
        except ClientError:
            continue
        if adds:
            load.acknowledge(value)
        history.append(Told(begun, trio.current_time(), value, adds))


def fault_in(history: list[Told]) -> tuple[Told, Told] | None:
    """Two calls that contradict each other: one was over before the other began, and yet saw more of the counter; or as
    much, where the later one added. A counter that is only added to is linearizable where no two do."""
    highest: Told | None = None
    ended = sorted(history, key=lambda t: t.ended)
    position = 0
    for later in sorted(history, key=lambda t: t.begun):
        while ended[position].ended < later.begun:
            if highest is None or ended[position].value > highest.value:
                highest = ended[position]
            position += 1
        if highest is not None and later.value < highest.value + later.adds:
            return highest, later
    return None


def test_the_checker_sees_what_is_wrong() -> None:
    """Reads of what was overwritten, and counts that were given before."""
    add, read = Told(0, 1, 1, True), Told(2, 3, 1, False)
    assert fault_in([add, read]) is None
    assert fault_in([add, read._replace(value=0)]) is not None
    assert fault_in([add, Told(2, 3, 1, True)]) is not None
    assert fault_in([add, Told(0.5, 3, 0, False)]) is None


@pytest.mark.scenario("E18")
def test_the_history_under_faults_is_linearizable() -> None:
    """Writers and readers, of two clients, while a primary is killed and comes back, a backup stands still, and links
    are cut."""
    history: list[Told] = []

    async def act(p: Play) -> None:
        async with (
            Client.connect(p.config, name="alice") as alice,
            Client.connect(p.config, name="bob") as bob,
            trio.open_nursery() as nursery,
        ):
            for seed in range(6):
                nursery.start_soon(ask, (alice, bob)[seed % 2], p.load, history, random.Random(seed))
            await p.progress(50)
            await p.kill(0)
            await p.progress(50)
            p.children.start(0)
            await trio.sleep(1.0)
            p.links.isolate(await p.primary(), incoming=False)
            await p.progress(50)
            p.links.heal()
            await trio.sleep(0.5)
            p.signal(2, signal.SIGSTOP)
            await p.progress(50)
            p.signal(2, signal.SIGCONT)
            await p.progress(50)
            nursery.cancel_scope.cancel()

    play(act)
    added = [t.value for t in history if t.adds]
    assert len(history) > 100 and len(set(added)) == len(added)
    assert fault_in(history) is None
