"""Checkpoint → the arrays that a network's constants point to. Every layout and number type of files ends here.

Nothing is copied where the file holds the wanted type: TensorRT then reads the mapped file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.eight_bit import Quantised, quantised
from enginebench_models.quantisation import is_quantised
from enginebench_models.sixteen_bits import sixteen_bits
from enginebench_models.tensor import Tensor

from engine_tensorrt.model import Style

Array = npt.NDArray[Any]


def load_weights(
    checkpoint: Checkpoint, style: Style, progress: Callable[[float], None]
) -> dict[str, Array | Quantised]:
    """By the names of the checkpoint: matrices [out, in] as `style` says, vectors [1, n] in float32.

    Raises UnsupportedModel for values that float16 cannot hold.
    """
    names = checkpoint.names()
    weights: dict[str, Array | Quantised] = {}
    for done, name in enumerate(names, 1):
        stored = checkpoint.tensor(name)
        if len(stored.shape) == 1:
            weights[name] = stored.float32()[None]
        elif style.eight_bit and is_quantised(name, stored.shape):
            weights[name] = quantised(stored.float32(), style.eight_bit)
        else:
            weights[name] = converted(stored, style.dtype)
        progress(done / len(names))
    return weights


def converted(stored: Tensor, dtype: str) -> Array:
    """bfloat16 as uint16."""
    if dtype != "float32":
        return sixteen_bits(stored, dtype)
    return np.ascontiguousarray(stored.data) if stored.dtype == "f32" else stored.float32()
