"""What a table says of its own fairness, and how classes that are not compared with each other stand in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from enginebench.judge.plain_case import class_of

UNFAIR = (
    "NOT a fair comparison: each engine as it comes out of the box; precision and optimisations differ between rows"
)

Row = Mapping[str, Any]


def fairness_line(result: Row, cases: Sequence[Row]) -> str | None:
    """Above a table. None where there is but one class, and for results that are older than the question."""
    fair = result["plan"].get("fair_comparison")
    if fair is False:
        return UNFAIR
    classes = list(dict.fromkeys(c for case in cases if _stands(case) and (c := class_of(case, result["plan"]))))
    if not fair or len(classes) < 2:
        return None
    return f"fair comparison: ranks, pairs and break-even points stay within {', within '.join(classes)}"


def in_classes(cases: Sequence[dict[str, Any]], plan: Row) -> list[dict[str, Any]]:
    """Rows of one class together, classes in the order of their first row; what does not stand comes last."""
    standing = [case for case in cases if _stands(case)]
    classes = list(dict.fromkeys(class_of(case, plan) for case in standing))
    instruments = [case for case in cases if case["status"] == "ok" and not _stands(case)]
    rest = [case for case in cases if case["status"] != "ok"]
    return [*instruments, *sorted(standing, key=lambda case: classes.index(class_of(case, plan))), *rest]


def _stands(case: Row) -> bool:
    return bool(case["status"] == "ok" and case["role"] != "instrument")
