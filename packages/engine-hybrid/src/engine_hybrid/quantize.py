"""Matrices in 8 and 4 bits as torch memory. The recipes are the models package's.

What is fast is tinygrad's version of a region, which restores the numbers inside the kernel that multiplies. torch has
no kernels for these layouts: its versions restore a block of rows and multiply, which is right, and slow for one row.
They are the arbiter of every load, and what is left where tinygrad fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from enginebench_models import eight_bit
from enginebench_models import nf4 as models_nf4
from enginebench_models.errors import UnsupportedModel
from enginebench_models.nf4 import BLOCK, LEVELS
from enginebench_models.quantisation import in_parts
from enginebench_models.storage import AnyArray
from enginebench_models.tensor import Tensor as Stored
from torch import Tensor

HALF = BLOCK // 2
RESTORED_ELEMENTS = 1 << 21  # 8 MiB of float32 at a time: stays in the processor's cache


@dataclass(frozen=True, eq=False)
class Int8:
    """values int8 [out, in], scales float32 [out]"""

    values: Tensor
    scales: Tensor

    dtype = torch.float32  # of what it multiplies

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def restored(self, rows: slice) -> Tensor:
        return self.values[rows].float() * self.scales[rows, None]


@dataclass(frozen=True, eq=False)
class Nf4:
    """packed uint8 [out, in/64, 32]: weight j of a run is the low half of byte j, weight 32 + j the high one

    peaks float16 [out, in/64], levels float32 [16]
    """

    packed: Tensor
    peaks: Tensor
    levels: Tensor

    dtype = torch.float32

    @property
    def shape(self) -> tuple[int, int]:
        return self.peaks.shape[0], self.peaks.shape[1] * BLOCK

    def restored(self, rows: slice) -> Tensor:
        codes = torch.cat((self.packed[rows] & 15, self.packed[rows] >> 4), dim=2)
        return (self.levels[codes.int()] * self.peaks[rows, :, None].float()).flatten(1)


Matrix: TypeAlias = Tensor | Int8 | Nf4


def tensors(matrix: Matrix) -> list[Tensor]:
    """What a matrix is held in; NF4's table of levels is no weight."""
    if isinstance(matrix, Tensor):
        return [matrix]
    return [matrix.values, matrix.scales] if isinstance(matrix, Int8) else [matrix.packed, matrix.peaks]


def kind_of(matrix: Matrix) -> str:
    """ "" for a matrix that is not quantised."""
    return "" if isinstance(matrix, Tensor) else "int8" if isinstance(matrix, Int8) else "nf4"


def linear(x: Tensor, weight: Matrix) -> Tensor:
    """x · Wᵀ, [n, in] → [n, out], x in `weight.dtype`; quantised, in float32"""
    if isinstance(weight, Tensor):
        return F.linear(x, weight)
    return torch.cat([F.linear(x.float(), block) for block in blocks(weight)], dim=1)


def blocks(weight: Matrix) -> Iterator[Tensor]:
    """Blocks of rows, float32."""
    n_out, n_in = weight.shape
    step = max(1, RESTORED_ELEMENTS // n_in)
    for rows in (slice(first, first + step) for first in range(0, n_out, step)):
        yield weight[rows].float() if isinstance(weight, Tensor) else weight.restored(rows)


def quantised(stored: Stored, kind: str, device: torch.device) -> Int8 | Nf4:
    """One matrix, made a block of rows at a time. Raises UnsupportedModel."""
    if kind == "int8":
        return int8(stored, device)
    if stored.shape[1] % BLOCK:
        raise UnsupportedModel(
            f"{stored.name} has rows of {stored.shape[1]} weights, nf4 has whole runs of {BLOCK} only"
        )
    return nf4(stored, device)


def int8(stored: Stored, device: torch.device) -> Int8:
    values, scales = torch.empty(stored.shape, dtype=torch.int8), torch.empty(stored.shape[0])
    for rows, part in in_parts(stored, "int8", torch.get_num_threads()):
        assert isinstance(part, eight_bit.Quantised)
        values.numpy()[rows], scales.numpy()[rows] = part.values, part.scales
    return Int8(values.to(device), scales.to(device))


def nf4(stored: Stored, device: torch.device) -> Nf4:
    n_out, n_runs = stored.shape[0], stored.shape[1] // BLOCK
    codes = torch.empty((n_out, n_runs, HALF), dtype=torch.uint8)
    peaks = torch.empty((n_out, n_runs), dtype=torch.float16)
    for rows, part in in_parts(stored, "nf4", torch.get_num_threads()):
        assert isinstance(part, models_nf4.Nf4)
        codes.numpy()[rows], peaks.numpy()[rows] = packed(part.codes), part.peaks
    return Nf4(codes.to(device), peaks.to(device), torch.tensor(LEVELS, device=device))


def packed(codes: AnyArray) -> AnyArray:
    """[rows, in] → [rows, in/64, 32]"""
    runs = codes.reshape(len(codes), -1, 2, HALF)
    halves: AnyArray = runs[:, :, 0] | runs[:, :, 1] << 4
    return halves
