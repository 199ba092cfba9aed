"""Models of a few million weights, and an engine that loads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from blocks import in_q8_0
from engine_onnxruntime.engine import OnnxruntimeEngine
from enginebench_models.catalogue import entry
from enginebench_models.config import LlamaConfig
from enginebench_models.synthesis import synthesise
from enginebench_protocol.messages import Load, Loaded


@dataclass(frozen=True)
class Ready:
    """An engine that has loaded `path`."""

    engine: OnnxruntimeEngine
    report: Loaded
    path: Path


Loader = Callable[..., Ready]


@pytest.fixture(scope="session")
def odd_config() -> LlamaConfig:
    """One KV head, head_dim ≠ dim/heads, untied, no RoPE scaling, no size a multiple of 64 where it may not be."""
    return replace(
        entry("tiny").config,
        dim=96, n_layers=2, n_heads=3, n_kv_heads=1, head_dim=48, hidden_dim=200, vocab_size=1003,
        tied_embeddings=False, rope_scaling=None,
    )  # fmt: skip


@pytest.fixture(scope="session")
def paths(tmp_path_factory: pytest.TempPathFactory, odd_config: LlamaConfig) -> dict[str, Path]:
    """By name: shapes and formats that lay weights out differently."""
    folder, tiny = tmp_path_factory.mktemp("models"), entry("tiny").config
    square = replace(odd_config, hidden_dim=odd_config.vocab_size, rope_scaling=tiny.rope_scaling)
    return {
        "tiny.gguf": synthesise(tiny, folder / "tiny.gguf"),
        "tiny.safetensors": synthesise(tiny, folder / "tiny", "safetensors"),
        "odd.gguf": synthesise(odd_config, folder / "odd.gguf"),
        "odd.safetensors": synthesise(odd_config, folder / "odd", "safetensors"),
        "hidden-is-vocab.gguf": synthesise(square, folder / "square.gguf"),
        "narrow-heads.gguf": synthesise(replace(odd_config, head_dim=40), folder / "narrow.gguf"),
    }


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Loader]:
    engines: list[OnnxruntimeEngine] = []

    def load(path: Path, configuration: str = "default", **changes: Any) -> Ready:
        facts = {"id": 1, "n_ctx": 128, "device": "cpu", "threads": 2, "cache": str(tmp_path), "scratch": str(tmp_path)}
        request = Load(**{**facts, "configuration": configuration, "model_path": str(path), **changes})
        engines.append(OnnxruntimeEngine())
        return Ready(engines[-1], engines[-1].load(request, lambda stage, fraction: None), path)

    yield load
    for engine in engines:
        engine.unload()


@pytest.fixture(scope="session")
def quantised(paths: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with its matrices in Q8_0."""
    return in_q8_0(paths["tiny.gguf"], tmp_path_factory.mktemp("quantised") / "tiny-q8_0.gguf")
