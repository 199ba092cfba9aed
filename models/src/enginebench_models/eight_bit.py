"""Matrices in 8 bits with a scale for each row: the largest value of a row becomes the largest number of the type.

Which matrices, and the reference over the same numbers: quantisation.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from enginebench_models.storage import AnyArray, Floats

INT8_LARGEST, E4M3_LARGEST = 127.0, 448.0


@dataclass(frozen=True)
class Quantised:
    """values [out, in]: int8, or uint8 holding the bits of E4M3; scales float32 [out]."""

    values: AnyArray
    scales: Floats

    def float32(self) -> Floats:
        numbers = self.values.astype(np.float32) if self.values.dtype == np.int8 else e4m3_numbers()[self.values]
        restored: Floats = numbers * self.scales[:, None]
        return restored


def quantised(matrix: Floats, kind: str) -> Quantised:
    """`kind`: a key of KINDS."""
    largest, encode = KINDS[kind]
    peaks = np.abs(matrix).max(axis=1)
    scales = np.where(peaks > 0, peaks / largest, 1).astype(np.float32)
    return Quantised(encode(matrix / scales[:, None]), scales)


def to_int8(values: Floats) -> AnyArray:
    return np.rint(values).clip(-INT8_LARGEST, INT8_LARGEST).astype(np.int8)


def to_e4m3(values: Floats) -> AnyArray:
    """Bits of FP8 E4M3 (OFP8: bias 7, no infinity). Its exponent is that of a float16 (bias 15) 2⁸ times smaller."""
    halves = (values.clip(-E4M3_LARGEST, E4M3_LARGEST) / 256).astype(np.float16).view(np.uint16)
    magnitude = halves & 0x7FFF
    rounded = (magnitude + 0x3F + ((magnitude >> 7) & 1)) >> 7  # to nearest, ties to even: 10 bits of mantissa to 3
    bits: AnyArray = (rounded | (halves >> 8 & 0x80)).astype(np.uint8)
    return bits


def e4m3_numbers() -> Floats:
    """Of all 256 bit patterns; 0x7F and 0xFF are NaN."""
    bits = np.arange(256, dtype=np.uint16)
    numbers = ((bits & 0x7F) << 7 | (bits & 0x80) << 8).view(np.float16).astype(np.float32) * 256
    return np.where(bits & 0x7F == 0x7F, np.float32(np.nan), numbers)


KINDS: dict[str, tuple[float, Callable[[Floats], AnyArray]]] = {
    "int8": (INT8_LARGEST, to_int8),
    "fp8": (E4M3_LARGEST, to_e4m3),
}
