"""The impact of quantising: bytes, speed and divergence side by side, from plain cases with known numbers."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from enginebench.judge.quantisation import NO_BASE, NO_READING, quantisation_impacts
from enginebench.report.quantisation import LEGEND, markdown_lines, quantisation_rows, rich_rows
from rich.console import Console

READING = {"mean_kld": 0.0123, "mean_kld_error": 0.002, "top1": 0.953, "n_positions": 65, "ppl_ratio": 1.05}
READING |= {"ppl_ratio_error": 0.004, "top_logprobs": 0}


def case(configuration: str, weights: int, status: str = "ok", impact: Any = None, model: str = "m") -> dict[str, Any]:
    return {
        "engine": "e", "configuration": configuration, "model": model, "workload": "pp4+tg3", "status": status,
        "loaded": {"weights_bytes": weights, "read_bytes_per_token": weights // 2},
        "fidelity": {"passed": True, "impact": impact},
    }  # fmt: skip


def comparison(metric: str, ratio: float, base: str = "default", name: str | None = "quantisation impact") -> Any:
    id_ = "e:{}/m/pp4+tg3"
    interval = [ratio * 0.9, ratio * 1.1]
    return {
        "name": name, "metric": metric, "base": id_.format(base), "new": id_.format("q4"), "ratio": ratio,
        "interval_95": interval,
    }  # fmt: skip


def result(*cases: Any, comparisons: Any = ()) -> dict[str, Any]:
    return {
        "cases": list(cases),
        "comparisons": list(comparisons),
        "plan": {"models": [{"name": "m"}], "workloads": [{"name": "pp4+tg3"}]},
    }


@pytest.fixture
def both() -> dict[str, Any]:
    compared = [comparison("tpot_ns", 2.0), comparison("ttft_ns", 0.5), comparison("tpot_ns", 9.0, name=None)]
    return result(case("default", 2_000_000_000), case("q4", 500_000_000, impact=READING), comparisons=compared)


def test_bytes_speed_and_divergence_stand_in_one_row(both: Any) -> None:
    (found,) = quantisation_impacts(both)
    assert (found.new, found.base) == ("e:q4/m/pp4+tg3", "e:default/m/pp4+tg3")
    assert (found.weights_bytes, found.base_weights_bytes) == (500_000_000, 2_000_000_000)
    assert (found.read_bytes_per_token, found.base_read_bytes_per_token) == (250_000_000, 1_000_000_000)
    assert (found.decode_ratio, found.prefill_ratio) == (2.0, 0.5)
    assert found.decode_interval_95 == [1.8, 2.2]
    assert (found.mean_kld, found.ppl_ratio, found.reasons) == (0.0123, 1.05, [])


def test_without_its_base_a_case_has_no_speed_and_says_why() -> None:
    (found,) = quantisation_impacts(result(case("q4", 500, impact=READING)))
    assert (found.base, found.decode_ratio, found.base_weights_bytes) == (None, None, None)
    assert (found.mean_kld, found.reasons) == (0.0123, [NO_BASE])


def test_a_model_file_in_blocks_has_no_divergence_and_says_why() -> None:
    """The same configuration on two files: nothing of the wide one is the reference of the other."""
    (found,) = quantisation_impacts(
        result(case("default", 2000), case("q4", 500), comparisons=[comparison("tpot_ns", 2.0)])
    )
    assert (found.decode_ratio, found.mean_kld, found.reasons) == (2.0, None, [NO_READING])


@pytest.mark.parametrize("status", ["invalid", "failed", "unavailable"])
def test_a_case_that_does_not_stand_is_not_in_the_table(status: str) -> None:
    assert quantisation_impacts(result(case("q4", 500, status, READING))) == []


def test_what_is_not_quantised_is_not_in_the_table() -> None:
    assert quantisation_impacts(result(case("default", 2000), case("half", 2000))) == []


# ---- as it is printed ----------------------------------------------------------------------------------------


def shown(result: dict[str, Any]) -> dict[str, Any]:
    return {**result, "quantisation": msgspec.to_builtins(quantisation_impacts(result))}


def test_the_row_in_words(both: Any) -> None:
    assert quantisation_rows(shown(both)) == [
        [
            "e:q4",
            "default",
            "0.500 (0.25x)",
            "250 (0.25x)",
            "2.00x [1.80, 2.20]",
            "0.50x [0.45, 0.55]",
            "1.2e-02 ± 2e-03",
            "95%",
            "+5.0% ± 0.4%",
        ]
    ]


def test_a_bound_is_marked_and_a_dash_has_a_reason() -> None:
    told = shown(result(case("q4", 500, impact={**READING, "top_logprobs": 20, "mean_kld_error": None})))
    row = quantisation_rows(told)[0]
    assert row[6] == "(top 20) ≥ 1.2e-02"
    assert row[1] == row[4] == "-"
    assert f"e:q4: {NO_BASE}  " in list(markdown_lines(told))


def test_nothing_is_printed_where_nothing_is_quantised(both: Any) -> None:
    assert list(markdown_lines(result(case("default", 2000)))) == []
    assert list(markdown_lines({**both, "quantisation": []})) == []
    assert list(markdown_lines(shown(both)))[-1] == f"{LEGEND}  "


def test_a_terminal_shows_every_column(both: Any) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(rich_rows(quantisation_rows(shown(both))))
    text = console.export_text()
    assert "2.00x [1.80, 2.20]" in text
    assert "+5.0% ± 0.4%" in text
