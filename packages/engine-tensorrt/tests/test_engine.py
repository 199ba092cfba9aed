"""The whole engine on a fake GPU: real plans, a driver of host memory, the network run by the interpreter."""

from __future__ import annotations

import tomllib
from array import array
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_tensorrt import cuda
from engine_tensorrt import engine as engine_module
from engine_tensorrt.engine import TensorrtEngine
from engine_tensorrt.library import Library
from engine_tensorrt.precision import Precision
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.sampling import chooser
from enginebench_protocol.engine import GREEDY, Sampling
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load

from .conftest import CONFIGS, Loader, Ready, reference
from .fake_gpu import FakeEngine

PACKAGE = Path(__file__).parents[1]
PROMPT = array("i", [5, 900, 3, 77, 1])
BOTH = pytest.mark.parametrize("configuration", ["basic", "optimized"])


def generated(ready: Ready, prompt: array[int], n_gen: int) -> list[int]:
    return list(ready.engine.generate(prompt, n_gen))


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


def test_a_second_load_takes_the_plan_from_the_cache(load: Loader, models: dict[str, Path]) -> None:
    first, second = load(models["untied"]), load(models["untied"])
    assert {"convert", "compile"} <= {stage for stage, _ in first.progress}
    assert second.progress == []
    assert "convert" not in second.report.stages
    assert second.report.stages["compile"] < first.report.stages["compile"]
    ids = generated(first, PROMPT, 6)
    assert generated(second, PROMPT, 6) == ids
    assert replace_stages(second.report) == replace_stages(first.report)


def cache_of(ready: Ready) -> Any:
    assert ready.engine._session is not None
    assert ready.engine._session.kernels is not None
    return ready.engine._session.kernels.cache


def test_kernels_that_were_compiled_are_kept_beside_the_plan(
    load: Loader, models: dict[str, Path], tmp_path: Path
) -> None:
    """Those of the decode step at the end of the load, those of the prompts that came at the end of the session."""
    first = load(models["untied"])
    (file,) = (tmp_path / "tensorrt").glob("*.kernels")
    assert file.with_suffix(".plan").exists()
    assert file.read_bytes().endswith(b":\x01")
    generated(first, PROMPT, 3)
    first.engine.unload()
    assert file.read_bytes().endswith(b":\x01\x05")
    second = load(models["untied"])
    generated(second, PROMPT, 3)
    assert cache_of(second).compiled == 0
    generated(second, PROMPT[:3], 1)
    assert cache_of(second).compiled == 1
    assert [path for path in file.parent.iterdir() if path.name.startswith(".")] == []


def test_kernels_of_another_gpu_are_compiled_anew(load: Loader, models: dict[str, Path], tmp_path: Path) -> None:
    load(models["untied"])
    (file,) = (tmp_path / "tensorrt").glob("*.kernels")
    file.write_bytes(b"of another version")
    assert cache_of(load(models["untied"])).compiled == 1
    assert file.read_bytes().endswith(b":\x01")


def test_a_plan_that_is_built_anew_starts_without_kernels(load: Loader, models: dict[str, Path]) -> None:
    load(models["untied"])
    assert cache_of(load(models["untied"])).compiled == 0
    assert cache_of(load(models["untied"], options={"rebuild": "yes"})).compiled == 1


def test_what_is_called_of_the_runtime_cache_is_there(library: Library) -> None:
    """The real interface, which makes one only from an engine on a GPU."""
    trt = library.trt
    for kind, names in (
        (trt.ICudaEngine, ("create_runtime_config", "create_execution_context")),
        (
            trt.IRuntimeConfig,
            ("create_runtime_cache", "set_runtime_cache", "dynamic_shapes_kernel_specialization_strategy"),
        ),
        (trt.IRuntimeCache, ("deserialize", "serialize")),
    ):
        assert set(names) <= set(dir(kind))


def test_weights_that_a_plan_holds_twice_count_twice(
    load: Loader, models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEngine, "weights_bytes", 10**9)
    ready = load(models["untied"])
    assert ready.report.weights_bytes == ready.engine.memory().weights_bytes == 10**9
    assert ready.report.read_bytes_per_token < 10**7


@pytest.mark.parametrize("asked", ["yes", "no"])
def test_a_plan_that_is_kept_is_built_anew_only_if_asked_for(load: Loader, models: dict[str, Path], asked: str) -> None:
    load(models["untied"], "basic")
    stages = load(models["untied"], "basic", options={"rebuild": asked}).report.stages
    assert ("convert" in stages) == (asked == "yes")


def test_another_answer_than_yes_or_no_is_refused(load: Loader, models: dict[str, Path]) -> None:
    with pytest.raises(EngineFailure, match="rebuild 'perhaps'"):
        load(models["untied"], "basic", options={"rebuild": "perhaps"})


def replace_stages(report: Any) -> dict[str, Any]:
    return {name: getattr(report, name) for name in report.__struct_fields__ if name != "stages"}


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
    monkeypatch.setattr(engine_module, "SETTINGS", {"rtx": older})
    with pytest.raises(EngineFailure, match=r"Cannot compile for target\(s\) sm86.*fp8_e4m3") as failure:
        load(models["untied"], options={"precision": "fp8"})
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


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_8_bit_matrices_and_their_scales_are_what_is_read(load: Loader, models: dict[str, Path], kind: str) -> None:
    report, config = load(models["untied"], options={"precision": kind}).report, CONFIGS["untied"]
    rows = config.n_layers * (config.query_dim() + 2 * config.kv_dim() + 2 * config.dim + 2 * config.hidden_dim)
    tables, norms = 2 * config.vocab_size * config.dim, (2 * config.n_layers + 1) * config.dim
    matrices = config.weight_elements() - tables - norms
    assert report.weights_bytes == matrices + 4 * rows + 2 * tables + 4 * norms
    assert report.read_bytes_per_token == report.weights_bytes - tables  # of two tables in 2 bytes, one is looked up in


def test_each_precision_has_a_plan_of_its_own(load: Loader, models: dict[str, Path]) -> None:
    for options in ({}, {"precision": "bfloat16"}):
        assert "convert" in load(models["untied"], "basic", options=options).report.stages
    assert "convert" not in load(models["untied"], "basic", options={"precision": "bfloat16"}).report.stages
    assert "convert" not in load(models["untied"], "basic", options={"precision": "float32"}).report.stages


def test_another_precision_is_refused_with_those_there_are(load: Loader, models: dict[str, Path]) -> None:
    with pytest.raises(EngineFailure, match="no precision 'int4'") as failure:
        load(models["untied"], options={"precision": "int4"})
    assert (failure.value.code, failure.value.hint) == (
        "unsupported",
        "use one of float32, float16, bfloat16, int8, fp8",
    )


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
    ready = load(models["tiny"], configuration)
    ids = list(ready.engine.generate(PROMPT, 12, Sampling(0.8, 5)))
    scored = np.asarray(ready.engine.score(PROMPT + array("i", ids[:-1]), len(PROMPT)))
    for temperature, seed in ((0.8, 5), (0.8, 6), (0.4, 5)):
        choose = chooser(temperature, seed)
        assert ([choose(row) for row in scored] == ids) == ((temperature, seed) == (0.8, 5))
    assert list(ready.engine.generate(PROMPT, 12, Sampling(1e-6, 5))) == list(ready.engine.generate(PROMPT, 12))


@BOTH
@pytest.mark.parametrize("sampling", [GREEDY, Sampling(0.8, 5)], ids=["greedy", "sampled"])
def test_a_request_that_was_given_up_leaves_nothing(
    load: Loader, models: dict[str, Path], configuration: str, sampling: Sampling
) -> None:
    ready = load(models["tiny"], configuration)
    whole, drawn = list(ready.engine.generate(PROMPT, 12)), list(ready.engine.generate(PROMPT, 12, Sampling(0.8, 5)))
    for n_taken in (1, 3):
        ids = ready.engine.generate(array("i", range(30)), 12, sampling)
        assert len([next(ids) for _ in range(n_taken)]) == n_taken
        ids.close()
        assert list(ready.engine.generate(PROMPT, 12)) == whole
        assert list(ready.engine.generate(PROMPT, 12, Sampling(0.8, 5))) == drawn
