"""Opening models: what comes out is the same whatever the file, and nothing is copied that need not be."""

import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.config import LlamaConfig, RopeScaling
from enginebench_models.errors import (
    InvalidModel,
    ModelError,
    ModelNotFound,
    ModelTypeMismatch,
    NotAModel,
    TruncatedModel,
    UnsupportedModel,
)
from enginebench_models.layout import expected_shapes, half_split
from enginebench_models.synthesis import synthesise

from .gguf_files import write_gguf, write_q8_0
from .safetensors_folders import Json, edit_config


def test_both_formats_hold_the_same_model(tiny: Checkpoint, tiny_folder: Path) -> None:
    other = open_checkpoint(tiny_folder)
    assert (tiny.format, other.format) == ("gguf", "safetensors")
    assert tiny.config == other.config
    assert np.array_equal(tiny.inverse_frequencies, other.inverse_frequencies)
    assert sorted(tiny.names()) == sorted(other.names()) == sorted(expected_shapes(tiny.config))
    for name in tiny.names():
        assert tiny.tensor(name).shape == other.tensor(name).shape == expected_shapes(tiny.config)[name]
        assert np.array_equal(tiny.tensor(name).float32(), other.tensor(name).float32()), name


def test_shapes_and_formats_are_told_without_reordering_a_weight(
    tiny: Checkpoint, odd_config: LlamaConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_q8_0(tmp_path / "q8.gguf", replace(odd_config, dim=64, hidden_dim=96))
    monkeypatch.delattr("enginebench_models.checkpoint.half_split")
    assert list(tiny.shapes()) == tiny.names()
    assert tiny.shapes() == expected_shapes(tiny.config)
    assert tiny.block_formats() == []
    assert open_checkpoint(tmp_path / "q8.gguf").block_formats() == ["q8_0"]


def test_tensors_are_read_only_views_of_the_file(tiny: Checkpoint, tiny_folder: Path) -> None:
    other = open_checkpoint(tiny_folder)
    views = [tiny.tensor(name).data for name in tiny.names() if not name.endswith(("q_proj", "k_proj"))]
    views += [other.tensor(name).data for name in other.names()]
    assert not any(view.flags.owndata for view in views)
    for view in [*views, tiny.tensor("layers.0.self_attn.q_proj").data]:
        assert view.flags.c_contiguous
        assert not view.flags.writeable


def test_a_tensor_says_where_its_bytes_lie(tiny: Checkpoint) -> None:
    tensor = tiny.tensor("layers.1.mlp.up_proj")
    raw = tensor.file.read_bytes()[tensor.offset : tensor.offset + tensor.data.nbytes]
    assert raw == tensor.data.tobytes()


def test_storage_types_are_named_and_typed(tiny: Checkpoint, tiny_folder: Path) -> None:
    other = open_checkpoint(tiny_folder)
    found = [tiny.tensor("norm"), tiny.tensor("embed_tokens"), other.tensor("embed_tokens")]
    assert [(t.dtype, t.data.dtype.name) for t in found] == [("f32", "float32"), ("f16", "float16"), ("bf16", "uint16")]


def test_rows_selects_rows(tiny: Checkpoint) -> None:
    table = tiny.tensor("embed_tokens")
    some = table.rows(np.array([5, 3, 5]))
    assert some.shape == (3, 256)
    assert np.array_equal(some.float32(), table.float32()[[5, 3, 5]])


def test_gguf_row_order_of_q_and_k_is_undone() -> None:
    heads, head_dim, columns = 3, 8, 5
    original = np.arange(heads * head_dim * columns).reshape(heads * head_dim, columns)
    # convert_hf_to_gguf.py, LlamaModel.permute
    stored = original.reshape(heads, 2, head_dim // 2, columns).swapaxes(1, 2).reshape(original.shape)
    assert not np.array_equal(stored, original)
    assert np.array_equal(half_split(stored, heads), original)


def test_a_directory_with_one_gguf_file_is_that_file(tiny_gguf: Path) -> None:
    assert open_checkpoint(tiny_gguf.parent).fingerprint == open_checkpoint(tiny_gguf).fingerprint


def test_an_untied_model_without_scaling_opens_in_both_formats(odd_config: LlamaConfig, tmp_path: Path) -> None:
    first = open_checkpoint(synthesise(odd_config, tmp_path / "odd.gguf"))
    second = open_checkpoint(synthesise(odd_config, tmp_path / "odd", "safetensors"))
    assert first.config == second.config == odd_config
    for name in expected_shapes(odd_config):
        assert np.array_equal(first.tensor(name).float32(), second.tensor(name).float32()), name
    with pytest.raises(InvalidModel, match="lm_head2"):
        first.tensor("lm_head2")


def test_block_formats_expand_to_what_was_quantised(odd_config: LlamaConfig, tmp_path: Path) -> None:
    config = replace(odd_config, dim=64, hidden_dim=96)
    written = write_q8_0(tmp_path / "q8.gguf", config)
    checkpoint = open_checkpoint(tmp_path / "q8.gguf")
    table, query = checkpoint.tensor("embed_tokens"), checkpoint.tensor("layers.1.self_attn.q_proj")
    assert (table.dtype, table.data.dtype.name, table.shape) == ("q8_0", "uint8", (523, 64))
    assert np.abs(table.float32() - written["token_embd.weight"]).max() < 0.02
    assert np.abs(query.float32() - half_split(written["blk.1.attn_q.weight"], 3)).max() < 0.02


def test_gguf_scaling_comes_from_its_tensor_even_when_the_rule_is_foreign(
    odd_config: LlamaConfig, tmp_path: Path
) -> None:
    divisors = np.linspace(1, 7, 16).astype(np.float32)
    path = write_gguf(
        tmp_path / "m.gguf", odd_config, lambda _, tensors: tensors.update({"rope_freqs.weight": divisors})
    )
    scaled, plain = open_checkpoint(path), open_checkpoint(write_gguf(tmp_path / "p.gguf", odd_config))
    assert scaled.config.rope_scaling is None
    assert np.allclose(scaled.inverse_frequencies * divisors, plain.inverse_frequencies)


def test_llama_scaling_is_recognised_in_a_gguf_file(tiny: Checkpoint) -> None:
    assert tiny.config.rope_scaling == RopeScaling(32.0, 1.0, 4.0, 8192)


def change_shape(metadata: Json, tensors: dict[str, np.ndarray]) -> None:
    tensors["blk.0.ffn_up.weight"] = tensors["blk.0.ffn_up.weight"][:-1]


@pytest.mark.parametrize(
    ("edit", "error", "message"),
    [
        (lambda m, t: t.pop("blk.1.ffn_up.weight"), InvalidModel, "lacks 1 of .*layers.1.mlp.up_proj"),
        (lambda m, t: t.pop("token_embd.weight"), InvalidModel, "token_embd.weight"),
        (change_shape, InvalidModel, r"up_proj has shape \[79, 48\].*\[80, 48\]"),
        (lambda m, t: t.update({"blk.0.attn_q.bias": np.ones(96, np.float32)}), UnsupportedModel, "attn_q.bias"),
        (lambda m, t: t.update({"blk.7.attn_norm.weight": np.ones(48, np.float32)}), UnsupportedModel, "layers.7"),
        (lambda m, t: t.update({"rope_freqs.weight": np.zeros(16, np.float32)}), InvalidModel, "rope_freqs"),
        (lambda m, t: t.update({"rope_freqs.weight": np.ones(8, np.float32)}), InvalidModel, "8 divisors; 16 belong"),
        (lambda m, t: t.update({"rope_freqs.weight": np.full(16, 1e-44, np.float32)}), InvalidModel, "infinite"),
        (lambda m, t: m.update({"llama.rope.freq_base": 1e-30}), InvalidModel, "rope_theta 1e-30"),
        (lambda m, t: m.pop("llama.block_count"), InvalidModel, "lacks the metadata key 'llama.block_count'"),
        (lambda m, t: m.update({"llama.block_count": "2"}), InvalidModel, "block_count is of type string; uint32"),
        (lambda m, t: m.update({"llama.rope.scaling.type": "yarn"}), UnsupportedModel, "'yarn'"),
        (lambda m, t: m.update({"llama.expert_count": 8}), UnsupportedModel, "expert_count is 8"),
        (lambda m, t: m.update({"split.count": np.uint16(3)}), UnsupportedModel, "3 files"),
        (lambda m, t: m.update({"llama.rope.dimension_count": 16}), UnsupportedModel, "16 rotated"),
    ],
)
def test_a_gguf_file_that_is_not_this_llama_is_refused(
    odd_config: LlamaConfig, tmp_path: Path, edit: Callable[..., object], error: type[ModelError], message: str
) -> None:
    path = write_gguf(tmp_path / "m.gguf", odd_config, edit)
    with pytest.raises(error, match=message):
        open_checkpoint(path)


def test_a_head_of_gigabytes_is_refused_before_its_frequencies_are_computed(
    odd_config: LlamaConfig, tmp_path: Path
) -> None:
    """A flipped bit once took 8 GiB and three minutes here."""

    def edit(metadata: Json, tensors: dict[str, np.ndarray]) -> None:
        metadata["llama.attention.key_length"] = metadata["llama.attention.value_length"] = 1 << 31
        tensors["rope_freqs.weight"] = np.ones(16, np.float32)

    path = write_gguf(tmp_path / "m.gguf", odd_config, edit)
    started = time.process_time()
    with pytest.raises(InvalidModel, match="beyond any real model"):
        open_checkpoint(path)
    assert time.process_time() - started < 0.5


def test_another_architecture_is_refused_by_name(odd_config: LlamaConfig, tmp_path: Path) -> None:
    with pytest.raises(ModelTypeMismatch, match="Expected 'llama' but detected 'gpt2'"):
        open_checkpoint(write_gguf(tmp_path / "gpt.gguf", odd_config, architecture="gpt2"))


@pytest.mark.parametrize(
    ("raw", "error", "message"),
    [
        (b"", NotAModel, "empty"),
        (b"hello", NotAModel, "5 bytes"),
        (b"these are notes, not weights", NotAModel, "does not start"),
        (struct.pack("<Q", 2**40) + b"{}", InvalidModel, "bytes of header"),
        (struct.pack("<Q", 1000) + b"{}", TruncatedModel, "1,008"),
        (struct.pack("<Q", 4) + b"{a:}", InvalidModel, "JSON"),
        (struct.pack("<Q", 13) + b'{"a":1,"a":2}', InvalidModel, "twice"),
    ],
)
def test_a_file_that_is_no_model_is_refused(
    copy_of_tiny: Path, raw: bytes, error: type[ModelError], message: str
) -> None:
    (copy_of_tiny / "model.safetensors").write_bytes(raw)
    with pytest.raises(error, match=message):
        open_checkpoint(copy_of_tiny)


def test_places_without_a_model_say_so(tmp_path: Path, tiny_gguf: Path) -> None:
    with pytest.raises(ModelNotFound, match="no-such"):
        open_checkpoint(tmp_path / "no-such")
    with pytest.raises(NotAModel, match="neither"):
        open_checkpoint(tmp_path)
    for name in ("a.gguf", "b.gguf"):
        shutil.copy(tiny_gguf, tmp_path / name)
    with pytest.raises(NotAModel, match=r"2 GGUF files \(a.gguf, b.gguf\)"):
        open_checkpoint(tmp_path)


def test_the_fingerprint_tells_weights_and_shapes_apart(
    tiny: Checkpoint, tiny_gguf: Path, tiny_folder: Path, copy_of_tiny: Path, tmp_path: Path
) -> None:
    raw = bytearray(tiny_gguf.read_bytes())
    raw[tiny.tensor("layers.2.mlp.down_proj").offset + 100] ^= 1
    (tmp_path / "flipped.gguf").write_bytes(raw)
    assert open_checkpoint(tmp_path / "flipped.gguf").fingerprint != tiny.fingerprint
    assert open_checkpoint(copy_of_tiny).fingerprint == open_checkpoint(tiny_folder).fingerprint
    edit_config(copy_of_tiny, rope_scaling=None)
    assert open_checkpoint(copy_of_tiny).fingerprint != open_checkpoint(tiny_folder).fingerprint


def test_opening_a_16_bit_model_loads_neither_gguf_nor_tokenizers(tiny_gguf: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from enginebench_models.checkpoint import open_checkpoint\n"
        f"open_checkpoint(Path({str(tiny_gguf)!r})).tensor('embed_tokens').float32()\n"
        "print(sorted({'gguf', 'tokenizers', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
