"""Each gate on the work itself fires from end to end, with an engine that breaks just that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Run = Callable[..., tuple[int, dict[str, Any], str]]
VIOLATIONS = {
    "fake:prefix-cache": ("repeated-prompt", "prefix cache on"),
    "fake:miscount": ("token-counts", "n_gen is 17 by the engine's count, 16 by ours"),
    "fake:other-output": ("same-output", "2 of 2 timed answers differ from the check launch's"),
}


@pytest.fixture
def cases(run: Run) -> dict[str, dict[str, Any]]:
    """One run of all of them, since most of a run is starting it."""
    honest = ["fake", "fake:wrong", "fake:other-cache", "fake:fewer-threads"]
    code, result, _ = run(*honest, *VIOLATIONS, "--threads", "2")
    assert code == 1
    return {f"{c['engine']}:{c['configuration']}": c for c in result["cases"]}


def test_each_violation_is_caught_by_its_audit_and_honest_work_by_none(cases: dict[str, dict[str, Any]]) -> None:
    for label, (name, said) in VIOLATIONS.items():
        failed = [audit for audit in cases[label]["audits"] if audit["refuses"]]
        assert [audit["name"] for audit in failed] == [name], label
        assert said in failed[0]["detail"]
        assert cases[label]["status"] == "invalid"
        assert f"failed audit {name}: " in cases[label]["reason"]
        assert not cases[label]["metrics"]["decode_tps"]["valid"]
    for label in ("limit:default", "fake:default"):  # whatever a busy machine makes of their times
        assert all(audit["passed"] for audit in cases[label]["audits"])

    forgetful = {audit["name"]: audit for audit in cases["fake:wrong"]["audits"]}
    assert (forgetful["repeatable"]["passed"], forgetful["repeatable"]["refuses"]) == (False, False)
    assert "not deterministic" in forgetful["repeatable"]["detail"]
    assert forgetful["same-output"]["passed"] is True

    assert cases["fake:other-cache"]["brackets"] == ["KV cache int8, most rows have none"]
    assert cases["fake:fewer-threads"]["brackets"] == ["1 thread, 2 were asked for"]
    assert cases["fake:default"]["brackets"] == []
