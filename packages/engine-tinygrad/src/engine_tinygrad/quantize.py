"""Matrices in 8 and 4 bits as tinygrad tensors, and their products. The recipes are the models package's.

The way back to float32 is part of the kernel that multiplies, so a decoded token reads the quantised numbers only.
Several rows of NF4 are the exception: its levels would be looked up again for every few rows, so the matrix is brought
back to float16 first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from enginebench_models import eight_bit
from enginebench_models import nf4 as models_nf4
from enginebench_models.errors import UnsupportedModel
from enginebench_models.nf4 import BLOCK, LEVELS
from enginebench_models.quantisation import in_parts
from enginebench_models.storage import AnyArray
from enginebench_models.tensor import Tensor as Stored
from tinygrad import Tensor, dtypes
from tinygrad.device import Buffer
from tinygrad.dtype import DType

HALF = BLOCK // 2
RUNS_TOGETHER = 16  # of a row in one unrolled sum; more only takes longer to compile


@dataclass(frozen=True)
class Int8:
    """values int8 [out, in], scales float32 [out]"""

    values: Tensor
    scales: Tensor

    def tensors(self) -> list[Tensor]:
        return [self.values, self.scales]


@dataclass(frozen=True)
class Nf4:
    """packed uint8 [out, in/64, 32]: weight j of a run is the low half of byte j, weight 32 + j the high one

    peaks float16 [out, in/64], levels float32 [16]
    """

    packed: Tensor
    peaks: Tensor
    levels: Tensor

    def tensors(self) -> list[Tensor]:
        return [self.packed, self.peaks]

    def halves(self) -> tuple[Tensor, Tensor]:
        """Levels of the low and of the high halves, each [out, in/64, 32]"""
        return self.levels[(self.packed & 15).cast(dtypes.int32)], self.levels[(self.packed >> 4).cast(dtypes.int32)]

    def row(self, x: Tensor) -> Tensor:
        """[1, in] → [1, out]. 32 sums side by side, as `model.project` has them, and those of 16 runs in one."""
        n_out, n_runs = int(self.peaks.shape[0]), int(self.peaks.shape[1])
        together = next(n for n in range(RUNS_TOGETHER, 0, -1) if n_runs % n == 0)
        low, high = self.halves()
        x = x.reshape(1, n_runs, 2, HALF)
        products = (low * x[:, :, 0] + high * x[:, :, 1]) * self.peaks.float().reshape(n_out, n_runs, 1)
        partial = products.reshape(n_out, n_runs // together, together, HALF).sum(2).contiguous()
        return partial.sum((1, 2)).reshape(1, n_out).contiguous()

    def restored(self) -> Tensor:
        """float16 [out, in]"""
        low, high = self.halves()
        numbers = low.cat(high, dim=2) * self.peaks.float().unsqueeze(2)
        return numbers.reshape(numbers.shape[0], -1).cast(dtypes.float16).contiguous()


def quantised(stored: Stored, kind: str, device: str, levels: Tensor, n_threads: int) -> Int8 | Nf4:
    """One matrix, made a block of rows at a time. Raises UnsupportedModel."""
    if kind == "int8":
        return int8(stored, device, n_threads)
    if stored.shape[1] % BLOCK:
        raise UnsupportedModel(
            f"{stored.name} has rows of {stored.shape[1]} weights, nf4 has whole runs of {BLOCK} only"
        )
    return nf4(stored, device, levels, n_threads)


def int8(stored: Stored, device: str, n_threads: int) -> Int8:
    values, numbers = host(stored.shape, dtypes.int8)
    scales, factors = host(stored.shape[:1], dtypes.float32)
    for rows, part in in_parts(stored, "int8", n_threads):
        assert isinstance(part, eight_bit.Quantised)
        numbers[rows], factors[rows] = part.values, part.scales
    return Int8(values.to(device).realize(), scales.to(device).realize())


def nf4(stored: Stored, device: str, levels: Tensor, n_threads: int) -> Nf4:
    n_out, n_runs = stored.shape[0], stored.shape[1] // BLOCK
    codes, numbers = host((n_out, n_runs, HALF), dtypes.uint8)
    peaks, factors = host((n_out, n_runs), dtypes.float16)
    for rows, part in in_parts(stored, "nf4", n_threads):
        assert isinstance(part, models_nf4.Nf4)
        numbers[rows], factors[rows] = packed(part.codes), part.peaks
    return Nf4(codes.to(device).realize(), peaks.to(device).realize(), levels)


def packed(codes: AnyArray) -> AnyArray:
    """[rows, in] → [rows, in/64, 32]"""
    runs = codes.reshape(len(codes), -1, 2, HALF)
    halves: AnyArray = runs[:, :, 0] | runs[:, :, 1] << 4
    return halves


def host(shape: tuple[int, ...], dtype: DType) -> tuple[Tensor, AnyArray]:
    """An uninitialised tensor in host memory, and the array that lies over it."""
    tensor = Tensor.empty(*shape, dtype=dtype, device="CPU")
    buffer = tensor.uop.buffer
    assert isinstance(buffer, Buffer), "one device, one buffer"
    memory = buffer.ensure_allocated().as_memoryview(force_zero_copy=True)
    return tensor, np.frombuffer(memory, np.dtype(dtype.fmt)).reshape(shape)


def level_table(device: str) -> Tensor:
    return Tensor(LEVELS, device=device).realize()
