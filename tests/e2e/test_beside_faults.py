"""An engine that goes wrong touches nothing else: the cases before and after it end well."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Run = Callable[..., tuple[int, dict[str, Any], str]]
GOOD = ("default", "orphan", "jitter")
BAD = {"crash": "signal", "exit": "exit", "native-hang": "hang", "out-of-memory": "out-of-memory"}


def test_good_cases_between_bad_ones_end_well(run: Run) -> None:
    order = ("default", "crash", "exit", "orphan", "native-hang", "out-of-memory", "jitter")
    code, result, _ = run(*(f"fake:{configuration}" for configuration in order), "--silence", "5")
    cases = {case["configuration"]: case for case in result["cases"] if case["engine"] == "fake"}
    failures = {name: [launch["failure"] for launch in case["launches"]] for name, case in cases.items()}
    assert code == 1
    assert set(cases) == set(order)
    assert all(len(failures[name]) >= 2 and not any(failures[name]) for name in GOOD), "the check and the timed launch"
    assert {name: failures[name][0]["reason"] for name in BAD} == BAD
    assert all(len(case["launches"][-1]["requests"]) == 3 for name, case in cases.items() if name in GOOD)
