"""Names in the documents exist, and every deviation that the code marks is on the page that collects them."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pbft.application import OperationError
from pbft.cli.main import COMMANDS, fill
from pbft.execution.operations import Operations
from pbft.state import State

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def names(page: Path) -> list[str]:
    return sorted(set(re.findall(r"`(pbft(?:\.\w+)+)`", page.read_text())))


def resolved(name: str) -> Any:
    """The module, class or function of that name."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return found
    pytest.fail(f"{name} is not there")


@pytest.mark.parametrize("name", [n for page in PAGES for n in names(page)])
def test_a_name_in_the_documents_can_be_imported(name: str) -> None:
    """A renamed class breaks this test, not the reader."""
    resolved(name)


def test_files_that_the_documents_name_exist() -> None:
    """`something.py` in backquotes is a file of the project."""
    known = {p.name for p in ROOT.rglob("*.py")}
    for page in [*PAGES, ROOT / "README.md"]:
        for name in re.findall(r"`(?:[\w/]+/)?(\w+\.py)`", page.read_text()):
            assert name in known or name == "poll.py", f"{page.name} names {name}"


README = (ROOT / "README.md").read_text()


def section(title: str) -> list[str]:
    """Lines of a section of README.md that are not empty."""
    body = README.partition(f"\n{title}\n")[2].partition("\n## ")[0] if title != "# pbft" else README.split("\n## ")[0]
    return [line for line in body.splitlines() if line and not line.startswith("# ")]


def commands(text: str) -> Iterator[list[str]]:
    """Words after `pbft` in the shell blocks of a page; `$(...)` is one word."""
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            for part in line.split("&&"):
                words = shlex.split(part, comments=True)
                if words and words[0].endswith("pbft") and len(words) > 1:
                    yield [word for word in words[1:] if word != "&"]


def test_a_newcomer_finds_the_main_things_in_few_lines() -> None:
    """What it is in five lines, a service of about twenty, the layout in ten."""
    assert len(section("# pbft")) <= 5
    assert len([line for line in poll_source().splitlines() if line]) <= 20
    assert len([line for line in section("## Layout") if line.startswith("| `")]) <= 10
    assert len(README.splitlines()) <= 160


@pytest.mark.parametrize("words", [w for page in [ROOT / "README.md", *PAGES] for w in commands(page.read_text())])
def test_a_command_in_the_documents_is_one(words: list[str]) -> None:
    """Its options exist."""
    assert words[0] in COMMANDS
    parser = ArgumentParser(exit_on_error=False)
    fill(parser, words[0])
    arranged = getattr(importlib.import_module(COMMANDS[words[0]][0]), "arrange", list)(words)
    parser.parse_args(arranged[1:])


def test_the_commands_are_found() -> None:
    """The test above has something to look at."""
    assert {words[0] for words in commands(README)} >= {
        "demo",
        "init",
        "up",
        "call",
        "why",
        "status",
        "replica",
        "apps",
    }


def poll_source() -> str:
    """The service of the tutorial."""
    [block] = re.findall(r"```python\n(from pbft\.application.*?)```", README, re.DOTALL)
    return str(block)


def test_the_tutorials_service_refuses_what_it_does_not_know() -> None:
    """It counts votes, one for each client, and says no to the rest, also in a query."""
    names: dict[str, Any] = {}
    exec(poll_source(), names)
    state = State()
    poll = names["Poll"](state)
    operations = Operations(poll, state, 1000)

    def run(operation: bytes, client: int) -> tuple[int, bytes]:
        [(outcome, result)] = operations.execute([operation], 1, 0, client, 0, bytes(16))
        return int(outcome), result

    assert run(b"vote tea", 1) == run(b"vote coffee", 2) == (0, b"thank you")
    assert run(b"vote tea", 2)[1] == b"you have voted"
    assert run(b"frob", 3)[1] == b"say: vote CHOICE"
    context: Any = None
    assert poll.query(b"tally", context) == b"coffee: 1, tea: 1"
    for operation in (b"", b"frob", b"vote tea"):
        with pytest.raises(OperationError, match="tally"):
            poll.query(operation, context)


def question(number: int) -> str:
    """The text of one of the five questions."""
    text = (ROOT / "docs" / "five-questions.md").read_text()
    return re.split(r"^\d\. ", text, flags=re.MULTILINE)[number]


@pytest.mark.parametrize("number", range(1, 6))
def test_a_question_is_answered_in_two_files_and_120_lines(number: int) -> None:
    """The lines of what the answer names, a module by its head, and not more than two files."""
    files, lines = set(), len(question(number).splitlines())
    for name in re.findall(r"`(pbft(?:\.\w+)+)`", question(number)):
        found = resolved(name)
        files.add(inspect.getsourcefile(found))
        if inspect.ismodule(found):
            lines += len((inspect.getdoc(found) or "").splitlines())
        else:
            lines += len(inspect.getsource(found).splitlines())
    assert len(files) <= 2 and lines <= 120, (files, lines)
