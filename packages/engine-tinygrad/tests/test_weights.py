"""The tensors on the device are the numbers of the file; a split product is the plain product."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.tensor import Tensor as Stored


@pytest.fixture(autouse=True)
def _settings_are_taken(ready: Any) -> None:
    """tinygrad may only be imported after a load has set it up."""


def test_weights_are_those_of_the_checkpoint(ready: Any) -> None:
    checkpoint, weights = open_checkpoint(ready.path), ready.engine._graphs.llama.weights
    layer = weights.layers[2]
    for tensor, name in [
        (weights.embed_tokens, "embed_tokens"),
        (layer.q_proj, "layers.2.self_attn.q_proj"),
        (layer.k_proj, "layers.2.self_attn.k_proj"),
        (layer.down_proj, "layers.2.mlp.down_proj"),
        (layer.input_layernorm, "layers.2.input_layernorm"),
        (weights.norm, "norm"),
    ]:
        assert np.array_equal(tensor.numpy(), checkpoint.tensor(name).data), name


def test_weights_are_bit_for_bit_those_that_tinygrads_own_reader_gives(ready: Any, tmp_path: Path) -> None:
    from tinygrad.llm.gguf import gguf_load

    copy = shutil.copy(ready.path, tmp_path)  # it opens the file for writing
    _, theirs = gguf_load(copy)
    weights = ready.engine._graphs.llama.weights
    assert np.array_equal(weights.embed_tokens.numpy(), theirs["token_embd.weight"].numpy())
    assert np.array_equal(weights.layers[1].up_proj.numpy(), theirs["blk.1.ffn_up.weight"].numpy())
    ours, interleaved = weights.layers[1].k_proj, theirs["blk.1.attn_k.weight"].numpy()
    assert not np.array_equal(ours.numpy(), interleaved)
    rearranged = interleaved.reshape(2, 32, 2, -1).swapaxes(1, 2).reshape(ours.shape)
    assert np.array_equal(ours.numpy(), rearranged)


def test_bfloat16_becomes_float16_and_vectors_stay_float32(ready: Any, tmp_path: Path) -> None:
    from engine_tinygrad.weights import load_tensor

    values = np.array([[1.0, -0.375, 3.0e-5, 100.0]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    file = tmp_path / "weights"
    file.write_bytes(b"head" + bits.tobytes())
    matrix = load_tensor(Stored("o_proj", (1, 4), "bf16", bits, file, 4), ("CPU",)).numpy()
    vector = load_tensor(Stored("norm", (4,), "bf16", bits[0], file, 4), ("CPU",)).numpy()
    rounded = (bits.astype(np.uint32) << 16).view(np.float32)
    assert matrix.dtype == np.float16
    assert np.array_equal(matrix, rounded.astype(np.float16))
    assert vector.dtype == np.float32
    assert np.array_equal(vector, rounded[0])


def test_a_file_that_became_shorter_is_an_error(ready: Any, tmp_path: Path) -> None:
    from engine_tinygrad.weights import load_tensor

    file = tmp_path / "weights"
    file.write_bytes(bytes(6))
    with pytest.raises(OSError, match="became shorter while o_proj"):
        load_tensor(Stored("o_proj", (1, 4), "f16", np.zeros((1, 4), np.float16), file, 0), ("CPU",))


@pytest.mark.parametrize("n_in", [64, 192, 2048, 64 * 37, 96])
def test_a_product_split_into_lanes_equals_the_plain_one(n_in: int) -> None:
    from engine_tinygrad.model import project
    from tinygrad import Tensor

    rng = np.random.default_rng(n_in)
    x = rng.standard_normal((1, n_in), dtype=np.float32)
    weight = rng.standard_normal((24, n_in)).astype(np.float16)
    expected = x.astype(np.float64) @ weight.astype(np.float64).T
    for lanes in (64, 0):
        found = project(Tensor(x), Tensor(weight), lanes).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
