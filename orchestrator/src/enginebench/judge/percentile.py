"""Percentiles with a claim: an upper bound that holds with 99 % confidence, or no number at all.

MLPerf's early-stopping rule: the bound of percentile p is the t-th worst sample, with the largest t for which
P(Binomial(n, 1 - p) ≤ t) ≤ 1 %. One sample over the bound must be allowed, so p50 needs 11 samples, p90 64, p95 130 and
p99 662. The empirical quantile of fewer samples says less than its digits pretend.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from .distribution import binomial_at_most

PERCENTILES = (50, 90, 95, 99)
CONFIDENCE = 0.99


@dataclass(frozen=True)
class Bound:
    """`value` None: `reason` says how many samples are missing."""

    value: float | None
    reason: str = ""


def percentile_bound(samples: Sequence[float], percent: int) -> Bound:
    """The value that `percent` of 100 samples of this kind do not exceed, with 99 % confidence."""
    rank = worst_rank(len(samples), percent)
    if rank == 0:
        return Bound(None, f"{len(samples)} samples: a bound of p{percent} needs {fewest_samples(percent)} at least")
    return Bound(sorted(samples)[-rank])


@cache
def worst_rank(n: int, percent: int) -> int:
    """t: the t-th worst of n samples bounds the percentile; 0 if n is too small for any."""
    rank = 0
    while rank < n and binomial_at_most(rank + 1, n, 1 - percent / 100) <= 1 - CONFIDENCE:
        rank += 1
    return rank


@cache
def fewest_samples(percent: int) -> int:
    n = 1
    while worst_rank(n, percent) == 0:
        n += 1
    return n
