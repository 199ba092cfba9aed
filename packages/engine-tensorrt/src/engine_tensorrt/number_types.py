"""Number types by name: of TensorRT's, and of the NumPy arrays that carry them to it.

NumPy has neither bfloat16 nor FP8: uint16 and uint8 hold their bits, and nothing here is a number of those two types.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from enginebench_models.sixteen_bits import rounded_to_bfloat16

Array = npt.NDArray[Any]
NAMES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "FP8": "float8_e4m3",
    "INT32": "int32",
}
CARRIED_BY = {"float32": "FLOAT", "float16": "HALF", "uint16": "BF16", "int8": "INT8", "uint8": "FP8", "int32": "INT32"}


def name_of(dtype: Any) -> str:
    """`dtype`: a tensorrt.DataType."""
    return NAMES[dtype.name]


def carried(trt: Any, array: Array) -> Any:
    """The tensorrt.DataType of what `array` holds."""
    return getattr(trt.DataType, CARRIED_BY[array.dtype.name])


def full(shape: tuple[int, ...], value: float, dtype: str) -> Array:
    """`value` everywhere, in the type called `dtype`."""
    if dtype == "bfloat16":
        return rounded_to_bfloat16(np.full(shape, value, np.float32))
    return np.full(shape, value, dtype)
