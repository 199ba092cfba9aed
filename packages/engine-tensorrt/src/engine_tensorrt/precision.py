"""Precisions that can be asked for in place of a configuration's own, and what each means for the network."""

from __future__ import annotations

from dataclasses import dataclass

from engine_tensorrt.library import Unsupported


@dataclass(frozen=True)
class Precision:
    """dtype: of products and cache. eight_bit: how the blocks' matrices are stored, "" for as `dtype`."""

    dtype: str
    eight_bit: str = ""

    @property
    def has_fused_attention(self) -> bool:
        """TensorRT has dedicated attention kernels in 16 bits only."""
        return self.dtype != "float32"


PRECISIONS = {
    "float32": Precision("float32"),
    "float16": Precision("float16"),
    "bfloat16": Precision("bfloat16"),
    "int8": Precision("float16", "int8"),
    "fp8": Precision("float16", "fp8"),
}
CLASSES = {"float32": "float32", "float16": "16-bit", "bfloat16": "16-bit", "int8": "int8", "float8_e4m3": "fp8"}
"""The fidelity class of weights of a type."""


def precision_named(name: str) -> Precision:
    if name not in PRECISIONS:
        raise Unsupported(f"no precision {name!r}", f"use one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]
