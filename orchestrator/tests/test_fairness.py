"""A fair comparison stays within one precision class; an unfair one says that it is none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
from enginebench.judge.assemble import CaseFacts, assemble
from enginebench.report import table
from enginebench.report.fairness import UNFAIR
from enginebench.report.plots import ratios
from enginebench.report.plots.drawing import Plot
from enginebench.report.requests import request_sheet, request_table
from enginebench.store.result import schema_fault

NOISE = (-0.2, 0.1, 0.3, -0.1, 0.0, 0.2, -0.3, 0.1, -0.2, 0.1)
CASES = {"x:half": ("16-bit", 2.0), "y:half": ("16-bit", 3.0), "x:full": ("float32", 4.0), "y:full": ("float32", 1.0)}
"""label → precision class, milliseconds per token. The fastest of all is one of float32."""


def launches(records: Any, label: str, precision: str, ms: float) -> list[Any]:
    case = records.case(*label.split(":"))
    loaded = records.loaded(precision=precision, read_bytes_per_token=1)
    times: Sequence[float] = [ms * math.exp(noise / 100) for noise in NOISE]
    return [
        records.check(case, loaded=loaded, fidelity=records.fidelity(precision=precision)),
        *(
            records.timed([records.request(0, [10, 10 + t, 10 + 2 * t])], case, block=block, loaded=loaded)
            for block, t in enumerate(times)
        ),
    ]


def result_of(records: Any, **plan: Any) -> dict[str, Any]:
    compares = {"x:half": {"precision impact": "full"}}
    facts = [CaseFacts(records.case(*name.split(":")), "engine", compares=compares.get(name, {})) for name in CASES]
    every = [launch for name, (precision, ms) in CASES.items() for launch in launches(records, name, precision, ms)]
    return assemble("r1", records.environment(), records.plan(verdicts=True, **plan), facts, every)


def pairs(result: dict[str, Any]) -> set[tuple[str, str]]:
    short = [(c["base"].split("/")[0], c["new"].split("/")[0]) for c in result["comparisons"] if c["name"] is None]
    return set(short)


def ranks(result: dict[str, Any]) -> dict[str, list[int]]:
    return {f"{case['engine']}:{case['configuration']}": case["rank_groups"] for case in result["cases"]}


def test_a_fair_comparison_asks_and_ranks_within_each_class(records: Any) -> None:
    result = result_of(records, fair_comparison=True)
    assert schema_fault(result) is None
    assert pairs(result) == {("x:half", "y:half"), ("x:full", "y:full")}
    assert ranks(result) == {"x:half": [1], "y:half": [2], "x:full": [2], "y:full": [1]}


@pytest.mark.parametrize("plan", [{"fair_comparison": False}, {}], ids=["unfair", "older"])
def test_without_it_everything_is_compared_with_everything(records: Any, plan: dict[str, Any]) -> None:
    result = result_of(records, **plan)
    assert len(pairs(result)) == 6
    assert ranks(result) == {"y:full": [1], "x:half": [2], "y:half": [3], "x:full": [4]}


def test_a_named_comparison_crosses_the_classes(records: Any) -> None:
    result = result_of(records, fair_comparison=True)
    named = {(c["name"], c["base"].split("/")[0], c["new"].split("/")[0]) for c in result["comparisons"] if c["name"]}
    assert ("precision impact", "x:full", "x:half") in named


def crossings(result: dict[str, Any]) -> list[set[str]]:
    return [{b["ahead"], b["behind"]} for b in result["break_even"]]


def test_break_even_points_stay_within_a_class(records: Any) -> None:
    """All start alike: the faster one of two is in front after a few tokens."""
    assert {"x:half", "x:full"} in crossings(result_of(records, fair_comparison=False))
    fair = crossings(result_of(records, fair_comparison=True))
    assert fair
    assert all(ends in ({"x:half", "y:half"}, {"x:full", "y:full"}) for ends in fair)


def test_a_fair_table_says_so_and_keeps_classes_together(records: Any) -> None:
    text = table.markdown(result_of(records, fair_comparison=True))
    assert "fair comparison: ranks, pairs and break-even points stay within float32, within 16-bit" in text
    order = [text.index(f"{label}") for label in ("y:full", "x:full", "x:half", "y:half")]
    assert order == sorted(order)
    assert "verdicts within 16-bit: of 1 pair " in text
    assert "verdicts within float32: of 1 pair " in text
    assert UNFAIR not in text


def test_an_unfair_table_says_so_in_its_head(records: Any) -> None:
    text = table.markdown(result_of(records, fair_comparison=False))
    assert UNFAIR in text.split("| rank |")[0]
    order = [text.index(f"{label}") for label in ("y:full", "x:half", "y:half", "x:full")]
    assert order == sorted(order)


def test_an_older_result_says_nothing(records: Any) -> None:
    assert "fair comparison" not in table.markdown(result_of(records))


def test_timing_lists_every_measured_request_of_every_launch(records: Any) -> None:
    result = result_of(records)
    sheet = request_table(result)
    assert len(sheet.rows) == len(request_sheet(result).rows) == 40
    first = dict(zip(sheet.columns, sheet.rows[0], strict=True))
    assert (first["case"], first["launch"], first["request"], first["phase"]) == ("x:half", 1, 0, "measured")
    assert first["ttft ms"] == 10
    assert first["tpot ms"] == pytest.approx(2.0 * math.exp(-0.002), rel=1e-5)


def test_a_class_that_stands_apart_is_no_bracket(records: Any) -> None:
    assert not any(case["brackets"] for case in result_of(records, fair_comparison=True)["cases"])
    assert all(case["brackets"] for case in result_of(records, fair_comparison=False)["cases"])


def test_the_plot_of_a_fair_run_names_the_fastest_of_each_class(records: Any) -> None:
    fair = ratios.of_cases(result_of(records, fair_comparison=True), "m", records.workload.name)
    assert isinstance(fair, Plot)
    assert "Against the fastest of each precision class, x:half, y:full." in fair.summary
    unfair = ratios.of_cases(result_of(records, fair_comparison=False), "m", records.workload.name)
    assert isinstance(unfair, Plot)
    assert "Against the fastest, y:full." in unfair.summary
