"""After how many tokens one case has overtaken another for good. Pure: from when each token came to the crossing.

Between two engines, the one that starts sooner is often the slower one afterwards; which is faster depends on how much
is asked of it. Nothing is said beyond HORIZON tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

HORIZON = 10_000
RESAMPLES = 1000
SEED = 20_240_501
FEWEST_LAUNCHES = 3
Times = np.typing.NDArray[np.float64]


@dataclass(frozen=True)
class Course:
    """Nanoseconds from the spawn to each token: one row for each launch, one column for each token."""

    launches_ns: Times

    @cached_property
    def ns(self) -> Times:
        """The log-mean over launches."""
        mean: Times = np.exp(np.log(self.launches_ns).mean(axis=0))
        return mean

    def at(self, tokens: int) -> float:
        """When token number `tokens` has come; the first is 1."""
        return float(self.ns[tokens - 1])


@dataclass(frozen=True)
class BreakEven:
    """`ahead` starts later (or slower), and is in front from `tokens` on until the horizon."""

    ahead: str
    behind: str
    tokens: int
    interval: list[int] | None
    """95 % of the resamples of the launches that have a crossing in this direction; None with too few launches."""
    agreement: float | None
    """Share of the resamples that have one."""


def break_even(name: str, course: Course, other: str, other_course: Course) -> BreakEven | None:
    """None if one of them is in front at every number of tokens."""
    gap = course.ns - other_course.ns
    tokens = overtaking(gap)
    if tokens is None:
        return None
    sign = float(np.sign(gap[-1]))
    ahead, behind = (name, other) if sign < 0 else (other, name)
    drawn = _resampled(course, other_course, sign)
    if drawn is None:
        return BreakEven(ahead, behind, tokens, None, None)
    found = drawn[drawn > 0]
    low, high = np.quantile(found, [0.025, 0.975]) if len(found) else (tokens, tokens)
    return BreakEven(ahead, behind, tokens, [int(low), int(np.ceil(high))], len(found) / len(drawn))


def overtaking(gap: Times) -> int | None:
    """The number of tokens from which on the gap has the sign of its end; None if it always had, or ends in 0."""
    signs = np.sign(gap)
    other = np.flatnonzero(signs != signs[-1])
    return int(other[-1]) + 2 if len(other) and signs[-1] != 0 else None


def _resampled(course: Course, other: Course, sign: float) -> np.typing.NDArray[np.int64] | None:
    """The crossing of each resample of the launches towards this sign, 0 where it has none; None with few launches."""
    if min(len(course.launches_ns), len(other.launches_ns)) < FEWEST_LAUNCHES:
        return None
    random = np.random.default_rng(SEED)
    points = np.unique(np.geomspace(1, HORIZON, 400).astype(int))
    gaps = _resampled_logs(course, points, random) - _resampled_logs(other, points, random)
    indices = [_towards(gap, sign) for gap in gaps]
    return np.array([points[at - 1] if at else 0 for at in indices])


def _resampled_logs(course: Course, points: np.typing.NDArray[np.int64], random: np.random.Generator) -> Times:
    """[RESAMPLES, points]: the log-mean over as many launches, drawn with replacement."""
    n = len(course.launches_ns)
    weights = random.multinomial(n, [1 / n] * n, RESAMPLES) / n
    return weights @ np.log(course.launches_ns[:, points - 1])


def _towards(gap: Times, sign: float) -> int | None:
    return overtaking(gap) if np.sign(gap[-1]) == sign else None


def crossings(courses: Sequence[tuple[str, Course]]) -> list[BreakEven]:
    """Every crossing among these, the earliest first."""
    found = [
        crossing
        for i, (name, course) in enumerate(courses)
        for other, other_course in courses[i + 1 :]
        if (crossing := break_even(name, course, other, other_course)) is not None
    ]
    return sorted(found, key=lambda crossing: crossing.tokens)
