"""The tiny model, made once in each format."""

from pathlib import Path

import pytest
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.synthesis import synthesise


@pytest.fixture(scope="session")
def tiny_config() -> LlamaConfig:
    return entry("tiny").config


@pytest.fixture(scope="session")
def tiny_gguf(tiny_config: LlamaConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(tiny_config, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def tiny_folder(tiny_config: LlamaConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesise(tiny_config, tmp_path_factory.mktemp("safetensors") / "tiny", "safetensors")


@pytest.fixture(scope="session")
def tiny(tiny_gguf: Path) -> Checkpoint:
    return open_checkpoint(tiny_gguf)


@pytest.fixture(scope="session")
def odd_config() -> LlamaConfig:
    """What `tiny` is not: untied, one key/value head, head_dim that is not dim / heads, no RoPE scaling."""
    return LlamaConfig(
        dim=48,
        n_layers=2,
        n_heads=3,
        n_kv_heads=1,
        head_dim=32,
        hidden_dim=80,
        vocab_size=523,
        norm_eps=1e-6,
        rope_theta=10000.0,
        max_context=256,
        tied_embeddings=False,
    )
