"""Weights that an engine quantises itself, after reading 16 bits: which, in which kinds, and the reference over them.

The matrices of the blocks; table and output head stay as they are, as with bitsandbytes and in NVIDIA's tools. The
recipe of a kind (eight_bit.py, nf4.py, int4.py) is one for all engines, so the fidelity gate sees an engine's errors
and not the loss of quantising.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np

from enginebench_models import eight_bit
from enginebench_models.config import LlamaConfig
from enginebench_models.int4 import int4
from enginebench_models.nf4 import nf4
from enginebench_models.pages import give_back
from enginebench_models.reference import Weights
from enginebench_models.storage import Floats
from enginebench_models.tensor import Tensor

BLOCK_ELEMENTS = 1 << 18  # 1 MiB of float32: several passes over it stay in a core's cache


class Quantised(Protocol):
    """Rows of a matrix in one kind: eight_bit.Quantised, nf4.Nf4 or int4.Int4."""

    def float32(self) -> Floats: ...


KINDS: dict[str, Callable[[Floats], Quantised]] = {
    **{kind: partial(eight_bit.quantised, kind=kind) for kind in eight_bit.KINDS},
    "nf4": nf4,
    "int4": int4,
}


def is_quantised(name: str, shape: Sequence[int]) -> bool:
    return name.startswith("layers.") and len(shape) == 2


def in_parts(stored: Tensor, kind: str, n_threads: int) -> Iterator[tuple[slice, Quantised]]:
    """The matrix as blocks of its rows, quantised in threads as they are asked for, in order.

    At most a block for each thread is held beside what the caller keeps; the file's pages are given back.
    Raises UnsupportedModel.
    """
    step = max(1, BLOCK_ELEMENTS // stored.shape[1])
    blocks = [slice(first, min(first + step, stored.shape[0])) for first in range(0, stored.shape[0], step)]

    def quantise(rows: slice) -> Quantised:
        found = stored.rows(rows)
        values = found.float32()
        give_back(found.data)
        return KINDS[kind](values)

    with ThreadPoolExecutor(n_threads) as pool:
        for first in range(0, len(blocks), n_threads):
            together = blocks[first : first + n_threads]
            yield from zip(together, pool.map(quantise, together), strict=True)


class QuantisedWeights:
    """`weights` quantised and restored, for the reference."""

    def __init__(self, weights: Weights, kind: str) -> None:
        self.weights = weights
        self.kind = kind

    @property
    def config(self) -> LlamaConfig:
        return self.weights.config

    @property
    def inverse_frequencies(self) -> Floats:
        return self.weights.inverse_frequencies

    def tensor(self, name: str) -> Tensor:
        stored = self.weights.tensor(name)
        if not is_quantised(name, stored.shape):
            return stored
        restored = np.empty(stored.shape, np.float32)
        for rows, part in in_parts(stored, self.kind, os.cpu_count() or 1):
            restored[rows] = part.float32()
        return Tensor(name, stored.shape, "f32", restored, stored.file, stored.offset)
