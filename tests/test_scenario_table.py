"""The table of `pytest --scenarios`."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from scenario_table import table


def test_one_line_for_each_scenario_and_test() -> None:
    """Sorted by scenario; parameter sets of one test are counted in its line; the last line counts scenarios."""
    assert table(
        [
            ("G16", "tests/b.py::test_x[1]", "passed"),
            ("B02", "tests/b.py::test_x[1]", "passed"),
            ("G16", "tests/b.py::test_x[2-[]]", "skipped"),
            ("G16", "tests/a.py::test_y", "failed"),
            ("G16", "tests/b.py::test_x[3]", "passed"),
        ]
    ) == [
        "B02  tests/b.py::test_x  passed",
        "G16  tests/a.py::test_y  failed",
        "G16  tests/b.py::test_x  2 passed, 1 skipped",
        "2 scenarios",
    ]
    assert table([]) == ["0 scenarios"]


PROBE = """
import pytest
@pytest.fixture
def broken_end():
    yield
    raise OSError
@pytest.mark.scenario("B02", "A01")
@pytest.mark.parametrize("n", [1, 2])
def test_good(n):
    pass
@pytest.mark.scenario("B02")
def test_bad():
    assert False
@pytest.mark.scenario("C03")
def test_bad_end(broken_end):
    pass
@pytest.mark.scenario("C04")
@pytest.mark.skip
def test_left_out():
    pass
def test_without():
    pass
"""


@pytest.mark.slow
def test_the_option_follows_a_run(tmp_path: Path) -> None:
    """With the project's own settings: passed, failed, failed in the clean-up, skipped; the unmarked stay out."""
    root = Path(__file__).parents[1]
    probe = tmp_path / "test_probe.py"
    probe.write_text(PROBE)
    settings = ["-c", str(root / "pyproject.toml"), f"--rootdir={tmp_path}", "-p", "conftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--scenarios", "-m", "scenario", *settings, str(probe)],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root / "tests"), "PATH": ""},
        capture_output=True,
        text=True,
    )
    found = re.findall(r"^(\w+)  test_probe\.py::(\w+)  (.*)$", done.stdout, re.MULTILINE)
    assert found == [
        ("A01", "test_good", "2 passed"),
        ("B02", "test_bad", "failed"),
        ("B02", "test_good", "2 passed"),
        ("C03", "test_bad_end", "failed"),
        ("C04", "test_left_out", "skipped"),
    ], done.stdout + done.stderr
    assert "4 scenarios" in done.stdout.splitlines()
