"""Models of a few million weights, and vLLM told that it is on an H200.

vLLM decides nearly everything when it makes its configuration, and asks the GPU for three numbers to do so. With those
given, its own code says what our arguments come to, on a machine without a GPU.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from engine_vllm.settings import Settings, engine_arguments, environment
from enginebench_models.catalogue import entry
from enginebench_models.synthesis import synthesise

SHAPES = {
    "tiny": entry("tiny").config,
    # untied, head_dim ≠ dim/heads, no RoPE scaling
    "odd": replace(
        entry("tiny").config,
        dim=96, n_layers=2, n_heads=4, n_kv_heads=2, head_dim=32, hidden_dim=224, vocab_size=1003,
        tied_embeddings=False, rope_scaling=None,
    ),
}  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def _environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ.update(environment(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """gguf("odd"): that model as a GGUF file, made once."""
    folder = tmp_path_factory.mktemp("gguf")

    def make(name: str) -> Path:
        path = folder / f"{name}.gguf"
        return path if path.exists() else synthesise(SHAPES[name], path)

    return make


@pytest.fixture(scope="session")
def safetensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(SHAPES["tiny"], tmp_path_factory.mktemp("model") / "tiny", "safetensors")


@pytest.fixture(scope="session")
def _h200() -> Iterator[None]:
    """The CUDA platform of vLLM with the answers of an H200, and without the libraries that need libcuda.so.1."""
    flash = ModuleType("vllm.vllm_flash_attn")
    flash.__getattr__ = lambda name: None if name.startswith("__") else lambda *_, **__: 3  # type: ignore[method-assign]
    stand_ins = {"vllm._C_stable_libtorch": ModuleType("vllm._C_stable_libtorch"), flash.__name__: flash}
    import torch
    from vllm.model_executor.layers import rotary_embedding  # noqa: F401 - like the next, imported while it needs no GPU
    from vllm.model_executor.models.registry import ModelRegistry

    ModelRegistry.models["LlamaForCausalLM"].inspect_model_cls()  # kept in vLLM's cache
    with pytest.MonkeyPatch.context() as patch:
        if not torch.cuda.is_available():
            for name, module in stand_ins.items():
                patch.setitem(sys.modules, name, module)
            patch.setattr("vllm.config.vllm.HAS_TRITON", True)  # Triton says no for want of a GPU
        from vllm import platforms
        from vllm.platforms.cuda import NonNvmlCudaPlatform
        from vllm.platforms.interface import DeviceCapability

        facts = {
            "get_device_capability": DeviceCapability(9, 0),
            "get_device_name": "NVIDIA H200",
            "get_device_total_memory": 139 << 30,
            "device_count": 8,
        }
        answers = {name: classmethod(lambda cls, *_, fact=fact, **__: fact) for name, fact in facts.items()}
        patch.setattr(platforms, "_current_platform", type("H200", (NonNvmlCudaPlatform,), answers)())
        yield


@pytest.fixture
def configured(_h200: None, safetensors: Path) -> Callable[..., Any]:
    """configured(n_ctx=…, eager=…, …): the VllmConfig that our arguments come to."""

    def make(changes: dict[str, Any] | None = None, **facts: Any) -> Any:
        from vllm import EngineArgs
        from vllm.usage.usage_lib import UsageContext

        settings = Settings(safetensors, **{"config": SHAPES["tiny"], "dtype": "bfloat16", "n_ctx": 128} | facts)
        arguments = engine_arguments(settings) | (changes or {})
        return EngineArgs(**arguments).create_engine_config(UsageContext.LLM_CLASS)

    return make
