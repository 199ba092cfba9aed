"""How the numbers of a tensor are stored: names, block sizes and the way back to float32.

Quantised blocks are expanded by the gguf library, imported on first use because it takes 150 ms.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Storage:
    """One storage type: `block` elements of a row take `block_bytes`; `view` is how NumPy sees the bytes."""

    name: str
    block: int
    block_bytes: int
    view: type[np.generic]

    def row_bytes(self, columns: int) -> int:
        return columns // self.block * self.block_bytes


F32 = Storage("f32", 1, 4, np.float32)
F16 = Storage("f16", 1, 2, np.float16)
BF16 = Storage("bf16", 1, 2, np.uint16)

# ggml.h, enum ggml_type, with the block sizes of ggml-common.h.
GGML = {
    0: F32,
    1: F16,
    2: Storage("q4_0", 32, 18, np.uint8),
    3: Storage("q4_1", 32, 20, np.uint8),
    6: Storage("q5_0", 32, 22, np.uint8),
    7: Storage("q5_1", 32, 24, np.uint8),
    8: Storage("q8_0", 32, 34, np.uint8),
    10: Storage("q2_k", 256, 84, np.uint8),
    11: Storage("q3_k", 256, 110, np.uint8),
    12: Storage("q4_k", 256, 144, np.uint8),
    13: Storage("q5_k", 256, 176, np.uint8),
    14: Storage("q6_k", 256, 210, np.uint8),
    20: Storage("iq4_nl", 32, 18, np.uint8),
    23: Storage("iq4_xs", 256, 136, np.uint8),
    30: BF16,
}
SAFETENSORS = {"F32": F32, "F16": F16, "BF16": BF16}


def to_float32(data: AnyArray, storage: str) -> Floats:
    """A new float32 array of the values; `data` as Tensor.data holds it, rows last-dimension contiguous."""
    if storage in ("f32", "f16"):
        return data.astype(np.float32)
    if storage == "bf16":
        return np.left_shift(data, 16, dtype=np.uint32).view(np.float32)
    from gguf import GGMLQuantizationType  # noqa: PLC0415 - 150 ms that 16-bit models need not spend
    from gguf.quants import dequantize  # noqa: PLC0415

    return np.asarray(dequantize(data, GGMLQuantizationType[storage.upper()]), dtype=np.float32)
