"""Checkpoint → initializers of the graph: where the bytes of each weight are. Every layout quirk is here.

ONNX Runtime maps the model's own file where that holds ONNX's types: no second copy on disk, and none in memory where
the products take the stored type. Block formats are expanded here and given by address.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.tensor import Tensor
from onnx import TensorProto, helper

from engine_onnxruntime.model import Packed

ONNX_TYPES: dict[str, int] = {"f32": TensorProto.FLOAT, "f16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
READ_BYTES = 16 << 20
TABLE, OUTPUT = "embed_tokens", "lm_head"


@dataclass(frozen=True)
class Weights:
    """Initializers by the names of the checkpoint; a matrix may be cut into blocks of rows.

    tensors      `lm_head` is there for a tied model too
    folder       what the places of `tensors` are relative to
    values       arrays, by the names of initializers, of weights that lie in no file
    packed       matrices that are multiplied by in fewer bits (quantise.py), all of this kind
    interleaved  whether the rows of Q and K are in GGUF's order (rotated pairs adjacent): the file's own bytes are
    """

    tensors: Mapping[str, Sequence[TensorProto]]
    folder: Path
    values: Mapping[str, npt.NDArray[np.generic]]
    interleaved: bool
    packed: Mapping[str, Sequence[Packed]] = field(default_factory=dict)
    kind: str = ""


def locate_weights(
    checkpoint: Checkpoint, block_elements: int, expanded: npt.DTypeLike, progress: Callable[[float], None]
) -> Weights:
    """Matrices in blocks of about `block_elements`, 0: whole; block formats in the type `expanded`.

    `progress` gets the fraction read. Files are read once, so that a cold disk shows here and not in the session.
    """
    if checkpoint.block_formats():
        return expanded_weights(checkpoint, block_elements, np.dtype(expanded), progress)
    read_files(checkpoint.files, progress)
    files = {file: file.resolve() for file in checkpoint.files}  # ONNX Runtime refuses links that lead out of a folder
    folder = Path(os.path.commonpath([file.parent for file in files.values()]))

    def located(stored: Tensor, name: str, rows: range) -> TensorProto:
        row_bytes = stored.data.nbytes // stored.shape[0]
        tensor = initializer(name, (len(rows), *stored.shape[1:]), ONNX_TYPES[stored.dtype])
        tensor.external_data.add(key="location", value=str(files[stored.file].relative_to(folder)))
        tensor.external_data.add(key="offset", value=str(stored.offset + rows.start * row_bytes))
        tensor.external_data.add(key="length", value=str(len(rows) * row_bytes))
        return tensor

    tensors = cut_tensors(checkpoint, block_elements, located)
    return Weights(tensors, folder, {}, interleaved=checkpoint.format == "gguf")


def expanded_weights(
    checkpoint: Checkpoint, block_elements: int, dtype: np.dtype[np.generic], progress: Callable[[float], None]
) -> Weights:
    """Matrices in `dtype`, norms in float32, Q and K in Hugging Face's order."""
    names = checkpoint.names()
    whole: dict[str, npt.NDArray[np.generic]] = {}
    for done, name in enumerate(names, 1):
        values = checkpoint.tensor(name).float32()
        whole[name] = values.astype(dtype) if values.ndim > 1 else values
        progress(done / len(names))
    arrays: dict[str, npt.NDArray[np.generic]] = {}

    def given(stored: Tensor, name: str, rows: range) -> TensorProto:
        arrays[name] = whole[stored.name][rows.start : rows.stop]
        tensor = initializer(name, arrays[name].shape, helper.np_dtype_to_tensor_dtype(arrays[name].dtype))
        tensor.external_data.add(key="location", value="given by address")
        return tensor

    return Weights(cut_tensors(checkpoint, block_elements, given), Path(), arrays, interleaved=False)


def cut_tensors(
    checkpoint: Checkpoint, block_elements: int, place: Callable[[Tensor, str, range], TensorProto]
) -> dict[str, list[TensorProto]]:
    """`place` makes one initializer of the given rows. The table that ids are looked up in stays whole."""
    tensors = {}
    for name in checkpoint.names():
        stored = checkpoint.tensor(name)
        elements = 0 if name == TABLE else block_elements
        tensors[name] = [place(stored, label, rows) for label, rows in blocks(name, stored.shape, elements)]
    if checkpoint.config.tied_embeddings:
        table = checkpoint.tensor(TABLE)
        parts = blocks(OUTPUT, table.shape, block_elements)
        cut = len(parts) > 1
        tensors[OUTPUT] = [place(table, label, rows) for label, rows in parts] if cut else tensors[TABLE]
    return tensors


def blocks(name: str, shape: tuple[int, ...], elements: int) -> list[tuple[str, range]]:
    """Rows of nearly equal blocks of at most about `elements`, each with a name of its own."""
    n_rows, size = shape[0], int(np.prod(shape))
    count = min(-(-size // elements), n_rows) if elements and len(shape) > 1 else 1
    edges = [n_rows * part // count for part in range(count + 1)]
    if count == 1:
        return [(name, range(n_rows))]
    return [(f"{name}.{first}", range(first, end)) for first, end in pairwise(edges)]


def initializer(name: str, shape: tuple[int, ...], element_type: int) -> TensorProto:
    """A tensor whose bytes are elsewhere: onnx.proto3, TensorProto.external_data."""
    return TensorProto(name=name, dims=shape, data_type=element_type, data_location=TensorProto.EXTERNAL)


def read_files(files: Sequence[Path], progress: Callable[[float], None]) -> None:
    """Into the page cache."""
    total, done = sum(file.stat().st_size for file in files), 0
    buffer = bytearray(READ_BYTES)
    for file in files:
        with file.open("rb", buffering=0) as stream:
            while n_bytes := stream.readinto(buffer):
                done += n_bytes
                progress(min(1.0, done / total))
