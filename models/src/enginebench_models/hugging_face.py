"""A checkpoint as the Hugging Face folder that some engines insist on: its own, or one written from it.

A GGUF file is written once as config.json and model.safetensors, in 16 bits, under a name made from its fingerprint;
block formats are expanded to float16. There is no tokenizer in it: the engines here get token ids.
"""

import json
import struct
from collections.abc import Callable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from enginebench_models.checkpoint import Checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.disk import check_room
from enginebench_models.errors import UnsupportedModel
from enginebench_models.making import making
from enginebench_models.pages import give_back
from enginebench_models.rope import inverse_frequencies
from enginebench_models.sixteen_bits import sixteen_bits
from enginebench_models.tensor import Tensor

FORM = 1
"""Of what is written here; another number makes another name."""

BLOCK_BYTES = 16 << 20
ALIGNMENT = 32
HEADER_BYTES = 1 << 20
SAFETENSORS_NAMES = {"float16": "F16", "bfloat16": "BF16"}
ITEM_BYTES = {"F16": 2, "BF16": 2, "I32": 4, "I64": 8}
Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
"""Name → type and shape, in the order of the file."""


def folder_of(checkpoint: Checkpoint, cache: Path, progress: Callable[[float], None]) -> Path:
    """The checkpoint's own folder, else the copy of `written_folder`. Raises ModelError, OSError."""
    return own_folder(checkpoint) or written_folder(checkpoint, cache, progress)


def sixteen_bit_type(checkpoint: Checkpoint) -> str:
    """The file's own, "bfloat16" or "float16"; "float16" for files of other types."""
    return "bfloat16" if checkpoint.tensor("embed_tokens").dtype == "bf16" else "float16"


def own_folder(checkpoint: Checkpoint) -> Path | None:
    """None where one has to be written. Raises UnsupportedModel."""
    if checkpoint.format != "safetensors":
        return None
    folder = checkpoint.files[0].parent
    others = sorted(file.name for file in set(folder.glob("*.safetensors")) - set(checkpoint.files))
    if others:
        raise UnsupportedModel(
            f"{folder} also holds {', '.join(others)}, which the engine would read too: give the model its own folder."
        )
    return folder


def written_folder(checkpoint: Checkpoint, cache: Path, progress: Callable[[float], None]) -> Path:
    """Found in `cache`, or written there under a temporary name and renamed. `progress` takes a fraction.

    config.json knows the `llama3` rule of RoPE scaling only: a file whose frequencies follow another is refused.
    Raises ModelError, OSError.
    """
    check_frequencies(checkpoint)
    dtype = sixteen_bit_type(checkpoint)
    folder = cache / f"{checkpoint.fingerprint}-{dtype}-{FORM}"
    n_bytes = 2 * checkpoint.config.weight_elements()
    return kept(folder, n_bytes, lambda scratch: write(checkpoint, dtype, scratch, progress))


def kept(folder: Path, n_bytes: int, fill: Callable[[Path], None]) -> Path:
    """`folder`; if it is not there, filled under a temporary name and renamed. Raises NoRoom, OSError.

    `n_bytes`: of all tensors.
    """
    if folder.is_dir():
        return folder
    with making(folder) as scratch:
        check_room("A Hugging Face copy of the weights", n_bytes + HEADER_BYTES, folder.parent)
        fill(scratch)
        try:
            scratch.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process was faster
                raise
    return folder


def check_frequencies(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    ruled = inverse_frequencies(config.rope_theta, config.head_dim, config.rope_scaling)
    if not np.allclose(ruled, checkpoint.inverse_frequencies, rtol=1e-5, atol=0):
        raise UnsupportedModel(f"{checkpoint.path}: no rule of a config.json gives its RoPE frequencies.")


def write(checkpoint: Checkpoint, dtype: str, folder: Path, progress: Callable[[float], None]) -> None:
    settings = {**hugging_face_config(checkpoint.config), "dtype": dtype}
    (folder / "config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    shapes, done = checkpoint.shapes(), 0
    with (folder / "model.safetensors").open("wb") as out:
        out.write(safetensors_header(shapes, dtype))
        for name in shapes:
            done += write_tensor(out, checkpoint.tensor(name), dtype)
            progress(min(1.0, done / (2 * checkpoint.config.weight_elements())))


def hugging_face_config(config: LlamaConfig) -> dict[str, Any]:
    """config.json of transformers' LlamaForCausalLM."""
    vocabulary_size = config.vocab_size
    first_special = vocabulary_size - 256
    scaling = config.rope_scaling
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "bos_token_id": first_special,
        "eos_token_id": [first_special + 9, first_special + 1, first_special + 8],
        "dtype": "bfloat16",
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "hidden_size": config.dim,
        "intermediate_size": config.hidden_dim,
        "max_position_embeddings": config.max_context,
        "mlp_bias": False,
        "num_attention_heads": config.n_heads,
        "num_hidden_layers": config.n_layers,
        "num_key_value_heads": config.n_kv_heads,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": scaling
        and {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_context,
        },
        "tie_word_embeddings": config.tied_embeddings,
        "vocab_size": vocabulary_size,
    }


def safetensors_header(
    shapes: Mapping[str, tuple[int, ...]], dtype: str, metadata: Mapping[str, str] | None = None
) -> bytes:
    """Of tensors of one 16-bit type that follow in this order."""
    kind = SAFETENSORS_NAMES[dtype]
    return header({hugging_face_name(name): (kind, shape) for name, shape in shapes.items()}, metadata)


def header(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> bytes:
    """Of a safetensors file (its README, "Format")."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for name, (kind, shape) in tensors.items():
        end = offset + ITEM_BYTES[kind] * prod(shape)
        entries[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def data_bytes(tensors: Tensors) -> int:
    return sum(ITEM_BYTES[kind] * prod(shape) for kind, shape in tensors.values())


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
