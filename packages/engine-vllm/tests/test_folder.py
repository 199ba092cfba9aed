"""The folder that vLLM reads: Hugging Face's implementation and vLLM's RoPE find the same model in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.fidelity import compare, probe_ids
from enginebench_models.hugging_face import rounded_to_bfloat16, written_folder
from enginebench_models.reference import Reference


def written(checkpoint: Checkpoint, cache: Path) -> Path:
    return written_folder(checkpoint, cache, lambda fraction: None)


@pytest.fixture(params=["tiny", "odd"])
def model(request: pytest.FixtureRequest, gguf: Callable[[str], Path]) -> Checkpoint:
    return open_checkpoint(gguf(request.param))


@pytest.mark.filterwarnings("ignore")  # what transformers says while it is imported
def test_hugging_faces_own_model_computes_the_reference_from_it(model: Checkpoint, tmp_path: Path) -> None:
    import torch
    from transformers import LlamaForCausalLM

    ids = probe_ids(model.config.vocab_size, 48)
    with torch.inference_mode():
        loaded = LlamaForCausalLM.from_pretrained(written(model, tmp_path), dtype=torch.float32)
        logits = loaded(torch.tensor([ids])).logits[0].numpy()
    found = compare(Reference(model).logits(ids, range(48)), logits)
    assert found.max_abs_logit < 1e-3, found
    assert found.top1 == 1.0


@pytest.mark.filterwarnings("ignore")
def test_vllms_rotary_embedding_has_the_files_frequencies(
    gguf: Callable[[str], Path], configured: Callable[..., Any]
) -> None:
    from vllm.config import set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    model, config = open_checkpoint(gguf("tiny")), configured(eager=True, n_ctx=64)
    with set_current_vllm_config(config):
        rope = get_rope(
            model.config.head_dim, max_position=64, rope_parameters=config.model_config.hf_config.rope_parameters
        )
    angles = np.outer(np.arange(64), model.inverse_frequencies.astype(np.float64))
    table = rope._compute_cos_sin_cache().float().cpu().numpy()
    np.testing.assert_allclose(table[:64], np.concatenate([np.cos(angles), np.sin(angles)], axis=1), atol=1e-5)


def test_config_json_says_nothing_that_vllm_would_act_on(gguf: Callable[[str], Path], tmp_path: Path) -> None:
    found = written(open_checkpoint(gguf("tiny")), tmp_path)
    assert sorted(path.name for path in found.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((found / "config.json").read_text())
    assert (config["architectures"], config["dtype"]) == (["LlamaForCausalLM"], "float16")
    assert "quantization_config" not in config


def test_rounding_to_bfloat16_is_torchs() -> None:
    import torch

    values = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    values[:3] = 1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8, -0.0  # two ties
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(rounded_to_bfloat16(values), expected)
