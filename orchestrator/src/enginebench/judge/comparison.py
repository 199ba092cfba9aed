"""Is one case faster than another? A ratio with its interval, and one of four words.

Every ratio is a ratio of speeds, new ÷ base: above 1 the new one is faster. It is computed from times (or bytes: what
is better when smaller), one value per launch, in logarithms. Which pairs are worth asking is decided in `verdicts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np

from enginebench.counted import counted

from .distribution import t_quantile, t_two_sided
from .interval import FEWEST_LAUNCHES, NO_SPREAD, Floats

Word = Literal["FASTER", "SLOWER", "SAME", "INCONCLUSIVE"]

LEAST_DIFFERENCE = 0.01
"""A difference below 1 % is none, whatever its p-value; what the machine shows between equals (A/A floor) raises it."""
SIGNIFICANCE = 0.005
"""Of a whole table: half of the one false verdict in a hundred that is allowed. At the customary 5 % a pair alone is
called different in 2 to 5 of 100 runs of equal engines."""
FEWEST_FOR_VERDICT = 10
MOST_FURTHER = 1000


class Comparison(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`ratio`: speed of `new` ÷ speed of `base`; above 1 the new one is faster. None where there is no value."""

    base: str
    """Case id, engine:configuration/model/workload."""
    new: str
    metric: str
    name: str | None = None
    """What the comparison is called where it has a name, like "precision impact"."""
    paired: bool
    n: int
    """Blocks in which both were launched; unpaired, launches of the one that has fewer."""
    n_base: int
    n_new: int
    ratio: float | None
    interval_95: list[float] | None
    interval_90: list[float] | None
    spread: float | None
    """Standard deviation of the log ratio of one block (or pair of launches)."""
    p_value: float | None
    p_holm: float | None
    family: int = 1
    """Comparisons that Holm's correction counted together."""
    delta: float
    """The least difference that counts, as a share: max(1 %, A/A floor)."""
    verdict: Word
    further_launches: int | None = None
    """INCONCLUSIVE: about so many more launches of each would decide it; None where no number is known."""
    reasons: list[str] = []


def compare_paired(
    base: Mapping[int, float],
    new: Mapping[int, float],
    *,
    base_id: str = "",
    new_id: str = "",
    metric: str = "",
    name: str | None = None,
    aa_floor: float | None = None,
) -> Comparison:
    """Launches of one run: block → time. Blocks that have both count. Student's paired t on the logarithms."""
    good_base, good_new = _usable(base), _usable(new)
    blocks = sorted(good_base.keys() & good_new.keys())
    logs = np.asarray([math.log(good_base[block] / good_new[block]) for block in blocks])
    error = float(logs.std(ddof=1)) / math.sqrt(len(logs)) if len(logs) >= 2 else None
    difference = Difference(float(logs.mean()) if len(logs) else None, error, len(logs) - 1.0, len(logs))
    facts = _facts(base_id, new_id, metric, name, aa_floor, good_base.values(), good_new.values())
    return _compared(difference, _dropped(base, good_base, new, good_new), paired=True, facts=facts)


def compare_unpaired(
    base: Sequence[float],
    new: Sequence[float],
    *,
    base_id: str = "",
    new_id: str = "",
    metric: str = "",
    name: str | None = None,
    aa_floor: float | None = None,
) -> Comparison:
    """Launches of different runs: times. Welch's t on the logarithms; the numbers of launches may differ."""
    numbered_base, numbered_new = dict(enumerate(base)), dict(enumerate(new))
    good_base, good_new = _usable(numbered_base), _usable(numbered_new)
    difference = _welch(np.log(list(good_base.values())), np.log(list(good_new.values())))
    facts = _facts(base_id, new_id, metric, name, aa_floor, good_base.values(), good_new.values())
    dropped = _dropped(numbered_base, good_base, numbered_new, good_new)
    return _compared(difference, dropped, paired=False, facts=facts)


def holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """One table: every p-value corrected for all that were asked (Holm 1979), and the verdicts that follow.

    Comparisons without a p-value do not count. The order is kept.
    """
    asked = sorted((c.p_value, index) for index, c in enumerate(comparisons) if c.p_value is not None)
    corrected: dict[int, float] = {}
    highest = 0.0
    for place, (p_value, index) in enumerate(asked):
        highest = max(highest, min(1.0, (len(asked) - place) * p_value))
        corrected[index] = highest
    return [_decided(c, corrected.get(index), max(1, len(asked))) for index, c in enumerate(comparisons)]


def launches_for(spread: float, half_width: float, level: float = 0.95, samples: int = 1) -> int | None:
    """Launches after which an interval of this level has this half-width, both as logs; None above a thousand.

    `spread`: standard deviation between launches. `samples` 2: the difference of two groups of so many launches each.
    """
    for n in range(2, MOST_FURTHER + 1):
        if t_quantile(samples * (n - 1), (1 + level) / 2) * spread / math.sqrt(n) <= half_width:
            return n
    return None


# ---- parts ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Difference:
    """Mean log ratio, its standard error, the degrees of freedom of that, and on how many launches it stands."""

    mean: float | None
    error: float | None
    freedom: float
    n: int


def _usable(values: Mapping[int, float]) -> dict[int, float]:
    return {key: value for key, value in values.items() if math.isfinite(value) and value > 0}


def _dropped(base: Sized, good_base: Sized, new: Sized, good_new: Sized) -> list[str]:
    counts = {"base": (len(base), len(good_base)), "new": (len(new), len(good_new))}
    return [
        f"{n - good} of {n} {which} launches have no usable value" for which, (n, good) in counts.items() if n > good
    ]


def _facts(
    base_id: str, new_id: str, metric: str, name: str | None, aa_floor: float | None, base: Sized, new: Sized
) -> dict[str, Any]:
    delta = max(LEAST_DIFFERENCE, aa_floor or 0.0)
    counts = {"n_base": len(base), "n_new": len(new)}
    return {"base": base_id, "new": new_id, "metric": metric, "name": name, "delta": delta, **counts}


def _welch(base: Floats, new: Floats) -> Difference:
    fewer = min(len(base), len(new))
    if fewer == 0:
        return Difference(None, None, 0.0, 0)
    mean = float(base.mean() - new.mean())
    if fewer == 1:
        return Difference(mean, None, 0.0, 1)
    of_base, of_new = float(base.var(ddof=1)) / len(base), float(new.var(ddof=1)) / len(new)
    squared = of_base + of_new
    if math.sqrt(squared) <= NO_SPREAD:
        return Difference(mean, 0.0, 1.0, fewer)
    freedom = squared**2 / (of_base**2 / (len(base) - 1) + of_new**2 / (len(new) - 1))
    return Difference(mean, math.sqrt(squared), freedom, fewer)


def _compared(difference: Difference, reasons: list[str], *, paired: bool, facts: dict[str, Any]) -> Comparison:
    mean, error, n = difference.mean, difference.error, difference.n
    intervals: list[list[float] | None] = [None, None]
    p_value = None
    if mean is not None and error is not None and n >= FEWEST_LAUNCHES:
        intervals = [_student(difference, 0.95), _student(difference, 0.90)]
        p_value = _p_value(mean, error, difference.freedom)
    compared = Comparison(
        **facts,
        paired=paired,
        n=n,
        ratio=None if mean is None else math.exp(mean),
        interval_95=intervals[0],
        interval_90=intervals[1],
        spread=None if error is None else error * math.sqrt(n),
        p_value=p_value,
        p_holm=None,
        verdict="INCONCLUSIVE",
        reasons=reasons,
    )
    return _decided(compared, p_value, 1)


def _student(difference: Difference, level: float) -> list[float]:
    assert difference.mean is not None
    assert difference.error is not None
    half = t_quantile(difference.freedom, (1 + level) / 2) * difference.error
    return [math.exp(difference.mean - half), math.exp(difference.mean + half)]


def _p_value(mean: float, error: float, freedom: float) -> float:
    """Two-sided, of no difference. Launches without any spread differ or do not."""
    if error <= NO_SPREAD:
        return 1.0 if abs(mean) <= NO_SPREAD else 0.0
    return t_two_sided(freedom, mean / error)


# ---- the verdict ----------------------------------------------------------------------------------------------


def _decided(comparison: Comparison, p_holm: float | None, family: int) -> Comparison:
    known = msgspec.structs.replace(comparison, p_holm=p_holm, family=family)
    lack = _lack(known)
    word = "INCONCLUSIVE" if lack else _word(known)
    kept = [reason for reason in known.reasons if reason != _lack(comparison)]
    return msgspec.structs.replace(
        known,
        verdict=word,
        further_launches=_further(known) if word == "INCONCLUSIVE" else None,
        reasons=[*kept, *([lack] if lack else [])],
    )


def _lack(comparison: Comparison) -> str | None:
    """Why no verdict is possible whatever the numbers say."""
    if comparison.ratio is None:
        return "no block has both" if comparison.paired else "no launch has a value"
    if comparison.n < FEWEST_FOR_VERDICT:
        units = counted(comparison.n, "block" if comparison.paired else "launch")
        return f"{units}: a verdict needs {FEWEST_FOR_VERDICT} at least"
    return None


def _word(comparison: Comparison) -> Word:
    """A difference must be significant in its table and large enough to count; sameness must be shown (two one-sided
    tests: the 90 % interval lies within the least difference)."""
    ratio, bounds, p_holm = comparison.ratio, comparison.interval_90, comparison.p_holm
    assert ratio is not None
    assert bounds is not None
    assert p_holm is not None
    least = 1.0 + comparison.delta
    if p_holm <= SIGNIFICANCE and max(ratio, 1 / ratio) >= least and _excludes_one(comparison.interval_95):
        return "FASTER" if ratio > 1 else "SLOWER"
    if 1 / least < bounds[0] and bounds[1] < least:
        return "SAME"
    return "INCONCLUSIVE"


def _excludes_one(bounds: Sequence[float] | None) -> bool:
    return bounds is not None and not bounds[0] <= 1.0 <= bounds[1]


def _further(comparison: Comparison) -> int | None:
    """Launches of each that are missing, if ratio and spread stay as they are.

    A ratio beyond the least difference needs an interval (of the level that Holm's correction asks) that ends before 1;
    one within needs a 90 % interval that ends before the least difference. Right at the limit no number would suffice:
    a quarter of it is the least that is aimed at.
    """
    if comparison.ratio is None or comparison.spread is None:
        return max(0, FEWEST_FOR_VERDICT - comparison.n) or None
    effect, least = abs(math.log(comparison.ratio)), math.log1p(comparison.delta)
    samples = 1 if comparison.paired else 2
    if effect >= least:
        needed = launches_for(comparison.spread, effect, 1 - SIGNIFICANCE / comparison.family, samples)
    else:
        needed = launches_for(comparison.spread, max(least - effect, least / 4), 0.90, samples)
    return None if needed is None else max(1, needed - comparison.n, FEWEST_FOR_VERDICT - comparison.n)
