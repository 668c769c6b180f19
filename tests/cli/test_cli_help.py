"""`pbft COMMAND --help` explains every argument and what each exit code means."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from pbft.cli.main import COMMANDS, EXIT_CODES, fill, main
from pbft.cli.status import render
from pbft.config import Group, Tunables


def actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Arguments of a parser and of those below it."""
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from actions(below)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_argument_is_explained(command: str) -> None:
    """None stands there by its name alone."""
    parser = argparse.ArgumentParser()
    fill(parser, command)
    assert [a.dest for a in actions(parser) if not a.help] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_the_exit_codes_are_explained(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Success, bad usage, and what else it may end with."""
    assert main([command, "--help"]) == 0
    codes = capsys.readouterr().out.partition("exit codes:\n")[2]
    found = re.findall(r"^  (\d+): .", codes, re.MULTILINE)
    assert {"0", "2"} <= set(found)
    assert found == sorted(set(found), key=int)
    assert set(EXIT_CODES) == set(COMMANDS)


def test_the_columns_of_the_status_are_explained(capsys: pytest.CaptureFixture[str]) -> None:
    """Each title of the table, in its order."""
    group = Group(bytes(32), "app", tuple(bytes([i]) * 32 for i in range(4)), {}, Tunables())
    titles = render([{"id": i, "reachable": False, "last_executed": None} for i in range(4)], group).splitlines()[0]
    assert main(["status", "--help"]) == 0
    told = capsys.readouterr().out.partition("columns:\n")[2].partition("\n\n")[0]
    assert re.findall(r"^  (\w+) ", told, re.MULTILINE) == titles.split()


@pytest.mark.slow
def test_a_reader_that_has_enough_is_no_error() -> None:
    """As when the output goes to `head`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, "-m", "pbft", "apps"], stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")
