"""Other conditions, same work: named, not refused."""

from __future__ import annotations

from typing import Any

import pytest
from enginebench.judge.assemble import CaseFacts, assemble
from enginebench.report.table import markdown

SHAPE = {
    "dim": 8, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "head_dim": 4, "hidden_dim": 16, "vocab_size": 1000,
    "tied_embeddings": True,
}  # fmt: skip
READ = 2 * (2 * 8 * 4 * 3 + 3 * 8 * 16 + 16) + 1000 * 8 + 8  # weights of the two layers, the table, the last norm


def result(records: Any, rows: dict[str, dict[str, Any]], **shape: Any) -> dict[str, Any]:
    """One case for each label, with what it says of itself."""
    (model,) = records.plan()["models"]
    plan = records.plan(models=[{**model, "shape": {**SHAPE, **shape}}])
    facts, launches = [], []
    for label, told in rows.items():
        case = records.case(*label.split(":"))
        loaded = records.loaded(**{"read_bytes_per_token": 2 * READ, **told})
        facts.append(CaseFacts(case, "engine"))
        launches += [
            records.check(case, loaded=loaded),
            records.timed([records.request(i, (5, 7, 9)) for i in range(2)], case, loaded=loaded),
        ]
    return assemble("r1", records.environment(), plan, facts, launches)


def brackets(records: Any, rows: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    cases = result(records, rows)["cases"]
    assert all(case["status"] == "ok" for case in cases)
    return {f"{case['engine']}:{case['configuration']}": case["brackets"] for case in cases}


def test_rows_under_equal_conditions_have_no_brackets(records: Any) -> None:
    assert brackets(records, {"a:x": {}, "b:x": {}}) == {"a:x": [], "b:x": []}


@pytest.mark.parametrize(
    ("told", "sentence"),
    [
        ({"threads": 1}, "1 thread, 2 were asked for"),
        ({"device": "cuda:0"}, "device cuda:0, cpu was asked for"),
        ({"kv_dtype": "int8"}, "KV cache int8, most rows have float16"),
        ({"activation_dtype": "int8"}, "activations int8, most rows have float16"),
    ],
)
def test_what_differs_from_the_plan_or_from_most_rows_is_said(records: Any, told: Any, sentence: str) -> None:
    found = brackets(records, {"a:x": {}, "b:x": {}, "c:x": told})
    assert found == {"a:x": [], "b:x": [], "c:x": [sentence]}


def test_types_are_compared_within_a_precision_class(records: Any) -> None:
    single = {
        "precision": "float32", "weight_dtype": "float32", "kv_dtype": "float32", "read_bytes_per_token": 4 * READ,
    }  # fmt: skip
    found = brackets(records, {"a:x": {}, "b:x": {}, "c:x": single})
    assert found["c:x"] == ["precision class float32, most rows have 16-bit"]
    assert found["a:x"] == []


def test_without_a_majority_every_row_says_so(records: Any) -> None:
    found = brackets(records, {"a:x": {}, "b:x": {"kv_dtype": "int8"}})
    assert found["a:x"] == ["KV cache float16; the rows are 1 x float16 and 1 x int8"]
    assert found["b:x"] == ["KV cache int8; the rows are 1 x float16 and 1 x int8"]


def test_a_type_that_is_only_a_name_is_found_by_its_bytes(records: Any) -> None:
    """The published case: `dtype` set to float32 on an engine that went on in float16."""
    found = brackets(records, {"a:x": {}, "b:x": {"weight_dtype": "float32"}})
    assert found["b:x"] == ["weights are called float32, but a token reads 2 bytes for each, not 4"]
    assert found["a:x"] == []


def test_a_shape_that_is_not_told_is_no_doubt(records: Any) -> None:
    plan = records.plan()
    case = records.case()
    launches = [records.check(case), records.timed([records.request(i, (5, 7, 9)) for i in range(2)], case)]
    found = assemble("r1", records.environment(), plan, [CaseFacts(case, "engine")], launches)
    assert found["cases"][0]["brackets"] == []


def test_a_bracketed_row_is_in_brackets_and_has_its_note(records: Any) -> None:
    text = markdown(result(records, {"a:x": {}, "b:x": {}, "c:x": {"threads": 1}}))
    assert "| [c:x] |" in text and "| a:x |" in text
    assert "in brackets: 1 thread, 2 were asked for" in text
