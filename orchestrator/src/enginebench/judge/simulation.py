"""What the verdicts are worth where the truth is known: simulated launches through the very functions that judge runs.

Launch times are log-normal: launches of a case differ by `cv`, and what a block does to all its launches is `block_cv`.
Real launches of known difference are the self-test's; these cost milliseconds and so can be had by the thousand.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from enginebench.plan.plan import Stopping

from .comparison import Comparison, compare_paired, compare_unpaired, holm
from .distribution import t_two_sided
from .interval import Floats, intervals_of_logs
from .stopping import look

DIFFERENT = ("FASTER", "SLOWER")


@dataclass(frozen=True)
class Noise:
    """Coefficients of variation: between launches of one case, and between blocks.

    `disturbed`: the share of launches that something slows down, by `disturbance` on average (exponential, as a share).
    """

    cv: float
    block_cv: float = 0.0
    disturbed: float = 0.0
    disturbance: float = 0.0


@dataclass(frozen=True)
class Verdicts:
    """Words over all comparisons of many simulated runs, and the launches that a run took on average."""

    words: Counter[str]
    mean_launches: float

    def share(self, *words: str) -> float:
        return sum(self.words[word] for word in words) / self.words.total()


def interval_coverage(launches: int, experiments: int, level: float = 0.95, cv: float = 0.01, seed: int = 1) -> float:
    """Share of experiments whose interval holds the truth."""
    logs = np.random.default_rng(seed).normal(0.0, cv, (experiments, launches))
    bounds = intervals_of_logs(logs, level)
    return float(np.mean((bounds[:, 0] <= 0) & (bounds[:, 1] >= 0)))


def ratio_coverage(launches: int, experiments: int, noise: Noise, paired: bool = True, seed: int = 1) -> float:
    """Share of comparisons of equal cases whose 95 % interval holds 1."""
    draw = np.random.default_rng(seed)
    hits = 0
    for _ in range(experiments):
        base, new = _times(draw, 2, launches, noise, 0.0)
        found = compare_paired(_blocks(base), _blocks(new)) if paired else compare_unpaired(list(base), list(new))
        assert found.interval_95 is not None
        hits += found.interval_95[0] <= 1.0 <= found.interval_95[1]
    return hits / experiments


def verdicts(
    runs: int,
    launches: int,
    noise: Noise,
    slowdown: float = 0.0,
    cases: int = 2,
    stopping: Stopping | None = None,
    seed: int = 1,
) -> Verdicts:
    """Runs of so many cases, the last of them slower by `slowdown`; every pair is asked, as in a run's table.

    With a slow-down, only pairs with the slow case are counted: SLOWER is then the truth. `stopping`: a run goes on by
    that rule.
    """
    draw = np.random.default_rng(seed)
    words: Counter[str] = Counter()
    taken = []
    for _ in range(runs):
        most = stopping.most if stopping else launches
        times = _times(draw, cases, most, noise, slowdown)
        n = _stopped(times, launches, stopping)
        taken.append(n)
        table = _table(times[:, :n])
        words.update(c.verdict for c in table if not slowdown or c.new == str(cases - 1))
    return Verdicts(words, sum(taken) / runs)


def pooled_requests_false_share(runs: int, launches: int, requests: int, noise: Noise, seed: int = 1) -> float:
    """The share of A/A runs that a t-test at 5 % on pooled requests calls different: what happens where requests of a
    process are taken for independent. Requests vary as much as launches do."""
    draw = np.random.default_rng(seed)
    false = 0
    for _ in range(runs):
        of_launch = draw.normal(0.0, noise.cv, (2, launches, 1))
        logs = (of_launch + draw.normal(0.0, noise.cv, (2, launches, requests))).reshape(2, -1)
        error = math.sqrt(float(logs.var(axis=1, ddof=1).sum()) / logs.shape[1])
        false += t_two_sided(2 * logs.shape[1] - 2, float(logs[0].mean() - logs[1].mean()) / error) <= 0.05
    return false / runs


def _times(draw: np.random.Generator, cases: int, launches: int, noise: Noise, slowdown: float) -> Floats:
    """[cases, launches]"""
    logs = draw.normal(0.0, noise.cv, (cases, launches)) + draw.normal(0.0, noise.block_cv, launches)
    logs += (draw.random(logs.shape) < noise.disturbed) * draw.exponential(noise.disturbance, logs.shape)
    logs[-1] += math.log1p(slowdown)
    times: Floats = np.exp(logs)
    return times


def _stopped(times: Floats, launches: int, rule: Stopping | None) -> int:
    """How many launches such a run takes."""
    n = launches
    while rule is not None and look(rule, [[_blocks(case[:n]) for case in times]], n).why is None:
        n = min(rule.most, n + rule.step)
    return n


def _table(times: Floats) -> list[Comparison]:
    pairs = combinations(range(len(times)), 2)
    return holm([compare_paired(_blocks(times[a]), _blocks(times[b]), base_id=str(a), new_id=str(b)) for a, b in pairs])


def _blocks(values: Sequence[float] | Floats) -> dict[int, float]:
    return dict(enumerate(map(float, values)))
