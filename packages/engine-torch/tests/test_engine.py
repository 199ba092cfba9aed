"""Every configuration against the float32 reference, in this engine's own environment, on the tiny model."""

from __future__ import annotations

import gc
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_contract import (
    SAMPLINGS,
    check_that_a_given_up_request_leaves_nothing,
    check_that_ids_are_drawn_from_the_scored_rows,
)
from engine_torch.engine import SETTINGS, TorchEngine
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.reference import Reference
from enginebench_models.synthesis import synthesise
from enginebench_protocol.engine import Sampling
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load

PROMPT = array("i", [5, 900, 3, 77, 1])
N_PREFILL, N_DECODE = 24, 16


@pytest.fixture(scope="session", params=["gguf", "safetensors"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = "tiny.gguf" if request.param == "gguf" else "tiny"
    return synthesise(entry("tiny").config, tmp_path_factory.mktemp("models") / name, request.param)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(entry("tiny").config, tmp_path_factory.mktemp("models") / "tiny.gguf")


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kernels")


def load(path: Path, kernels: Path, **changes: Any) -> tuple[TorchEngine, Any]:
    facts = {"id": 1, "configuration": "baseline", "model_path": str(path), "n_ctx": 128, "device": "cpu"}
    engine = TorchEngine()
    request = Load(**{**facts, "threads": 2, "cache": str(kernels), "scratch": str(kernels), **changes})
    return engine, engine.load(request, lambda stage, fraction: None)


@pytest.fixture
def engine(tiny: Path, kernels: Path) -> Iterator[TorchEngine]:
    engine, _ = load(tiny, kernels)
    yield engine
    engine.unload()


def expected(path: Path, probe: list[int]) -> np.ndarray:
    return Reference(open_checkpoint(path)).logits(probe, range(N_PREFILL - 1, len(probe)))


@pytest.mark.parametrize("configuration", [name for name, found in SETTINGS.items() if not found.quantisation])
def test_logits_pass_the_gate_through_prefill_and_cached_decode(model: Path, kernels: Path, configuration: str) -> None:
    engine, loaded = load(model, kernels, configuration=configuration)
    probe = probe_ids(loaded.vocab_size, N_PREFILL + N_DECODE)
    found = np.asarray(engine.score(array("i", probe), N_PREFILL))
    distance = compare(expected(model, probe), found)
    assert gate(distance, loaded.precision).passed, distance


def test_the_gate_sees_one_wrong_weight(tiny: Path, kernels: Path) -> None:
    """Negative control: the comparison above can fail."""
    engine, loaded = load(tiny, kernels)
    probe = probe_ids(loaded.vocab_size, N_PREFILL + N_DECODE)
    assert engine._decoder is not None
    engine._decoder.model.layers[1].self_attn.q_proj[3] *= -1
    distance = compare(expected(tiny, probe), np.asarray(engine.score(array("i", probe), N_PREFILL)))
    assert not gate(distance, loaded.precision).passed


def test_decoding_equals_prefilling_the_same_tokens(engine: TorchEngine) -> None:
    tokens = array("i", probe_ids(4096, 20))
    stepwise = np.asarray(engine.score(tokens, 10))[-1]
    at_once = np.asarray(engine.score(tokens, 20))[0]
    np.testing.assert_allclose(stepwise, at_once, atol=1e-4)


def test_generation_is_the_argmax_of_the_scores(engine: TorchEngine) -> None:
    prompt = array("i", [5, 6, 7, 8])
    ids = list(engine.generate(prompt, 6))
    scores = np.asarray(engine.score(array("i", [*prompt, *ids[:-1]]), 4))
    assert scores.argmax(1).tolist() == ids


def test_nothing_is_kept_between_requests(engine: TorchEngine) -> None:
    first = list(engine.generate(array("i", [1, 2, 3]), 5))
    list(engine.generate(array("i", range(100)), 20))
    assert list(engine.generate(array("i", [1, 2, 3]), 5)) == first


def test_one_compiled_graph_serves_every_position(tiny: Path, kernels: Path) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    engine, _ = load(tiny, kernels, configuration="optimized")
    list(engine.generate(array("i", range(10)), 40))
    after_first = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    list(engine.generate(array("i", range(60)), 60))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == after_first


@pytest.mark.parametrize(
    ("configuration", "dtype", "element_bytes"), [("baseline", "float32", 4), ("half", "float16", 2)]
)
def test_the_report_is_read_off_the_tensors(
    tiny: Path, kernels: Path, configuration: str, dtype: str, element_bytes: int
) -> None:
    engine, loaded = load(tiny, kernels, configuration=configuration)
    config = open_checkpoint(tiny).config
    assert (loaded.weight_dtype, loaded.kv_dtype, loaded.threads) == (dtype, dtype, 2)
    norms = (2 * config.n_layers + 1) * config.dim
    assert loaded.weights_bytes == element_bytes * (config.weight_elements() - norms) + 4 * norms
    assert loaded.kv_cache_bytes == 128 * config.kv_bytes_per_token(element_bytes)
    assert engine.memory().weights_bytes == loaded.weights_bytes


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"configuration": "fastest"}, "unsupported", "'fastest'"),
        ({"device": "cuda"}, "unsupported", "no GPU"),
        ({"device": "tpu"}, "unsupported", "'tpu'"),
        ({"model_path": "/nonexistent.gguf"}, "bad-model", "nonexistent"),
        ({"n_ctx": 10**6}, "bad-request", "131072"),
    ],
)
def test_what_it_cannot_do_is_refused(
    tiny: Path, kernels: Path, changes: dict[str, Any], code: str, message: str
) -> None:
    if changes.get("device") == "cuda" and torch.cuda.is_available():
        changes = {"device": "tpu"}
        message = "'tpu'"
    with pytest.raises(EngineFailure, match=message) as failure:
        load(tiny, kernels, **changes)
    assert failure.value.code == code


def test_without_a_compiler_the_compiled_configurations_say_so(
    tiny: Path, kernels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(EngineFailure, match=r"C\+\+ compiler") as failure:
        load(tiny, kernels, configuration="optimized")
    assert failure.value.code == "compile"


def test_unloading_frees_the_weights(tiny: Path, kernels: Path) -> None:
    engine, _ = load(tiny, kernels)
    engine.unload()
    gc.collect()
    with pytest.raises(EngineFailure, match="no model is loaded"):
        list(engine.generate(array("i", [1]), 1))


@pytest.fixture(scope="module", params=["baseline", "optimized"])
def ready(request: pytest.FixtureRequest, tiny: Path, kernels: Path) -> Iterator[TorchEngine]:
    engine, _ = load(tiny, kernels, configuration=request.param)
    yield engine
    engine.unload()


def test_sampled_ids_are_drawn_from_the_logits_of_score(ready: TorchEngine) -> None:
    check_that_ids_are_drawn_from_the_scored_rows(ready, PROMPT)


@SAMPLINGS
def test_a_request_that_was_given_up_leaves_nothing(ready: TorchEngine, sampling: Sampling) -> None:
    check_that_a_given_up_request_leaves_nothing(ready, PROMPT, sampling)
