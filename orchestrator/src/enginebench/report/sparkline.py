"""A row of numbers as a row of blocks, for a line of text."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 100


def sparkline(values: Sequence[float]) -> str:
    """One block per value, the lowest for the least; medians of neighbours where there are more than fit."""
    if not values:
        return ""
    if len(values) > WIDTH:
        edges = [round(i * len(values) / WIDTH) for i in range(WIDTH + 1)]
        values = [statistics.median(values[a:b]) for a, b in itertools.pairwise(edges)]
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return "".join(BLOCKS[min(len(BLOCKS) - 1, int((value - low) / span * len(BLOCKS)))] for value in values)
