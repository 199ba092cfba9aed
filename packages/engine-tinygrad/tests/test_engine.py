"""What the engine answers, reports and refuses, on a small model."""

from __future__ import annotations

import tomllib
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_contract import (
    SAMPLINGS,
    check_that_a_given_up_request_leaves_nothing,
    check_that_ids_are_drawn_from_the_scored_rows,
)
from engine_tinygrad.engine import TinygradEngine
from enginebench_models.checkpoint import open_checkpoint
from enginebench_protocol.engine import Sampling
from enginebench_protocol.errors import EngineFailure

PACKAGE = Path(__file__).parents[1]
PROMPT = array("i", [5, 900, 3, 77, 1])


def test_generate_yields_exactly_the_number_of_ids_asked_for(ready: Any) -> None:
    for n_gen in (1, 2, 17):
        ids = list(ready.engine.generate(PROMPT, n_gen))
        assert len(ids) == n_gen
        assert all(type(token) is int and 0 <= token < ready.report.vocab_size for token in ids)


def test_a_request_repeats_itself_whatever_came_between(ready: Any) -> None:
    first = list(ready.engine.generate(PROMPT, 20))
    list(ready.engine.generate(array("i", range(100)), 5))
    assert list(ready.engine.generate(PROMPT, 20)) == first


def test_nothing_of_an_earlier_prompt_is_reused(ready: Any) -> None:
    other = array("i", [6, *PROMPT[1:]])
    alone = list(ready.engine.generate(other, 20))
    list(ready.engine.generate(PROMPT, 20))
    assert list(ready.engine.generate(other, 20)) == alone
    assert list(ready.engine.generate(PROMPT, 20)) != alone


@pytest.mark.parametrize("n_prompt", [1, 31, 32, 33, 64, 100])
def test_generated_ids_are_the_largest_scored_logits_for_every_split_into_chunks(ready: Any, n_prompt: int) -> None:
    prompt = array("i", [(7 * i) % 4096 for i in range(n_prompt)])
    ids = list(ready.engine.generate(prompt, 6))
    scored = np.asarray(ready.engine.score(prompt + array("i", ids[:-1]), n_prompt))
    assert scored.argmax(axis=1).tolist() == ids


def test_scores_are_float32_rows_of_the_vocabulary(ready: Any) -> None:
    scored = memoryview(ready.engine.score(PROMPT, 3))
    assert (scored.shape, scored.format, scored.c_contiguous) == ((3, ready.report.vocab_size), "f", True)


def test_the_whole_context_can_be_used_and_not_one_position_more(
    engine: TinygradEngine, loader: Any, odd_gguf: Path
) -> None:
    loader.load(engine, odd_gguf, n_ctx=20)
    assert len(list(engine.generate(PROMPT, 16))) == 16
    with pytest.raises(EngineFailure, match="21 positions exceed the 20"):
        list(engine.generate(PROMPT, 17))
    with pytest.raises(EngineFailure, match="21 positions exceed the 20"):
        engine.score(array("i", range(21)), 5)


def test_no_kernel_is_compiled_after_load(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from tinygrad.runtime.support.compiler_cpu import ClangJITCompiler

    def refuse(self: object, source: str) -> bytes:
        raise AssertionError(f"compiled after load:\n{source}")

    monkeypatch.setattr(ClangJITCompiler, "compile", refuse)
    monkeypatch.setattr(ClangJITCompiler, "compile_cached", refuse)
    graphs = ready.engine._graphs
    recordings = [graph.captured for graph in (graphs.prefill_graph, graphs.head_graph, graphs.decode_graph)]
    for n_prompt in (1, 40, 97):
        list(ready.engine.generate(array("i", range(n_prompt)), 10))
        ready.engine.score(array("i", range(n_prompt + 5)), n_prompt)
    assert recordings == [graph.captured for graph in (graphs.prefill_graph, graphs.head_graph, graphs.decode_graph)]


def test_the_report_is_what_the_tensors_are(ready: Any) -> None:
    config, report = open_checkpoint(ready.path).config, ready.report
    norms = (2 * config.n_layers + 1) * config.dim
    assert (report.weight_dtype, report.activation_dtype, report.kv_dtype) == ("float16", "float32", "float16")
    assert report.precision == "16-bit"
    assert report.weights_bytes == 2 * config.weight_elements() + 2 * norms  # norms are float32
    assert report.read_bytes_per_token == report.weights_bytes  # tied: the table is the output head
    assert report.kv_cache_bytes == 128 * config.kv_bytes_per_token(2)
    assert report.threads == 2
    assert report.device.startswith("CPU:")
    assert report.weights_fingerprint == open_checkpoint(ready.path).fingerprint
    assert set(report.stages) == {"import", "read", "compile"}
    assert report.versions["tinygrad"] == "0.13.0"


def test_an_untied_model_does_not_read_its_embedding_table_for_each_token(
    engine: TinygradEngine, loader: Any, odd_gguf: Path
) -> None:
    report = loader.load(engine, odd_gguf)
    table = open_checkpoint(odd_gguf).tensor("embed_tokens").data.nbytes
    assert report.read_bytes_per_token == report.weights_bytes - table


def test_memory_accounts_for_weights_cache_and_the_rest(ready: Any) -> None:
    account = ready.engine.memory()
    assert account.weights_bytes == ready.report.weights_bytes
    assert account.kv_cache_bytes == ready.report.kv_cache_bytes
    assert 0 < account.workspace_bytes < 16 << 20


def test_unload_frees_what_load_allocated_and_load_may_follow(
    engine: TinygradEngine, loader: Any, odd_gguf: Path
) -> None:
    loader.load(engine, odd_gguf)
    from tinygrad.helpers import GlobalCounters

    held, weights_bytes = GlobalCounters.mem_used, engine.memory().weights_bytes
    expected = list(engine.generate(PROMPT, 8))
    engine.unload()
    assert held - GlobalCounters.mem_used >= weights_bytes
    with pytest.raises(EngineFailure, match="no model is loaded"):
        list(engine.generate(PROMPT, 1))
    loader.load(engine, odd_gguf)
    assert list(engine.generate(PROMPT, 8)) == expected


def test_beam_searches_inside_load_and_answers_as_default_does(
    engine: TinygradEngine, loader: Any, odd_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader.load(engine, odd_gguf)
    expected = np.asarray(engine.score(PROMPT, 2))
    from tinygrad.codegen.opt import search

    kernels: list[object] = []

    def searched(kernel: Any, *arguments: object, **options: object) -> Any:
        kernels.append(kernel)
        return kernel

    monkeypatch.setattr(search, "beam_search", searched)
    loader.load(engine, odd_gguf, configuration="beam")
    assert kernels
    np.testing.assert_allclose(np.asarray(engine.score(PROMPT, 2)), expected, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"device": "tpu"}, "unsupported", "no device 'tpu'"),
        ({"threads": 1}, "unsupported", "other settings than CPU_COUNT=1"),
        ({"configuration": "fast"}, "unsupported", "no configuration 'fast'"),
        ({"n_ctx": 131073}, "bad-request", "n_ctx 131073 exceeds the model's context of 131072"),
        ({"model_path": "nowhere.gguf"}, "bad-model", "nowhere.gguf"),
    ],
)
def test_a_load_that_cannot_be_done_says_why(
    ready: Any, engine: TinygradEngine, loader: Any, changes: dict[str, object], code: str, message: str
) -> None:
    with pytest.raises(EngineFailure, match=message) as failure:
        loader.load(engine, ready.path, **changes)
    assert failure.value.code == code


def test_cuda_without_a_driver_is_unsupported(
    engine: TinygradEngine, loader: Any, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine_tinygrad.backend.has_cuda", lambda: False)
    with pytest.raises(EngineFailure, match="no device 'cuda'") as failure:
        loader.load(engine, tiny_gguf, device="cuda")
    assert failure.value.code == "unsupported"


@pytest.mark.parametrize("tokens", [[], [-1], [4096]])
def test_tokens_outside_the_vocabulary_are_refused(ready: Any, tokens: list[int]) -> None:
    with pytest.raises(EngineFailure, match="from 0 to 4095") as failure:
        list(ready.engine.generate(array("i", tokens), 1))
    assert failure.value.code == "bad-request"


def test_the_table_in_pyproject_names_the_configurations_of_the_class() -> None:
    table = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["tool"]["enginebench"]["engine"]
    found = {name: facts["description"] for name, facts in table["configurations"].items()}
    assert found == dict(TinygradEngine.configurations)


def test_sampled_ids_are_drawn_from_the_logits_of_score(ready: Any) -> None:
    check_that_ids_are_drawn_from_the_scored_rows(ready.engine, PROMPT)


@SAMPLINGS
def test_a_request_that_was_given_up_leaves_nothing(ready: Any, sampling: Sampling) -> None:
    check_that_a_given_up_request_leaves_nothing(ready.engine, PROMPT, sampling)
