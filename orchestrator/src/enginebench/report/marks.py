"""Marks of a row that is ok but not beyond doubt, and the remarks that go with them.

`?` after the label: a suspicion. Square brackets around it: other conditions than most rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def marked(case: dict[str, Any], label: str) -> str:
    if case["status"] != "ok":
        return label
    bracketed = f"[{label}]" if case.get("brackets") else label
    return f"{bracketed}?" if case.get("suspicions") else bracketed


def remarks(case: dict[str, Any]) -> Iterator[str]:
    """For a case that is ok."""
    for suspicion in case.get("suspicions", ()):
        yield f"suspect ({suspicion['code']}): {suspicion['text']}"
    if case.get("brackets"):
        yield f"in brackets: {'; '.join(case['brackets'])}"
    for audit in case.get("audits", ()):
        if audit["passed"] is False:
            yield f"audit {audit['name']}: {audit['detail']}"
    bottleneck = case.get("bottleneck")
    if bottleneck and bottleneck["text"]:
        yield bottleneck["text"]
