"""Names in the documents exist, and every deviation that the code marks is on the page that collects them."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def names(page: Path) -> list[str]:
    return sorted(set(re.findall(r"`(pbft(?:\.\w+)+)`", page.read_text())))


@pytest.mark.parametrize("name", [n for page in PAGES for n in names(page)])
def test_a_name_in_the_documents_can_be_imported(name: str) -> None:
    """A renamed class breaks this test, not the reader."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return
    pytest.fail(f"{name} is not there")


def test_files_that_the_documents_name_exist() -> None:
    """`something.py` in backquotes is a file of the project."""
    known = {p.name for p in ROOT.rglob("*.py")}
    for page in [*PAGES, ROOT / "README.md"]:
        for name in re.findall(r"`(?:[\w/]+/)?(\w+\.py)`", page.read_text()):
            assert name in known or name == "poll.py", f"{page.name} names {name}"
