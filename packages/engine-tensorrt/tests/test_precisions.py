"""Precisions that are asked for, as options and as configurations: what is loaded, said, and refused."""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from engine_tensorrt import engine as engine_module
from engine_tensorrt.precision import Precision
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_protocol.errors import EngineFailure

from .conftest import BOTH, CONFIGS, PROMPT, Loader, generated, reference


def test_what_the_builder_refuses_is_a_compile_failure_with_its_words(
    load: Loader, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = engine_module.SETTINGS
    wrong = replace(settings["rtx"], precision="float32")
    monkeypatch.setattr(engine_module, "SETTINGS", {**settings, "rtx": wrong})
    monkeypatch.setattr(Precision, "has_fused_attention", True)  # it has no float32 kernel
    with pytest.raises(EngineFailure, match="not supported by a dedicated kernel") as failure:
        load(models["untied"])
    assert failure.value.code == "compile"


def test_a_precision_that_the_gpu_lacks_is_unsupported_in_the_builders_words(
    load: Loader, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = replace(engine_module.SETTINGS["rtx"].options, compute_capability="SM86")
    older = replace(engine_module.SETTINGS["rtx"], options=options)
    monkeypatch.setattr(engine_module, "SETTINGS", {"rtx": older, "fp8": replace(older, precision="fp8")})
    for words in ({"options": {"precision": "fp8"}}, {"configuration": "fp8"}):
        with pytest.raises(EngineFailure, match=r"Cannot compile for target\(s\) sm86.*fp8_e4m3") as failure:
            load(models["untied"], **words)
        assert (failure.value.code, failure.value.hint) == ("unsupported", "leave precision fp8 away")


@BOTH
@pytest.mark.parametrize(
    ("precision", "weights", "products", "fidelity_class"),
    [
        ("float32", "float32", "float32", "float32"),
        ("float16", "float16", "float16", "16-bit"),
        ("bfloat16", "bfloat16", "bfloat16", "16-bit"),
        ("int8", "int8", "float16", "int8"),
        ("fp8", "float8_e4m3", "float16", "fp8"),
    ],
)
def test_a_precision_that_is_asked_for_is_what_is_loaded_and_said_and_passes_its_gate(
    load: Loader,
    models: dict[str, Path],
    configuration: str,
    precision: str,
    weights: str,
    products: str,
    fidelity_class: str,
) -> None:
    ready = load(models["untied"], configuration, options={"precision": precision})
    report = ready.report
    assert (report.weight_dtype, report.activation_dtype, report.kv_dtype) == (weights, products, products)
    assert report.precision == fidelity_class
    ids = probe_ids(report.vocab_size, 24)
    expected = reference(models["untied"], ids, 10, report.precision)
    found = compare(expected, np.asarray(ready.engine.score(array("i", ids), 11)))
    assert gate(found, report.precision).passed, found
    assert len(generated(ready, PROMPT, 4)) == 4


@pytest.mark.parametrize("configuration", ["int8", "fp8", "rtx-int8", "rtx-fp8"])
def test_8_bit_matrices_and_their_scales_are_what_is_read(
    load: Loader, models: dict[str, Path], configuration: str
) -> None:
    report, config = load(models["untied"], configuration).report, CONFIGS["untied"]
    assert report.precision == configuration.removeprefix("rtx-")
    rows = config.n_layers * (config.query_dim() + 2 * config.kv_dim() + 2 * config.dim + 2 * config.hidden_dim)
    tables, norms = 2 * config.vocab_size * config.dim, (2 * config.n_layers + 1) * config.dim
    matrices = config.weight_elements() - tables - norms
    assert report.weights_bytes == matrices + 4 * rows + 2 * tables + 4 * norms
    assert report.read_bytes_per_token == report.weights_bytes - tables  # of two tables in 2 bytes, one is looked up in


@pytest.mark.parametrize(("configuration", "other"), [("int8", "fp8"), ("rtx-fp8", "int8")])
def test_a_quantised_configuration_passes_its_own_gate_alone(
    load: Loader, models: dict[str, Path], configuration: str, other: str
) -> None:
    ready = load(models["untied"], configuration)
    ids = probe_ids(ready.report.vocab_size, 24)
    scored = np.asarray(ready.engine.score(array("i", ids), 11))
    exact = reference(models["untied"], ids, 10, ready.report.precision)
    assert compare(exact, scored).mean_kld < 0.1 * compare(reference(models["untied"], ids, 10, other), scored).mean_kld
    assert gate(compare(exact, scored), ready.report.precision).passed
    assert len(generated(ready, PROMPT, 4)) == 4


def test_another_precision_is_refused_with_those_there_are(load: Loader, models: dict[str, Path]) -> None:
    with pytest.raises(EngineFailure, match="no precision 'int4'") as failure:
        load(models["untied"], options={"precision": "int4"})
    assert (failure.value.code, failure.value.hint) == (
        "unsupported",
        "use one of float32, float16, bfloat16, int8, fp8",
    )
