"""The interval of a case value: how far the log-mean over launches may lie from what more launches would show.

Launches are the unit, never requests: requests of one launch share its memory layout and its luck. Student's t on the
logarithms, as for the ratios of `comparison`. Not the bootstrap-t: it covers no more, and one launch far off makes its
interval absurd (tests/bootstrap_t.py, docs/methodology.md).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .distribution import t_quantile

FEWEST_LAUNCHES = 3
NO_SPREAD = 1e-12
"""Standard error of logs below which values are equal: what is left is rounding."""

Floats = npt.NDArray[np.float64]


def log_mean(values: Sequence[float]) -> float:
    """The geometric mean of positive values."""
    return values[0] if len(values) == 1 else math.exp(statistics.fmean(map(math.log, values)))


def interval_95(values: Sequence[float]) -> list[float] | None:
    """[low, high] around log_mean(values); None with fewer than three launches."""
    return interval(values, 0.95)


def interval(values: Sequence[float], level: float) -> list[float] | None:
    """[low, high] around log_mean(values) at this level; None with fewer than three positive values."""
    if len(values) < FEWEST_LAUNCHES:
        return None
    logs = np.log(np.asarray(values, dtype=np.float64))
    if float(logs.std(ddof=1)) / math.sqrt(len(logs)) <= NO_SPREAD:
        return [log_mean(values)] * 2
    return [float(bound) for bound in np.exp(intervals_of_logs(logs[None, :], level)[0])]


def intervals_of_logs(logs: Floats, level: float) -> Floats:
    """[experiments, launches] → [experiments, 2], the bounds of each row's mean."""
    n = logs.shape[1]
    half = t_quantile(n - 1, (1 + level) / 2) * logs.std(axis=1, ddof=1) / math.sqrt(n)
    mean = logs.mean(axis=1)
    return np.stack([mean - half, mean + half], axis=1)
