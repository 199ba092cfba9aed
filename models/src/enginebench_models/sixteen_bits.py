"""The values of a tensor in one of the 16-bit types, for whoever writes or computes with such weights.

NumPy has no bfloat16: uint16 holds its bits, here as in `tensor`.
"""

import numpy as np

from enginebench_models.errors import UnsupportedModel
from enginebench_models.storage import AnyArray, Floats
from enginebench_models.tensor import Tensor


def sixteen_bits(tensor: Tensor, dtype: str) -> AnyArray:
    """`dtype` "float16", or "bfloat16" as uint16. Where the file holds that type, the file itself: nothing is copied.

    Raises UnsupportedModel for a value that float16 does not reach.
    """
    if (tensor.dtype, dtype) in (("f16", "float16"), ("bf16", "bfloat16")):
        return np.ascontiguousarray(tensor.data)
    values = tensor.float32()
    if dtype == "bfloat16":
        return rounded_to_bfloat16(values)
    with np.errstate(over="ignore"):
        halves = values.astype(np.float16)
    if not np.isfinite(halves).all():
        found = f"{tensor.name} holds {np.abs(values).max():g}, float16 ends at {np.finfo(np.float16).max:g}"
        raise UnsupportedModel(f"{found}: use bfloat16 or float32, where the engine has one of them.")
    return halves


def rounded_to_bfloat16(values: Floats) -> AnyArray:
    """To nearest, ties to even, as torch does. float32 → uint16."""
    bits = values.view(np.uint32)
    rounded: AnyArray = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return rounded
