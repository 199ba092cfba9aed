"""One weight tensor as it lies in the file, and where it lies."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from enginebench_models.storage import AnyArray, Floats, to_float32


@dataclass(frozen=True, eq=False)
class Tensor:
    """`data` is a read-only view of the memory-mapped file (Q and K of a GGUF file: a reordered copy).

    shape  row-major, [out, in] for matrices
    dtype  "f32", "f16", "bf16" or the GGUF name of a block format ("q8_0", …)
    data   float32, float16, uint16 holding bfloat16 bits, or uint8 [rows, bytes per row] for block formats
    file, offset  where the stored bytes start, for engines that map the file themselves; a GGUF file stores
           the rows of Q and K in another order than `data` has
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    data: AnyArray
    file: Path
    offset: int

    def float32(self) -> Floats:
        """A new array of the values in float32, of `shape`."""
        return to_float32(self.data, self.dtype)

    def rows(self, selection: npt.NDArray[np.integer] | slice) -> "Tensor":
        """The same tensor with only the selected rows (first dimension)."""
        data = self.data[selection]
        return replace(self, data=data, shape=(data.shape[0], *self.shape[1:]))
