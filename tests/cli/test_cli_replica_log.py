"""The log file of a replica: never above its cap, and what ended the replica stays to be read."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from pbft.cli import replica
from pbft.cli.children import Children
from pbft.config_file import ClusterConfig

CAP = 200_000


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[logging.Logger]:
    """Writes to tmp_path/replica.log, turned over at CAP; a record that cannot be written is an error of the test."""

    def raise_it(record: logging.LogRecord) -> None:
        raise

    monkeypatch.setattr(replica, "LOG_BYTES", CAP)
    logger = logging.Logger("bounded")
    handler = replica.BoundedLog(tmp_path / "replica.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    monkeypatch.setattr(handler, "handleError", raise_it)
    logger.addHandler(handler)
    yield logger
    handler.close()


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


@pytest.mark.scenario("I15")
def test_two_files_never_exceed_the_cap(log: logging.Logger, tmp_path: Path) -> None:
    """Whatever is logged, more than ten times the cap: short lines, long ones, letters of several bytes, tracebacks."""
    rng = random.Random(1)
    total = 0
    for number in range(3000):
        letter = rng.choice(["x", "ö", "\N{CJK UNIFIED IDEOGRAPH-5B57}", "\N{GRINNING FACE}", "\ud800", "\n"])
        text = letter * rng.choice([1, 80, 80, 80, 3000, 70_000 if number % 100 == 0 else 1])
        total += len(text)
        log.info("%d %s", number, text)
        found = sizes(tmp_path)
        assert found.keys() <= {"replica.log", "replica.log.1"}
        assert all(size <= CAP for size in found.values()), found
    assert total > 10 * CAP
    assert sizes(tmp_path)["replica.log.1"] > CAP // 2, "the older file was filled before it was turned over"


@pytest.mark.scenario("I15")
@pytest.mark.parametrize("left", range(0, 2000, 97))
def test_turning_over_loses_no_crash(log: logging.Logger, tmp_path: Path, left: int) -> None:
    """However full the file is when the replica crashes, the message is whole, and so are the lines before it."""
    path = tmp_path / "replica.log"
    while (room := CAP - left - 200 - path.stat().st_size) > 0:
        log.info("%s", "x" * min(room, 50_000))
    log.info("the last line of normal life")
    try:
        raise ZeroDivisionError("by nothing at all")
    except ZeroDivisionError as error:
        log.critical("replica 2 crashed", exc_info=error)
        expected = traceback.format_exc()
    older = tmp_path / "replica.log.1"
    assert expected.strip() in path.read_text()
    assert "the last line of normal life" in path.read_text() + (older.read_text() if older.exists() else "")


@pytest.mark.scenario("I15")
def test_a_record_that_is_too_long_keeps_its_ends(log: logging.Logger, tmp_path: Path) -> None:
    """The first and the last words of a traceback that goes on for ever are there; its middle is not."""
    log.critical("crashed: %s %s", "middle " * 50_000, "RecursionError: at last")
    text = (tmp_path / "replica.log").read_text()
    assert "CRITICAL crashed: middle" in text and text.endswith("RecursionError: at last\n")
    assert "\n[...]\n" in text and len(text) < 70_000


CRASHING = """
from pbft.application import Application
class Crashing(Application):
    def __init__(self, state):
        raise ZeroDivisionError("by nothing")
    def execute(self, operation, context):
        return b""
    query = execute
"""


@pytest.mark.slow
@pytest.mark.scenario("I15")
def test_what_ended_a_replica_is_in_its_log(cluster: ClusterConfig, tmp_path: Path) -> None:
    """A crash with its traceback, a refusal with its sentence; on the terminal both are one line."""
    (tmp_path / "crashing.py").write_text(CRASHING)
    cluster.path.write_text(cluster.path.read_text().replace('app = "kv"', f'app = "{tmp_path}/crashing.py:Crashing"'))
    file = tmp_path / "replica.log"
    command = [sys.executable, "-m", "pbft", "replica", str(cluster.path), "0", "--log-file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "pbft: ZeroDivisionError: by nothing (run with --debug to see where)\n",
    )
    assert "CRITICAL replica 0 crashed\nTraceback" in file.read_text()
    assert file.read_text().endswith("ZeroDivisionError: by nothing\n")
    cluster.replica_key_path(0).unlink()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert file.read_text().splitlines()[-1].endswith(done.stderr.strip().removeprefix("pbft: "))
    assert "ZeroDivisionError: by nothing\n" in file.read_text()


@pytest.mark.slow
@pytest.mark.scenario("I15")
def test_the_last_crash_message_outlives_restarts(cluster: ClusterConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a replica said when it crashed is there after later starts, and in no file that is turned over."""
    errors = cluster.path.parent / "data" / "replica-0.err"

    def run(code: str) -> None:
        class Fake(subprocess.Popen[bytes]):
            def __init__(self, command: list[str], **options: object) -> None:
                super().__init__([sys.executable, "-c", code], **options)  # type: ignore[call-overload]

        with monkeypatch.context() as patch, Children(cluster) as children:
            patch.setattr(subprocess, "Popen", Fake)
            children.start(0)
            children._processes[0].wait(30)

    run("raise SystemExit('first crash')")
    run("pass")
    kept = errors.with_name("replica-0.err.1")
    assert (errors.read_text(), kept.read_text()) == ("", "first crash\n")
    run("pass")
    assert kept.read_text() == "first crash\n"
    run("raise SystemExit('second crash')")
    run("pass")
    assert kept.read_text() == "second crash\n"
