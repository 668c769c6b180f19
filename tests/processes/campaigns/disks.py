"""The disk of one replica stops at every operation of a scripted run, and loses what was not synced in every way."""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

from campaigns.common import Row


def crash_anywhere(rounds: int, seed: int = 1) -> Row:
    """Once with all of it lost, then `rounds` times with what chance keeps of it: torn, reordered, in part."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "protocol"))
    from crash_anywhere import check

    began = time.monotonic()
    points = check(None, None)
    for way in range(rounds + 1):
        for crash_at in range(1, points + 1):
            check(crash_at, random.Random(f"{seed} {way} {crash_at}") if way else None)
    return {"points": points, "ways": rounds + 1, "crashes": points * (rounds + 1), "seconds": time.monotonic() - began}
