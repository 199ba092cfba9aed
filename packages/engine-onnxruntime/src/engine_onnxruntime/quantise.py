"""Matrices of the blocks in 8 or 4 bits, as ONNX Runtime's own operators for such weights want them.

The numbers are those of the suite's recipes (enginebench_models.quantisation); only their packing is made here. What
is not quantised stays a place in the model's file. Operators: docs/ContribOperators.md of ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.eight_bit import Quantised as Rows
from enginebench_models.int4 import Int4
from enginebench_models.layout import expected_shapes
from enginebench_models.nf4 import Nf4
from enginebench_models.quantisation import in_parts, is_quantised
from enginebench_models.tensor import Tensor
from onnx import TensorProto, helper

from engine_onnxruntime.model import Packed
from engine_onnxruntime.weights import Weights, initializer

Array = npt.NDArray[np.generic]
KINDS = ("int8", "int4", "nf4")
NF4 = 1  # MatMulBnb4, quant_type
INT8_BLOCK, INT8_ZERO = 64, 128
"""MatMulNBits has no scale for a whole row: each block of it is given the row's."""
ROUNDED_ACTIVATIONS = 4  # MatMulNBits, accuracy_level: activations in 8 bits, by blocks
BNB4_ELEMENTS = 1 << 21
"""Of one MatMulBnb4: it expands its weights to float32, which then stay in the cache as they are multiplied."""


def quantised_weights(
    checkpoint: Checkpoint, located: Weights, kind: str, threads: int, progress: Callable[[float], None]
) -> Weights:
    """`located`: all weights as they are stored. Raises UnsupportedModel, as the recipe does."""
    names = [name for name, shape in expected_shapes(checkpoint.config).items() if is_quantised(name, shape)]
    tensors, values, packed = dict(located.tensors), dict[str, Array](), dict[str, list[Packed]]()
    for done, name in enumerate(names, 1):
        packed[name] = PACKED[kind](checkpoint.tensor(name), threads, values)
        inputs = [each for part in packed[name] for each in part.inputs]
        tensors[name] = [given(each, values[each]) for each in inputs]
        progress(done / len(names))
    return replace(located, tensors=tensors, values=values, packed=packed, kind=kind, interleaved=False)


def given(name: str, array: Array) -> TensorProto:
    tensor = initializer(name, array.shape, helper.np_dtype_to_tensor_dtype(array.dtype))
    tensor.external_data.add(key="location", value="given by address")
    return tensor


def packed_int8(stored: Tensor, threads: int, values: dict[str, Array]) -> list[Packed]:
    n_rows, n_columns = stored.shape
    n_blocks = -(-n_columns // INT8_BLOCK)
    codes = np.full((n_rows, n_blocks * INT8_BLOCK), INT8_ZERO, np.uint8)
    scales = np.empty((n_rows, n_blocks), np.float32)
    for rows, part in in_parts(stored, "int8", threads):
        assert isinstance(part, Rows)
        codes[rows, :n_columns] = part.values.view(np.uint8) ^ INT8_ZERO  # plus 128
        scales[rows] = part.scales[:, None]
    blocks = codes.reshape(n_rows, n_blocks, INT8_BLOCK)
    return [n_bits(stored, 8, INT8_BLOCK, blocks, scales, values)]


def packed_int4(stored: Tensor, threads: int, values: dict[str, Array]) -> list[Packed]:
    n_rows, n_columns = stored.shape
    codes, scales = np.empty((n_rows, n_columns // 2), np.uint8), np.empty((n_rows, n_columns // 32), np.float32)
    for rows, part in in_parts(stored, "int4", threads):
        assert isinstance(part, Int4)
        codes[rows] = part.codes[:, 0::2] | part.codes[:, 1::2] << 4
        scales[rows] = part.scales
    return [n_bits(stored, 4, 32, codes.reshape(n_rows, -1, 16), scales, values)]


def n_bits(stored: Tensor, bits: int, block: int, codes: Array, scales: Array, values: dict[str, Array]) -> Packed:
    """codes uint8 [out, blocks, bytes of a block], scales float32 [out, blocks]"""
    name = stored.name
    values |= {f"{name}.codes": codes, f"{name}.scales": scales.reshape(-1)}
    attributes = {
        "K": stored.shape[1],
        "N": stored.shape[0],
        "bits": bits,
        "block_size": block,
        "accuracy_level": ROUNDED_ACTIVATIONS,
    }
    return Packed("MatMulNBits", (f"{name}.codes", f"{name}.scales"), attributes)


def packed_nf4(stored: Tensor, threads: int, values: dict[str, Array]) -> list[Packed]:
    n_rows, n_columns = stored.shape
    codes, peaks = np.empty((n_rows, n_columns // 2), np.uint8), np.empty((n_rows, n_columns // 64), np.float32)
    for rows, part in in_parts(stored, "nf4", threads):
        assert isinstance(part, Nf4)
        codes[rows] = part.codes[:, 0::2] << 4 | part.codes[:, 1::2]
        peaks[rows] = part.peaks
    step, made = max(1, BNB4_ELEMENTS // n_columns), []
    for first in range(0, n_rows, step):
        rows, name = slice(first, first + step), f"{stored.name}.{first}"
        values |= {f"{name}.codes": codes[rows].reshape(-1), f"{name}.peaks": peaks[rows].reshape(-1)}
        attributes = {"K": n_columns, "N": len(codes[rows]), "block_size": 64, "quant_type": NF4}
        made.append(Packed("MatMulBnb4", (f"{name}.codes", f"{name}.peaks"), attributes))
    return made


PACKED: dict[str, Callable[[Tensor, int, dict[str, Array]], list[Packed]]] = {
    "int8": packed_int8,
    "int4": packed_int4,
    "nf4": packed_nf4,
}
