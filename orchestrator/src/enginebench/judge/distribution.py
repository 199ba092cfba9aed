"""Student's t and the binomial distribution, by SciPy.

SciPy is imported when the first number is asked for: it takes as long as all else that the command line needs, and
most commands need no statistics.
"""

from __future__ import annotations

from functools import cache


@cache
def t_quantile(freedom: float, probability: float) -> float:
    from scipy.special import stdtrit  # noqa: PLC0415

    return float(stdtrit(freedom, probability))


def t_two_sided(freedom: float, t: float) -> float:
    """The probability of a value as far from 0 as `t`."""
    from scipy.special import stdtr  # noqa: PLC0415

    return min(1.0, 2.0 * float(stdtr(freedom, -abs(t))))


def binomial_at_most(successes: int, trials: int, probability: float) -> float:
    """P(Binomial(trials, probability) ≤ successes)."""
    from scipy.special import bdtr  # noqa: PLC0415

    return float(bdtr(successes, trials, probability))
