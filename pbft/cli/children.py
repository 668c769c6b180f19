"""All replicas of a cluster as child processes of this one. They end when it ends, however that happens."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from pbft.cli.output import invocation
from pbft.cli.status import ask_all, number
from pbft.config_file import ClusterConfig

STOP_SECONDS = 4.0


class Children:
    """Starts, watches and stops replica processes. Use as a context manager."""

    def __init__(
        self,
        config: ClusterConfig,
        *,
        volatile: bool = False,
        adversaries: Mapping[int, str] | None = None,
        peers: Mapping[tuple[int, int], str] | None = None,
    ) -> None:
        """`adversaries`: replica -> misbehaviour; `peers`: (who dials, whom) -> another address than configured."""
        self._config = config
        self._volatile = volatile
        self.adversaries = dict(adversaries or {})
        """Read when a replica is started."""
        self._peers = dict(peers or {})
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._log_begins: dict[int, int] = {}
        """How long a replica's log was when it was started: before that an earlier life speaks."""
        self._watched, self._held = os.pipe()
        os.set_inheritable(self._watched, True)

    def log_file(self, replica: int) -> Path:
        """Where a replica logs."""
        return self._config.path.parent / "data" / f"replica-{replica}.log"

    def start(self, replica: int) -> None:
        """Start one replica."""
        command = [
            sys.executable, "-m", "pbft", "replica", str(self._config.path), str(replica),
            "--log-file", str(self.log_file(replica)), "--watch-fd", str(self._watched),
        ]  # fmt: skip
        if self._volatile:
            command.append("--volatile")
        if replica in self.adversaries:
            command += ["--adversary", self.adversaries[replica]]
        for (dialler, peer), address in self._peers.items():
            if dialler == replica:
                command += ["--peer", f"{peer}={address}"]
        self.log_file(replica).parent.mkdir(parents=True, exist_ok=True)
        errors_path = self._error_file(replica)
        if errors_path.exists() and errors_path.stat().st_size:
            errors_path.replace(errors_path.with_suffix(".err.1"))  # the last crash message outlives a restart
        log_path = self.log_file(replica)
        self._log_begins[replica] = log_path.stat().st_size if log_path.exists() else 0
        with errors_path.open("wb") as errors:
            self._processes[replica] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                pass_fds=(self._watched,),
                start_new_session=True,  # Ctrl-C reaches the parent alone, which stops them in order
            )

    def start_all(self) -> None:
        """Start every replica of the cluster."""
        for entry in self._config.replicas:
            self.start(entry.id)

    def pid(self, replica: int) -> int:
        """Process id of a replica that was started."""
        return self._processes[replica].pid

    def kill(self, replica: int) -> None:
        """SIGKILL, as a power cut."""
        self._processes[replica].kill()
        self._processes[replica].wait()

    def dead(self) -> dict[int, int]:
        """Replica -> exit code, of those that have ended by themselves."""
        return {i: code for i, p in self._processes.items() if (code := p.poll()) is not None}

    def last_words(self, replica: int) -> str:
        """What a replica that died has said last in this life."""
        text = _read(self._error_file(replica)) or _read(self.log_file(replica), self._log_begins.get(replica, 0))
        return text.splitlines()[-1] if text else "it said nothing"

    def way_back(self, replica: int) -> str:
        """The command that starts a replica again beside the others."""
        return f"{invocation()} replica {shlex.quote(str(self._config.path))} {replica}"

    def end_of(self, replica: int, code: int) -> str:
        """How a replica ended, in a sentence. Only one that failed has said why: a killed one had no time to."""
        if code < 0:
            with contextlib.suppress(ValueError):
                return f"replica {replica} was killed ({signal.Signals(-code).name})"
            return f"replica {replica} was killed (signal {-code})"
        if code == 0:
            return f"replica {replica} was stopped"
        return f"replica {replica} ended with code {code}: {self.last_words(replica)}"

    def wait_ready(self, seconds: float) -> list[dict[str, object]] | None:
        """Until a request would succeed everywhere: all of these processes answer and know q-1 peers; None if one died
        or the time is over."""
        deadline = time.monotonic() + seconds
        needed = self._config.group.quorums.strong - 1
        while time.monotonic() < deadline and not self.dead():
            rows = ask_all(self._config, 0.5)
            if all(self._is_ours(row) and number(row["connected_peers"]) >= needed for row in rows):
                return rows
            time.sleep(0.1)
        return None

    def _is_ours(self, row: Mapping[str, object]) -> bool:
        """Whether it was a process started here that answered, and not somebody else's at the same address."""
        return bool(row["reachable"]) and row.get("pid") == self._processes[number(row["id"])].pid

    def stop(self) -> None:
        """SIGINT to all at once, so that nobody resigns; SIGKILL to who does not follow within `STOP_SECONDS`."""
        for process in self._processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _error_file(self, replica: int) -> Path:
        return self._config.path.parent / "data" / f"replica-{replica}.err"

    def __enter__(self) -> Children:
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        os.close(self._watched)
        os.close(self._held)


def _read(path: Path, begin: int = 0) -> str:
    """The text of a file from there on; all of a file that is shorter, for then it was begun anew."""
    try:
        data = path.read_bytes()
    except OSError:
        return ""
    return data[begin if begin <= len(data) else 0 :].decode(errors="replace").strip()
