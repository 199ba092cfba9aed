"""The tiny model, made once in each format; and a hub on this machine that has it."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from enginebench_models.catalogue import Entry, SourceFile, entry
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.synthesis import synthesise

from .downloads import MODEL, REPOSITORY, waits
from .fake_hub import CHUNK_BYTES, FakeHub, running


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


@pytest.fixture
def copy_of_tiny(tiny_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "copy"))


@pytest.fixture
def no_waiting_and_small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub waits a second before each of five tries, and writes 10 MB at a time, more than `tiny` has.

    And whether somebody is logged in on this machine is nobody's business.
    """
    from huggingface_hub import constants

    waits(monkeypatch, lambda seconds: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK_BYTES)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent")


@pytest.fixture
def tiny_entry() -> Entry:
    files = (SourceFile(MODEL),)
    return replace(entry("tiny"), repository=REPOSITORY, format="gguf", licence="Some Licence", files=files)


@pytest.fixture
def hub(tiny_gguf: Path) -> Iterator[FakeHub]:
    with running(FakeHub(REPOSITORY, {MODEL: tiny_gguf.read_bytes(), "README.md": b"hello"})) as found:
        yield found
