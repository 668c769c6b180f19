"""A table of command lines that cannot be carried out, each refused with one exact sentence and exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pbft.cli.main import main
from pbft.config_file import ClusterConfig

# {c} is a good cluster.toml, {here} an empty folder, {new} a folder that is not there, {app} a file of applications.
COMMAND_LINES: dict[str, tuple[str, str]] = {
    # the command
    "no command": ("", "pbft: error: the following arguments are required: COMMAND"),
    "unknown command": ("frob", "pbft: error: argument COMMAND: invalid choice: 'frob'"),
    "unknown option": ("status --frob {c}", "pbft: error: unrecognized arguments: --frob"),
    "a word too many": ("status {c} more", "pbft: error: unrecognized arguments: more"),
    # the file
    "no file named": ("status", "pbft status: error: the following arguments are required: CLUSTER.toml"),
    "no such file": ("status {new}", "pbft: {new} does not exist; `pbft init DIR` writes one"),
    "no such file, call": ("call {new} get", "pbft: {new} does not exist; `pbft init DIR` writes one"),
    "no such file, up": ("up {new}", "pbft: {new} does not exist; `pbft init DIR` writes one"),
    "no such file, replica": ("replica {new} 0", "pbft: {new} does not exist; `pbft init DIR` writes one"),
    "a folder": ("status {here}", "pbft: {here} is a folder and not a file"),
    # init
    "init nowhere": ("init", "pbft init: error: the following arguments are required: DIR"),
    "init over a cluster": ("init {dir}", "pbft: {dir} holds a cluster already; choose another directory"),
    "init inside a file": ("init {c}", "pbft: {c}/keys: Not a directory"),
    "three replicas": ("init {new} --replicas 3", "pbft: 3 replicas tolerate no fault; ask for at least 4"),
    "no replicas": ("init {new} --replicas -4", "pbft: -4 replicas tolerate no fault; ask for at least 4"),
    "too many replicas": (
        "init {new} --replicas 1000",
        "pbft: messages have no room for a cluster of 1000 replicas; list at most 255",
    ),
    "replicas in words": ("init {new} --replicas four", "error: argument --replicas: invalid int value: 'four'"),
    "base port 0": ("init {new} --base-port 0", "pbft: base port 0 leaves no room for 8 ports; choose a lower one"),
    "base port too high": ("init {new} --base-port 65528", "pbft: base port 65528 leaves no room for 8 ports;"),
    "no host": ("init {new} --host=", "replica[0].address ':7000' is not host:port with a port between 1 and 65535"),
    "quoted host": ('init {new} --host "h"', "replica[0].address '\"h\":7000' does not begin with a host name"),
    "client with a path": ("init {new} --client ../a", "pbft: client name '../a' is used twice, or holds other than"),
    "hidden client": ("init {new} --client .a", "pbft: client name '.a' is used twice, or holds other than letters"),
    "a client twice": ("init {new} --client a --client a", "pbft: client name 'a' is used twice, or holds other"),
    # applications
    "unknown application": (
        "init {new} --app frob",
        "pbft: application 'frob' is none of counter, echo, kv, leases, and not MODULE:CLASS or FILE.py:CLASS",
    ),
    "application without a class": ("init {new} --app json:", "pbft: application 'json:' is none of counter, echo"),
    "no such module": ("init {new} --app no.such:X", "pbft: application 'no.such:X': cannot import no.such: "),
    "no such file of an application": ("init {new} --app {here}/x.py:X", "there is no file {here}/x.py"),
    "no such class": ("init {new} --app {app}:Nobody", "pbft: application '{app}:Nobody': {app} has no Nobody"),
    "no application": ("init {new} --app {app}:Other", "Other is not a subclass of pbft.application.Application"),
    "half an application": (
        "init {new} --app {app}:Half",
        "pbft: application '{app}:Half': Half does not define query",
    ),
    "application that does not run": ("init {new} --app {broken}:X", "{broken} does not run: ZeroDivisionError("),
    "application that is no Python": ("init {new} --app {c}.py:X", "{c}.py does not run: SyntaxError("),
    "check of nothing": ("apps check", "pbft apps check: error: the following arguments are required: APP"),
    "check of an unknown application": ("apps check frob", "pbft: application 'frob' is none of counter, echo"),
    "check without operations": ("apps check {app}:Whole", "pbft: Whole has no `samples(seed)`; give operations by"),
    "check with a missing file": ("apps check kv --operations {new}", "pbft: {new}: No such file or directory"),
    "check with no operation": ("apps check kv --operations {empty}", "pbft: kv: there is no operation to check; give"),
    "demo in no time": ("demo --seconds 0", "pbft: --seconds 0 must lie between 1 and 10"),
    "the folder of a cluster": ("status {inside}", "pbft: {inside} is a folder; did you mean {inside}/cluster.toml?"),
    "check with a wrong operation": ("apps check kv --operations {app}", "pbft: {app}, line 1: usage: put K V"),
    "check with a seed in words": ("apps check kv --seed one", "error: argument --seed: invalid int value: 'one'"),
    # replica
    "replica without an id": ("replica {c}", "pbft replica: error: the following arguments are required: ID"),
    "id that is no number": ("replica {c} one", "pbft replica: error: argument ID: invalid int value: 'one'"),
    "id beyond the last": ("replica {c} 4", "pbft: {c}: there is no replica 4; ids are 0 to 3"),
    "negative id": ("replica {c} -1", "pbft: {c}: there is no replica -1; ids are 0 to 3"),
    "listen without a port": ("replica {c} 0 --listen here", "pbft: --listen: 'here' is not host:port with a port"),
    "listen on bare IPv6": ("replica {c} 0 --listen ::1:7", "pbft: --listen: '::1:7' needs brackets around the IPv6"),
    "peer without an id": ("replica {c} 0 --peer h:7", "pbft: --peer 'h:7' is not ID=HOST:PORT with an ID from 0 to 3"),
    "peer beyond the last": ("replica {c} 0 --peer 4=h:7", "pbft: --peer '4=h:7' is not ID=HOST:PORT with an ID from"),
    "peer at port 0": ("replica {c} 0 --peer 1=h:0", "pbft: --peer: 'h:0' is not host:port with a port between 1 and"),
    "unknown misbehaviour": ("replica {c} 0 --adversary kind", "'kind' is no misbehaviour; these are: "),
    "log into a folder": (
        "replica {c} 0 --log-file {here}",
        "pbft: --log-file {here} cannot be written (Is a directory)",
    ),
    "log below a file": ("replica {c} 0 --log-file {c}/x", "pbft: --log-file {c}/x cannot be written (File exists)"),
    # call
    "call of nothing": ("call {c}", "pbft call: error: the following arguments are required: WORD"),
    "call as nobody": ("call {c} --as eve get", "pbft: {c}: there is no client 'eve'; the file lists: alice, bob"),
    "call as": ("call {c} --as", "pbft call: error: argument --as: expected one argument"),
    "timeout in words": ("call {c} --timeout soon get", "error: argument --timeout: invalid float value: 'soon'"),
    "negative timeout": ("call {c} --timeout=-1 get", "pbft: --timeout -1.0 is not a number of seconds above 0"),
    "no timeout": ("call {c} --timeout 0 get", "pbft: --timeout 0.0 is not a number of seconds above 0"),
    "endless timeout": ("call {c} --timeout inf get", "pbft: --timeout inf is not a number of seconds above 0"),
    "timeout is not a number": ("call {c} --timeout nan get", "pbft: --timeout nan is not a number of seconds above 0"),
    "unknown operation": ("call {c} frob", "pbft: usage: put K V, get K, delete K, cas K OLD NEW or scan"),
    "an operand too few": ("call {c} put k", "pbft: usage: put K V, get K, delete K, cas K OLD NEW or scan"),
    # bench, demo, simulate
    "no runs": ("simulate --runs 0", "error: argument --runs: 0 is less than 1"),
    "no jobs": ("simulate --jobs -1", "error: argument --jobs: -1 is less than 1"),
    "no minutes": ("simulate --minutes nan", "error: argument --minutes: nan minutes are no time to run"),
    "until nothing": ("replay {c} {here} --until 0", "pbft: --until 0: batches are numbered from 1"),
    "an unknown value": ("simulate --set seed=4", "pbft: --set 'seed=4' is not NAME=VALUE with a NAME such as"),
    "unknown benchmark": ("bench frob", "pbft bench: error: argument what: invalid choice: 'frob'"),
    "seconds in words": ("demo --seconds few", "error: argument --seconds: invalid float value: 'few'"),
}

APPLICATIONS = """
from pbft.application import Application
class Other:
    pass
class Half(Application):
    def execute(self, operation, context):
        return b""
class Whole(Half):
    def query(self, operation, context):
        return b""
"""


@pytest.mark.scenario("I13")
@pytest.mark.parametrize(("words", "sentence"), COMMAND_LINES.values(), ids=COMMAND_LINES.keys())
def test_a_command_line_that_cannot_be_carried_out_is_refused(
    cluster: ClusterConfig, refused: Callable[..., str], tmp_path: Path, words: str, sentence: str
) -> None:
    """It says what is wrong and what would be right; what `init` refuses leaves nothing behind."""
    names = {name: tmp_path / name for name in ("here", "new")} | {"c": cluster.path, "dir": cluster.path.parent}
    names |= {"app": tmp_path / "app.py", "broken": tmp_path / "broken.py"}
    names |= {"inside": cluster.path.parent, "empty": tmp_path / "empty"}
    names["here"].mkdir()
    names["empty"].write_text("")
    names["app"].write_text(APPLICATIONS.lstrip())
    names["broken"].write_text("1 / 0")
    Path(f"{cluster.path}.py").write_text("def")
    before = sorted(tmp_path.rglob("*"))
    assert sentence.format(**names) in refused(*(word.format(**names) for word in words.split()))
    after = [path for path in sorted(tmp_path.rglob("*")) if "__pycache__" not in path.parts]
    assert after == before


def test_an_unknown_failure_is_one_line_too(
    cluster: ClusterConfig,
    refused: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What nobody foresaw is named by its class, with the way to the traceback; --debug shows that."""

    def fail(*arguments: object) -> None:
        raise ExceptionGroup("tasks", [ExceptionGroup("more tasks", [ZeroDivisionError("by nothing")])])

    monkeypatch.setattr("pbft.cli.status.ask_all", fail)
    assert refused("status", cluster.path) == "pbft: ZeroDivisionError: by nothing (run with --debug to see where)"
    assert main(["status", "--debug", str(cluster.path)]) == 2
    assert "Traceback" in capsys.readouterr().err
