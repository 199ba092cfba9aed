"""Small models, and load requests with the settings that the whole session shares: tinygrad reads them once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from engine_hybrid.backend import Backend, backend_for, settle
from engine_hybrid.engine import HybridEngine, load_llama
from engine_hybrid.model import Llama
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.synthesis import synthesise
from enginebench_protocol.messages import Load, Loaded
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import quantize

ODD = replace(
    entry("tiny").config,
    dim=96, n_layers=2, n_heads=3, n_kv_heads=1, head_dim=40, hidden_dim=200, vocab_size=1003,
    tied_embeddings=False, rope_scaling=None,
)  # fmt: skip
"""One KV head, head_dim ≠ dim/heads, untied, no RoPE scaling, no size a multiple of 64 where it may not be."""


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def models(folder: Path) -> Callable[[str], Path]:
    """A model by name: tiny, odd, tiny-safetensors (bfloat16), and tiny as q8_0, q4_0, q4_k, q6_k."""
    makers: dict[str, Callable[[Path], Path]] = {
        "tiny": lambda path: synthesise(entry("tiny").config, path),
        "odd": lambda path: synthesise(ODD, path),
        "tiny-safetensors": lambda path: synthesise(entry("tiny").config, path, "safetensors"),
        "q8_0": lambda path: quantised(model("tiny"), path, entry("tiny").config, GGMLQuantizationType.Q8_0),
        "q4_0": lambda path: quantised(model("tiny"), path, entry("tiny").config, GGMLQuantizationType.Q4_0),
        "q4_k": lambda path: quantised(model("tiny"), path, entry("tiny").config, GGMLQuantizationType.Q4_K),
        "q6_k": lambda path: quantised(model("tiny"), path, entry("tiny").config, GGMLQuantizationType.Q6_K),
    }

    def model(name: str) -> Path:
        path = folder / name
        return path if path.exists() else makers[name](path)

    return model


def quantised(source: Path, path: Path, config: LlamaConfig, kind: GGMLQuantizationType) -> Path:
    """The same model with its matrices as blocks; of the K kinds, which gguf only reads, random ones."""
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.max_context)
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.hidden_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    for tensor in GGUFReader(source).tensors:
        matrix = tensor.data.ndim > 1
        values = blocks_of(tensor.data, kind) if matrix else tensor.data
        writer.add_tensor(tensor.name, values, raw_dtype=kind if matrix else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def blocks_of(values: npt.NDArray[Any], kind: GGMLQuantizationType) -> npt.NDArray[np.uint8]:
    scales = {GGMLQuantizationType.Q4_K: {0: 2e-4, 2: 1.5e-3}, GGMLQuantizationType.Q6_K: {208: 1e-5}}
    if kind not in scales:
        return np.asarray(quantize(values.astype(np.float32), kind))
    n_values, n_bytes = GGML_QUANT_SIZES[kind]
    blocks = np.random.default_rng(values.size).integers(0, 256, (values.size // n_values, n_bytes), np.uint8)
    for offset, scale in scales[kind].items():  # float16 fields of the block (ggml-common.h)
        blocks[:, offset : offset + 2] = np.array([scale], np.float16).view(np.uint8)
    return blocks.reshape(values.shape[0], -1)


@dataclass(frozen=True)
class Loader:
    cache: Path

    def request(self, path: Path, **changes: object) -> Load:
        fields = {"id": 1, "configuration": "default", "model_path": str(path), "n_ctx": 128, "device": "cpu"}
        paths = {"threads": 2, "cache": str(self.cache), "scratch": str(self.cache)}
        return Load(**(fields | paths | changes))  # type: ignore[arg-type]

    def load(self, engine: HybridEngine, path: Path, **changes: object) -> Loaded:
        return engine.load(self.request(path, **changes), lambda stage, fraction: None)

    def llama(self, path: Path) -> Llama:
        """The model alone, with tinygrad importable."""
        settle(self.backend, 2, self.cache)
        torch.set_num_threads(2)
        return load_llama(open_checkpoint(path), self.request(path), lambda stage, fraction: None)

    @property
    def backend(self) -> Backend:
        return backend_for("cpu")


@pytest.fixture(scope="session")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Loader:
    return Loader(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def engine() -> Iterator[HybridEngine]:
    engine = HybridEngine()
    yield engine
    engine.unload()
