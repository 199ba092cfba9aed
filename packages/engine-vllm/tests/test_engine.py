"""What a load is refused for, and what is read off the workers' tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from blocks import in_q8_0
from engine_vllm import account
from engine_vllm.engine import VllmEngine, check_library, opened, refusals
from enginebench_protocol.errors import EngineFailure
from enginebench_protocol.messages import Load

no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


def request(path: Path, **changes: Any) -> Load:
    fields: dict[str, Any] = {
        "id": 1,
        "configuration": "default",
        "model_path": str(path),
        "n_ctx": 128,
        "device": "cuda",
        "threads": 1,
        "cache": "unused",
        "scratch": "unused",
    }
    return Load(**(fields | changes))


def refused(load: Load) -> EngineFailure:
    with pytest.raises(EngineFailure) as failure:
        VllmEngine().load(load, lambda stage, fraction: None)
    return failure.value


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        ({"device": "cpu"}, "unsupported", "needs an NVIDIA GPU"),
        ({"configuration": "fast"}, "unsupported", "no configuration 'fast'"),
        ({"n_ctx": 131073}, "bad-request", "n_ctx 131073 exceeds the model's context of 131072"),
        ({"model_path": "nowhere"}, "bad-model", "nowhere"),
    ],
)
def test_a_load_that_cannot_be_done_says_why(
    safetensors: Path, changes: dict[str, Any], code: str, message: str
) -> None:
    failure = refused(request(safetensors, **changes))
    assert failure.code == code
    assert message in failure.message


@no_gpu
def test_without_a_gpu_a_load_is_unsupported(safetensors: Path, tmp_path: Path) -> None:
    failure = refused(request(safetensors, cache=str(tmp_path)))
    assert (failure.code, failure.message) == ("unsupported", "vLLM needs an NVIDIA GPU, torch sees none")


def test_a_library_that_does_not_load_is_unsupported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "vllm", None)
    with pytest.raises(EngineFailure, match="vLLM cannot be imported") as failure:
        check_library(tmp_path)
    assert failure.value.code == "unsupported"


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_quantised_configuration_has_a_folder_of_its_own_whatever_the_file(
    gguf: Callable[[str], Path], safetensors: Path, tmp_path: Path, kind: str
) -> None:
    for path in (gguf("tiny"), safetensors):
        stages: dict[str, int] = {}
        load = request(path, cache=str(tmp_path), configuration=kind)
        _, settings = opened(load, stages, lambda stage, fraction: None)
        assert (settings.quantisation, settings.eager, set(stages)) == (kind, False, {"convert"})
        assert settings.folder.is_relative_to(tmp_path)
        assert '"pack-quantized"' in (settings.folder / "config.json").read_text()


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_file_of_blocks_is_not_quantised_again(gguf: Callable[[str], Path], tmp_path: Path, kind: str) -> None:
    blocks = in_q8_0(gguf("tiny"), tmp_path / "q8_0.gguf")
    with pytest.raises(EngineFailure, match="holds q8_0: quantising starts from") as failure:
        opened(request(blocks, configuration=kind, cache=str(tmp_path)), {}, lambda stage, fraction: None)
    assert failure.value.code == "unsupported"


def test_a_gguf_file_is_converted_in_a_stage_of_its_own(gguf: Callable[[str], Path], tmp_path: Path) -> None:
    stages: dict[str, int] = {}
    seen: list[float] = []
    load = request(gguf("odd"), cache=str(tmp_path), configuration="eager")
    checkpoint, settings = opened(load, stages, lambda stage, fraction: seen.append(fraction))
    assert set(stages) == {"convert"}
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1.0)
    assert settings.folder.is_relative_to(tmp_path)
    assert (settings.eager, settings.dtype, settings.config) == (True, "float16", checkpoint.config)


def test_a_safetensors_folder_is_not_converted(safetensors: Path) -> None:
    stages: dict[str, int] = {}
    _, settings = opened(request(safetensors), stages, lambda stage, fraction: None)
    assert (stages, settings.folder, settings.eager) == ({}, safetensors, False)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "out-of-memory"),
        (ValueError("To serve at least one request … larger than the available KV cache memory"), "out-of-memory"),
        (ValueError("trace replay requires Model Runner V2"), "unsupported"),
    ],
)
def test_what_vllm_refuses_has_a_code(error: Exception, code: str) -> None:
    with pytest.raises(EngineFailure) as failure, refusals():
        raise error
    assert failure.value.code == code


def worker(tied: bool) -> Any:
    """The attributes of vLLM's worker that are read, with tensors on the CPU: vocabulary 32, dim 8, pool of 4 KiB."""
    table = torch.nn.Parameter(torch.zeros(32, 8, dtype=torch.bfloat16))
    model = torch.nn.Module()
    model.model, model.lm_head = torch.nn.Module(), torch.nn.Module()
    model.model.embed_tokens = torch.nn.Module()
    model.model.embed_tokens.weight = table
    model.model.proj = torch.nn.Parameter(torch.zeros(8, 8, dtype=torch.bfloat16))
    model.lm_head.weight = table if tied else torch.nn.Parameter(torch.zeros(32, 8, dtype=torch.bfloat16))
    pool = torch.zeros(2048, dtype=torch.float16)
    return SimpleNamespace(
        get_model=lambda: model,
        model_runner=SimpleNamespace(kv_caches=[pool[:1024], pool[1024:]]),
        model_config=SimpleNamespace(dtype=torch.bfloat16),
    )


def test_the_account_is_what_the_tensors_are() -> None:
    held = account.held(worker(tied=True))
    assert (held.weight_dtype, held.activation_dtype, held.kv_dtype) == ("bfloat16", "bfloat16", "float16")
    assert held.weights_bytes == held.read_bytes_per_token == 2 * (32 * 8 + 8 * 8)
    assert held.kv_cache_bytes == 4096  # one allocation, seen from two layers


def test_an_untied_table_is_held_but_of_it_a_row_is_read() -> None:
    held = account.held(worker(tied=False))
    assert held.weights_bytes == 2 * (2 * 32 * 8 + 8 * 8)
    assert held.read_bytes_per_token == held.weights_bytes - 2 * (31 * 8)


def test_workers_add_up() -> None:
    one = account.held(worker(tied=True))
    both = account.total([one, one])
    assert (both.weights_bytes, both.kv_cache_bytes) == (2 * one.weights_bytes, 2 * one.kv_cache_bytes)
    assert both.device == "2 × cpu"
