"""Requests that took oddly long or short, classified by Tukey's fences and kept: only recorded causes invalidate.

Each request's time per token is held against the median of its launch, so that what differs between launches is no
outlier; the fences are those of all requests of the case. Criterion's classes: mild beyond 1.5 interquartile ranges,
severe beyond 3.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from enginebench.store.record import Launch

from .evidence import median_of, timing, valid_requests

MILD, SEVERE = 1.5, 3.0
FEWEST_REQUESTS = 20
"""Quartiles of fewer are mostly chance."""


class Outliers(msgspec.Struct, frozen=True, kw_only=True):
    """Counts among `of` valid measured requests; slow and fast ones apart."""

    of: int
    slow_mild: int
    slow_severe: int
    fast_mild: int
    fast_severe: int


def outliers(launches: Sequence[Launch]) -> Outliers | None:
    """Of the timed launches; None with fewer than twenty requests, or with one token each."""
    timed = [launch for launch in launches if launch.counts]
    ratios = np.asarray([ratio for launch in timed for ratio in _ratios(launch)])
    if len(ratios) < FEWEST_REQUESTS:
        return None
    low, high = np.quantile(ratios, [0.25, 0.75])
    above, below = (ratios - high) / (high - low or np.inf), (low - ratios) / (high - low or np.inf)
    return Outliers(
        of=len(ratios),
        slow_mild=int(((above > MILD) & (above <= SEVERE)).sum()),
        slow_severe=int((above > SEVERE).sum()),
        fast_mild=int(((below > MILD) & (below <= SEVERE)).sum()),
        fast_severe=int((below > SEVERE).sum()),
    )


def _ratios(launch: Launch) -> list[float]:
    typical = median_of(lambda t: t.tpot_ns)(launch)
    times = [timing(request).tpot_ns for request in valid_requests(launch)]
    return [time / typical for time in times if time and typical]
