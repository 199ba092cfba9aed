"""A model of blocks, made by the gguf library: what engines expand, and what they do not quantise again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import quantize


def in_q8_0(source: Path, target: Path) -> Path:
    """`source`, a GGUF file, with its matrices in Q8_0. Returns `target`."""
    reader, writer = GGUFReader(source), GGUFWriter(target, "llama")
    for key, item in reader.fields.items():
        if not key.startswith(("GGUF.", "general.architecture")):
            element = item.types[-1] if len(item.types) > 1 else None
            writer.add_key_value(key, item.contents(), item.types[0], element)
    for tensor in reader.tensors:
        values, kind = np.asarray(tensor.data), GGMLQuantizationType.Q8_0
        if values.ndim > 1:
            writer.add_tensor(tensor.name, quantize(values.astype(np.float32), kind), raw_dtype=kind)
        else:
            writer.add_tensor(tensor.name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
