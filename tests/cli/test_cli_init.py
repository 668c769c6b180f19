"""`pbft init`: what it says of the new cluster, and where the application of one is looked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pbft.cli.applications import application_of
from pbft.cli.main import main
from pbft.config_file import ClusterConfig

APPLICATION = """
from pbft.application import Application
class Mine(Application):
    where = {where!r}
    def execute(self, operation, context):
        return b""
    def query(self, operation, context):
        return b""
"""


def told(capsys: pytest.CaptureFixture[str], *words: object) -> list[str]:
    """What `init` prints."""
    assert main(["init", *map(str, words)]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(("replicas", "fewer", "more"), [(5, 4, 7), (6, 4, 7), (8, 7, 10), (12, 10, 13)])
def test_replicas_that_add_no_tolerance_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], replicas: int, fewer: int, more: int
) -> None:
    """The cluster is written all the same."""
    lines = told(capsys, tmp_path / "c", "--replicas", replicas)
    f = (replicas - 1) // 3
    assert lines[1] == f"{replicas} replicas tolerate no more faults than {fewer} do; {more} tolerate {f + 1}"
    assert len(ClusterConfig.load(tmp_path / "c" / "cluster.toml").replicas) == replicas


@pytest.mark.parametrize("replicas", [4, 7, 10])
def test_a_fitting_number_needs_no_word(tmp_path: Path, capsys: pytest.CaptureFixture[str], replicas: int) -> None:
    """3f+1 is the least for f."""
    assert len(told(capsys, tmp_path / "c", "--replicas", replicas)) == 2


@pytest.mark.parametrize("called", ["on the path", "elsewhere", "another one is on the path", "module"])
def test_the_hint_can_be_typed_as_it_stands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, called: str
) -> None:
    """`pbft` only where the shell finds this one."""
    for folder in ("bin", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "pbft").write_text("#!/bin/sh")
        (tmp_path / folder / "pbft").chmod(0o700)
    mine = str(tmp_path / "bin" / "pbft")
    paths = {"on the path": "bin", "another one is on the path": "other"}
    monkeypatch.setenv("PATH", str(tmp_path / paths.get(called, "nothing")))
    monkeypatch.setattr(sys, "argv", ["/x/pbft/__main__.py" if called == "module" else mine])
    expected = {"on the path": "pbft", "module": f"{sys.executable} -m pbft"}.get(called, mine)
    assert told(capsys, tmp_path / "c")[-1] == f"next: {expected} up {tmp_path}/c/cluster.toml"


def test_the_file_of_an_application_is_found_from_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`init` takes it from where it is called; afterwards a relative path starts at cluster.toml, wherever a command
    is called, and an absolute one is itself."""
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(APPLICATION.format(where=folder))
    monkeypatch.chdir(tmp_path / "here")
    told(capsys, "c", "--app", "mine.py:Mine")
    path = tmp_path / "here" / "c" / "cluster.toml"
    text = path.read_text()

    def found(written: str) -> object:
        path.write_text(text.replace(f"{tmp_path}/here/mine.py", written))
        return vars(application_of(ClusterConfig.load(path)))["where"]

    assert f'app = "{tmp_path}/here/mine.py:Mine"' in text
    monkeypatch.chdir(tmp_path / "there")
    assert found(f"{tmp_path}/here/mine.py") == "here"
    assert found(f"{tmp_path}/there/mine.py") == "there"
    (path.parent / "mine.py").write_text(APPLICATION.format(where="beside"))
    assert found("mine.py") == "beside"
    assert found("../mine.py") == "here"
