"""What the engine answers, reports and refuses, on small models."""

from __future__ import annotations

import tomllib
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from engine_contract import (
    SAMPLINGS,
    check_that_a_given_up_request_leaves_nothing,
    check_that_ids_are_drawn_from_the_scored_rows,
)
from engine_hybrid.engine import HybridEngine
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.reference import Reference
from enginebench_protocol.engine import Sampling
from enginebench_protocol.errors import EngineFailure

PACKAGE = Path(__file__).parents[1]
PROMPT = array("i", [5, 900, 3, 77, 1])
N_PREFILL, N_DECODE = 40, 40  # the prefill ends inside a chunk
Models = Callable[[str], Path]
SIXTEEN_BIT = ("default", "auto")  # the quantised ones: test_quantize.py


def probe(vocab_size: int) -> array[int]:
    return array("i", probe_ids(vocab_size, N_PREFILL + N_DECODE))


def reference(path: Path) -> npt.NDArray[np.float32]:
    checkpoint = open_checkpoint(path)
    ids = probe(checkpoint.config.vocab_size)
    return Reference(checkpoint).logits(ids, range(N_PREFILL - 1, len(ids)))


@pytest.mark.parametrize("configuration", SIXTEEN_BIT)
@pytest.mark.parametrize("model", ["tiny", "tiny-safetensors", "odd", "q8_0", "q4_0", "q4_k", "q6_k"])
def test_prefill_and_cached_decode_pass_the_gate(
    engine: HybridEngine, loader: Any, models: Models, model: str, configuration: str
) -> None:
    loaded = loader.load(engine, models(model), configuration=configuration)
    found = compare(reference(models(model)), np.asarray(engine.score(probe(loaded.vocab_size), N_PREFILL)))
    assert found.n_positions == N_DECODE + 1
    assert gate(found, loaded.precision).passed, found
    assert loaded.versions["regions"].count("torch") == 0 or configuration == "auto"


def test_the_gate_fires_when_rope_scaling_is_dropped(
    engine: HybridEngine, loader: Any, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = open_checkpoint(models("tiny")).config
    unscaled = config.rope_theta ** -(np.arange(0, config.head_dim, 2) / config.head_dim)
    monkeypatch.setattr(Checkpoint, "inverse_frequencies", unscaled.astype(np.float32))
    loaded = loader.load(engine, models("tiny"))
    monkeypatch.undo()
    found = compare(reference(models("tiny")), np.asarray(engine.score(probe(loaded.vocab_size), N_PREFILL)))
    assert not gate(found, loaded.precision).passed


@pytest.fixture(scope="module", params=SIXTEEN_BIT)
def ready(request: pytest.FixtureRequest, loader: Any, models: Models) -> HybridEngine:
    engine = HybridEngine()
    loader.load(engine, models("tiny"), configuration=request.param)
    return engine


def test_generate_yields_exactly_the_number_of_ids_asked_for(ready: HybridEngine) -> None:
    for n_gen in (1, 2, 17):
        ids = list(ready.generate(PROMPT, n_gen))
        assert [type(token) for token in ids] == [int] * n_gen


def test_requests_are_independent_of_each_other(ready: HybridEngine) -> None:
    other = array("i", [6, *PROMPT[1:]])
    first, alone = list(ready.generate(PROMPT, 20)), list(ready.generate(other, 20))
    list(ready.generate(array("i", range(100)), 5))
    assert list(ready.generate(PROMPT, 20)) == first
    assert list(ready.generate(other, 20)) == alone != first


@pytest.mark.parametrize("n_prompt", [1, 31, 32, 33, 64, 100])
def test_generated_ids_are_the_largest_scored_logits_for_every_split_into_chunks(
    ready: HybridEngine, n_prompt: int
) -> None:
    prompt = array("i", [(7 * i) % 4096 for i in range(n_prompt)])
    ids = list(ready.generate(prompt, 6))
    scored = np.asarray(ready.score(prompt + array("i", ids[:-1]), n_prompt))
    assert scored.argmax(axis=1).tolist() == ids


def test_the_whole_context_can_be_used_and_not_one_position_more(
    engine: HybridEngine, loader: Any, models: Models
) -> None:
    loader.load(engine, models("odd"), n_ctx=20)
    assert len(list(engine.generate(PROMPT, 16))) == 16
    with pytest.raises(EngineFailure, match="21 positions exceed the 20"):
        engine.generate(PROMPT, 17)
    with pytest.raises(EngineFailure, match="21 positions exceed the 20"):
        engine.score(array("i", range(21)), 5)


def test_the_report_is_what_the_tensors_are(engine: HybridEngine, loader: Any, models: Models) -> None:
    config, loaded = open_checkpoint(models("tiny")).config, loader.load(engine, models("tiny"))
    norms = (2 * config.n_layers + 1) * config.dim
    assert (loaded.weight_dtype, loaded.activation_dtype, loaded.kv_dtype) == ("float16", "float32", "float16")
    assert loaded.weights_bytes == loaded.read_bytes_per_token == 2 * config.weight_elements() + 2 * norms
    assert loaded.kv_cache_bytes == 128 * config.kv_bytes_per_token(2)
    assert (loaded.precision, loaded.threads, loaded.device) == ("16-bit", 2, "cpu")
    assert set(loaded.stages) == {"import", "read", "compile"}
    assert loaded.versions["regions"] == "; ".join(
        f"{region}: tinygrad" for region in ("prefill", "qkv", "attention", "mlp", "head")
    )
    account = engine.memory()
    assert (account.weights_bytes, account.kv_cache_bytes) == (loaded.weights_bytes, loaded.kv_cache_bytes)


def test_no_kernel_is_compiled_after_load(
    ready: HybridEngine, monkeypatch: pytest.MonkeyPatch, engine: HybridEngine, loader: Any, models: Models
) -> None:
    loader.load(engine, models("odd"), n_ctx=96)
    from tinygrad import TinyJit
    from tinygrad.runtime.support.compiler_cpu import ClangJITCompiler

    def refuse(*arguments: object) -> bytes:
        raise AssertionError("compiled or captured after load")

    monkeypatch.setattr(ClangJITCompiler, "compile_cached", refuse)
    monkeypatch.setattr(TinyJit, "add_linear", refuse)
    for one in (ready, engine):
        for n_prompt in (1, 40, 80):
            assert len(list(one.generate(array("i", range(n_prompt)), 10))) == 10


def test_bfloat16_files_stay_bfloat16(engine: HybridEngine, loader: Any, models: Models) -> None:
    loaded = loader.load(engine, models("tiny-safetensors"))
    assert (loaded.weight_dtype, loaded.kv_dtype) == ("bfloat16", "bfloat16")


def test_an_untied_model_reads_one_row_of_its_embedding_table(
    engine: HybridEngine, loader: Any, models: Models
) -> None:
    loaded = loader.load(engine, models("odd"))
    table = open_checkpoint(models("odd")).tensor("embed_tokens").data
    assert loaded.read_bytes_per_token == loaded.weights_bytes - table.nbytes + table[0].nbytes


def test_tinygrad_holds_no_copy_of_the_weights(engine: HybridEngine, loader: Any, models: Models) -> None:
    loader.llama(models("tiny"))
    from tinygrad.helpers import GlobalCounters

    before = GlobalCounters.mem_used
    loaded = loader.load(engine, models("tiny"))
    assert GlobalCounters.mem_used - before < loaded.weights_bytes / 2  # what the graphs keep between kernels


def test_unload_frees_and_load_may_follow(engine: HybridEngine, loader: Any, models: Models) -> None:
    loader.load(engine, models("tiny"))
    expected = list(engine.generate(PROMPT, 8))
    engine.unload()
    with pytest.raises(EngineFailure, match="no model is loaded"):
        engine.generate(PROMPT, 1)
    loader.load(engine, models("tiny"))
    assert list(engine.generate(PROMPT, 8)) == expected


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"device": "tpu"}, "unsupported", "device 'tpu'"),
        ({"threads": 1}, "unsupported", "other settings than .*CPU_COUNT"),
        ({"configuration": "fast"}, "unsupported", "no configuration 'fast'"),
        ({"n_ctx": 131073}, "bad-request", "n_ctx 131073 exceeds the model's context of 131072"),
        ({"model_path": "nowhere.gguf"}, "bad-model", "nowhere.gguf"),
    ],
)
def test_a_load_that_cannot_be_done_says_why(
    ready: HybridEngine,
    engine: HybridEngine,
    loader: Any,
    models: Models,
    changes: dict[str, object],
    code: str,
    message: str,
) -> None:
    with pytest.raises(EngineFailure, match=message) as failure:
        loader.load(engine, models("tiny"), **changes)
    assert failure.value.code == code


def test_cuda_without_a_gpu_is_unsupported(
    engine: HybridEngine, loader: Any, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(EngineFailure, match="torch sees no GPU") as failure:
        loader.load(engine, models("tiny"), device="cuda")
    assert failure.value.code == "unsupported"


@pytest.mark.parametrize("tokens", [[], [-1], [4096]])
def test_tokens_outside_the_vocabulary_are_refused(ready: HybridEngine, tokens: list[int]) -> None:
    with pytest.raises(EngineFailure, match="from 0 to 4095") as failure:
        ready.generate(array("i", tokens), 1)
    assert failure.value.code == "bad-request"


def test_the_table_in_pyproject_names_the_configurations_of_the_class() -> None:
    table = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["tool"]["enginebench"]["engine"]
    found = {name: facts["description"] for name, facts in table["configurations"].items()}
    assert found == dict(HybridEngine.configurations)


def test_sampled_ids_are_drawn_from_the_logits_of_score(ready: HybridEngine) -> None:
    check_that_ids_are_drawn_from_the_scored_rows(ready, PROMPT)


@SAMPLINGS
def test_a_request_that_was_given_up_leaves_nothing(ready: HybridEngine, sampling: Sampling) -> None:
    check_that_a_given_up_request_leaves_nothing(ready, PROMPT, sampling)
