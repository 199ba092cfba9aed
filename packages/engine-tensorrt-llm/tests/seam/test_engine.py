"""What a load reports, read off the worker's tensors, and what it is refused for."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from engine_tensorrt_llm.engine import TensorRtLlmEngine
from enginebench_models.checkpoint import open_checkpoint
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load, Loaded

Make = Callable[..., Path]
RequestFor = Callable[..., Load]


def loaded(request: Load) -> tuple[TensorRtLlmEngine, Loaded]:
    engine = TensorRtLlmEngine()
    return engine, engine.load(request, lambda stage, fraction: None)


def refused(request: Load) -> EngineFailure:
    with pytest.raises(EngineFailure) as failure:
        loaded(request)
    return failure.value


@pytest.mark.parametrize("name", ["torch", "tensorrt_llm"])
def test_libraries_that_are_missing_are_named(
    libraries: SimpleNamespace, missing: Callable[[str], None], model: Make, request_for: RequestFor, name: str
) -> None:
    missing(name)
    failure = refused(request_for(model("tied")))
    assert failure.code == "unsupported"
    assert failure.message.startswith("`tensorrt_llm` libraries not installed: ")
    assert name in failure.message
    assert "just sync" in failure.hint


def test_without_a_gpu_a_load_is_unsupported(libraries: SimpleNamespace, model: Make, request_for: RequestFor) -> None:
    libraries.torch.n_gpus = 0
    failure = refused(request_for(model("tied")))
    assert (failure.code, failure.message) == ("unsupported", "needs an NVIDIA GPU: torch sees none")


def test_the_cpu_is_refused_before_anything_is_imported(
    missing: Callable[[str], None], model: Make, request_for: RequestFor
) -> None:
    missing("tensorrt_llm")
    failure = refused(request_for(model("tied"), device="cpu"))
    assert (failure.code, failure.message) == ("unsupported", "device 'cpu': needs an NVIDIA GPU")


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"n_ctx": 131073}, "bad-request", "n_ctx 131073 exceeds the model's context of 131072"),
        ({"model_path": "nowhere"}, "bad-model", "nowhere"),
    ],
)
def test_a_load_that_cannot_be_done_says_why(
    libraries: SimpleNamespace,
    model: Make,
    request_for: RequestFor,
    changes: dict[str, object],
    code: str,
    message: str,
) -> None:
    failure = refused(request_for(model("tied"), **changes))
    assert failure.code == code
    assert message in failure.message


def test_a_gguf_file_is_converted_once_in_a_stage_of_its_own(
    libraries: SimpleNamespace, model: Make, request_for: RequestFor
) -> None:
    request = request_for(model("odd"))
    engine, first = loaded(request)
    folder = Path(engine._decoder.llm.args.model)
    assert folder.is_relative_to(request.cache)
    assert json.loads((folder / "config.json").read_text())["dtype"] == first.weight_dtype == "float16"
    written = (folder / "model.safetensors").stat().st_mtime_ns
    _, again = loaded(request)
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert again.weights_fingerprint == first.weights_fingerprint == open_checkpoint(model("odd")).fingerprint
    assert set(first.stages) == {"import", "convert", "read"}


def test_a_safetensors_folder_is_read_where_it_is(
    libraries: SimpleNamespace, model: Make, request_for: RequestFor
) -> None:
    engine, report = loaded(request_for(model("odd", "safetensors")))
    assert Path(engine._decoder.llm.args.model) == model("odd", "safetensors")
    assert report.weight_dtype == "bfloat16"


def test_safetensors_of_32_bits_are_refused(
    libraries: SimpleNamespace, model: Make, request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engine_tensorrt_llm import engine

    def of_32_bits(path: Path) -> SimpleNamespace:
        table = SimpleNamespace(dtype="f32")
        return SimpleNamespace(
            path=path, format="safetensors", tensor=lambda name: table, check_context=lambda n_ctx: None
        )

    monkeypatch.setattr(engine, "open_checkpoint", of_32_bits)
    failure = refused(request_for(model("tied", "safetensors")))
    assert failure.code == "unsupported"
    assert "holds f32" in failure.message


def test_the_report_is_what_the_tensors_are(libraries: SimpleNamespace, model: Make, request_for: RequestFor) -> None:
    engine, report = loaded(request_for(model("tied")))
    config = open_checkpoint(model("tied")).config
    assert (report.weight_dtype, report.activation_dtype, report.kv_dtype) == ("float16", "float16", "float16")
    assert report.weights_bytes == report.read_bytes_per_token == 2 * config.weight_elements()
    positions = 64 + 32 + 32  # n_ctx and two more in whole blocks, and a spare one
    assert report.kv_cache_bytes == positions * config.kv_bytes_per_token(2)
    assert (report.device, report.threads, report.n_ctx, report.precision) == ("NVIDIA H200", 2, 64, "16-bit")
    assert engine.memory().kv_cache_bytes == report.kv_cache_bytes


def test_an_untied_table_is_held_but_of_it_a_row_is_read(
    libraries: SimpleNamespace, model: Make, request_for: RequestFor
) -> None:
    _, report = loaded(request_for(model("odd")))
    config = open_checkpoint(model("odd")).config
    assert report.weights_bytes == 2 * config.weight_elements()
    assert report.weights_bytes - report.read_bytes_per_token == 2 * config.dim * (config.vocab_size - 1)


def test_the_environment_is_set_before_the_library_is_imported(
    libraries: SimpleNamespace, model: Make, request_for: RequestFor
) -> None:
    request = request_for(model("tied"))
    loaded(request)
    assert os.environ["TLLM_WORKER_USE_SINGLE_PROCESS"] == "1"
    assert os.environ["TRITON_CACHE_DIR"].startswith(request.cache)


def test_what_tensorrt_llm_refuses_has_a_code(libraries: SimpleNamespace, model: Make, request_for: RequestFor) -> None:
    errors = {
        libraries.torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"): "out-of-memory",
        RuntimeError("[TensorRT-LLM][ERROR] CUDA runtime error in cudaMalloc: out of memory"): "out-of-memory",
        ValueError("LLM got invalid argument: colour"): "unsupported",
    }
    for error, code in errors.items():
        libraries.LLM.fails = error
        assert refused(request_for(model("tied"))).code == code


def test_a_pool_that_became_too_small_is_not_used(
    libraries: SimpleNamespace, model: Make, request_for: RequestFor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_less(self: object, **given: object) -> None:
        made(self, **given)
        self._executor.max_seq_len = 32

    made = libraries.LLM.__init__
    monkeypatch.setattr(libraries.LLM, "__init__", with_less)
    failure = refused(request_for(model("tied")))
    assert (failure.code, failure.message) == ("out-of-memory", "TensorRT-LLM made room for 32 positions, not 64")


def test_a_second_load_shuts_the_first_down(libraries: SimpleNamespace, model: Make, request_for: RequestFor) -> None:
    engine, _ = loaded(request_for(model("tied")))
    first = engine._decoder.llm
    engine.load(request_for(model("odd")), lambda stage, fraction: None)
    assert first.is_shut_down
    assert len(list(engine.generate(array("i", [1, 2]), 3))) == 3
