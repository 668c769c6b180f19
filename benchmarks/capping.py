"""A bound on the CPU of attackers, who share the machine with all others: a cgroup where one may be made, else nice.

On machines of their own they could not take the processors of correct replicas; here they could, and that would be
measured instead of the protocol.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from types import TracebackType

_ROOT = Path("/sys/fs/cgroup")
_PERIOD_US = 10_000
"""Short, so that an attacker who has used its part stands still for milliseconds only: a replica that stands still for
longer shows another fault than the one it is asked for."""
_NICE = 19


class Cap:
    """Use as a context manager; what was bounded must have ended before it is left."""

    def __init__(self, cpus: float, root: Path = _ROOT) -> None:
        """`cpus`: processors that all attackers together may use, 0.5 for half of one."""
        self._folder = _version_1(root, cpus) or _version_2(root, cpus)
        self.text = f"cgroup, {cpus:g} CPU" if self._folder is not None else f"nice {_NICE}"
        """What rows say of it."""

    def hold(self, pid: int) -> None:
        """Bound a process with all its threads, and those that it starts later."""
        if self._folder is None:
            for thread in _threads(pid):
                os.setpriority(os.PRIO_PROCESS, thread, _NICE)
        else:
            (self._folder / "cgroup.procs").write_text(str(pid))

    def __enter__(self) -> Cap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._folder is not None:
            with contextlib.suppress(OSError):  # somebody is still in it
                self._folder.rmdir()


def _threads(pid: int) -> list[int]:
    """Nice is of a thread on Linux."""
    try:
        return [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:
        return [pid]


def _version_1(root: Path, cpus: float) -> Path | None:
    values = {"cpu.cfs_period_us": str(_PERIOD_US), "cpu.cfs_quota_us": str(int(cpus * _PERIOD_US))}
    return _make(root / "cpu", values)


def _version_2(root: Path, cpus: float) -> Path | None:
    return _make(root, {"cpu.max": f"{int(cpus * _PERIOD_US)} {_PERIOD_US}"})


def _make(parent: Path, values: dict[str, str]) -> Path | None:
    folder = parent / f"pbft-bench-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError:
        return None
    try:
        for name, value in values.items():
            if not (folder / name).exists():
                raise FileNotFoundError(name)  # no such controller: an ordinary folder would take the file
            (folder / name).write_text(value)
    except OSError:
        with contextlib.suppress(OSError):
            folder.rmdir()
        return None
    return folder
