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
from enginebench_models.hugging_face import written_folder
from enginebench_models.packed_folder import FORMS, packed_folder
from enginebench_models.quantisation import QuantisedWeights, is_quantised
from enginebench_models.reference import Reference
from enginebench_models.sixteen_bits import rounded_to_bfloat16


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


@pytest.mark.parametrize("kind", FORMS)
def test_compressed_tensors_own_reader_finds_the_recipes_numbers(model: Checkpoint, tmp_path: Path, kind: str) -> None:
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32
    from safetensors import safe_open
    from torch import Size

    folder, errors, form = packed_folder(model, kind, tmp_path, 2, lambda fraction: None), {}, FORMS[kind]
    weights = QuantisedWeights(model, kind)
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        for name in (name for name in model.names() if is_quantised(name, model.tensor(name).shape)):
            there = f"model.{name}.weight"
            codes = unpack_from_int32(file.get_tensor(f"{there}_packed"), form.bits, Size(model.tensor(name).shape))
            scales = file.get_tensor(f"{there}_scale").float()
            values = (codes.float() * scales.repeat_interleave(codes.shape[1] // scales.shape[1], dim=1)).numpy()
            errors[name] = np.abs(values - weights.tensor(name).float32()).max() / np.abs(values).max()
    assert max(errors.values()) < 2**-10, errors


@pytest.mark.parametrize("kind", FORMS)
def test_vllm_takes_the_packed_folder_for_what_it_is(
    gguf: Callable[[str], Path], tmp_path: Path, configured: Callable[..., Any], kind: str
) -> None:
    folder = packed_folder(open_checkpoint(gguf("tiny")), kind, tmp_path, 2, lambda fraction: None)
    found = configured({"model": str(folder)}, eager=False, dtype="float16").quant_config
    assert (found.get_name(), found.quant_format) == ("compressed-tensors", "pack-quantized")
    assert found.ignore == ["lm_head"]
    weights = found.target_scheme_map["Linear"]["weights"]
    assert (weights.num_bits, weights.group_size) == (FORMS[kind].bits, FORMS[kind].group)


def test_rounding_to_bfloat16_is_torchs() -> None:
    import torch

    values = np.random.default_rng(0).normal(size=4096).astype(np.float32)
    values[:3] = 1.0 + 2.0**-8, 1.0 + 3 * 2.0**-8, -0.0  # two ties
    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    np.testing.assert_array_equal(rounded_to_bfloat16(values), expected)
