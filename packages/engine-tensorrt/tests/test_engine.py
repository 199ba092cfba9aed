"""The whole engine on a fake GPU: real plans, a driver of host memory, the network run by the interpreter."""

from __future__ import annotations

import tomllib
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blocks import in_q8_0
from engine_contract import (
    SAMPLINGS,
    check_that_a_given_up_request_leaves_nothing,
    check_that_ids_are_drawn_from_the_scored_rows,
)
from engine_tensorrt import cuda
from engine_tensorrt.engine import TensorrtEngine
from engine_tensorrt.library import Library
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_protocol.engine import Sampling
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load

from .conftest import BOTH, PROMPT, Loader, generated, reference

PACKAGE = Path(__file__).parents[1]


@BOTH
@pytest.mark.parametrize("model", ["tiny", "untied", "1 KV head", "tiny safetensors"])
def test_prefill_and_cached_decode_pass_the_gate(
    load: Loader, models: dict[str, Path], configuration: str, model: str
) -> None:
    ready = load(models[model], configuration)
    ids = probe_ids(ready.report.vocab_size, 24)
    scored = np.asarray(ready.engine.score(array("i", ids), 11))
    found = compare(reference(models[model], ids, 10), scored)
    assert found.n_positions == 14
    assert gate(found, ready.report.precision).passed, found


@BOTH
@pytest.mark.parametrize("n_prompt", [1, 17])
def test_generated_ids_are_the_largest_scored_logits(
    load: Loader, models: dict[str, Path], configuration: str, n_prompt: int
) -> None:
    ready = load(models["tiny"], configuration)
    prompt = array("i", [(7 * i) % 4096 for i in range(n_prompt)])
    ids = generated(ready, prompt, 8)
    scored = np.asarray(ready.engine.score(prompt + array("i", ids[:-1]), n_prompt))
    assert scored.argmax(axis=1).tolist() == ids
    assert all(type(token) is int for token in ids)


@BOTH
def test_a_request_repeats_itself_whatever_came_between(
    load: Loader, models: dict[str, Path], configuration: str
) -> None:
    ready = load(models["untied"], configuration)
    first = generated(ready, PROMPT, 12)
    generated(ready, array("i", range(40)), 5)
    next(ready.engine.generate(array("i", range(30)), 20))  # given up after one id, with a step under way
    assert generated(ready, PROMPT, 12) == first
    assert generated(ready, array("i", [6, *PROMPT[1:]]), 12) != first


@BOTH
def test_the_whole_context_can_be_used_and_not_one_position_more(
    load: Loader, models: dict[str, Path], configuration: str
) -> None:
    ready = load(models["untied"], configuration, n_ctx=20)
    assert len(generated(ready, PROMPT, 16)) == 16
    with pytest.raises(EngineFailure, match="21 positions exceed the 20"):
        generated(ready, PROMPT, 17)
    with pytest.raises(EngineFailure, match="21 positions exceed the 20"):
        ready.engine.score(array("i", range(21)), 5)


def test_a_captured_step_is_one_launch_and_the_host_sends_nothing(load: Loader, models: dict[str, Path]) -> None:
    ready = load(models["untied"], "optimized")
    ready.driver.calls.clear()
    generated(ready, PROMPT, 10)
    calls = ready.driver.calls
    assert calls["cuGraphLaunch"] == 9
    assert calls["cuMemcpyHtoDAsync_v2"] == 2  # the prompt and its length
    assert calls["cuMemcpyDtoHAsync_v2"] == calls["cuEventSynchronize"] == 10
    assert calls["cuStreamSynchronize"] == 1  # before the prefill


def test_a_step_is_queued_before_the_id_before_it_is_waited_for(load: Loader, models: dict[str, Path]) -> None:
    ready = load(models["untied"], "optimized")
    ready.driver.calls.clear()
    ids = ready.engine.generate(PROMPT, 5)
    next(ids)
    assert ready.driver.calls["cuGraphLaunch"] == 1
    assert ready.driver.queue, "the second step is still to run when the first id is here"


@BOTH
def test_the_report_is_what_the_network_holds(load: Loader, models: dict[str, Path], configuration: str) -> None:
    ready = load(models["untied"], configuration)
    config, report, dtype = ready.checkpoint.config, ready.report, "float32" if configuration == "basic" else "float16"
    size, norms = np.dtype(dtype).itemsize, (2 * config.n_layers + 1) * config.dim
    assert (report.weight_dtype, report.activation_dtype, report.kv_dtype) == (dtype, dtype, dtype)
    assert report.precision == ("float32" if configuration == "basic" else "16-bit")
    assert report.weights_bytes == size * (config.weight_elements() - norms) + 4 * norms
    assert report.read_bytes_per_token == report.weights_bytes - size * config.vocab_size * config.dim
    assert report.kv_cache_bytes == 64 * config.kv_bytes_per_token(size)
    assert report.device == "Made-up GPU"
    assert report.weights_fingerprint == ready.checkpoint.fingerprint
    assert set(report.stages) == {"import", "read", "convert", "compile"}
    assert report.versions["tensorrt_rtx"].startswith("1.7.")
    account = ready.engine.memory()
    assert (account.weights_bytes, account.kv_cache_bytes) == (report.weights_bytes, report.kv_cache_bytes)


def test_progress_of_a_build_grows(load: Loader, models: dict[str, Path]) -> None:
    fractions = [fraction for stage, fraction in load(models["untied"]).progress if stage == "compile"]
    assert len(fractions) > 2
    assert fractions == sorted(fractions)
    assert 0 <= fractions[0] < fractions[-1] <= 1


def test_unload_gives_back_everything_and_load_may_follow(load: Loader, models: dict[str, Path]) -> None:
    ready = load(models["untied"])
    assert ready.driver.memory
    ready.engine.unload()
    assert not ready.driver.memory
    assert ready.driver.calls["cuDevicePrimaryCtxRelease_v2"] == 1
    with pytest.raises(EngineFailure, match="no model is loaded"):
        generated(ready, PROMPT, 1)
    assert len(generated(load(models["untied"]), PROMPT, 3)) == 3


def test_a_gpu_with_no_memory_left_is_out_of_memory(load: Loader, models: dict[str, Path], driver: Any) -> None:
    driver.fail["cuMemAlloc_v2"] = 2
    with pytest.raises(EngineFailure, match="no GPU memory left") as failure:
        load(models["untied"])
    assert failure.value.code == "out-of-memory"


def test_a_driver_without_a_gpu_is_unsupported(load: Loader, models: dict[str, Path], driver: Any) -> None:
    driver.fail["cuInit"] = 100
    with pytest.raises(EngineFailure, match="needs an NVIDIA GPU: cuInit: made up") as failure:
        load(models["untied"])
    assert failure.value.code == "unsupported"


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"device": "cpu"}, "unsupported", "device 'cpu': TensorRT needs an NVIDIA GPU"),
        ({"configuration": "fast"}, "unsupported", "no configuration 'fast'"),
        ({"n_ctx": 131073}, "bad-request", "n_ctx 131073 exceeds the model's context of 131072"),
        ({"model_path": "nowhere.gguf"}, "bad-model", r"nowhere\.gguf"),
    ],
)
def test_a_load_that_cannot_be_done_says_why(
    load: Loader, models: dict[str, Path], changes: dict[str, Any], code: str, message: str
) -> None:
    with pytest.raises(EngineFailure, match=message) as failure:
        load(models["untied"], **changes)
    assert failure.value.code == code


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_file_of_blocks_is_not_quantised_again(
    load: Loader, models: dict[str, Path], tmp_path: Path, precision: str
) -> None:
    blocks = in_q8_0(models["tiny"], tmp_path / "q8_0.gguf")
    with pytest.raises(EngineFailure, match="holds q8_0: quantising starts from") as failure:
        load(blocks, options={"precision": precision})
    assert failure.value.code == "unsupported"


def test_a_missing_library_is_named(driver: Any, models: dict[str, Path], tmp_path: Path) -> None:
    facts = {"id": 1, "n_ctx": 8, "device": "cuda", "threads": 1, "cache": str(tmp_path), "scratch": str(tmp_path)}
    request = Load(**facts, configuration="optimized", model_path=str(models["untied"]))
    missing = "`tensorrt` libraries not installed: No module named 'tensorrt'"
    with pytest.raises(EngineFailure, match=missing) as failure:
        TensorrtEngine().load(request, lambda stage, fraction: None)
    assert failure.value.code == "unsupported"
    assert "--extra full" in failure.value.hint


def test_a_machine_without_a_driver_needs_a_gpu(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_driver(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(cuda.ctypes, "CDLL", no_driver)
    facts = {"id": 1, "n_ctx": 8, "device": "cuda", "threads": 1, "cache": str(tmp_path), "scratch": str(tmp_path)}
    request = Load(**facts, configuration="rtx", model_path=str(models["untied"]))
    with pytest.raises(EngineFailure, match=r"needs an NVIDIA GPU: libcuda\.so\.1: cannot open"):
        TensorrtEngine().load(request, lambda stage, fraction: None)


@pytest.mark.parametrize("tokens", [[], [-1], [1003]])
def test_tokens_outside_the_vocabulary_are_refused(load: Loader, models: dict[str, Path], tokens: list[int]) -> None:
    ready = load(models["untied"])
    with pytest.raises(EngineFailure, match="from 0 to 1002") as failure:
        generated(ready, array("i", tokens), 1)
    assert failure.value.code == "bad-request"


def test_the_table_in_pyproject_names_the_configurations_of_the_class(library: Library) -> None:
    table = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["tool"]["enginebench"]["engine"]
    found = {name: facts["description"] for name, facts in table["configurations"].items()}
    assert found == dict(TensorrtEngine.configurations)
    assert {name: facts["description"] for name, facts in table["options"].items()} == dict(TensorrtEngine.options)


@BOTH
def test_sampled_ids_are_drawn_from_the_logits_of_score(
    load: Loader, models: dict[str, Path], configuration: str
) -> None:
    check_that_ids_are_drawn_from_the_scored_rows(load(models["tiny"], configuration).engine, PROMPT, 12)


@BOTH
@SAMPLINGS
def test_a_request_that_was_given_up_leaves_nothing(
    load: Loader, models: dict[str, Path], configuration: str, sampling: Sampling
) -> None:
    check_that_a_given_up_request_leaves_nothing(load(models["tiny"], configuration).engine, PROMPT, sampling, 12)
