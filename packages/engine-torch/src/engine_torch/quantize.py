"""Matrices in 8 and 4 bits, and their products: fewer bytes for a token to read. The recipes are the models package's.

One row, the case of every decoded token, is a product and a sum over the quantised numbers themselves, accumulated in
float32. Several rows are the library's product with blocks of rows brought back to float32 (float16 on a GPU).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its usual name)
from enginebench_models import nf4
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.errors import UnsupportedModel
from enginebench_models.quantisation import in_parts
from torch import Tensor, nn

from engine_torch import processor_kernels
from engine_torch.model import WIDENED_ELEMENTS, Llama, reduced, weight
from engine_torch.weights import allocated


class Int8(nn.Module):
    """values int8 [out, in], scales float32 [out]

    `_weight_int8pack_mm`, torch's own, is as fast for one row in bfloat16, and 6000 times less exact; in float32 it is
    20 times slower. Inductor's loop reads the same bytes and sums in float32.
    """

    def __init__(self, n_out: int, n_in: int) -> None:
        super().__init__()
        self.values = weight(n_out, n_in, dtype=torch.int8)
        self.scales = weight(n_out, dtype=torch.float32)

    def fill(self, rows: slice, part: Any) -> None:
        """`part`: an eight_bit.Quantised"""
        place(self.values[rows], part.values)
        place(self.scales[rows], part.scales)

    def forward(self, x: Tensor) -> Tensor:
        """[n, in] → [n, out], float32 on a processor"""
        if x.shape[0] == 1 and torch.compiler.is_compiling():
            return (reduced(x[0], self.values) * self.scales)[None]
        return in_blocks(x, self.values.shape, self.restored)

    def restored(self, rows: slice) -> Tensor:
        return self.values[rows].float() * self.scales[rows, None]


class Nf4(nn.Module):
    """packed int32 [out, in/64, 8] as nf4.cpp has it, peaks float16 [out, in/64]"""

    levels: Tensor

    def __init__(self, n_out: int, n_in: int) -> None:
        super().__init__()
        if n_in % nf4.BLOCK:
            raise UnsupportedModel(f"rows of {n_in} weights are not whole runs of {nf4.BLOCK}: nf4 has only those")
        self.shape = (n_out, n_in)
        self.packed = weight(n_out, n_in // nf4.BLOCK, 8, dtype=torch.int32)
        self.peaks = weight(n_out, n_in // nf4.BLOCK, dtype=torch.float16)

    def place_levels(self, device: torch.device) -> None:
        self.register_buffer("levels", torch.tensor(nf4.LEVELS, device=device), persistent=False)

    def fill(self, rows: slice, part: Any) -> None:
        """`part`: an nf4.Nf4"""
        place(self.packed[rows], packed(part.codes))
        place(self.peaks[rows], part.peaks)

    def forward(self, x: Tensor) -> Tensor:
        """[n, in] → [n, out], float32 on a processor"""
        if x.shape[0] > 1 or not torch.compiler.is_compiling():
            return in_blocks(x, self.shape, self.restored)
        if x.is_cuda:
            products = expanded(self.packed, self.levels) * x.float().view(-1, nf4.BLOCK)
            return (products.sum(-1) * self.peaks.float()).sum(-1)[None]
        return torch.ops.engine_torch.nf4_row(x[0].float(), self.packed, self.peaks, self.levels)[None]

    def restored(self, rows: slice) -> Tensor:
        if not self.packed.is_cuda:
            return torch.ops.engine_torch.nf4_widen(self.packed[rows], self.peaks[rows], self.levels)
        return (expanded(self.packed[rows], self.levels) * self.peaks[rows, :, None].float()).flatten(1)


def place(target: Tensor, values: np.ndarray) -> None:
    """On a processor without torch's threads, which would wait for those that quantise."""
    if target.is_cuda:
        target.copy_(torch.from_numpy(values))
    else:
        target.numpy()[...] = values


def packed(codes: np.ndarray) -> np.ndarray:
    """uint8 [rows, in] → int32 [rows, in/64, 8]: weight 8n + j of a run is nibble n of word j."""
    nibbles = codes.reshape(len(codes), -1, 8, 8)  # [rows, run, n, j]
    bytes_of_words = nibbles[:, :, 0::2] | nibbles[:, :, 1::2] << 4  # byte i of a word: nibbles 2i and 2i + 1
    return np.ascontiguousarray(bytes_of_words.swapaxes(2, 3)).view("<i4")[..., 0]


def expanded(words: Tensor, levels: Tensor) -> Tensor:
    """int32 [rows, runs, 8] → levels [rows, runs, 64]"""
    shifts = torch.arange(0, 32, 4, device=words.device, dtype=torch.int32)
    return levels[(words[:, :, None] >> shifts[:, None] & 15).flatten(2)]


def in_blocks(x: Tensor, shape: tuple[int, ...], restored: Callable[[slice], Tensor]) -> Tensor:
    """x · Wᵀ of several rows, [n, in] → [n, out]; as model.widened, which says why not F.linear."""
    (n_out, n_in), result = shape, x.new_empty(x.shape[0], shape[0], dtype=torch.float32)
    step = max(1, WIDENED_ELEMENTS // n_in)
    for rows in (slice(first, first + step) for first in range(0, n_out, step)):
        block = restored(rows)
        product = F.linear(x.half(), block.half()) if x.is_cuda else multiplied(x.float(), block)
        result[:, rows].copy_(product)
    return result


def multiplied(x: Tensor, block: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, block, None, "none", [], "")


MATRICES: dict[str, type[Int8 | Nf4]] = {"int8": Int8, "nf4": Nf4}


def prepare(kind: str, device: torch.device, cache: Path) -> None:
    """What a kind needs in this process before the first product."""
    if kind == "nf4" and device.type == "cpu":
        processor_kernels.build(cache)


def quantise(
    model: Llama, checkpoint: Checkpoint, kind: str, device: torch.device, progress: Callable[[float], None]
) -> None:
    """The matrices that load_model left without values, one after the other. Raises UnsupportedModel."""
    matrices = {name: module for name, module in model.named_modules() if isinstance(module, (Int8, Nf4))}
    wanted = {
        f"{name}.{part}": (parameter.shape, parameter.dtype)
        for name, matrix in matrices.items()
        for part, parameter in matrix.named_parameters()
    }
    model.load_state_dict(allocated(wanted, device), strict=False, assign=True)
    for done, (name, matrix) in enumerate(matrices.items(), 1):
        for rows, part in in_parts(checkpoint.tensor(name), kind, torch.get_num_threads()):
            matrix.fill(rows, part)
        if isinstance(matrix, Nf4):
            matrix.place_levels(device)
        progress(done / len(matrices))
