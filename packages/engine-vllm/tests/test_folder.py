"""The folder that vLLM reads: our reader, Hugging Face's implementation and vLLM's RoPE find the same model in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_vllm import folder as folder_module
from engine_vllm.folder import own_folder, rounded_to_bfloat16, weight_dtype, written_folder
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.errors import NoRoom, UnsupportedModel
from enginebench_models.fidelity import compare, probe_ids
from enginebench_models.reference import Reference


def written(checkpoint: Checkpoint, cache: Path) -> Path:
    return written_folder(checkpoint, cache, lambda fraction: None)


@pytest.fixture(params=["tiny", "odd"])
def model(request: pytest.FixtureRequest, gguf: Callable[[str], Path]) -> Checkpoint:
    return open_checkpoint(gguf(request.param))


def test_the_folder_holds_the_same_weights_and_shape(model: Checkpoint, tmp_path: Path) -> None:
    found = open_checkpoint(written(model, tmp_path))
    assert (found.format, sorted(found.names())) == ("safetensors", sorted(model.names()))
    assert found.config == model.config
    np.testing.assert_allclose(found.inverse_frequencies, model.inverse_frequencies, rtol=1e-6)
    for name in model.names():
        assert found.tensor(name).dtype == "f16"
        np.testing.assert_array_equal(found.tensor(name).float32(), model.tensor(name).float32())


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


def test_it_is_written_once(gguf: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = written(open_checkpoint(gguf("odd")), tmp_path)
    monkeypatch.setattr(folder_module, "write", lambda *_: pytest.fail("written again"))
    assert written(open_checkpoint(gguf("odd")), tmp_path) == first


def test_two_models_have_two_folders(gguf: Callable[[str], Path], tmp_path: Path) -> None:
    folders = {written(open_checkpoint(gguf(name)), tmp_path) for name in ("tiny", "odd")}
    assert len(folders) == 2


def test_nothing_is_left_of_a_folder_that_could_not_be_finished(
    gguf: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder_module, "write_tensor", full)
    with pytest.raises(OSError, match="No space left"):
        written(open_checkpoint(gguf("odd")), tmp_path)
    assert list((tmp_path / "hugging-face").iterdir()) == []


def test_a_disk_too_small_is_said_before_anything_is_written(
    gguf: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_module.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000}))
    with pytest.raises(NoRoom, match=r"0\.0 GB free"):
        written(open_checkpoint(gguf("odd")), tmp_path)


def test_frequencies_of_another_rule_are_refused(
    gguf: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = open_checkpoint(gguf("odd"))
    other = model.inverse_frequencies * np.linspace(1.0, 0.9, model.config.head_dim // 2, dtype=np.float32)
    monkeypatch.setattr(Checkpoint, "inverse_frequencies", property(lambda self: other))
    with pytest.raises(UnsupportedModel, match="RoPE frequencies"):
        written(model, tmp_path)


def test_a_safetensors_model_is_read_where_it_is(safetensors: Path) -> None:
    model = open_checkpoint(safetensors)
    assert (own_folder(model), weight_dtype(model)) == (safetensors, "bfloat16")


def test_files_that_are_not_the_models_are_refused(safetensors: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((safetensors / "config.json").read_bytes())
    for name in ("one", "other"):
        (tmp_path / f"{name}.safetensors").hardlink_to(safetensors / "model.safetensors")
    with pytest.raises(UnsupportedModel, match=r"also holds other\.safetensors"):
        own_folder(open_checkpoint(tmp_path / "one.safetensors"))


def test_a_gguf_file_has_no_folder_of_its_own(gguf: Callable[[str], Path]) -> None:
    assert own_folder(open_checkpoint(gguf("tiny"))) is None


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
