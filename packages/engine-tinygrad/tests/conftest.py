"""Models of a few million weights, one engine per session: a load compiles for two seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from engine_tinygrad.engine import TinygradEngine
from enginebench_models.catalogue import entry
from enginebench_models.synthesis import synthesise
from enginebench_protocol.messages import Load, Loaded


@dataclass(frozen=True)
class Ready:
    """An engine that has loaded `path`."""

    engine: TinygradEngine
    report: Loaded
    path: Path


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(entry("tiny").config, tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_safetensors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(entry("tiny").config, tmp_path_factory.mktemp("model") / "tiny", "safetensors")


@pytest.fixture(scope="session")
def odd_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One KV head, head_dim ≠ dim/heads, untied, no RoPE scaling, no size a multiple of 64 where it may not be."""
    config = replace(
        entry("tiny").config,
        dim=96, n_layers=2, n_heads=3, n_kv_heads=1, head_dim=40, hidden_dim=200, vocab_size=1003,
        tied_embeddings=False, rope_scaling=None,
    )  # fmt: skip
    return synthesise(config, tmp_path_factory.mktemp("model") / "odd.gguf")


@dataclass(frozen=True)
class Loader:
    """Load requests with the settings that the whole session shares: tinygrad takes them once per process."""

    cache: Path

    def request(self, path: Path, **changes: object) -> Load:
        fields: dict[str, object] = {
            "id": 1,
            "configuration": "default",
            "model_path": str(path),
            "n_ctx": 128,
            "device": "cpu",
            "threads": 2,
            "cache": str(self.cache),
            "scratch": str(self.cache),
        }
        return Load(**(fields | changes))  # type: ignore[arg-type]

    def load(self, engine: TinygradEngine, path: Path, **changes: object) -> Loaded:
        return engine.load(self.request(path, **changes), lambda stage, fraction: None)


@pytest.fixture(scope="session")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    return Loader(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def engine() -> Iterator[TinygradEngine]:
    engine = TinygradEngine()
    yield engine
    engine.unload()


@pytest.fixture(scope="session")
def ready(tiny_gguf: Path, loader: Loader) -> Iterator[Ready]:
    """One engine for the tests that only ask."""
    engine = TinygradEngine()
    yield Ready(engine, loader.load(engine, tiny_gguf), tiny_gguf)
    engine.unload()
