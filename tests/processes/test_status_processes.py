"""What `pbft status` and `pbft why` say while a cluster stands still, lags and recovers, as real processes."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable

import campaign
import pytest

from pbft.cli.children import Children
from pbft.cli.main import main
from pbft.cli.status import ask_all, render
from pbft.client import BlockingClient
from pbft.config_file import ClusterConfig

pytestmark = pytest.mark.slow


def states(config: ClusterConfig) -> list[str]:
    """The state column."""
    lines = render(ask_all(config, 0.3), config.group).splitlines()
    return [re.split("  +", line)[1] for line in lines[1:5]]


def until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait for it."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.scenario("I06")
def test_a_cluster_that_stands_still_is_never_shown_as_well(capsys: pytest.CaptureFixture[str]) -> None:
    """One replica killed, one stopped: for as long as a request waits, nobody is `up`; status names view, primary,
    executed, checkpoint, peers and the timer, and `why` says who is missing. When the stopped one goes on, they are up,
    and `why` says that it works and how little it can bear; when all are back, that nothing is awaited."""

    def why(config: ClusterConfig) -> tuple[int, list[str]]:
        code = main(["why", str(config.path)])
        return code, capsys.readouterr().out.splitlines()

    with campaign.cluster(view_timeout=1000) as config, Children(config) as children:
        campaign.start(children)
        with BlockingClient(config, name="alice") as client:
            assert client.invoke(b"inc") == b"1"
            children.kill(3)
            os.kill(children.pid(2), signal.SIGSTOP)
            waiting = threading.Thread(target=client.invoke, args=(b"inc",), kwargs={"timeout": 60.0})
            waiting.start()
            until(lambda: bool(ask_all(config, 0.3)[1]["timer_s"]))
            time.sleep(0.6)
            seen = set()
            end = time.monotonic() + 4
            while time.monotonic() < end:
                found = states(config)
                seen |= set(found[:2])
                assert "up" not in found and found[2:] == ["unreachable", "unreachable"], found
            assert seen & {"waiting", "changing view", "cut off"}
            row = ask_all(config, 0.3)[1]
            assert (row["view"], row["primary"], row["last_executed"], row["stable_checkpoint"]) == (0, 0, 2, 0)
            code, said = why(config)
            assert code == 1
            assert said[0] == (
                "Only 2 of 4 replicas can vote and 3 are needed: nothing is ordered until 1 more is back."
            ) or said[0].startswith("Only 0 of 4 replicas can vote")
            assert {2, 3} == {int(line[8]) for line in said if "does not answer at" in line}
            assert any("The oldest request has waited" in line or "left for view" in line for line in said), said
            os.kill(children.pid(2), signal.SIGCONT)
            waiting.join(30)
            assert not waiting.is_alive()
            until(lambda: states(config) == ["up", "up", "up", "unreachable"])
            until(lambda: why(config)[1][0] == "It serves requests; one more failure would stop it.")
            children.start(3)
            until(lambda: why(config)[0] == 0)
            assert why(config)[1][0].startswith("It waits for nothing: all 4 replicas vote in view ")


@pytest.mark.scenario("I06")
def test_a_lagging_replica_shows_by_how_much() -> None:
    """Away while the others go on: whenever it answers and is more than a checkpoint behind, it is not `up`."""
    with campaign.cluster(checkpoint_interval=4, log_window=8) as config, Children(config) as children:
        campaign.start(children)
        with BlockingClient(config, name="alice") as client:
            children.kill(3)
            for i in range(1, 31):
                assert client.invoke(b"inc") == b"%d" % i
            rows = ask_all(config, 0.5)
            children.start(3)
            samples = []

            def has_caught_up() -> bool:
                now = ask_all(config, 0.5)
                line = re.split("  +", render(now, config.group).splitlines()[4])
                samples.append((line[1], line[5]))
                return now[3]["last_executed"] == rows[0]["last_executed"]

            until(has_caught_up)
            assert samples[0] == ("unreachable", "-") and samples[-1][1] == "0"
            assert [s for s in samples if s[1] not in "-0" and int(s[1]) > 4 and s[0] == "up"] == []
            until(lambda: states(config) == ["up"] * 4)
