"""LLaMA on tinygrad: the key/value cache, the blocks and the output head, as lazy tensors.

One sequence without a batch dimension. Nothing here runs, compiles, reads files or measures: `weights.py` fills the
tensors, `graphs.py` captures the functions. Rotary embedding is half-split, as in Hugging Face checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from enginebench_models.config import LlamaConfig
from tinygrad import Tensor, UOp, dtypes, function

from engine_tinygrad.quantize import Int8, Nf4

Matrix: TypeAlias = Tensor | Int8 | Nf4
UNROLLED = 32  # the longest sum that tinygrad's heuristics unroll completely (codegen/opt/heuristic.py)


@dataclass(frozen=True)
class LayerWeights:
    """Norms are float32 [dim], projections float16 [out, in] or quantised."""

    input_layernorm: Tensor
    q_proj: Matrix
    k_proj: Matrix
    v_proj: Matrix
    o_proj: Matrix
    post_attention_layernorm: Tensor
    gate_proj: Matrix
    up_proj: Matrix
    down_proj: Matrix


@dataclass(frozen=True)
class Weights:
    """`lm_head` is `embed_tokens` itself when they are tied."""

    embed_tokens: Tensor
    layers: list[LayerWeights]
    norm: Tensor
    lm_head: Tensor


class Llama:
    """Activations are float32 [n, dim] for n consecutive positions from `start`; the cache is float16.

    rotary  float32 [2, n_ctx, head_dim/2]: cosines and sines
    lanes   see `project`
    """

    def __init__(self, config: LlamaConfig, weights: Weights, rotary: Tensor, lanes: int) -> None:
        self.config = config
        self.weights = weights
        self.lanes = lanes
        self.devices = devices_of(rotary)
        self.output = cut_by_rows(weights.lm_head)
        self.caches = [new_cache(config, int(rotary.shape[1]), self.devices) for _ in weights.layers]
        self.blocks = [
            block(config, layer, cache, rotary, lanes) for layer, cache in zip(weights.layers, self.caches, strict=True)
        ]

    def embed(self, tokens: Tensor) -> Tensor:
        """int32 [n] → [n, dim]"""
        return self.weights.embed_tokens[tokens].float()

    def embed_one(self, token: UOp) -> Tensor:
        """A bound variable → [1, dim]"""
        return self.weights.embed_tokens[token : token + 1].float()

    def hidden(self, x: Tensor, start: UOp) -> Tensor:
        """All blocks: [n, dim] → [n, dim]. Writes keys and values at start … start + n - 1."""
        for run_block in self.blocks:
            x = run_block(x, start)
        return x

    def head(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[1, dim] → greedy id, int32 [1], and logits, float32 [1, vocab]."""
        x = rms_norm(x, self.weights.norm, self.config.norm_eps)
        logits = project(x, self.output, self.lanes).to(self.devices[0]).contiguous()
        return logits.argmax(-1).cast(dtypes.int32), logits


def devices_of(tensor: Tensor) -> tuple[str, ...]:
    return tensor.device if isinstance(tensor.device, tuple) else (str(tensor.device),)


def cut_by_rows(matrix: Tensor) -> Tensor:
    """A matrix that is whole on several devices, as one of which each uses its own rows; nothing is copied."""
    devices = devices_of(matrix)
    if len(devices) == 1 or matrix.uop.axis is not None or int(matrix.shape[0]) % len(devices):
        return matrix
    return Tensor(matrix.uop.shard(devices, 0))


def new_cache(config: LlamaConfig, n_ctx: int, devices: tuple[str, ...]) -> Tensor:
    """Keys and values of one layer: float16 [2, n_kv_heads, n_ctx, head_dim], its heads divided among the devices."""
    shape = (2, config.n_kv_heads, n_ctx, config.head_dim)
    zeros = Tensor.zeros(*shape, dtype=dtypes.float16, device=devices[0]).contiguous()
    return zeros.shard(devices, axis=1).contiguous().realize()


def rotary_table(inverse_frequencies: npt.NDArray[np.float32], n_ctx: int) -> npt.NDArray[np.float32]:
    """Cosines and sines of every position: [2, n_ctx, head_dim/2]. Angles in float64, as they grow with n_ctx."""
    angles = np.arange(n_ctx)[:, None] * inverse_frequencies.astype(np.float64)
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def block(
    config: LlamaConfig, weights: LayerWeights, cache: Tensor, rotary: Tensor, lanes: int
) -> Callable[[Tensor, UOp], Tensor]:
    """One transformer block. `function` makes tinygrad schedule the blocks once, not once per layer."""

    @function(precompile=True, allow_implicit=True)
    def run(x: Tensor, start: UOp) -> Tensor:
        normed = rms_norm(x, weights.input_layernorm, config.norm_eps)
        x = x + attention(config, weights, cache, rotary, lanes, normed, start)
        normed = rms_norm(x, weights.post_attention_layernorm, config.norm_eps)
        return (x + feed_forward(weights, lanes, normed)).contiguous()

    return run


def attention(
    config: LlamaConfig,
    weights: LayerWeights,
    cache: Tensor,
    rotary: Tensor,
    lanes: int,
    x: Tensor,
    start: UOp,
) -> Tensor:
    """Grouped-query attention over the positions 0 … start + n - 1: [n, dim] → [n, dim]."""
    n, end = int(x.shape[0]), start + x.shape[0]
    cos, sin = rotary[0, start:end], rotary[1, start:end]
    q = rotate(heads(project(x, weights.q_proj, lanes), config.n_heads), cos, sin)
    k = rotate(heads(project(x, weights.k_proj, lanes), config.n_kv_heads), cos, sin)
    v = heads(project(x, weights.v_proj, lanes), config.n_kv_heads)

    written = write(cache, Tensor.stack(k, v), start)
    mask = Tensor.full((1, n, end), float("-inf"), device=x.device, buffer=False).triu(start + 1) if n > 1 else None
    y = q.scaled_dot_product_attention(written[0, :, 0:end], written[1, :, 0:end], attn_mask=mask, enable_gqa=True)
    y = y.transpose(0, 1).reshape(n, config.n_heads * config.head_dim).contiguous()
    return project(y, weights.o_proj, lanes)


def write(cache: Tensor, keys_values: Tensor, start: UOp) -> Tensor:
    """The cache after [2, n_kv_heads, n, head_dim] were stored at `start`.

    Spelled as tinygrad.llm does: `assign` on a view does not work inside `function`.
    """
    target = cache[:, :, start : start + keys_values.shape[2]]
    return Tensor(cache.uop.after(target.uop.store(keys_values.cast(cache.dtype).uop)))


def heads(x: Tensor, n_heads: int) -> Tensor:
    """[n, n_heads * head_dim] → [n_heads, n, head_dim]"""
    return x.reshape(x.shape[0], n_heads, -1).transpose(0, 1)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of [n_heads, n, head_dim]: dimension i pairs with i + head_dim/2."""
    first, second = x.chunk(2, dim=-1)
    return (first * cos - second * sin).cat(second * cos + first * sin, dim=-1)


def feed_forward(weights: LayerWeights, lanes: int, x: Tensor) -> Tensor:
    """SwiGLU: [n, dim] → [n, dim]"""
    gate = project(x, weights.gate_proj, lanes).silu()
    return project((gate * project(x, weights.up_proj, lanes)).contiguous(), weights.down_proj, lanes)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return (x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight).contiguous()


def project(x: Tensor, weight: Matrix, lanes: int) -> Tensor:
    """x · weightᵀ: [n, in] × [out, in] → [n, out], summed in float32.

    The `contiguous` at the end of every branch keeps what follows out of the kernel, which would otherwise repeat the
    whole product for each use of it.

    One row, `lanes` > 0: a compiler may not reorder a float sum, so a plain dot product is one chain of scalar
    additions. Here every row is added up in `lanes` independent partial sums, neighbours in memory, which clang turns
    into vector instructions: 26 instead of 12 GB/s on 2 cores of a Zen 5.
    """
    if isinstance(weight, Nf4):
        return weight.row(x) if x.shape[0] == 1 else project(x, weight.restored(), lanes)
    matrix, scales = (weight.values, weight.scales) if isinstance(weight, Int8) else (weight, None)
    product = summed(x, matrix, lanes)
    return (product if scales is None else product * scales).contiguous()


def summed(x: Tensor, matrix: Tensor, lanes: int) -> Tensor:
    n_out, n_in = int(matrix.shape[0]), int(matrix.shape[1])
    own = n_in // len(devices_of(matrix)) if matrix.uop.axis == 1 else n_in  # a partial sum stays on one device
    if x.shape[0] != 1 or not lanes or own % lanes:
        return x.linear(matrix.T)
    steps = largest_divisor(own // lanes, UNROLLED)
    split = (n_in // (lanes * steps), steps, lanes)
    partial = (x.reshape(1, *split) * matrix.reshape(n_out, *split)).sum(2).contiguous()
    return partial.sum((1, 2)).reshape(1, n_out)


def largest_divisor(number: int, limit: int) -> int:
    return next(d for d in range(limit, 0, -1) if number % d == 0)
