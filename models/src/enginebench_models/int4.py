"""Plain 4-bit blocks: runs of 32 neighbours of a row as integers from -8 to 7 times a float16 scale, 4.5 bits a weight.

The numbers of ggml's Q4_0, made and restored by the gguf library. Packing is the engines' affair.
"""

from dataclasses import dataclass

import numpy as np

from enginebench_models.errors import UnsupportedModel
from enginebench_models.storage import AnyArray, Floats, to_float32

BLOCK, ZERO = 32, 8
SCALE_BYTES = 2


@dataclass(frozen=True)
class Int4:
    """blocks uint8 [out, in/32 · 18], as ggml-common.h has block_q4_0."""

    blocks: AnyArray

    @property
    def codes(self) -> AnyArray:
        """uint8 [out, in], 0 to 15: the integers plus 8."""
        nibbles = self._blocks()[..., SCALE_BYTES:]
        return np.concatenate([nibbles & 15, nibbles >> 4], axis=2).reshape(len(self.blocks), -1)

    @property
    def scales(self) -> AnyArray:
        """float16 [out, in/32]"""
        scales: AnyArray = np.ascontiguousarray(self._blocks()[..., :SCALE_BYTES]).view(np.float16)[..., 0]
        return scales

    def float32(self) -> Floats:
        return to_float32(self.blocks, "q4_0")

    def _blocks(self) -> AnyArray:
        return self.blocks.reshape(len(self.blocks), -1, SCALE_BYTES + BLOCK // 2)


def int4(matrix: Floats) -> Int4:
    """Raises UnsupportedModel for rows that are not whole runs."""
    if matrix.shape[1] % BLOCK:
        raise UnsupportedModel(f"rows of {matrix.shape[1]} weights are not whole runs of {BLOCK}: int4 has only those")
    from gguf import GGMLQuantizationType  # noqa: PLC0415 - 150 ms that other kinds need not spend
    from gguf.quants import quantize  # noqa: PLC0415

    return Int4(quantize(matrix, GGMLQuantizationType.Q4_0))
