"""What is said of a replica process that ended: how, and its last words if it failed and said some."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from pbft.cli.children import Children
from pbft.config_file import ClusterConfig

OLD = "replica 0 is up: view 0, executed 17\n"

# What the process does, and what is said of its end.
ENDS = {
    "killed": ("kill -9 $$", "replica 0 was killed (SIGKILL)"),
    "killed after words": ("echo words; kill -9 $$", "replica 0 was killed (SIGKILL)"),
    "another signal": ("kill -ABRT $$", "replica 0 was killed (SIGABRT)"),
    "stopped": ("echo words", "replica 0 was stopped"),
    "failed": ("echo first; echo last >&2; exit 2", "replica 0 ended with code 2: last"),
    "failed without a word": ("exit 3", "replica 0 ended with code 3: it said nothing"),
    "failed with a log": ("echo new >> {log}; exit 1", "replica 0 ended with code 1: new"),
    "failed with a log begun anew": ("echo new > {log}; exit 1", "replica 0 ended with code 1: new"),
}


@pytest.mark.parametrize(("act", "said"), ENDS.values(), ids=ENDS.keys())
def test_how_a_replica_ended(
    cluster: ClusterConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, act: str, said: str
) -> None:
    """A signal has a name and no last words; an earlier life's log is not quoted."""
    with Children(cluster) as children:
        log = children.log_file(0)
        log.parent.mkdir()
        log.write_text(OLD)
        program = tmp_path / "python"
        program.write_text(f"#!/bin/sh\n{act.format(log=log)}\n")
        program.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(program))
        children.start(0)
        deadline = time.monotonic() + 10
        while not children.dead() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert children.end_of(0, children.dead()[0]) == said
