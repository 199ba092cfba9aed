"""Checkpoint → the torch tensors of model.py, in the file's own 16-bit type (float16 for files of other types).

On a processor a weight of that type stays where the mapped file has it; the others are copied once, a block of rows at
a time, and the file's pages are given back.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from enginebench_models import pages
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.tensor import Tensor as Stored
from torch import Tensor

from engine_hybrid.model import Layer, Weights
from engine_hybrid.quantize import Matrix, quantised

DTYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
BLOCK_BYTES = 16 << 20
LAYER_NAMES = {
    "input_layernorm": "input_layernorm",
    "post_attention_layernorm": "post_attention_layernorm",
    **{f"{name}_proj": f"self_attn.{name}_proj" for name in "qkvo"},
    **{f"{name}_proj": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}


def load_weights(
    checkpoint: Checkpoint, device: torch.device, progress: Callable[[float], None], kind: str = ""
) -> Weights:
    """Matrices in 16 bits, those of the blocks quantised to `kind`, norms in float32. Raises ModelError."""
    config, matrix = checkpoint.config, sixteen_bit(checkpoint)

    def load(name: str) -> Tensor:
        stored = checkpoint.tensor(name)
        return loaded(stored, matrix if len(stored.shape) > 1 else torch.float32, device)

    def load_held(name: str) -> Matrix:
        if not kind or not name.endswith("_proj"):
            return load(name)
        return quantised(checkpoint.tensor(name), kind, device)

    embed_tokens, layers = load("embed_tokens"), []
    for i in range(config.n_layers):
        layers.append(Layer(**{field: load_held(f"layers.{i}.{name}") for field, name in LAYER_NAMES.items()}))
        progress((i + 1) / config.n_layers)
    return Weights(embed_tokens, layers, load("norm"), embed_tokens if config.tied_embeddings else load("lm_head"))


def sixteen_bit(checkpoint: Checkpoint) -> torch.dtype:
    return torch.bfloat16 if checkpoint.tensor("embed_tokens").dtype == "bf16" else torch.float16


def loaded(stored: Stored, dtype: torch.dtype, device: torch.device) -> Tensor:
    if device.type == "cpu" and DTYPES.get(stored.dtype) == dtype:
        pages.read_now(stored.data)  # otherwise the first token would pay, and loading would look free
        return as_torch(stored)
    target = torch.empty(stored.shape, dtype=dtype, device=device)
    rows = max(1, BLOCK_BYTES * stored.shape[0] // stored.data.nbytes)
    for first, part in zip(range(0, stored.shape[0], rows), target.split(rows), strict=True):
        block = stored.rows(slice(first, first + rows))
        part.copy_(as_torch(block))
        pages.give_back(block.data)
    return target


def as_torch(stored: Stored) -> Tensor:
    """The values without a copy; block formats expanded to float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "array is not writable": nothing here writes to a weight
        values = torch.from_numpy(stored.data if stored.dtype in DTYPES else stored.float32())
    return values.view(torch.bfloat16) if stored.dtype == "bf16" else values
