"""The warm-up of a case in one line: how its launches were classed, what it took to be steady, and the curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from enginebench.counted import counted

from .sparkline import sparkline

UNSTEADY = ("slow-down", "no steady state")


def warmup_remark(case: Mapping[str, Any]) -> str | None:
    """None for a case whose launches are all flat, and for one that could not be judged."""
    found = case.get("warmup")
    if not found or not found["classes"]:
        return None
    counts = {kind: n for kind, n in found["classes"].items() if n}
    if set(counts) == {"flat"}:
        return None
    classes = ", ".join(f"{n} {kind}" for kind, n in counts.items())
    parts = [f"launches by warm-up: {classes}"]
    if found["requests_to_steady"]:
        requests, tokens = (counted(found[f"{noun}s_to_steady"], noun) for noun in ("request", "token"))
        parts.append(f"steady after {requests}, {tokens}, {found['seconds_to_steady']:.2g} s")
    if any(kind in counts for kind in UNSTEADY):
        parts.append("a mean says little where there is no steady state")
    return f"{'; '.join(parts)}; request times {sparkline(found['curve'])} (from {_range(found['curve'])} of steady)"


def _range(values: Sequence[float]) -> str:
    return f"{min(values, default=0):.2f}x to {max(values, default=0):.2f}x"
