"""GGUF files for tests, written with the gguf library: a small LLaMA model with one thing changed at a time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from enginebench_models.config import LlamaConfig
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize

Edit = Callable[[dict[str, Any], dict[str, np.ndarray]], None]


def write_gguf(path: Path, config: LlamaConfig, edit: Edit | None = None, architecture: str = "llama") -> Path:
    """Random weights of a shape; `edit` may change metadata and tensors (by GGUF name) before they are written."""
    metadata, tensors = metadata_of(config), tensors_of(config)
    if edit:
        edit(metadata, tensors)
    writer = GGUFWriter(path, architecture)
    for key, value in metadata.items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32, np.uint16: writer.add_uint16}[
            type(value)
        ]
        add(key, value)
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def metadata_of(config: LlamaConfig) -> dict[str, Any]:
    return {
        "llama.embedding_length": config.dim,
        "llama.block_count": config.n_layers,
        "llama.attention.head_count": config.n_heads,
        "llama.attention.head_count_kv": config.n_kv_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.value_length": config.head_dim,
        "llama.feed_forward_length": config.hidden_dim,
        "llama.context_length": config.max_context,
        "llama.rope.freq_base": config.rope_theta,
        "llama.attention.layer_norm_rms_epsilon": config.norm_eps,
    }


def tensors_of(config: LlamaConfig) -> dict[str, np.ndarray]:
    dim, kv, heads, hidden = config.dim, config.kv_dim(), config.query_dim(), config.hidden_dim
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (config.vocab_size, dim)}
    for layer in range(config.n_layers):
        rows = {"attn_q": (heads, dim), "attn_k": (kv, dim), "attn_v": (kv, dim), "attn_output": (dim, heads)}
        rows |= {"ffn_gate": (hidden, dim), "ffn_up": (hidden, dim), "ffn_down": (dim, hidden)}
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in rows.items()}
        shapes |= {f"blk.{layer}.{name}.weight": (dim,) for name in ("attn_norm", "ffn_norm")}
    shapes["output_norm.weight"] = (dim,)
    if not config.tied_embeddings:
        shapes["output.weight"] = (config.vocab_size, dim)
    dice = np.random.default_rng(3)
    return {
        name: dice.standard_normal(shape).astype(np.float16 if len(shape) > 1 else np.float32)
        for name, shape in shapes.items()
    }


def write_q8_0(path: Path, config: LlamaConfig) -> dict[str, np.ndarray]:
    """Matrices as Q8_0 blocks; returns the float32 values that were quantised."""
    tensors = {name: values.astype(np.float32) for name, values in tensors_of(config).items()}
    writer = GGUFWriter(path, "llama")
    for key, value in metadata_of(config).items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    for name, values in tensors.items():
        if values.ndim == 1:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, quantize(values, GGMLQuantizationType.Q8_0), raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return tensors
