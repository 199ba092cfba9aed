"""One number of a result, with whether it may be used and why not."""

from __future__ import annotations

import msgspec


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """`reasons` says why there is no value, or why it is invalid; with a valid value it holds cautions."""

    value: float | None
    unit: str
    valid: bool
    reasons: list[str] = []
    interval: list[float] | None = None
    """95 % [low, high]; None where launches are too few or the metric is no average over launches."""


def missing(unit: str, *reasons: str) -> Metric:
    return Metric(value=None, unit=unit, valid=False, reasons=list(reasons))
