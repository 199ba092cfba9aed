"""A LLaMA-3 decoder as PyTorch memory: weights, key/value cache and the state between regions. One sequence.

The decoder is cut into regions, and every region reads and writes only what stands here, so that each can be run by
torch (torch_regions.py) or by tinygrad (tinygrad_regions.py) on the same memory. Left out: files, and the regions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from enginebench_models.config import LlamaConfig
from torch import Tensor

from engine_hybrid.quantize import Matrix, tensors


@dataclass(frozen=True, eq=False)
class Layer:
    """Projections [out, in] in the dtype of the weights or quantised, norms [dim] in float32."""

    input_layernorm: Tensor
    q_proj: Matrix
    k_proj: Matrix
    v_proj: Matrix
    o_proj: Matrix
    post_attention_layernorm: Tensor
    gate_proj: Matrix
    up_proj: Matrix
    down_proj: Matrix


@dataclass(frozen=True, eq=False)
class Weights:
    """`lm_head` is `embed_tokens` itself when they are tied."""

    embed_tokens: Tensor
    layers: list[Layer]
    norm: Tensor
    lm_head: Tensor

    def all(self) -> list[Tensor]:
        """Every tensor once."""
        tables = [self.embed_tokens] if self.lm_head is self.embed_tokens else [self.embed_tokens, self.lm_head]
        held = (getattr(layer, field.name) for layer in self.layers for field in fields(layer))
        return [*tables, self.norm, *(part for matrix in held for part in tensors(matrix))]


@dataclass(frozen=True, eq=False)
class State:
    """What the regions of one decode step hand to each other, at fixed addresses.

    x        [1, dim] float32, the residual stream
    queries  [n_heads, head_dim], rotated, in the dtype of the weights
    logits   [1, vocab] float32
    token    [1] int32, the greedy choice
    chunk    [chunk, dim] float32, the residual stream of a piece of the prompt
    """

    x: Tensor
    queries: Tensor
    logits: Tensor
    token: Tensor
    chunk: Tensor


@dataclass(frozen=True, eq=False)
class Llama:
    """caches  per layer [2, n_kv_heads, positions, head_dim] in the dtype of the weights: rotated keys, values
    rotary  [2, positions, head_dim/2] float32: cosines and sines
    """

    config: LlamaConfig
    weights: Weights
    caches: list[Tensor]
    rotary: Tensor
    state: State

    @property
    def positions(self) -> int:
        return self.rotary.shape[1]


def new_llama(config: LlamaConfig, weights: Weights, inverse_frequencies: Tensor, n_ctx: int, chunk: int) -> Llama:
    """Room for n_ctx positions, rounded up to whole chunks, beside the weights."""
    positions = -(-n_ctx // chunk) * chunk
    kind, device = weights.lm_head.dtype, weights.lm_head.device
    cache_shape = (2, config.n_kv_heads, positions, config.head_dim)
    state = State(
        x=torch.zeros(1, config.dim, device=device),
        queries=torch.zeros(config.n_heads, config.head_dim, dtype=kind, device=device),
        logits=torch.zeros(1, config.vocab_size, device=device),
        token=torch.zeros(1, dtype=torch.int32, device=device),
        chunk=torch.zeros(chunk, config.dim, device=device),
    )
    caches = [torch.zeros(cache_shape, dtype=kind, device=device) for _ in weights.layers]
    return Llama(config, weights, caches, rotary_table(inverse_frequencies, positions).to(device), state)


def rotary_table(inverse_frequencies: Tensor, positions: int) -> Tensor:
    """Angles in float64, as they grow with the position."""
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * inverse_frequencies.double()
    return torch.stack((angles.cos(), angles.sin())).float()
