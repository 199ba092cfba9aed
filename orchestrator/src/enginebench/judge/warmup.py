"""When does a process become steady? Change-points in the series of its requests, and of its first tokens.

Optimal partitioning (Jackson 2005) with the cost of a normal segment whose mean and variance are its own, as
warmup_stats does it, but with a penalty of 5 ln n: at the 15 ln n that suits 2,000 iterations, a fifth of all warm-ups
of 30 requests are missed (docs/methodology.md). The series are kept whole in the launches; nothing is cut off here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

import msgspec
import numpy as np

from enginebench.counted import counted
from enginebench.store.record import Launch, Request

from .interval import Floats

Class = Literal["flat", "warm-up", "slow-down", "no steady state"]
CLASSES: tuple[Class, ...] = ("flat", "warm-up", "slow-down", "no steady state")

PENALTY = 5.0
"""Times ln n, for each change-point."""
SHORTEST_SEGMENT = 3
SAME_LEVEL = 0.01
"""A segment whose mean is within 1 % of the last one's belongs to the steady state."""
FEWEST_POINTS = 10
MOST_TOKENS = 512
"""Tokens of the first request that are searched: the time grows with the square."""


@dataclass(frozen=True)
class Steadiness:
    """`start`: index of the first steady point; None with "no steady state"."""

    kind: Class
    start: int | None


class WarmUp(msgspec.Struct, frozen=True, kw_only=True):
    """Of one case. Medians are over the launches that reach a steady state."""

    classes: dict[str, int] | None
    """Launches of each class; None: `reason` says why they cannot be judged."""
    reason: str | None
    requests_to_steady: float | None
    tokens_to_steady: float | None
    seconds_to_steady: float | None
    curve: list[float]
    """For each request of a launch, its whole time ÷ that of the steady ones: the median over launches."""


def case_warmup(launches: Sequence[Launch]) -> WarmUp | None:
    """None without a timed launch that ended well."""
    good = [launch for launch in launches if launch.counts]
    series = [launch for launch in good if launch.of_workload]
    if not series:
        return None
    fewest = min(len(launch.of_workload) for launch in series)
    if fewest < FEWEST_POINTS:
        requests = counted(fewest, "request")
        return _unjudged(series, f"{requests} a launch: a steady state is told from {FEWEST_POINTS} on")
    found = [steadiness(durations(launch)) for launch in series]
    steady = [(launch, s.start) for launch, s in zip(series, found, strict=True) if s.start is not None]
    counts = Counter(s.kind for s in found)
    return WarmUp(
        classes={kind: counts[kind] for kind in CLASSES},
        reason=None,
        requests_to_steady=_median([start for _, start in steady]),
        tokens_to_steady=_median([tokens_to_steady(launch, start) for launch, start in steady]),
        seconds_to_steady=_median([seconds_to_steady(launch, start) for launch, start in steady]),
        curve=_curve(series),
    )


def durations(launch: Launch) -> list[float]:
    """Start to last token of every request, warm-up and measured, in their order."""
    return [float(request.t_token_ns[-1]) for request in launch.of_workload]


def tokens_to_steady(launch: Launch, start: int) -> int:
    """Tokens that the process generated before it was steady.

    Where the first request alone was slow, the gaps between its tokens say which of them were: each gap is held against
    the median of the same gap in the steady requests, because gaps grow with the context.
    """
    requests = launch.of_workload
    before = requests[:start]
    if start <= SHORTEST_SEGMENT and (within := _steady_token(requests[0], requests[start:])) is not None:
        return within
    return sum(len(request.t_token_ns) for request in before)


def seconds_to_steady(launch: Launch, start: int) -> float:
    """From the start of the first request to that of the first steady one."""
    return (launch.of_workload[start].t_start_ns - launch.of_workload[0].t_start_ns) / 1e9


def _steady_token(first: Request, steady: Sequence[Request]) -> int | None:
    """Index of the first token of `first` from which its gaps are those of steady requests; None if that never is."""
    gaps = np.diff(np.asarray(first.t_token_ns[:MOST_TOKENS], dtype=np.float64))
    if len(gaps) < FEWEST_POINTS or not steady:
        return None
    usual = np.median([np.diff(request.t_token_ns[:MOST_TOKENS]) for request in steady], axis=0)
    if len(usual) != len(gaps) or usual.min() <= 0:
        return None
    ratios = gaps / usual
    found = steadiness(list(ratios))
    if found.start is None or abs(float(np.mean(ratios[found.start :])) - 1) > SAME_LEVEL:
        return None
    return found.start


def _unjudged(series: Sequence[Launch], reason: str) -> WarmUp:
    return WarmUp(
        classes=None,
        reason=reason,
        requests_to_steady=None,
        tokens_to_steady=None,
        seconds_to_steady=None,
        curve=_curve(series),
    )


def _median(values: Sequence[float]) -> float | None:
    return float(median(values)) if values else None


def _curve(series: Sequence[Launch]) -> list[float]:
    relative = []
    for launch in series:
        steady = [r.t_token_ns[-1] for r in launch.measured if not r.doubts]
        if steady:
            relative.append([duration / median(steady) for duration in durations(launch)])
    length = min(map(len, relative), default=0)
    return [float(median(row[i] for row in relative)) for i in range(length)]


# ---- change-points --------------------------------------------------------------------------------------------


def steadiness(series: Sequence[float], penalty: float = PENALTY) -> Steadiness:
    """The class of one series of times. The steady state is the last level, and must begin in the first half."""
    starts = change_points(series, penalty)
    means = [fmean(series[a:b]) for a, b in zip(starts, [*starts[1:], len(series)], strict=True)]
    steady = len(means) - 1
    while steady > 0 and abs(means[steady - 1] - means[-1]) <= SAME_LEVEL * means[-1]:
        steady -= 1
    if steady == 0:
        return Steadiness("flat", 0)
    if starts[steady] > len(series) / 2:
        return Steadiness("no steady state", None)
    slower_before = all(mean >= means[-1] * (1 - SAME_LEVEL) for mean in means[:steady])
    return Steadiness("warm-up" if slower_before else "slow-down", starts[steady])


def change_points(series: Sequence[float], penalty: float = PENALTY) -> list[int]:
    """The first index of each segment of the partition with the least cost; the first is 0.

    Exact, by dynamic programming over the last change-point; the time grows with the square of the length.
    """
    n = len(series)
    if n < 2 * SHORTEST_SEGMENT:
        return [0]
    values = np.asarray(series, dtype=np.float64) / fmean(series)
    price = penalty * math.log(n)
    best = np.full(n + 1, math.inf)
    best[0] = -price
    previous = np.zeros(n + 1, dtype=np.int64)
    sums = np.concatenate([[0.0], np.cumsum(values - 1)])
    squares = np.concatenate([[0.0], np.cumsum((values - 1) ** 2)])
    for end in range(SHORTEST_SEGMENT, n + 1):
        starts = np.arange(end - SHORTEST_SEGMENT + 1)
        costs = best[starts] + _segment_costs(sums, squares, starts, end) + price
        previous[end] = int(np.argmin(costs))
        best[end] = costs[previous[end]]
    found = [int(previous[n])]
    while found[0] > 0:
        found.insert(0, int(previous[found[0]]))
    return found


_LEAST_VARIANCE = 1e-10
"""Of relative times: a spread of 0.001 % is none. Three equal values would otherwise cost minus infinity."""


def _segment_costs(sums: Floats, squares: Floats, starts: np.typing.NDArray[np.int64], end: int) -> Floats:
    """Minus twice the log-likelihood of a normal segment from each start to the end, up to a constant."""
    lengths = end - starts
    means = (sums[end] - sums[starts]) / lengths
    variances = (squares[end] - squares[starts]) / lengths - means**2
    costs: Floats = lengths * (np.log(np.maximum(variances, _LEAST_VARIANCE)) + 1.0)
    return costs
