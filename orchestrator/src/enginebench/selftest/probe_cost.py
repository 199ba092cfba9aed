"""What looking costs: the same engine timed with the noise snapshots around its requests and without, in pairs.

For `enginebench selftest`. Each pair is two launches in random order; its ratio is of the times per output token. The
snapshots lie between requests, so the ratio should be 1: if its interval leaves ±0.5 %, the time pass is not clean.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from enginebench.judge.evidence import median_of
from enginebench.machine.noise import read_noise
from enginebench.machine.watch import Watch
from enginebench.store.record import Launch

from .pairs import Subject, launched

ALLOWED = 0.005
"""Method M14."""
PAIRS = 20
FEWEST_PAIRS = 6
"""With five, one side of all pairs is no 95 % yet (1 ÷ 2^5 > 2.5 %)."""
SNAPSHOTS = 50

Launcher = Callable[[Watch | None], Launch]
"""launch(watch): one timed launch, watched or not."""


@dataclass(frozen=True)
class ProbeCost:
    """`ratio`: time per token while watched ÷ while not, the median over the pairs. `interval`: 95 % of that median."""

    pairs: int
    left_out: int
    """Pairs of which one launch failed or was in doubt."""
    ratio: float
    interval: tuple[float, float]
    snapshot_ms: float
    """The median time that one snapshot takes; it is spent between requests."""

    @property
    def passed(self) -> bool:
        low, high = self.interval
        return low >= 1 - ALLOWED and high <= 1 + ALLOWED


def measure(launch: Launcher, watch: Watch, pairs: int = PAIRS, seed: int = 0) -> ProbeCost:
    """Raises ValueError with fewer than six pairs that count.

    The median, and an interval from the ranks of the pairs: one launch that something else held up is no cost of ours.
    """
    order = random.Random(seed)  # noqa: S311 (not for secrets)
    ratios = sorted(ratio for _ in range(pairs) if (ratio := _pair(launch, watch, order)) is not None)
    if len(ratios) < FEWEST_PAIRS:
        raise ValueError(f"{len(ratios)} of {pairs} pairs ended well, at least {FEWEST_PAIRS} are needed: try again")
    out = outside(len(ratios))
    interval = ratios[out], ratios[-1 - out]
    return ProbeCost(len(ratios), pairs - len(ratios), statistics.median(ratios), interval, _snapshot_ms())


def outside(n: int) -> int:
    """How many of n sorted values lie on either side of a 95 % interval of their median, however distributed."""
    share, count = 1 / 2**n, 0  # of all the ways in which the median can split them
    while share + math.comb(n, count + 1) / 2**n <= 0.025:
        count += 1
        share += math.comb(n, count) / 2**n
    return count


def launches_of(subject: Subject) -> Launcher:
    """The engine of known speed keeps to a schedule, so that a delay shorter than a token's wait is hidden; its
    configuration "instant" waits for nothing and hides none, and is as noisy as the machine."""
    return lambda watch: launched(subject, 0, 0, {}, watch)


def _pair(launch: Launcher, watch: Watch, order: random.Random) -> float | None:
    """Watched ÷ unwatched; None where one of the two has no valid request."""
    first_watched = order.random() < 0.5
    launches = {watched: launch(watch if watched else None) for watched in (first_watched, not first_watched)}
    values = {w: median_of(lambda t: t.tpot_ns)(each) for w, each in launches.items() if each.ok}
    watched, unwatched = values.get(True), values.get(False)
    return watched / unwatched if watched and unwatched else None


def _snapshot_ms() -> float:
    took = []
    for _ in range(SNAPSHOTS):
        started = time.perf_counter_ns()
        read_noise()
        took.append((time.perf_counter_ns() - started) / 1e6)
    return statistics.median(took)
