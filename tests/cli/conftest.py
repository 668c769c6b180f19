"""A written cluster, and a way to run the command line inside this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pbft.cli.main import main
from pbft.config_file import ClusterConfig, write_cluster

Refused = Callable[..., str]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a cluster, not to be changed."""
    return write_cluster(tmp_path_factory.mktemp("written") / "c", app="kv", clients=("alice", "bob")).path.parent


@pytest.fixture
def cluster(written: Path, tmp_path: Path) -> ClusterConfig:
    """A copy of it, to be damaged."""
    shutil.copytree(written, tmp_path / "c")
    return ClusterConfig.load(tmp_path / "c" / "cluster.toml")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must be refused: exit code 2, nothing on stdout, one sentence on stderr, which it returns.

    Usage may stand before the sentence, where the words themselves are wrong.
    """

    def run(*words: object) -> str:
        assert main([str(word) for word in words]) == 2
        out, err = capsys.readouterr()
        *usage, sentence = err.splitlines()
        assert out == "" and (not usage or usage[0].startswith("usage: ")), err
        return sentence

    return run
