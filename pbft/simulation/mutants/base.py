"""What a seeded bug is, and how it is put in for the length of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

Patch = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One broken rule."""

    name: str
    breaks: str
    patches: Callable[[], list[Patch]]
    provoked_by: str = ""
    """The misbehaviour without which nobody would notice: it is in every run of the hunt, with some view changes."""


@contextmanager
def applied(mutant: Mutant) -> Iterator[None]:
    """Replace, and put back at the end."""
    with ExitStack() as stack:
        for owner, name, value in mutant.patches():
            original = owner.__dict__[name]
            stack.callback(setattr, owner, name, original)
            setattr(owner, name, value)
        yield
