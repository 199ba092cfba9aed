"""The arbiter: a LLaMA-3 forward pass in NumPy float32 with a key/value cache.

Written to be read, over the (dequantised) weights of the very file an engine runs. Weights are expanded a
block of rows at a time, so memory stays near the size of the key/value cache and the logits. No sampling.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from enginebench_models.config import LlamaConfig
from enginebench_models.storage import Floats
from enginebench_models.tensor import Tensor

BLOCK_ELEMENTS = 1 << 21  # 8 MiB of float32: stays in the allocator's pool, and mostly in cache


class Weights(Protocol):
    """What the reference needs of a checkpoint."""

    @property
    def config(self) -> LlamaConfig: ...
    @property
    def inverse_frequencies(self) -> Floats: ...
    def tensor(self, name: str) -> Tensor: ...


class KvCache:
    """Keys (already rotated) and values of each layer, float32 [n_kv_heads, length, head_dim]."""

    def __init__(self, config: LlamaConfig) -> None:
        empty = np.empty((config.n_kv_heads, 0, config.head_dim), np.float32)
        self.keys: list[Floats] = [empty] * config.n_layers
        self.values: list[Floats] = [empty] * config.n_layers

    def __len__(self) -> int:
        return int(self.keys[0].shape[1])

    def append(self, layer: int, keys: Floats, values: Floats) -> tuple[Floats, Floats]:
        self.keys[layer] = np.concatenate([self.keys[layer], keys], axis=1)
        self.values[layer] = np.concatenate([self.values[layer], values], axis=1)
        return self.keys[layer], self.values[layer]


class Reference:
    """Teacher-forced logits of one model."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.config = weights.config

    def logits(self, ids: Sequence[int], positions: Sequence[int] | None = None) -> Floats:
        """Logits after each of the wanted positions (default: all) of a fresh sequence. float32 [n, vocab]."""
        hidden = self.forward(ids, KvCache(self.config))
        return self.output(hidden if positions is None else hidden[list(positions)])

    def forward(self, ids: Sequence[int], cache: KvCache, first_position: int | None = None) -> Floats:
        """Run tokens that continue `cache`, which grows by them. Normalised hidden states, float32 [n, dim]."""
        start = len(cache) if first_position is None else first_position
        angles = np.outer(np.arange(start, start + len(ids), dtype=np.float32), self.weights.inverse_frequencies)
        x = self.weights.tensor("embed_tokens").rows(np.asarray(ids, np.int64)).float32()
        for layer in range(self.config.n_layers):
            x += self.attention(layer, self.normalised(x, f"layers.{layer}.input_layernorm"), angles, cache)
            x += self.feed_forward(layer, self.normalised(x, f"layers.{layer}.post_attention_layernorm"))
        return self.normalised(x, "norm")

    def output(self, hidden: Floats) -> Floats:
        """Logits of hidden states as forward() returns them. float32 [n, vocab]."""
        return self.project(hidden, "embed_tokens" if self.config.tied_embeddings else "lm_head")

    def attention(self, layer: int, x: Floats, angles: Floats, cache: KvCache) -> Floats:
        config, prefix = self.config, f"layers.{layer}.self_attn."
        queries = rotated(heads(self.project(x, prefix + "q_proj"), config.n_heads), angles)
        keys = rotated(heads(self.project(x, prefix + "k_proj"), config.n_kv_heads), angles)
        values = heads(self.project(x, prefix + "v_proj"), config.n_kv_heads)
        keys, values = cache.append(layer, keys, values)
        mixed = attended(queries, keys, values)
        return self.project(mixed.swapaxes(0, 1).reshape(len(x), config.query_dim()), prefix + "o_proj")

    def feed_forward(self, layer: int, x: Floats) -> Floats:
        prefix = f"layers.{layer}.mlp."
        gated = silu(self.project(x, prefix + "gate_proj")) * self.project(x, prefix + "up_proj")
        return self.project(gated, prefix + "down_proj")

    def normalised(self, x: Floats, name: str) -> Floats:
        scale = 1 / np.sqrt(np.mean(np.square(x), axis=-1, keepdims=True) + np.float32(self.config.norm_eps))
        result: Floats = x * scale * self.weights.tensor(name).float32()
        return result

    def project(self, x: Floats, name: str) -> Floats:
        """x · Wᵀ. [n, in] -> [n, out]"""
        weight = self.weights.tensor(name)
        step = max(1, BLOCK_ELEMENTS // weight.shape[1])
        result = np.empty((len(x), weight.shape[0]), np.float32)
        for start in range(0, weight.shape[0], step):
            block = slice(start, start + step)
            result[:, block] = x @ weight.rows(block).float32().T
        return result


def silu(x: Floats) -> Floats:
    """x · sigmoid(x); the bound keeps exp finite where the result is 0 anyway."""
    result: Floats = x / (1 + np.exp(np.minimum(-x, 80)))
    return result


def heads(x: Floats, count: int) -> Floats:
    """[n, heads · head_dim] -> [heads, n, head_dim]"""
    return x.reshape(len(x), count, -1).swapaxes(0, 1)


def rotated(x: Floats, angles: Floats) -> Floats:
    """RoPE on half-split pairs (j, j + head_dim/2). x [heads, n, head_dim], angles [n, head_dim/2]"""
    first, second = np.split(x, 2, axis=-1)
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def attended(queries: Floats, keys: Floats, values: Floats) -> Floats:
    """Causal attention, each key/value head serving a run of query heads. [heads, n, head_dim]"""
    n_heads, n, head_dim = queries.shape
    n_kv_heads, length, _ = keys.shape
    grouped = queries.reshape(n_kv_heads, -1, head_dim)
    scores = (grouped @ keys.swapaxes(1, 2) / np.float32(math.sqrt(head_dim))).reshape(n_heads, n, length)
    future = np.arange(length) > np.arange(length - n, length)[:, None]
    scores[:, future] = -np.inf
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares = scores / scores.sum(axis=-1, keepdims=True)
    mixed: Floats = (shares.reshape(n_kv_heads, -1, length) @ values).reshape(n_heads, n, head_dim)
    return mixed
