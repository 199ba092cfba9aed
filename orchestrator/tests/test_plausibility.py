"""Numbers that cannot be true, and odd ones: published tables fed in as results, and our own reference run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from enginebench.judge.plausibility import Ceiling, Row, finding, findings, judged
from enginebench.workspace.discovery import ROOT
from enginebench_models.config import LlamaConfig


def shape(**sizes: Any) -> LlamaConfig:
    llama: dict[str, Any] = {
        "dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 32, "head_dim": 128, "hidden_dim": 11008,
        "vocab_size": 32000, "norm_eps": 1e-5, "rope_theta": 1e4, "max_context": 4096, "tied_embeddings": False,
    }  # fmt: skip
    return LlamaConfig(**{**llama, **sizes})


LLAMA_2_7B = shape()
MISTRAL_7B = shape(n_kv_heads=8, hidden_dim=14336)
LLAMA_3_1B = shape(
    dim=2048, n_layers=16, n_kv_heads=8, head_dim=64, hidden_dim=8192, vocab_size=128256, tied_embeddings=True
)
BYTES = {"fp32": 4.0, "fp16": 2.0, "int8": 1.0, "int4": 0.5}

# premAI/benchmarks, README.md: A100-80GB (SXM: 2039 GB/s by its data sheet), batch 1, tokens per second.
PUBLISHED = {
    ("trt-llm", "mistral"): {"fp32": 117.04, "fp16": 206.59, "int8": 390.49, "int4": 427.40},
    ("trt-llm", "llama-2"): {"fp32": 104.07, "fp16": 191.00, "int8": 316.77, "int4": 358.49},
    ("vllm", "mistral"): {"fp32": 84.91, "fp16": 84.89, "int4": 106.03},
    ("vllm", "llama-2"): {"fp32": 89.40, "fp16": 89.43, "int4": 115.52},
}
SHARES = {
    ("trt-llm", "mistral"): {"fp32": "163", "fp16": "144", "int8": "136"},
    ("trt-llm", "llama-2"): {"fp32": "135", "fp16": "124", "int8": "103"},
    ("vllm", "mistral"): {"fp32": "118"},
    ("vllm", "llama-2"): {"fp32": "116"},
}
MODELS = {"mistral": MISTRAL_7B, "llama-2": LLAMA_2_7B, "llama-3-1b": LLAMA_3_1B}


def metric(value: float, unit: str = "tok/s", interval: list[float] | None = None) -> dict[str, Any]:
    return {"value": value, "unit": unit, "valid": True, "reasons": [], "interval": interval}


def case(engine: str, model: str, configuration: str, tps: float, role: str = "engine", **facts: Any) -> dict[str, Any]:
    """A case of a result, as far as a table in a README tells: weights streamed once, no cache, no prefill."""
    elements = MODELS[model].read_elements_per_token()
    read = facts.pop("read_bytes", None) or elements * BYTES[configuration]
    return {
        "engine": engine, "configuration": configuration, "model": model, "workload": "w", "role": role, "status": "ok",
        "reason": None, "metrics": {"decode_tps": metric(tps, interval=facts.get("interval"))},
        "loaded": {"read_bytes_per_token": read, "kv_cache_bytes": 0, "n_ctx": 1},
    }  # fmt: skip


def data_sheet(model: str, bytes_per_second: float) -> dict[str, Any]:
    """A figure, not a measurement: it is known exactly."""
    known = {"read_bytes": bytes_per_second, "interval": [1.0, 1.0]}
    return case("data-sheet", model, "a100", 1.0, role="instrument", **known)


def result(cases: list[dict[str, Any]]) -> dict[str, Any]:
    models = [{"name": name, "shape": {"n_layers": config.n_layers}} for name, config in MODELS.items()]
    return {"plan": {"models": models, "workloads": []}, "cases": cases}


def published() -> dict[str, Any]:
    cases = [
        case(engine, model, dtype, tps)
        for (engine, model), row in PUBLISHED.items()
        for dtype, tps in row.items()
    ]  # fmt: skip
    return result([*cases, *(data_sheet(model, 2039e9) for model in ("mistral", "llama-2"))])


def by_label(judgement: dict[str, Any]) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(c["engine"], c["model"], c["configuration"]): c for c in judgement["cases"]}


def test_the_parameters_streamed_per_token_are_those_of_the_published_check() -> None:
    assert MISTRAL_7B.read_elements_per_token() == pytest.approx(7.110e9, rel=1e-3)
    assert LLAMA_2_7B.read_elements_per_token() == pytest.approx(6.607e9, rel=1e-3)


def test_all_eight_impossible_cells_are_invalid_and_say_by_how_much() -> None:
    found = by_label(judged(published()))
    impossible = {key for key, c in found.items() if c["status"] == "invalid"}
    expected = {(*key, dtype): share for key, row in SHARES.items() for dtype, share in row.items()}
    assert impossible == set(expected)
    assert len(impossible) == 8
    for key, share in expected.items():
        assert found[key]["reason"].startswith("above-limit: ")
        told = float(found[key]["reason"].split(" is ")[1].split("%")[0])
        assert round(told) == int(share), key


def test_an_impossible_number_keeps_its_value_and_loses_its_validity() -> None:
    rate = by_label(judged(published()))["trt-llm", "mistral", "fp32"]["metrics"]["decode_tps"]
    assert (rate["value"], rate["valid"], rate["reasons"]) == (117.04, False, ["above-limit"])


@pytest.mark.parametrize("model", ["mistral", "llama-2"])
def test_the_16_bit_row_that_is_as_fast_as_its_fp32_row_is_suspect(model: str) -> None:
    found = by_label(judged(published()))["vllm", model, "fp16"]
    assert found["status"] == "ok"
    assert [s["code"] for s in found["suspicions"]] == ["launch-bound-or-dtype-not-applied"]


@pytest.mark.parametrize("engine", ["vllm", "trt-llm"])
@pytest.mark.parametrize("model", ["mistral", "llama-2"])
def test_the_int4_rows_stay_below_the_limit_and_are_not_flagged(engine: str, model: str) -> None:
    """Their counting error is for the audits: this gate is necessary, not sufficient."""
    found = by_label(judged(published()))[engine, model, "int4"]
    assert (found["status"], found["suspicions"]) == ("ok", [])


def test_rows_below_the_limit_that_stand_still_are_suspect_both() -> None:
    """Optimum-NVIDIA in the same table: 50.77 tok/s in fp32, 50.91 in fp16."""
    cases = [case("optimum", "mistral", "fp32", 50.77), case("optimum", "mistral", "fp16", 50.91)]
    for found in findings(result([*cases, data_sheet("mistral", 2039e9)]))[:2]:
        assert found.invalid is None
        assert [s.code for s in found.suspicions] == ["launch-bound-or-dtype-not-applied"]


def test_a_limit_of_one_launch_may_be_a_tenth_too_low() -> None:
    limit = case("limit", "llama-3-1b", "default", 1.0, role="instrument", read_bytes=50e9)
    read = LLAMA_3_1B.read_elements_per_token() * 2
    below, above = (case("torch", "llama-3-1b", "fp16", 50e9 * share / read) for share in (1.09, 1.11))
    noisy, impossible, _ = findings(result([below, above, limit]))
    assert noisy.invalid is None
    assert [s.code for s in noisy.suspicions] == ["above-limit"]
    assert impossible.invalid is not None


def test_a_model_that_fits_into_caches_is_suspect_at_most() -> None:
    """A tiny model that float32 reads from a cache at 138 % of what the instrument's many small reads reached."""
    limit = case("limit", "llama-3-1b", "default", 1.0, role="instrument", read_bytes=47.75e9)
    found = findings(result([case("ort", "llama-3-1b", "fp32", 47.75e9 * 1.38 / 17e6, read_bytes=17e6), limit]))[0]
    assert found.invalid is None
    assert [s.code for s in found.suspicions] == ["above-limit"]


def test_the_float32_row_as_fast_as_the_float16_row_is_suspect_without_any_limit() -> None:
    """The table this project descends from: PyTorch 24.43 ms at 6.10 GB, 24.28 ms at 3.06 GB; tinygrad 12.29 ms."""
    cases = [
        case("pytorch", "llama-3-1b", "fp32", 1000 / 24.43),
        case("pytorch", "llama-3-1b", "fp16", 1000 / 24.28),
        case("tinygrad", "llama-3-1b", "fp16", 1000 / 12.29),
    ]
    float32, float16, tinygrad = findings(result(cases))
    assert [s.code for s in float32.suspicions] == ["launch-bound-or-dtype-not-applied"]
    assert "24.43 ms per token at 4.943 GB, pytorch:fp16 24.28 ms at 2.472 GB" in float32.suspicions[0].text
    assert [s.code for s in float16.suspicions] == ["launch-bound-or-dtype-not-applied"]
    assert tinygrad.suspicions == ()


# ---- single rules, at their bounds ----------------------------------------------------------------------------

LIMIT = Ceiling("limit", 100e9, 100e9)


def row(engine: str, n_bytes: float, ms: float, ceiling: Ceiling | None = LIMIT, **changes: Any) -> Row:
    facts: dict[str, Any] = {"slowest_ns_per_token": ms * 1e6, "n_layers": 16, **changes}
    return Row(engine, f"{n_bytes:g}", ("m", "w"), n_bytes, ms * 1e6, ceiling=ceiling, **facts)


def codes(subject: Row, *others: Row) -> list[str]:
    found = finding(subject, [subject, *others])
    return ["invalid"] if found.invalid else [s.code for s in found.suspicions]


def test_exactly_the_limit_is_believed_and_a_thousandth_more_is_not() -> None:
    assert codes(row("a", 1e9, 10.0)) == []
    assert codes(row("a", 1e9, 9.99)) == ["invalid"]


def test_what_the_intervals_explain_is_odd_and_not_invalid() -> None:
    assert codes(row("a", 1e9, 9.99, slowest_ns_per_token=10.1e6)) == ["above-limit"]
    assert codes(row("a", 1e9, 9.99, Ceiling("limit", 100e9, 101e9))) == ["above-limit"]
    assert codes(row("a", 1e9, 9.8, Ceiling("limit", 100e9, 101e9))) == ["invalid"]


def test_a_first_token_sooner_than_the_weights_can_be_read_is_invalid() -> None:
    assert codes(row("a", 1e9, 20.0, weight_bytes=1e9, slowest_ttft_ns=9.9e6)) == ["invalid"]
    assert codes(row("a", 1e9, 20.0, weight_bytes=1e9, slowest_ttft_ns=10.1e6)) == []


def test_half_the_bytes_at_half_the_time_is_as_it_should_be() -> None:
    assert codes(row("a", 1e9, 20.0), row("a", 2e9, 40.0)) == []
    assert codes(row("a", 2e9, 40.0), row("a", 1e9, 20.0)) == []


@pytest.mark.parametrize(("ms", "expected"), [(37.9, []), (38.1, ["launch-bound-or-dtype-not-applied"])])
def test_a_gain_of_five_percent_at_half_the_bytes_is_the_bound(ms: float, expected: list[str]) -> None:
    assert codes(row("a", 1e9, ms), row("a", 2e9, 40.0)) == expected


def test_a_slower_row_of_fewer_bytes_does_not_accuse_the_other() -> None:
    assert codes(row("a", 1e9, 60.0), row("a", 2e9, 40.0)) == ["launch-bound-or-dtype-not-applied"]
    assert codes(row("a", 2e9, 40.0), row("a", 1e9, 60.0)) == []


def test_another_engine_counts_only_where_it_is_as_fast_and_the_row_is_not_busy() -> None:
    assert codes(row("a", 1e9, 40.0), row("b", 2e9, 40.5)) == ["launch-bound-or-dtype-not-applied"]
    assert codes(row("b", 2e9, 40.5), row("a", 1e9, 40.0)) == []
    assert codes(row("a", 1e9, 40.0), row("b", 2e9, 42.0)) == []
    assert codes(row("a", 1e9, 19.9), row("b", 2e9, 20.0)) == []  # half of the limit reached, the other at all of it


def test_slow_beyond_what_launching_explains_is_a_path_not_taken() -> None:
    """The published case: 10.6 % of the limit on a GPU row that had run on the processor."""
    assert codes(row("a", 1e9, 10.0 / 0.106)) == ["path-not-taken"]
    assert codes(row("a", 1e9, 10.0 / 0.18)) == []


def test_a_small_model_whose_time_is_launches_has_taken_its_path() -> None:
    assert codes(row("a", 0.02e9, 24.28)) == []  # 0.2 ms at the limit, 1.5 ms for each of 16 layers
    assert codes(row("a", 0.02e9, 40.0)) == ["path-not-taken"]


def test_rows_of_another_workload_are_no_comparison() -> None:
    other = row("a", 2e9, 20.0)
    elsewhere = Row("a", "x", ("m", "other"), 2e9, 20e6, 20e6)
    assert codes(row("a", 1e9, 20.0), elsewhere) == []
    assert codes(row("a", 1e9, 20.0), other) == ["launch-bound-or-dtype-not-applied"]


# ---- this project's own numbers -------------------------------------------------------------------------------


def test_the_reference_run_has_no_impossible_number_and_few_suspicions() -> None:
    """float16 in ONNX Runtime is converted anew for each token on a CPU, tinygrad's likewise: rightly suspect."""
    (path,) = (ROOT / "results" / "reference").glob("20261121-cpu-quick/result.json")
    cases = judged(json.loads(path.read_text()))["cases"]
    assert not [c for c in cases if c["status"] == "invalid"]
    flagged = {f"{c['engine']}:{c['configuration']}" for c in cases if c["suspicions"]}
    assert flagged == {"onnxruntime:default", "onnxruntime:genai", "tinygrad:default"}
