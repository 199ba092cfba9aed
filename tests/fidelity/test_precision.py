"""Synthetic models under real arithmetic: transformers in float32, float16 and bfloat16 passes its gate with room."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from enginebench_models.catalogue import entry
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.fidelity import (
    FLOAT32_MAX_LOGIT_ERROR,
    MEAN_KLD_16_BIT,
    PROBE_DECODE,
    PROBE_PREFILL,
    compare,
    gate,
    probe_ids,
)
from enginebench_models.reference import Reference
from enginebench_models.synthesis import synthesise

from .hugging_face import load, score

Model = tuple[Checkpoint, list[int], np.ndarray]


def shapes() -> dict[str, LlamaConfig]:
    """The catalogue's depths at a width that runs in seconds."""
    small = {"dim": 256, "n_heads": 4, "n_kv_heads": 2, "hidden_dim": 1024, "vocab_size": 8192, "head_dim": 64}
    one = entry("llama3-1b").config
    eight = replace(entry("llama3-8b").config, **small)
    return {"tiny": entry("tiny").config, "16 layers": replace(one, **small), "32 layers": eight, "llama3-1b": one}


@pytest.fixture(
    scope="module",
    params=["tiny", "16 layers", "32 layers", pytest.param("llama3-1b", marks=pytest.mark.slow)],
)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    path: Path = synthesise(shapes()[request.param], tmp_path_factory.mktemp("model") / "model.gguf")
    checkpoint = open_checkpoint(path)
    ids = probe_ids(checkpoint.config.vocab_size, PROBE_PREFILL + PROBE_DECODE)
    yield checkpoint, ids, Reference(checkpoint).logits(ids, range(PROBE_PREFILL - 1, len(ids)))
    path.unlink()


def test_float32_passes_with_room(model: Model) -> None:
    checkpoint, ids, reference = model
    fidelity = compare(reference, score(load(checkpoint, torch.float32), ids, PROBE_PREFILL))
    assert gate(fidelity, "float32").passed
    assert fidelity.max_abs_logit < FLOAT32_MAX_LOGIT_ERROR / 10


@pytest.mark.parametrize(("dtype", "room"), [(torch.bfloat16, 2), (torch.float16, 50)])
def test_16_bit_arithmetic_passes_with_room(model: Model, dtype: torch.dtype, room: int) -> None:
    checkpoint, ids, reference = model
    fidelity = compare(reference, score(load(checkpoint, dtype), ids, PROBE_PREFILL))
    assert gate(fidelity, "16-bit").passed
    assert fidelity.mean_kld < MEAN_KLD_16_BIT / room
    assert not gate(fidelity, "float32").passed
