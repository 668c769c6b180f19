"""Real processes, sockets and disks, driven by the command line as a user would."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import campaign
import pytest
import trio

from pbft.cli.children import Children
from pbft.cli.status import FIELDS, ask_all
from pbft.client import BlockingClient, Client, OperationFailed, RequestTimeout
from pbft.config_file import ClusterConfig

pytestmark = pytest.mark.slow


def pbft(*words: object, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    command = [sys.executable, "-m", "pbft", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout)


@contextmanager
def up(config: ClusterConfig, *flags: str) -> Iterator[subprocess.Popen[str]]:
    """`pbft up`, ready; stopped by SIGTERM at the end."""
    command = [sys.executable, "-m", "pbft", "up", str(config.path), *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        n = len(config.replicas)
        assert process.stdout.readline() == f"ready: {n}/{n} replicas, view 0\n"
        yield process
    finally:
        begun = time.monotonic()
        process.terminate()
        assert process.wait(10) == 0
        assert time.monotonic() - begun < 8
        assert process.stdout is not None
        process.stdout.close()


def words_of(pid: int) -> list[str]:
    """Command line of a process; none if there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    except OSError:
        return []


def replica_pids(config: ClusterConfig) -> list[int]:
    """Replica processes of this cluster."""
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if {"replica", str(config.path)} <= set(words_of(pid))]


def replica_of(pid: int) -> str:
    """Its number, as it stands after the file."""
    words = words_of(pid)
    return words[words.index("replica") + 2]


def replicas_running(config: ClusterConfig) -> list[str]:
    """Command lines of replica processes of this cluster."""
    return [" ".join(words_of(pid)) for pid in replica_pids(config)]


@pytest.mark.parametrize("replicas", [4, 7])
@pytest.mark.scenario("I06")
def test_up_call_status_and_everything_is_there_after_a_restart(replicas: int) -> None:
    """The command line from first start to second, with 4 and with 7 replicas."""
    with campaign.cluster(replicas, app="kv") as config:
        with up(config):
            assert pbft("call", config.path, "--as", "alice", "put", "a", "1").returncode == 0
            assert pbft("call", config.path, "--as", "bob", "get", "a").stdout == "1\n"
            done = pbft("status", config.path, "--json")
            rows = json.loads(done.stdout)
            assert [r["id"] for r in rows] == list(range(replicas))
            for row in rows:
                assert set(FIELDS) <= set(row)
                assert row["reachable"] is True and row["view"] == 0 and row["primary"] == 0
                assert row["connected_peers"] == replicas - 1 and row["last_executed"] >= 2
                assert row["in_view_change"] is False and row["recovering"] is False
                assert row["high_watermark"] - row["low_watermark"] == 256
            failed = pbft("call", config.path, "cas", "a", "9", "2")
            assert failed.returncode in (0, 1)
        assert replicas_running(config) == []
        with up(config):
            assert pbft("call", config.path, "get", "a").stdout == "1\n"
        down = pbft("status", config.path, "--json")
        assert down.returncode == 3 and not any(r["reachable"] for r in json.loads(down.stdout))
        assert pbft("call", config.path, "--timeout", "0.5", "get", "a").returncode == 3


def test_replicas_end_when_their_parent_is_killed() -> None:
    """Nothing is left behind, even after SIGKILL of `pbft up`."""
    with campaign.cluster() as config:
        process = subprocess.Popen(
            [sys.executable, "-m", "pbft", "up", str(config.path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.wait()
        process.stdout.close()
        deadline = time.monotonic() + 8
        while replicas_running(config) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert replicas_running(config) == []


@pytest.mark.parametrize("which", ["address", "admin"])
@pytest.mark.scenario("I03")
def test_a_port_in_use_is_one_sentence(which: str) -> None:
    """`up` names the replica and the address, and exits with 2 and no replica left; so does the replica itself."""
    with campaign.cluster() as config, socket.socket() as taken:
        address = getattr(config.replicas[1], which)
        taken.bind((address.host, address.port))
        taken.listen()
        done = pbft("up", config.path, timeout=15)
        assert done.returncode == 2
        assert done.stderr.startswith(f"replica 1 ended with code 2: pbft: cannot listen on {address}")
        assert done.stderr.count("\n") == 1
        assert replicas_running(config) == []
        done = pbft("replica", config.path, 1, timeout=5)
        assert done.returncode == 2
        assert done.stderr.startswith(f"pbft: cannot listen on {address}") and done.stderr.count("\n") == 1


@pytest.mark.scenario("B20")
def test_a_second_process_on_one_data_directory_is_refused() -> None:
    """It names the process that holds the directory, and exits with 2; the first one goes on."""
    with campaign.cluster(app="kv") as config, up(config):
        assert pbft("call", config.path, "put", "a", "1").returncode == 0
        [holder] = [pid for pid in replica_pids(config) if replica_of(pid) == "1"]
        port = campaign.free_ports(2)
        done = pbft("replica", config.path, 1, "--listen", f"127.0.0.1:{port}")
        assert done.returncode == 2
        sentence = f"pbft: data directory {config.data_directory(1)} is in use by process {holder}; stop that replica"
        assert done.stderr.startswith(sentence) and done.stderr.count("\n") == 1
        assert pbft("call", config.path, "get", "a").stdout == "1\n"
        rows = ask_all(config, 1.0)
        assert [r["connected_peers"] for r in rows] == [3] * 4 and replica_pids(config).count(holder) == 1


@pytest.mark.scenario("B20", "I03")
def test_a_second_up_leaves_the_running_cluster_alone() -> None:
    """Of the same cluster, and of another one at the same addresses: one sentence that names who is there, exit code 2,
    and nothing written."""
    with campaign.cluster(app="kv") as config, campaign.cluster() as other, up(config):
        pids = {int(replica_of(pid)): pid for pid in replica_pids(config)}
        logs = {path: path.read_bytes() for path in config.path.parent.glob("data/*.log")}
        done = pbft("up", config.path)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == (
            "pbft: replicas 0, 1, 2 and 3 of this cluster run already: addresses and data are in use by processes "
            f"{pids[0]}, {pids[1]}, {pids[2]} and {pids[3]}; end that first, by Ctrl-C where it was started or by "
            "kill\n"
        )
        for mine, taken in zip(other.replicas, config.replicas, strict=True):
            text = other.path.read_text().replace(f'"{mine.address}"', f'"{taken.address}"')
            other.path.write_text(text.replace(f'"{mine.admin}"', f'"{taken.admin}"'))
        done = pbft("up", other.path)
        assert (done.returncode, done.stdout) == (2, "")
        place = f"pbft: {config.replicas[0].admin} is in use by replica 0 of another cluster (process {pids[0]}); "
        assert done.stderr.startswith(place) and done.stderr.count("\n") == 1
        assert pbft("status", other.path).returncode == 3, "another cluster's replicas are none of this one"
        assert not (other.path.parent / "data").exists()
        assert all(path.read_bytes().startswith(said) for path, said in logs.items()), "no log was begun anew"
        assert {int(replica_of(pid)): pid for pid in replica_pids(config)} == pids
        assert pbft("call", config.path, "put", "a", "1").returncode == 0


def test_who_was_killed_is_said_to_be_killed_and_when_all_are_gone_it_ends() -> None:
    """A death by a signal has no last words, and `up` does not watch over nobody."""
    with campaign.cluster(app="kv") as config:
        process = subprocess.Popen(
            [sys.executable, "-m", "pbft", "up", str(config.path)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready: 4/4 replicas, view 0\n"
        again = f"{shlex.quote(sys.executable)} -m pbft"
        for pid in sorted(replica_pids(config), key=replica_of):
            number = replica_of(pid)
            os.kill(pid, signal.SIGKILL)
            assert process.stdout.readline() == f"replica {number} was killed (SIGKILL)\n"
            assert process.stdout.readline() == f"  to bring it back: {again} replica {config.path} {number}\n"
        out, err = process.communicate(timeout=10)
        assert (process.returncode, out, err) == (2, "", "all replicas that were started here have ended\n")


@pytest.mark.scenario("B18", "E11")
def test_nothing_acknowledged_is_lost_when_all_are_killed() -> None:
    """SIGKILL of all four at random instants under load; the big campaign does it twenty times."""
    found = campaign.kill_all(rounds=3)
    assert found["acknowledged"] > 0


@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.scenario("E09")
def test_work_goes_on_without_a_backup_which_then_catches_up(how: str) -> None:
    """Without client traffic it comes to the others' last_executed."""
    found = campaign.backup_gone(2.0, callers=32, how=how)
    assert found["ops_per_s_without_it"] > 0


@pytest.mark.parametrize("name", ["lying-replies", "replaying", "flooding", "equivocating-votes", "false-checkpoints"])
@pytest.mark.scenario("E08", "G18")
def test_results_stay_right_beside_a_misbehaving_replica(name: str) -> None:
    """Exactly once, equal digests; a liar in replies is named."""
    found = campaign.adversary(name, 2.0)
    assert found["acknowledged"] > 0
    assert list(found["outvoted"]) == ([3] if name == "lying-replies" else [])


@pytest.mark.scenario("G17")
def test_strangers_do_not_stop_service() -> None:
    """Garbage and idle connections at every replica."""
    found = campaign.strangers(idle=200, seconds=1.0)
    assert found["ops_per_s_with_them"] > 0


@pytest.mark.scenario("E12", "E13")
def test_clients_come_and_go() -> None:
    """Each of many short connections gets its reply, and a session of its own."""

    async def play(config: ClusterConfig) -> None:
        for i in range(1, 31):
            async with Client.connect(config, name="alice") as client:
                assert int(await client.invoke(b"inc", timeout=10)) == i

    with campaign.cluster() as config, Children(config) as children:
        campaign.start(children)
        trio.run(play, config)


def test_two_processes_may_use_one_key() -> None:
    """Each has a session of its own."""
    with campaign.cluster() as config, Children(config) as children:
        campaign.start(children)
        with BlockingClient(config, name="alice") as one, BlockingClient(config, name="alice") as two:
            results = [int(c.invoke(b"inc")) for _ in range(10) for c in (one, two)]
        assert results == list(range(1, 21))


def test_a_volatile_start_over_data_that_is_kept_is_refused() -> None:
    """It would make the votes on disk worthless for good; and nothing is changed by the attempt."""
    with campaign.cluster(app="kv") as config:
        with up(config):
            assert pbft("call", config.path, "put", "a", "1").returncode == 0
        done = pbft("replica", config.path, "0", "--volatile")
        assert done.returncode == 2 and "a volatile start would make that worthless" in done.stderr
        with up(config):
            assert pbft("call", config.path, "get", "a").stdout == "1\n"


def _row_once(config: ClusterConfig, replica: int, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """What a replica says of itself, once that holds."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        row = ask_all(config, 0.5)[replica]
        if row["reachable"] and holds(row):
            return row
        time.sleep(0.1)
    raise AssertionError(row)


def test_volatile_says_so_and_recovers_after_a_restart() -> None:
    """`--volatile` shows in the status; a restarted one has no past, and has to recover before it votes (rule 1.7)."""
    with campaign.cluster() as config, Children(config, volatile=True) as children:
        rows = campaign.start(children)
        assert all(r["volatile"] and not r["recovering"] and not r["incarnation"] for r in rows)
        children.kill(2)
        with BlockingClient(config, name="alice") as client:
            assert client.invoke(b"inc") == b"1"
        children.start(2)
        row = _row_once(config, 2, lambda r: not r["recovering"])
        assert row["incarnation"] == 1 and row["volatile"]
        children.kill(1)
        with BlockingClient(config, name="alice") as client:
            assert client.invoke(b"inc") == b"2", "its vote counts"


def test_two_lost_disks_of_four_stop_the_cluster() -> None:
    """It says so, and forgets nothing: what it cannot know it does not answer (rule 1.7 f)."""
    import shutil

    with campaign.cluster() as config, Children(config) as children:
        campaign.start(children)
        with BlockingClient(config, name="alice") as client:
            client.invoke(b"inc")
        for replica in (2, 3):
            children.kill(replica)
            shutil.rmtree(config.data_directory(replica))
            children.start(replica)
        for replica in (2, 3):
            row = _row_once(config, replica, lambda r: "waits for a quorum" in str(r["halted"]))
            assert row["recovering"] and "lost its past" in str(row["halted"])
        with BlockingClient(config, name="alice") as client, pytest.raises(RequestTimeout):
            client.invoke(b"inc", timeout=2.0)
        assert pbft("why", config.path).returncode == 1


SLOW = '''
import time
from pbft.application import Application, Context
class Slow(Application):
    """Is busy as long as it is told; asleep where a replica is named, and only there."""
    def execute(self, operation: bytes, context: Context) -> bytes:
        import sys
        seconds, _, who = operation.decode().partition(" ")
        if not who:
            end = time.monotonic() + float(seconds)
            while time.monotonic() < end:
                pass
        elif f" {who} " in " " + " ".join(sys.argv[2:4]) + " ":
            time.sleep(float(seconds))
        return b"done"
    def query(self, operation: bytes, context: Context) -> bytes:
        return b""
'''


@pytest.mark.scenario("J04", "J05")
def test_an_application_that_takes_long_stops_no_links(tmp_path: Path) -> None:
    """While one replica is stuck in the application for ever, and the others compute for longer than a link may be
    silent, all links and status stay alive, requests behind are answered, and no primary is replaced."""
    (tmp_path / "slow.py").write_text(SLOW)
    with campaign.cluster(app=f"{tmp_path}/slow.py:Slow") as config, Children(config) as children:
        campaign.start(children)
        with BlockingClient(config, name="alice") as client:
            assert client.invoke(b"3600 2", timeout=20) == b"done"
            begun = time.monotonic()
            assert client.invoke(b"4", timeout=30) == b"done"
            assert time.monotonic() - begun >= 4
            assert client.invoke(b"0", timeout=30) == b"done"
            rows = ask_all(config, 1.0)
        assert all(r["reachable"] and r["connected_peers"] == 3 for r in rows)
        assert {r["view"] for r in rows} == {0}
        assert rows[2]["last_executed"] < rows[0]["last_executed"]
        logs = "".join(children.log_file(i).read_text() for i in range(4))
        assert logs.count(" is up: ") == 4 and "nothing arrived" not in logs and "took nothing" not in logs


def test_the_applications_no_reaches_the_caller() -> None:
    """OperationFailed carries the application's text."""
    with campaign.cluster(app="counter") as config, Children(config) as children:
        campaign.start(children)
        with BlockingClient(config, name="alice") as client, pytest.raises(OperationFailed, match="usage"):
            client.invoke(b"nonsense")
        done = pbft("call", config.path, "--as", "alice", "nonsense")
        assert done.returncode == 1 and "usage" in done.stderr


def test_the_demonstration_leaves_nothing_behind(tmp_path: Path) -> None:
    """Exit 0, a checked summary, no file and no process."""
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "pbft", "demo", "--seconds", "1.5"], capture_output=True, text=True, timeout=90, env=env
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "wrong results: 0" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_the_demonstration_stops_cleanly_on_sigterm(tmp_path: Path) -> None:
    """Interrupted in the middle, it takes everything with it."""
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    process = subprocess.Popen([sys.executable, "-m", "pbft", "demo"], stdout=subprocess.PIPE, text=True, env=env)
    assert process.stdout is not None
    for line in process.stdout:
        if "ops/s" in line:
            break
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) != 0
    process.stdout.close()
    assert list(tmp_path.iterdir()) == []


def test_the_robust_profile_serves() -> None:
    """Every request signed, verified off the event loop; nobody is demoted or suspected."""
    with campaign.cluster(signed_requests=1) as config, Children(config) as children:
        campaign.start(children)

        async def count() -> list[campaign.Row]:
            load = campaign.Load()
            async with load.running(config, 16):
                with trio.fail_after(30):
                    while load.acknowledged < 500:
                        await trio.sleep(0.02)
            load.check(await campaign.total(config))
            return await campaign.settle(config)

        rows = trio.run(count)
    assert {(r["view"], r["demotions"]) for r in rows} == {(0, 0)}
