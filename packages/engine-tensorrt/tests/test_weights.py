"""Arrays that constants point to: the numbers of the file, in the type asked for, copied only where they must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_tensorrt.model import Style
from engine_tensorrt.weights import converted, load_weights
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.eight_bit import Quantised
from enginebench_models.errors import UnsupportedModel
from enginebench_models.tensor import Tensor

from .interpreter import decoded

MATRIX = "layers.1.mlp.up_proj"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("model", ["tiny", "tiny safetensors"])
def test_matrices_have_the_type_asked_for_and_norms_are_float32(
    models: dict[str, Path], model: str, dtype: str
) -> None:
    checkpoint, fractions = open_checkpoint(models[model]), list[float]()
    weights = load_weights(checkpoint, Style(dtype, 8, fused=False), fractions.append)
    assert list(weights) == checkpoint.names()
    for name, array in weights.items():
        stored = checkpoint.tensor(name)
        matrix = len(stored.shape) > 1
        assert isinstance(array, np.ndarray)
        assert array.dtype == ({"bfloat16": "uint16"}.get(dtype, dtype) if matrix else "float32")
        assert array.shape == (stored.shape if matrix else (1, *stored.shape))
        numbers = decoded(array, dtype if matrix else "float32")
        assert np.array_equal(numbers.reshape(stored.shape), stored.float32())  # synthetic weights round nowhere
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1


def test_a_matrix_in_the_files_own_type_is_not_copied(models: dict[str, Path]) -> None:
    checkpoint = open_checkpoint(models["tiny"])
    stored = checkpoint.tensor(MATRIX)
    assert np.shares_memory(converted(stored, "float16"), stored.data)
    assert not np.shares_memory(converted(stored, "float32"), stored.data)


def test_what_float16_cannot_hold_is_refused_by_name(tmp_path: Path) -> None:
    values = np.array([[1.0, -70000.0]], np.float32)
    stored = Tensor("o_proj", (1, 2), "f32", values, tmp_path, 0)
    with pytest.raises(UnsupportedModel, match="o_proj holds 70000, float16 ends at 65504"):
        converted(stored, "float16")
    assert np.array_equal(converted(stored, "float32"), values)


@pytest.mark.parametrize("kind", ["int8", "fp8"])
def test_the_matrices_of_the_blocks_are_in_8_bits_and_no_others(models: dict[str, Path], kind: str) -> None:
    checkpoint = open_checkpoint(models["untied"])
    weights = load_weights(checkpoint, Style("float16", 8, fused=True, eight_bit=kind), lambda fraction: None)
    in_8_bits = {name for name, held in weights.items() if isinstance(held, Quantised)}
    assert in_8_bits == {name for name in checkpoint.names() if name.endswith("_proj")}
    assert len(in_8_bits) == 7 * checkpoint.config.n_layers
    for name in ("embed_tokens", "lm_head"):
        assert np.shares_memory(weights[name], checkpoint.tensor(name).data)
