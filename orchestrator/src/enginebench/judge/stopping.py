"""Is enough known? Whether a run goes on after the launches of its preset, by the width of intervals alone.

Never by significance: who looks until a difference is significant finds one between equals in 23 of 100 runs. The width
is that of the ratios that will be compared: half of the 95 % interval of each pair's time per token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

import msgspec
import numpy as np

from enginebench.plan.plan import Stopping

from .comparison import launches_for
from .distribution import t_quantile

NARROW = "every ratio is known well enough"
TOO_NOISY = "no number of launches allowed would make it narrow enough: the noise itself is known"
MOST = "the most launches allowed"
NOTHING = "nothing to compare"

Series = Mapping[int, float]
"""Block → time per token of one case."""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """After so many `launches` of each case. `why` None: the run went on."""

    launches: int
    half_width: float | None
    """Of the widest ratio, as a share; None where there is nothing to compare."""
    needed: int | None
    """Launches that would make it narrow enough, if its spread stays; None above a thousand."""
    why: str | None


def look(rule: Stopping, groups: Sequence[Sequence[Series]], launches: int) -> Look:
    """`groups`: cases that did the same work. A case that is alone in its group is looked at by itself.

    A spread that no number of launches up to `rule.most` can overcome ends the run at once: more of the same noise
    would cost hours and decide nothing.
    """
    spreads = [spread for group in groups for spread in _spreads(group)]
    if not spreads:
        return Look(launches=launches, half_width=None, needed=None, why=NOTHING)
    widest, n = max(spreads, key=lambda found: _half_width(*found))
    width, needed = _half_width(widest, n), launches_for(widest, rule.half_width)
    return Look(launches=launches, half_width=width, needed=needed, why=_why(rule, width, needed, launches))


def _why(rule: Stopping, width: float, needed: int | None, launches: int) -> str | None:
    if width <= rule.half_width:
        return NARROW
    if launches >= rule.most:
        return MOST
    return TOO_NOISY if needed is None or needed > rule.most else None


def _spreads(group: Sequence[Series]) -> list[tuple[float, int]]:
    """(standard deviation, blocks) of each pair's log ratio."""
    usable = [{b: math.log(v) for b, v in series.items() if math.isfinite(v) and v > 0} for series in group]
    if len(usable) == 1:
        logs = [list(usable[0].values())]
    else:
        logs = [[one[b] - two[b] for b in sorted(one.keys() & two.keys())] for one, two in combinations(usable, 2)]
    return [(float(np.std(values, ddof=1)), len(values)) for values in logs if len(values) >= 2]


def _half_width(spread: float, n: int) -> float:
    """Of Student's interval."""
    return t_quantile(n - 1, 0.975) * spread / math.sqrt(n)
