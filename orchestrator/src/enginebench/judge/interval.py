"""The 95 % interval of a case value: how far the log-mean over launches may lie from what more launches would show.

Launches are the unit, never requests: requests of one launch share its memory layout and its luck. Comparisons between
cases are not made here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import numpy as np

RESAMPLES = 10_000
SEED = 20_240_501
FEWEST_LAUNCHES = 3
_T_975_TWO_DEGREES = 4.302_653
"""Quantile of Student's t for three launches."""


def log_mean(values: Sequence[float]) -> float:
    """The geometric mean of positive values."""
    return values[0] if len(values) == 1 else math.exp(statistics.fmean(map(math.log, values)))


def interval_95(values: Sequence[float]) -> list[float] | None:
    """[low, high] around log_mean(values); None with fewer than three launches.

    Bootstrap-t on the logs. With exactly three values a ninth of all resamples repeat one value and have no spread, and
    the bootstrap covers only 81 % in simulation; Student's t on the logs covers 95 % there, and is used instead.
    """
    if len(values) < FEWEST_LAUNCHES:
        return None
    logs = np.log(np.asarray(values, dtype=np.float64))
    mean, error = float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(logs))
    if error <= 1e-12:  # equal values: rounding of the logs, no spread
        return [log_mean(values)] * 2
    low, high = (-_T_975_TWO_DEGREES, _T_975_TWO_DEGREES) if len(values) == 3 else _bootstrap_t(logs, mean, error)
    return [math.exp(mean - high * error), math.exp(mean - low * error)]


def _bootstrap_t(logs: np.typing.NDArray[np.float64], mean: float, error: float) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles of the studentised mean over resamples that have a spread."""
    n = len(logs)
    draws = logs[np.random.default_rng(SEED).integers(0, n, (RESAMPLES, n))]
    errors = draws.std(axis=1, ddof=1) / math.sqrt(n)
    spread = errors > 1e-9 * error
    studentised = (draws.mean(axis=1)[spread] - mean) / errors[spread]
    low, high = np.quantile(studentised, [0.025, 0.975])
    return float(low), float(high)
