"""Models made from a seed: the exact architecture of a real one with values that mean nothing.

The speed of a dense model does not depend on its values, so a benchmark needs neither network nor licence.
Whether an engine computes correctly does show: see synthetic_weights.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import GGUFWriter, TokenType

from enginebench_models.config import LlamaConfig
from enginebench_models.disk import check_room
from enginebench_models.errors import UnsupportedModel
from enginebench_models.gguf_layout import LAYER_NAMES, ROPE_DIVISORS, WHOLE_NAMES
from enginebench_models.hugging_face import hugging_face_config, safetensors_header
from enginebench_models.layout import SYNTHETIC_KEY, Vocabulary, expected_shapes
from enginebench_models.making import making
from enginebench_models.rope import base_frequencies, scaling_divisors
from enginebench_models.synthetic_vocabulary import synthetic_vocabulary
from enginebench_models.synthetic_weights import RECIPE, Bits, chunks
from enginebench_models.tokenizer import write_folder

ALIGNMENT = 32
HEADER_BYTES = 32 << 20
"""Room for the header and the tokenizer."""


def synthesise(config: LlamaConfig, path: Path, format: str = "gguf", seed: int = 0) -> Path:  # noqa: A002
    """Make a model at `path`: a GGUF file (F16), or a directory with model.safetensors (BF16).

    The same config, format and seed give the same bytes. What stands at `path` is replaced. Returns `path`.
    Raises NoRoom where the disk is too small.
    """
    path = Path(path)
    if format not in ("gguf", "safetensors"):
        raise UnsupportedModel(f"Synthetic models are written as gguf or safetensors, not as {format!r}.")
    with making(path) as scratch:
        check_room("A synthetic model of this shape", 2 * config.weight_elements() + HEADER_BYTES, path.parent)
        if format == "gguf":
            write_gguf(config, scratch / "model", seed)
            (scratch / "model").replace(path)
        else:
            write_safetensors(config, scratch / "model", seed)
            replace_folder(scratch / "model", path)
    return path


def replace_folder(new: Path, path: Path) -> None:
    if path.is_dir():
        path.replace(new.with_name("old"))
    new.replace(path)


def write_gguf(config: LlamaConfig, file: Path, seed: int) -> None:
    names = {canonical_name: gguf_name(canonical_name) for canonical_name in expected_shapes(config)}
    writer = GGUFWriter(file, "llama")
    try:
        add_metadata(writer, config, seed)
        add_vocabulary(writer, synthetic_vocabulary(config.vocab_size))
        directory(writer, config, names)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()
    with file.open("ab") as out:
        pad(out)
        if config.rope_scaling:
            out.write(divisors(config).tobytes())
            pad(out)
        for name in names:
            write_chunks(out, gguf_chunks(config, name, seed))
            pad(out)


def add_metadata(writer: GGUFWriter, config: LlamaConfig, seed: int) -> None:
    writer.add_name("synthetic")
    writer.add_string(SYNTHETIC_KEY, f"recipe {RECIPE}, seed {seed}")
    writer.add_file_type(1)  # llama.h, LLAMA_FTYPE_MOSTLY_F16
    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.max_context)
    writer.add_embedding_length(config.dim)
    writer.add_feed_forward_length(config.hidden_dim)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_vocab_size(config.vocab_size)


def add_vocabulary(writer: GGUFWriter, vocabulary: Vocabulary) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([TokenType(kind) for kind in vocabulary.types])
    writer.add_token_merges(vocabulary.merges)
    writer.add_bos_token_id(vocabulary.bos or 0)
    writer.add_eos_token_id(vocabulary.eos[0])
    writer.add_add_bos_token(True)
    writer.add_chat_template(vocabulary.chat_template or "")


def directory(writer: GGUFWriter, config: LlamaConfig, names: dict[str, str]) -> None:
    f32, f16 = np.dtype(np.float32), np.dtype(np.float16)
    if config.rope_scaling:
        writer.add_tensor_info(ROPE_DIVISORS, [config.head_dim // 2], f32, config.head_dim // 2 * 4)
    for name, shape in expected_shapes(config).items():
        dtype = f32 if len(shape) == 1 else f16
        writer.add_tensor_info(names[name], shape, dtype, int(np.prod(shape)) * dtype.itemsize)


def divisors(config: LlamaConfig) -> np.ndarray[Any, Any]:
    assert config.rope_scaling is not None
    return scaling_divisors(base_frequencies(config.rope_theta, config.head_dim), config.rope_scaling)


def gguf_chunks(config: LlamaConfig, name: str, seed: int) -> Iterator[np.ndarray[Any, Any]]:
    for chunk in chunks(config, name, seed, bfloat16=False):
        if chunk.ndim == 1:
            yield chunk.view(np.float16).astype("<f4")
        elif name.endswith(("q_proj", "k_proj")):
            yield interleave(chunk, config.head_dim)
        else:
            yield chunk


def interleave(rows: Bits, head_dim: int) -> Bits:
    """GGUF's row order of Q and K: `permute` in llama.cpp's convert_hf_to_gguf.py (LlamaModel)."""
    halves = rows.reshape(-1, 2, head_dim // 2, rows.shape[1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)


def gguf_name(name: str) -> str:
    whole = {ours: theirs for theirs, ours in WHOLE_NAMES.items()}
    layer = {ours: theirs for theirs, ours in LAYER_NAMES.items()}
    if name in whole:
        return whole[name]
    _, number, rest = name.split(".", 2)
    return f"blk.{number}.{layer[rest]}.weight"


def write_safetensors(config: LlamaConfig, folder: Path, seed: int) -> None:
    folder.mkdir()
    write_folder(synthetic_vocabulary(config.vocab_size), folder)
    settings = json.dumps(hugging_face_config(config), indent=2)
    (folder / "config.json").write_text(settings, encoding="utf-8")
    with (folder / "model.safetensors").open("wb") as out:
        made = {SYNTHETIC_KEY: f"recipe {RECIPE}, seed {seed}"}
        out.write(safetensors_header(expected_shapes(config), "bfloat16", made))
        for name in expected_shapes(config):
            write_chunks(out, chunks(config, name, seed, bfloat16=True))


def write_chunks(out: BinaryIO, parts: Iterator[np.ndarray[Any, Any]]) -> None:
    for part in parts:
        out.write(np.ascontiguousarray(part).data)


def pad(out: BinaryIO) -> None:
    out.write(bytes(-out.tell() % ALIGNMENT))
