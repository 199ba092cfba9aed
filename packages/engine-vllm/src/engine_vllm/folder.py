"""The Hugging Face model folder that vLLM reads: the checkpoint's own, or one written from it.

vLLM 0.32 reads no GGUF. Such a file is written once as config.json and model.safetensors into the cache, under a name
made from its fingerprint; block formats are expanded to float16. vLLM applies the `llama3` rule of config.json itself,
so a file whose RoPE frequencies follow another rule is refused.
"""

from __future__ import annotations

import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.errors import ModelError, NoRoom, UnsupportedModel
from enginebench_models.pages import give_back
from enginebench_models.rope import inverse_frequencies
from enginebench_models.synthesis import hugging_face_config
from enginebench_models.tensor import Tensor

FORM = 1  # of what is written here; another number makes another name
BLOCK_BYTES = 16 << 20
SAFETENSORS_NAMES = {"float16": "F16", "bfloat16": "BF16"}


def weight_dtype(checkpoint: Checkpoint) -> str:
    """16 bits: the file's own type; float16 for files of other types."""
    return "bfloat16" if checkpoint.tensor("embed_tokens").dtype == "bf16" else "float16"


def own_folder(checkpoint: Checkpoint) -> Path | None:
    """The folder that vLLM can read as it is; None where one has to be written. Raises UnsupportedModel."""
    if checkpoint.format != "safetensors":
        return None
    folder = checkpoint.files[0].parent
    others = sorted(file.name for file in set(folder.glob("*.safetensors")) - set(checkpoint.files))
    if others:
        raise UnsupportedModel(f"{folder} also holds {', '.join(others)}: vLLM would read it; give the model a folder.")
    return folder


def written_folder(checkpoint: Checkpoint, cache: Path, progress: Callable[[float], None]) -> Path:
    """Found in `cache`, or written there under a temporary name and renamed. Raises ModelError, OSError."""
    check_frequencies(checkpoint)
    dtype = weight_dtype(checkpoint)
    folder = cache / "hugging-face" / f"{checkpoint.fingerprint}-{dtype}-{FORM}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    check_room(checkpoint, folder.parent)
    scratch = Path(tempfile.mkdtemp(prefix=".", dir=folder.parent))
    try:
        write(checkpoint, dtype, scratch, progress)
        scratch.rename(folder)
    except OSError:
        if not folder.is_dir():  # another process was faster
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def check_frequencies(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    ruled = inverse_frequencies(config.rope_theta, config.head_dim, config.rope_scaling)
    if not np.allclose(ruled, checkpoint.inverse_frequencies, rtol=1e-5, atol=0):
        raise UnsupportedModel(f"{checkpoint.path}: no rule of a config.json gives its RoPE frequencies.")


def check_room(checkpoint: Checkpoint, folder: Path) -> None:
    needed, free = 2 * checkpoint.config.weight_elements() + (1 << 20), shutil.disk_usage(folder).free
    if needed > free:
        raise NoRoom(f"vLLM's copy of the weights takes {needed / 1e9:.1f} GB, {folder} has {free / 1e9:.1f} GB free.")


def write(checkpoint: Checkpoint, dtype: str, folder: Path, progress: Callable[[float], None]) -> None:
    settings = {**hugging_face_config(checkpoint.config), "dtype": dtype}
    (folder / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    done = 0
    with (folder / "model.safetensors").open("wb") as out:
        out.write(header(checkpoint, dtype))
        for name in checkpoint.names():
            done += write_tensor(out, checkpoint.tensor(name), dtype)
            progress(min(1.0, done / (2 * checkpoint.config.weight_elements())))


def header(checkpoint: Checkpoint, dtype: str) -> bytes:
    """huggingface/safetensors README, "Format"."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in checkpoint.names():
        shape = checkpoint.tensor(name).shape
        begin, end = end, end + 2 * int(np.prod(shape))
        entry = {"dtype": SAFETENSORS_NAMES[dtype], "shape": shape, "data_offsets": [begin, end]}
        entries[hugging_face_name(name)] = entry
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def hugging_face_name(name: str) -> str:
    return "lm_head.weight" if name == "lm_head" else f"model.{name}.weight"


def write_tensor(out: BinaryIO, tensor: Tensor, dtype: str) -> int:
    """Its bytes, a block of rows at a time. Returns their number."""
    n_bytes = 0
    for block in blocks(tensor):
        n_bytes += out.write(sixteen_bits(block, dtype).data)
        give_back(block.data)
    return n_bytes


def blocks(tensor: Tensor) -> Iterator[Tensor]:
    rows = tensor.shape[0]
    step = max(1, BLOCK_BYTES * rows // tensor.data.nbytes)
    for first in range(0, rows, step):
        yield tensor.rows(slice(first, first + step))


def sixteen_bits(tensor: Tensor, dtype: str) -> np.ndarray:
    """float16, or uint16 that holds bfloat16 bits. Raises ModelError for a value that float16 does not reach."""
    if (tensor.dtype, dtype) in (("f16", "float16"), ("bf16", "bfloat16")):
        return np.ascontiguousarray(tensor.data)
    if dtype == "bfloat16":
        return rounded_to_bfloat16(tensor.float32())
    with np.errstate(over="ignore"):
        values = tensor.float32().astype(np.float16)
    if not np.isfinite(values).all():
        raise ModelError(f"{tensor.name} holds a value beyond float16's 65504; vLLM needs a 16-bit type that has it.")
    return values


def rounded_to_bfloat16(values: np.ndarray) -> np.ndarray:
    """To nearest, ties to even, as torch does. float32 → uint16."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
