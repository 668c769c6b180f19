"""The table that `pytest --scenarios` prints: which tests show which production failure to be handled, and how the
tests ended.

Rules of this file: plain values in, lines out; knows nothing of pytest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable


def table(cases: Iterable[tuple[str, str, str]]) -> list[str]:
    """One line for each scenario and test, sorted by scenario, and last the number of scenarios.

    `cases` are (scenario id, node id, how it ended). The parameter sets of one test share its line, which then counts
    them by how they ended.
    """
    found: dict[tuple[str, str], Counter[str]] = {}
    for scenario, node, ended in cases:
        found.setdefault((scenario, node.partition("[")[0]), Counter())[ended] += 1
    width = max((len(scenario) for scenario, _ in found), default=0)
    lines = [f"{scenario:<{width}}  {node}  {_ends(ends)}" for (scenario, node), ends in sorted(found.items())]
    return [*lines, f"{len({scenario for scenario, _ in found})} scenarios"]


def _ends(ends: Counter[str]) -> str:
    if ends.total() == 1:
        return next(iter(ends))
    return ", ".join(f"{count} {ended}" for ended, count in sorted(ends.items()))
