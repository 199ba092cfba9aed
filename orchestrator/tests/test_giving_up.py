"""Three failed launches end a case, and no other."""

from __future__ import annotations

from typing import Any

import pytest
from enginebench.judge.giving_up import given_up


@pytest.mark.parametrize(
    ("reasons", "expected"),
    [
        ([], None),
        (["signal", "exit"], None),
        (["signal", "exit", "signal"], "no further launches after 3 that failed (2 x signal, 1 x exit)"),
    ],
)
def test_three_failures_are_enough(records: Any, reasons: list[str], expected: str | None) -> None:
    good = [records.timed([records.request(0, (9, 10, 11))])] * 5
    failed = [records.timed([], failure=records.failure(reason=reason)) for reason in reasons]
    assert given_up([*good, *failed]) == expected
