"""A checkpoint as a Hugging Face folder whose blocks' matrices are quantised: compressed-tensors, "pack-quantized".

The suite's own recipes, whose integers that form holds as they are: raised to be positive, and packed into 32 bits from
the lowest up. Scales are rounded to the model's 16-bit type, which is what the readers compute with. Source of the
form: compressed-tensors, compressors/pack_quantized. The folder is made once, as in hugging_face.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from enginebench_models import eight_bit
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.errors import UnsupportedModel
from enginebench_models.hugging_face import (
    SAFETENSORS_NAMES,
    Tensors,
    check_frequencies,
    data_bytes,
    header,
    hugging_face_config,
    hugging_face_name,
    kept,
    sixteen_bit_type,
    write_tensor,
)
from enginebench_models.int4 import BLOCK, Int4
from enginebench_models.quantisation import Quantised, in_parts, is_quantised
from enginebench_models.sixteen_bits import rounded_to_bfloat16
from enginebench_models.storage import AnyArray
from enginebench_models.tensor import Tensor

FORM = 1
"""Of what is written here; another number makes another name."""
WORD_BITS = 32


@dataclass(frozen=True)
class Form:
    """`group` neighbours of a row share a scale; None: the whole row."""

    bits: int
    group: int | None

    def scales(self, columns: int) -> int:
        return 1 if self.group is None else columns // self.group


FORMS = {"int8": Form(8, None), "int4": Form(4, BLOCK)}


def packed_folder(
    checkpoint: Checkpoint, kind: str, cache: Path, n_threads: int, progress: Callable[[float], None]
) -> Path:
    """`kind`: a key of FORMS. Raises ModelError, OSError."""
    check_frequencies(checkpoint)
    dtype = sixteen_bit_type(checkpoint)
    folder = cache / f"{checkpoint.fingerprint}-{kind}-{dtype}-{FORM}"
    n_bytes = data_bytes(tensors_of(checkpoint, kind, dtype))
    return kept(folder, n_bytes, lambda scratch: write(checkpoint, kind, dtype, scratch, n_threads, progress))


def write(
    checkpoint: Checkpoint, kind: str, dtype: str, folder: Path, n_threads: int, progress: Callable[[float], None]
) -> None:
    settings = {**hugging_face_config(checkpoint.config), "dtype": dtype, "quantization_config": told(FORMS[kind])}
    (folder / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    done = 0
    with (folder / "model.safetensors").open("wb") as out:
        out.write(header(tensors_of(checkpoint, kind, dtype)))
        for name, shape in checkpoint.shapes().items():
            if is_quantised(name, shape):
                write_packed(out, checkpoint.tensor(name), kind, dtype, n_threads)
            else:
                write_tensor(out, checkpoint.tensor(name), dtype)
            done += int(np.prod(shape))
            progress(min(1.0, done / checkpoint.config.weight_elements()))


def told(form: Form) -> dict[str, Any]:
    """quantization_config of config.json."""
    weights = {
        "num_bits": form.bits,
        "type": "int",
        "symmetric": True,
        "dynamic": False,
        "strategy": "channel" if form.group is None else "group",
        "group_size": form.group,
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
    }


def tensors_of(checkpoint: Checkpoint, kind: str, dtype: str) -> Tensors:
    """Of the file. Raises UnsupportedModel."""
    shapes = checkpoint.shapes().items()
    return dict(part for name, shape in shapes for part in parts(name, shape, FORMS[kind], dtype))


def parts(name: str, shape: tuple[int, ...], form: Form, dtype: str) -> list[tuple[str, tuple[str, tuple[int, ...]]]]:
    """What a weight becomes in the file: name, type and shape of each. Raises UnsupportedModel."""
    kind, there = SAFETENSORS_NAMES[dtype], hugging_face_name(name)
    if not is_quantised(name, shape):
        return [(there, (kind, shape))]
    rows, columns = shape
    if columns * form.bits % WORD_BITS or columns % (form.group or 1):
        raise UnsupportedModel(f"{name} has rows of {columns}, which {form.bits} bits do not pack: use 16 bits.")
    return [
        (f"{there}_packed", ("I32", (rows, columns * form.bits // WORD_BITS))),
        (f"{there}_scale", (kind, (rows, form.scales(columns)))),
        (f"{there}_shape", ("I64", (2,))),
    ]


def write_packed(out: BinaryIO, stored: Tensor, kind: str, dtype: str, n_threads: int) -> None:
    """In the order of `parts`, its rows as they are quantised."""
    scales = []
    for _, part in in_parts(stored, kind, n_threads):
        codes, found = codes_and_scales(part)
        out.write(packed(codes, FORMS[kind].bits).data)
        scales.append(found.astype(np.float32))
    values = np.concatenate(scales)
    out.write((values.astype(np.float16) if dtype == "float16" else rounded_to_bfloat16(values)).data)
    out.write(np.array(stored.shape, "<i8").data)


def codes_and_scales(part: Quantised) -> tuple[AnyArray, AnyArray]:
    """uint8 [out, in], where half the range stands for zero, and [out, n]."""
    if isinstance(part, Int4):
        return part.codes, part.scales
    assert isinstance(part, eight_bit.Quantised)
    return (part.values.astype(np.int16) + 128).astype(np.uint8), part.scales[:, None]


def packed(codes: AnyArray, bits: int) -> AnyArray:
    """uint8 [out, in] -> int32 [out, in · bits/32], the first code in the lowest bits."""
    octets = codes if bits == 8 else codes[:, 0::2] | codes[:, 1::2] << 4
    words: AnyArray = np.ascontiguousarray(octets).view("<i4")
    return words
