"""Arrays that constants point to: the numbers of the file, in the type asked for, copied only where they must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_tensorrt.library import Unsupported
from engine_tensorrt.weights import converted, load_weights
from enginebench_models.checkpoint import open_checkpoint
from enginebench_models.tensor import Tensor

MATRIX = "layers.1.mlp.up_proj"


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("model", ["tiny", "tiny safetensors"])
def test_matrices_have_the_type_asked_for_and_norms_are_float32(
    models: dict[str, Path], model: str, dtype: str
) -> None:
    checkpoint, fractions = open_checkpoint(models[model]), list[float]()
    weights = load_weights(checkpoint, dtype, fractions.append)
    assert list(weights) == checkpoint.names()
    for name, array in weights.items():
        stored = checkpoint.tensor(name)
        matrix = len(stored.shape) > 1
        assert array.dtype == (dtype if matrix else "float32")
        assert array.shape == (stored.shape if matrix else (1, *stored.shape))
        assert np.array_equal(array.reshape(stored.shape), stored.float32())  # synthetic weights round nowhere
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
    with pytest.raises(Unsupported, match="o_proj holds 70000, float16 ends at 65504"):
        converted(stored, "float16")
    assert np.array_equal(converted(stored, "float32"), values)
