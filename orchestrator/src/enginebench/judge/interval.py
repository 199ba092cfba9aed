"""The interval of a case value: how far the log-mean over launches may lie from what more launches would show.

Launches are the unit, never requests: requests of one launch share its memory layout and its luck. Comparisons between
cases are made in `comparison`, from the same interval.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from .distribution import t_quantile

RESAMPLES = 10_000
SEED = 20_240_501
FEWEST_LAUNCHES = 3
FEWEST_BOOTSTRAPPED = 10
NO_SPREAD = 1e-12
"""Standard error of logs below which values are equal: what is left is rounding."""
_AT_ONCE = 16
"""Rows of a matrix whose resamples are held in memory together: 1 MB, which stays in a cache."""

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
    """Bootstrap-t: [experiments, launches] → [experiments, 2], the bounds of each row's mean.

    Below ten launches Student's t: many resamples then repeat one value and have hardly any spread. At three launches
    the bootstrap covers only 81 %; at four it covers no more than Student's t, with twice the width and, in one of a
    hundred, a factor of eight between its bounds (simulated, docs/methodology.md).
    """
    n = logs.shape[1]
    mean, error = logs.mean(axis=1), logs.std(axis=1, ddof=1) / math.sqrt(n)
    tail = (1 - level) / 2
    if n < FEWEST_BOOTSTRAPPED:
        half = t_quantile(n - 1, 1 - tail) * error
        return np.stack([mean - half, mean + half], axis=1)
    bounds = np.empty((len(logs), 2))
    for start in range(0, len(logs), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        quantiles = _studentised_quantiles(logs[rows] - mean[rows, None], error[rows], [1 - tail, tail])
        bounds[rows] = mean[rows, None] - quantiles * error[rows, None]
    return bounds


def _studentised_quantiles(centred: Floats, error: Floats, probabilities: list[float]) -> Floats:
    """[rows, 2]: quantiles of (mean of a resample) ÷ (its standard error), over resamples that have a spread.

    Sorted in single precision, which is ten times as fast: the rounding is a ten-millionth of a standard error.
    """
    n = centred.shape[1]
    weights = _resamples(n)
    means = centred @ weights
    errors = np.sqrt(np.maximum(centred**2 @ weights - means**2, 0.0) / (n - 1))
    spread = errors > 1e-6 * error[:, None]
    studentised = np.where(spread, means / np.where(spread, errors, 1.0), np.nan).astype(np.float32)
    studentised.sort(axis=1)  # NaN last
    return _of_sorted(studentised, spread.sum(axis=1), np.asarray(probabilities))


def _of_sorted(rows: npt.NDArray[np.float32], counts: npt.NDArray[np.int64], probabilities: Floats) -> Floats:
    """Quantiles of the first `counts` values of each row, linear between neighbours."""
    place = probabilities[None, :] * (counts[:, None] - 1)
    below = np.floor(place).astype(np.int64)
    above = np.minimum(below + 1, counts[:, None] - 1)
    low, high = (np.take_along_axis(rows, index, axis=1).astype(np.float64) for index in (below, above))
    quantiles: Floats = low + (high - low) * (place - below)
    return quantiles


@cache
def _resamples(n: int) -> Floats:
    """[n, RESAMPLES]: the share of each value in each resample. The same for every case with n launches."""
    draws = np.random.default_rng(SEED).integers(0, n, (RESAMPLES, n))
    weights = np.zeros((n, RESAMPLES))
    np.add.at(weights, (draws, np.arange(RESAMPLES)[:, None]), 1.0 / n)
    return weights
