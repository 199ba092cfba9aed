"""Percentiles as early-stopping bounds: how many samples they need, which sample they are, and that they hold."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest
from enginebench.judge.percentile import fewest_samples, percentile_bound, worst_rank


@pytest.mark.parametrize(("percent", "n"), [(50, 11), (90, 64), (95, 130), (99, 662)])
def test_the_fewest_samples_are_those_of_mlperfs_rule(percent: int, n: int) -> None:
    assert fewest_samples(percent) == n
    assert percentile_bound(range(n), percent).value == n - 1
    missing = percentile_bound(range(n - 1), percent)
    assert missing.value is None
    assert missing.reason == f"{n - 1} samples: a bound of p{percent} needs {n} at least"


@pytest.mark.parametrize(("n", "percent"), [(11, 50), (100, 90), (300, 95)])
def test_the_rank_is_the_largest_that_the_binomial_allows(n: int, percent: int) -> None:
    p = 1 - percent / 100
    at_most = [sum(comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(t + 1)) for t in range(n)]
    assert worst_rank(n, percent) == max(t for t in range(n) if at_most[t] <= 0.01)


def test_the_bound_lies_above_the_true_percentile_in_99_of_100_experiments() -> None:
    """p90 of a uniform distribution is 0.9; the empirical quantile is below it in half of all experiments."""
    samples = np.random.default_rng(3).random((2000, 100))
    bounds = [percentile_bound(list(row), 90).value for row in samples]
    assert np.mean([bound is not None and bound >= 0.9 for bound in bounds]) >= 0.985
    assert np.mean(np.quantile(samples, 0.9, axis=1) >= 0.9) < 0.6


def test_no_sample_has_no_percentile() -> None:
    assert percentile_bound([], 50).value is None
