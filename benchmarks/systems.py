"""The systems under measurement, as processes: a cluster of replicas, and NO-REP with and without MACs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from pbft.benchmarks.norep import single_server
from pbft.cli.status import ask_all
from pbft.config_file import ClusterConfig, write_cluster

_START_SECONDS = 30.0


class System:
    """One system that load can be put on."""

    def __init__(self, name: str, config: ClusterConfig, durable: bool, commands: list[list[str]]) -> None:
        self.name = name
        self.config = config
        self.durable = durable
        self._output = (config.path.parent / "output.log").open("ab")
        self._processes = [
            subprocess.Popen([sys.executable, "-m", *command], stdout=self._output, stderr=self._output)
            for command in commands
        ]

    def pid(self, server: int) -> int:
        """Process id of a server."""
        return self._processes[server].pid

    @property
    def n(self) -> int:
        """Servers of this system."""
        return len(self._processes)

    def wait_ready(self) -> None:
        """Until all servers answer and know each other. Raises RuntimeError with what they printed."""
        config = self.config if self.name == "pbft" else single_server(self.config)
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if any(p.poll() is not None for p in self._processes):
                break
            rows = ask_all(config, 0.5)
            if all(r["reachable"] and r["connected_peers"] == self.n - 1 for r in rows):
                return
            time.sleep(0.1)
        raise RuntimeError(f"{self.name} did not start: {self.output()}")

    def output(self) -> str:
        """The last lines that its servers printed."""
        return (self.config.path.parent / "output.log").read_text(errors="replace")[-2000:]

    def load(
        self, *, callers: int, clients: int, request_bytes: int, reply_bytes: int, seconds: float
    ) -> dict[str, object]:
        """Put load on it and return what `load.Measured` holds."""
        command = [
            sys.executable, "-m", "pbft.benchmarks.load", str(self.config.path), "--system", self.name,
            "--callers", str(callers), "--clients", str(clients), "--request-bytes", str(request_bytes),
            "--reply-bytes", str(reply_bytes), "--seconds", str(seconds),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=60 + 4 * seconds)
        if done.returncode:
            raise RuntimeError(f"the load on {self.name} failed: {done.stderr[-2000:]} {self.output()}")
        measured: dict[str, object] = json.loads(done.stdout)
        return measured

    def stop(self) -> None:
        """SIGTERM, and SIGKILL for who does not follow."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._output.close()


def start_cluster(
    directory: Path,
    *,
    n: int,
    base_port: int,
    clients: int,
    durable: bool,
    app: str = "pbft.apps.echo:Echo",
    adversaries: Mapping[int, str] | None = None,
    **tunables: int,
) -> System:
    """A cluster of n replicas. `adversaries`: replica -> misbehaviour."""
    config = write_cluster(
        directory,
        replicas=n,
        app=app,
        base_port=base_port,
        clients=_names(clients),
        tunables=tunables,
    )
    flags = [] if durable else ["--volatile"]
    commands = [["pbft", "replica", str(config.path), str(i), *flags] for i in range(n)]
    for replica, misbehaviour in (adversaries or {}).items():
        commands[replica] += ["--adversary", misbehaviour]
    return System("pbft", config, durable, commands)


def start_norep(directory: Path, *, base_port: int, clients: int, macs: bool) -> System:
    """The unreplicated server."""
    config = write_cluster(directory, app="pbft.apps.echo:Echo", base_port=base_port, clients=_names(clients))
    flags = [] if macs else ["--no-macs"]
    name = "norep+mac" if macs else "norep"
    return System(name, config, False, [["pbft.benchmarks.norep", str(config.path), *flags]])


def _names(count: int) -> tuple[str, ...]:
    return tuple(f"client-{i}" for i in range(count))


@contextmanager
def running(systems: list[System]) -> Iterator[list[System]]:
    """Wait until they are ready; stop them whatever happens."""
    try:
        for system in systems:
            system.wait_ready()
        yield systems
    finally:
        for system in systems:
            system.stop()
