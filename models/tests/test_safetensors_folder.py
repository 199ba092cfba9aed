"""Folders of safetensors: shards, config.json, and what is refused of them."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.config import RopeScaling
from enginebench_models.errors import (
    InvalidModel,
    ModelError,
    ModelNotFound,
    ModelTypeMismatch,
    NotAModel,
    TruncatedModel,
    UnsupportedModel,
)

from .safetensors_folders import Json, edit_config, split_into_shards, write_safetensors


@pytest.fixture
def sharded(tiny_folder: Path, tmp_path: Path) -> Path:
    split_into_shards(tiny_folder, tmp_path / "sharded")
    return tmp_path / "sharded"


def test_a_file_that_may_not_be_read_is_refused(copy_of_tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(path: object, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(NotAModel, match="cannot be read: Permission denied") as caught:
        open_checkpoint(copy_of_tiny)
    assert caught.value.rule == "regular-file"


def test_shards_are_one_model(tiny_folder: Path, sharded: Path) -> None:
    whole, parts = open_checkpoint(tiny_folder), open_checkpoint(sharded)
    assert len(parts.files) == 2
    for name in whole.names():
        assert np.array_equal(whole.tensor(name).data, parts.tensor(name).data), name


def test_a_missing_shard_is_named(sharded: Path) -> None:
    (sharded / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelNotFound, match="model-00002-of-00002"):
        open_checkpoint(sharded)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../secret.safetensors"}, "plain file name"),
        ({"a": "/etc/secret.safetensors"}, "plain file name"),
        ({"a": "..\\secret.safetensors"}, "plain file name"),
        ({"a": "a\0.safetensors"}, "plain file name"),
        ({"a": ".hidden.safetensors"}, "plain file name"),
        ({"a": ".."}, "plain file name"),
        ({"a": "pytorch_model.bin"}, r"NAME\.safetensors was expected"),
        ({"a": "config.json"}, r"NAME\.safetensors was expected"),
        ({"a": ["x.safetensors"]}, "file names by tensor"),
        ({"a": 1, "b": "x.safetensors"}, "file names by tensor"),
        ({"a": None}, "file names by tensor"),
        (["x.safetensors"], "file names by tensor"),
        ({str(n): f"{n}.safetensors" for n in range(1001)}, "1,001 shards"),
    ],
)
def test_an_index_holds_plain_names_of_shards(sharded: Path, weight_map: object, message: str) -> None:
    (sharded / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InvalidModel, match=message) as caught:
        open_checkpoint(sharded)
    assert caught.value.rule == "index"


@pytest.mark.parametrize(
    "text", [b"[]", b"{", b'{"a":1,"a":2}', b"\xff{}", b"[" * 100_000, b'{"a":' + b"9" * 5000 + b"}"]
)
def test_a_config_that_is_no_json_object_is_refused(copy_of_tiny: Path, text: bytes) -> None:
    (copy_of_tiny / "config.json").write_bytes(text)
    with pytest.raises(InvalidModel) as caught:
        open_checkpoint(copy_of_tiny)
    assert caught.value.rule == "json-file"


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe named like a shard once hung the reader; a directory or a file without permission ended it."""
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(NotAModel, match="no regular file"):
        open_checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(NotAModel, match="no regular file"):
        open_checkpoint(tmp_path)


LLAMA3_RULE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rope_scaling": LLAMA3_RULE}, RopeScaling(8.0, 1.0, 4.0, 8192)),
        ({"rope_scaling": None, "rope_parameters": LLAMA3_RULE}, RopeScaling(8.0, 1.0, 4.0, 8192)),
        ({"rope_scaling": None, "rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}, None),
        ({"rope_scaling": None}, None),
    ],
)
def test_rope_scaling_is_read_as_both_transformers_versions_write_it(
    copy_of_tiny: Path, changes: Json, expected: RopeScaling | None
) -> None:
    edit_config(copy_of_tiny, **changes)
    assert open_checkpoint(copy_of_tiny).config.rope_scaling == expected


def test_theta_may_lie_in_rope_parameters(copy_of_tiny: Path) -> None:
    edit_config(copy_of_tiny, rope_theta=None, rope_scaling=None, rope_parameters={"rope_theta": 1234.5})
    assert open_checkpoint(copy_of_tiny).config.rope_theta == 1234.5


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, UnsupportedModel, "'linear'"),
        ({"hidden_act": "gelu"}, UnsupportedModel, "'gelu'"),
        ({"attention_bias": True}, UnsupportedModel, "attention_bias = True"),
        ({"quantization_config": {"bits": 4}}, UnsupportedModel, "quantization_config"),
        ({"model_type": "mistral"}, ModelTypeMismatch, "Expected 'llama' but detected 'mistral'"),
        ({"hidden_size": None}, InvalidModel, "garbles"),
        ({"hidden_size": 1e999}, InvalidModel, "Infinity is no number"),
        ({"hidden_size": "256"}, InvalidModel, "garbles 'hidden_size': '256'"),
        ({"hidden_size": 256.0}, InvalidModel, "garbles"),
        ({"hidden_size": True}, InvalidModel, "garbles"),
        ({"hidden_size": 10**40}, InvalidModel, "beyond any real model"),
        ({"num_hidden_layers": 1 << 31}, InvalidModel, "beyond any real model"),
        ({"num_attention_heads": 0}, InvalidModel, "below 1"),
        ({"head_dim": 1 << 31}, InvalidModel, "beyond any real model"),
        ({"rope_theta": 10**400}, InvalidModel, "garbles 'rope_theta'"),
        ({"rms_norm_eps": float("nan")}, InvalidModel, "NaN is no number"),
        ({"rope_scaling": LLAMA3_RULE | {"high_freq_factor": 1.0}}, InvalidModel, "low below high"),
        ({"rope_scaling": [1]}, InvalidModel, "garbles 'rope_scaling'"),
        ({"num_hidden_layers": 5}, InvalidModel, "layers.4"),
        ({"tie_word_embeddings": False}, InvalidModel, "lm_head"),
        ({"vocab_size": 4097}, InvalidModel, r"\[4096, 256\].*\[4097, 256\]"),
    ],
)
def test_a_config_that_is_not_this_llama_is_refused(
    copy_of_tiny: Path, changes: Json, error: type[ModelError], message: str
) -> None:
    edit_config(copy_of_tiny, **changes)
    with pytest.raises(error, match=message):
        open_checkpoint(copy_of_tiny)


def test_weights_without_config_name_the_missing_file(copy_of_tiny: Path) -> None:
    (copy_of_tiny / "config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"config\.json"):
        open_checkpoint(copy_of_tiny)


def test_a_truncated_safetensors_file_is_refused_with_both_sizes(copy_of_tiny: Path) -> None:
    file = copy_of_tiny / "model.safetensors"
    raw = file.read_bytes()
    file.write_bytes(raw[:-1])
    with pytest.raises(TruncatedModel, match=r"tensor model\.norm") as caught:
        open_checkpoint(copy_of_tiny)
    assert (caught.value.expected_bytes, caught.value.actual_bytes) == (len(raw), len(raw) - 1)


def one_tensor(**changes: object) -> Json:
    return {"model.norm.weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes}


@pytest.mark.parametrize(
    ("directory", "error", "message"),
    [
        (one_tensor(data_offsets=[0, 12]), InvalidModel, "cannot fill"),
        (one_tensor(data_offsets=[-4, 12]), InvalidModel, "-4 is no number"),
        (one_tensor(shape=[0]), InvalidModel, "cannot fill"),
        (one_tensor(shape=["x"]), InvalidModel, "dtype, shape and data_offsets"),
        (one_tensor(dtype="F8_E4M3", shape=[16]), UnsupportedModel, "F8_E4M3"),
        (one_tensor(shape=[2**62], data_offsets=[0, 2**63]), InvalidModel, "elements of 'model.norm.weight'"),
        (one_tensor(shape=[400], data_offsets=[0, 1600]), TruncatedModel, "tensor model.norm"),
        ({"a": 1}, InvalidModel, "dtype, shape and data_offsets"),
    ],
)
def test_a_safetensors_entry_that_cannot_be_is_refused(
    copy_of_tiny: Path, directory: Json, error: type[ModelError], message: str
) -> None:
    write_safetensors(copy_of_tiny / "model.safetensors", directory, bytes(16))
    with pytest.raises(error, match=message):
        open_checkpoint(copy_of_tiny)
