"""Checkpoint → the arrays that a network's constants point to. Every layout and number type of files ends here.

Nothing is copied where the file holds the wanted type: TensorRT then reads the mapped file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.tensor import Tensor

from engine_tensorrt.library import Unsupported

Array = npt.NDArray[Any]
STORED = {"float32": "f32", "float16": "f16"}


def load_weights(checkpoint: Checkpoint, dtype: str, progress: Callable[[float], None]) -> dict[str, Array]:
    """By the names of the checkpoint: matrices [out, in] in `dtype`, vectors [1, n] in float32.

    Raises Unsupported for values that float16 cannot hold.
    """
    names = checkpoint.names()
    weights = {}
    for done, name in enumerate(names, 1):
        stored = checkpoint.tensor(name)
        weights[name] = converted(stored, dtype) if len(stored.shape) > 1 else stored.float32()[None]
        progress(done / len(names))
    return weights


def converted(stored: Tensor, dtype: str) -> Array:
    if stored.dtype == STORED[dtype]:
        return np.ascontiguousarray(stored.data)
    values = stored.float32()
    try:
        with np.errstate(over="raise"):
            return values.astype(dtype)
    except FloatingPointError:
        found = f"{stored.name} holds {np.abs(values).max():g}, {dtype} ends at {np.finfo(dtype).max:g}"
        raise Unsupported(found, "use a float32 configuration") from None
