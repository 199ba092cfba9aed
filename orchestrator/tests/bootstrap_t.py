"""The bootstrap-t interval that the suite does not use, so that the reason can be measured again."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
RESAMPLES = 10_000
SEED = 20_240_501
_AT_ONCE = 16
"""Rows whose resamples are held in memory together."""


def bootstrap_t(logs: Floats, level: float) -> Floats:
    """[experiments, launches] → [experiments, 2], the bounds of each row's mean."""
    n = logs.shape[1]
    tail = (1 - level) / 2
    weights = np.random.default_rng(SEED).multinomial(n, [1 / n] * n, RESAMPLES).T / n
    mean, error = logs.mean(axis=1), logs.std(axis=1, ddof=1) / math.sqrt(n)
    bounds = np.empty((len(logs), 2))
    for start in range(0, len(logs), _AT_ONCE):
        rows = slice(start, start + _AT_ONCE)
        centred = logs[rows] - mean[rows, None]
        means = centred @ weights
        errors = np.sqrt(np.maximum(centred**2 @ weights - means**2, 0.0) / (n - 1))
        spread = errors > 1e-6 * error[rows, None]
        studentised = np.where(spread, means / np.where(spread, errors, 1.0), np.nan)
        quantiles = np.nanquantile(studentised, [1 - tail, tail], axis=1).T
        bounds[rows] = mean[rows, None] - quantiles * error[rows, None]
    return bounds
