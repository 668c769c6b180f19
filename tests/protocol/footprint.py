"""How much a replica remembers: all objects that are reachable from it."""

from __future__ import annotations

import gc
import sys
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType

_OURS = (type, ModuleType, FunctionType, MethodType, BuiltinFunctionType)
"""Code, which does not grow, and which leads to the test around the replica."""


def footprint(*roots: object) -> int:
    """Bytes of everything that `roots` refer to, directly or not."""
    seen: set[int] = set()
    waiting: list[object] = list(roots)
    total = 0
    while waiting:
        found = waiting.pop()
        if id(found) not in seen and not isinstance(found, _OURS):
            seen.add(id(found))
            total += sys.getsizeof(found)
            waiting += gc.get_referents(found)
    return total
