"""Models of a few million weights, and llama.cpp's own quantiser to make the formats that no Python code writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from engine_llamacpp.engine import LlamacppEngine
from enginebench_models.catalogue import entry
from enginebench_models.synthesis import synthesise
from enginebench_protocol.messages import Load, Loaded


@dataclass(frozen=True)
class Ready:
    """An engine that has loaded `path`."""

    engine: LlamacppEngine
    report: Loaded
    path: Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(entry("tiny").config, tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One KV head, head_dim ≠ dim/heads, untied, no RoPE scaling."""
    config = replace(
        entry("tiny").config,
        dim=96, n_layers=2, n_heads=3, n_kv_heads=1, head_dim=64, hidden_dim=224, vocab_size=1003,
        tied_embeddings=False, rope_scaling=None,
    )  # fmt: skip
    return synthesise(config, tmp_path_factory.mktemp("model") / "odd.gguf")


@pytest.fixture(scope="session")
def quantised(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """quantised("Q4_K_M"): tiny in that format, made once."""
    folder = tmp_path_factory.mktemp("quantised")

    def make(name: str) -> Path:
        path = folder / f"{name}.gguf"
        return path if path.exists() else quantise(tiny, path, name)

    return make


def quantise(source: Path, target: Path, name: str) -> Path:
    """`name` as in llama.h: "Q4_K_M", or "ALL_F32"."""
    from engine_llamacpp.library import log
    from llama_cpp import llama_cpp as native

    log()
    parameters = native.llama_model_quantize_default_params()
    whole = name if name.startswith("ALL_") else f"MOSTLY_{name}"
    parameters.ftype = getattr(native, f"LLAMA_FTYPE_{whole}")
    parameters.nthread = 1
    code = native.llama_model_quantize(str(source).encode(), str(target).encode(), parameters)
    assert code == 0, log().complaints()
    return target


def load(engine: LlamacppEngine, path: Path, **changes: Any) -> Loaded:
    fields: dict[str, Any] = {
        "id": 1,
        "configuration": "default",
        "model_path": str(path),
        "n_ctx": 128,
        "device": "cpu",
        "threads": 1,
        "cache": "unused",
        "scratch": "unused",
    }
    return engine.load(Load(**(fields | changes)), lambda stage, fraction: None)


@pytest.fixture
def engine() -> Iterator[LlamacppEngine]:
    engine = LlamacppEngine()
    yield engine
    engine.unload()


@pytest.fixture
def loader() -> Callable[..., Loaded]:
    return load


@pytest.fixture(scope="session")
def ready(tiny: Path) -> Iterator[Ready]:
    """One engine for the tests that only ask."""
    engine = LlamacppEngine()
    yield Ready(engine, load(engine, tiny), tiny)
    engine.unload()
