"""Small models, TensorRT for RTX as the library, and an engine whose GPU is a fake that the interpreter runs."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_tensorrt import engine as engine_module
from engine_tensorrt.build import build_plan
from engine_tensorrt.engine import SETTINGS, TensorrtEngine
from engine_tensorrt.library import RTX, Library, import_library
from engine_tensorrt.model import LlamaNetwork, Style, llama_network
from engine_tensorrt.weights import load_weights
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.quantisation import KINDS, QuantisedWeights
from enginebench_models.reference import Reference
from enginebench_models.synthesis import synthesise
from enginebench_protocol.messages import Load, Loaded

from .fake_gpu import FakeDriver, FakeEngine


@pytest.fixture(scope="session")
def library() -> Library:
    return import_library(RTX)


def small(**changes: Any) -> LlamaConfig:
    shape = {"dim": 96, "n_layers": 2, "n_heads": 4, "head_dim": 48, "hidden_dim": 200, "vocab_size": 1003}
    return replace(entry("tiny").config, **{**shape, **changes})


CONFIGS: dict[str, LlamaConfig] = {
    "tiny": entry("tiny").config,
    "1 KV head": small(n_kv_heads=1),
    "8 KV heads": small(n_heads=8, n_kv_heads=8, head_dim=32),
    "untied": small(n_kv_heads=2, tied_embeddings=False),
    "no RoPE scaling": small(n_kv_heads=4, rope_scaling=None),
    "untied, no RoPE scaling": small(n_heads=8, n_kv_heads=8, head_dim=16, tied_embeddings=False, rope_scaling=None),
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    paths = {name: synthesise(config, folder / f"{i}.gguf") for i, (name, config) in enumerate(CONFIGS.items())}
    return paths | {"tiny safetensors": synthesise(CONFIGS["tiny"], folder / "tiny", "safetensors")}


Maker = Callable[..., LlamaNetwork]


@pytest.fixture(scope="session")
def make_network(library: Library) -> Maker:
    def make(checkpoint: Checkpoint, style: Style) -> LlamaNetwork:
        network = library.trt.Builder(library.logger).create_network(0)
        weights = load_weights(checkpoint, style, lambda fraction: None)
        needed = (checkpoint.config, style, weights, checkpoint.inverse_frequencies)
        return llama_network(library.trt, network, *needed)

    return make


@dataclass(frozen=True)
class Ready:
    """An engine that has loaded `path`, on a fake GPU."""

    engine: TensorrtEngine
    report: Loaded
    path: Path
    driver: FakeDriver
    progress: list[tuple[str, float]]

    @property
    def checkpoint(self) -> Checkpoint:
        return open_checkpoint(self.path)


Loader = Callable[..., Ready]
PROMPT = array("i", [5, 900, 3, 77, 1])
BOTH = pytest.mark.parametrize("configuration", ["basic", "optimized"])


def generated(ready: Ready, prompt: array[int], n_gen: int) -> list[int]:
    return list(ready.engine.generate(prompt, n_gen))


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    fake = FakeDriver()
    monkeypatch.setattr(engine_module, "open_driver", lambda: fake)
    return fake


@pytest.fixture
def load(library: Library, driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Loader]:
    """Real plans, built for a compute capability as there is no GPU; run by the interpreter."""
    networks: dict[bytes, FakeEngine] = {}

    def build(library: Library, made: LlamaNetwork, options: Any, sink: Any, progress: Any, timings: Any) -> None:
        written = Tee(sink)
        build_plan(library, made, options, written, progress, timings)
        networks[bytes(written.data)] = FakeEngine(library.trt, made, options, driver)

    settings = {
        name: replace(each, library=RTX, options=replace(each.options, compute_capability="SM89"))
        for name, each in SETTINGS.items()
    }
    monkeypatch.setattr(engine_module, "SETTINGS", settings)
    monkeypatch.setattr(engine_module, "build_plan", build)
    monkeypatch.setattr(engine_module, "open_engine", lambda library, data: networks[bytes(data)])
    engines: list[TensorrtEngine] = []

    def load(path: Path, configuration: str = "rtx", **changes: Any) -> Ready:
        facts = {"id": 1, "n_ctx": 64, "device": "cuda", "threads": 2, "cache": str(tmp_path), "scratch": str(tmp_path)}
        request = Load(**{**facts, "configuration": configuration, "model_path": str(path), **changes})
        engines.append(TensorrtEngine())
        progress: list[tuple[str, float]] = []
        report = engines[-1].load(request, lambda stage, fraction: progress.append((stage, fraction)))
        return Ready(engines[-1], report, path, driver, progress)

    yield load
    for engine in engines:
        engine.unload()


class Tee:
    """Writes to `sink` and remembers."""

    def __init__(self, sink: Any) -> None:
        self.sink = sink
        self.data = bytearray()

    def write(self, data: bytes) -> int:
        self.data += data
        return int(self.sink.write(data))


def reference(path: Path, ids: list[int], first: int, precision: str = "") -> np.ndarray[Any, Any]:
    """Reference logits after ids[first] and all that follow. `precision`: as the gate knows it."""
    checkpoint = open_checkpoint(path)
    weights = QuantisedWeights(checkpoint, precision) if precision in KINDS else checkpoint
    return Reference(weights).logits(ids, range(first, len(ids)))
