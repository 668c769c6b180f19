"""How results look: aligned tables, and colour only where a person reads it."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

VOLATILE_HELP = "keep nothing on disk: good for one start, for afterwards nobody knows what it has voted"

CLUSTER_HELP = "the file of the cluster, which `pbft init` has written"

_CODES = {"red": 31, "green": 32, "yellow": 33, "dim": 2, "bold": 1}


def colours(stream: TextIO | None = None) -> bool:
    """Whether colours are welcome on this stream (https://no-color.org)."""
    stream = sys.stdout if stream is None else stream
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str) -> str:
    """`text` in a colour, on a terminal."""
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if colours() else text


def table(titles: Sequence[str], rows: Sequence[Sequence[object]], left: int = 1) -> str:
    """Columns as wide as needed; the first `left` of them aligned to the left."""
    cells = [[("-" if value is None else str(value)) for value in row] for row in rows]
    widths = [max(len(line[i]) for line in [list(titles), *cells]) for i in range(len(titles))]

    def line(values: Sequence[str]) -> str:
        return "  ".join(
            v.ljust(w) if i < left else v.rjust(w) for i, (v, w) in enumerate(zip(values, widths, strict=True))
        ).rstrip()

    return "\n".join([paint(line(titles), "bold"), *(line(row) for row in cells)])


def counted(number: int, noun: str, more: str = "") -> str:
    """`1 other`, `2 others`, `3 batches` (where the plural is `more`)."""
    return f"{number} {noun if number == 1 else more or noun + 's'}"


def listed(values: Sequence[object]) -> str:
    """`0, 1 and 2`."""
    return " and ".join(filter(None, (", ".join(map(str, values[:-1])), *map(str, values[-1:]))))


def say_cut(path: Path, offset: int) -> None:
    """Tell whoever reads an export that it ends within an entry."""
    print(
        f"pbft: {path} ends within an entry, at byte {offset}: so a crash leaves it, or a copy that was cut short; "
        "what stands before is whole",
        file=sys.stderr,
    )


def invocation() -> str:
    """How to call this program again: `pbft` where the shell finds this very one, else as it was called."""
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        return f"{shlex.quote(sys.executable)} -m pbft"
    found = shutil.which("pbft")
    if called.name != "pbft" or (found is not None and Path(found).resolve() == called.resolve()):
        return "pbft"
    return shlex.quote(str(called))
