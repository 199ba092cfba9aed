"""Where each case stands under the roof of its device: bytes that a token reads, tokens per second, the limit. Pure.

At batch 1 the roof is the memory's: the rate cannot exceed bandwidth ÷ bytes per token. No compute roof is drawn,
because no instrument measures one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .plain_case import elements_read, label, mean_context, model_of
from .plausibility import cache_bytes, ceiling


@dataclass(frozen=True)
class Point:
    """`intensity`: operations for each byte read; None without a known shape. `share`: of the limit, as `mbu`."""

    label: str
    role: str
    bytes_per_token: float
    decode_tps: float
    interval: list[float] | None
    intensity: float | None
    share: float | None


@dataclass(frozen=True)
class Roofline:
    """`bytes_per_second`: of the fastest instrument, on one device; None without one."""

    limit: str | None
    bytes_per_second: float | None
    points: list[Point]


def roofline(cases: Sequence[Mapping[str, Any]], plan: Mapping[str, Any]) -> Roofline:
    """`cases`: of one model and workload. What has no valid rate, or tells no bytes, has no point."""
    roof = ceiling(cases[0], cases, devices=1) if cases else None
    points = [_point(case, plan) for case in cases if _can_stand(case)]
    return Roofline(roof.label if roof else None, roof.bytes_per_second if roof else None, points)


def _can_stand(case: Mapping[str, Any]) -> bool:
    rate, loaded = case["metrics"].get("decode_tps"), case["loaded"]
    known = rate is not None and rate["valid"] and rate["value"]
    return bool(known and loaded and loaded["read_bytes_per_token"] and case["status"] == "ok")


def _point(case: Mapping[str, Any], plan: Mapping[str, Any]) -> Point:
    rate, is_engine = case["metrics"]["decode_tps"], case["role"] == "engine"
    n_bytes = case["loaded"]["read_bytes_per_token"] + (cache_bytes(case, plan) if is_engine else 0.0)
    operations = operations_per_token(case, plan) if is_engine else None
    return Point(
        label=label(case),
        role=case["role"],
        bytes_per_token=n_bytes,
        decode_tps=rate["value"],
        interval=rate["interval"],
        intensity=None if operations is None else operations / n_bytes,
        share=case["metrics"]["mbu"]["value"],
    )


def operations_per_token(case: Mapping[str, Any], plan: Mapping[str, Any]) -> float | None:
    """A multiplication and an addition for each weight that is read, and for each cached value of a query's head, at
    the mean context. None where the shape is not known.
    """
    elements, context = elements_read(case, plan), mean_context(case, plan)
    if elements is None or context is None:
        return None
    shape = model_of(case, plan)["shape"]
    attention: float = 2 * shape["n_layers"] * shape["n_heads"] * shape["head_dim"] * context
    return 2.0 * (elements + attention)
