"""Numbers in 16 bits: rounded as torch does, refused by name where float16 ends, not copied where they are it."""

from pathlib import Path

import numpy as np
import pytest
from enginebench_models.errors import UnsupportedModel
from enginebench_models.sixteen_bits import rounded_to_bfloat16, sixteen_bits
from enginebench_models.tensor import Tensor


def tensor(values: list[float], dtype: type = np.float32, stored: str = "f32") -> Tensor:
    return Tensor("o_proj", (1, len(values)), stored, np.array([values], dtype), Path("x"), 0)


def test_a_value_beyond_float16_is_refused_by_name_with_the_value() -> None:
    with pytest.raises(UnsupportedModel, match="o_proj holds 70000, float16 ends at 65504"):
        sixteen_bits(tensor([1.0, -7e4]), "float16")
    assert sixteen_bits(tensor([1.0, -7e4]), "bfloat16").tolist() == [[0x3F80, 0xC789]]


def test_what_the_file_holds_is_not_copied() -> None:
    half, brain = tensor([0.5, 3], np.float16, "f16"), tensor([0x3F80], np.uint16, "bf16")
    assert np.shares_memory(sixteen_bits(half, "float16"), half.data)
    assert np.shares_memory(sixteen_bits(brain, "bfloat16"), brain.data)
    assert sixteen_bits(half, "bfloat16").tolist() == [[0x3F00, 0x4040]]
    assert sixteen_bits(brain, "float16").tolist() == [[1.0]]


def test_rounding_to_bfloat16_is_to_nearest_with_ties_to_even() -> None:
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF], np.uint32)
    assert rounded_to_bfloat16(bits.view(np.float32)).tolist() == [0x3F80, 0x3F82, 0x3F81, 0x3F80]
