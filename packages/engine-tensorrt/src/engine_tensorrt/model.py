"""LLaMA as a TensorRT network: embedding, blocks over a key/value cache, output head and the greedy choice.

Written layer by layer with INetworkDefinition, strongly typed; no ONNX. Products and cache have the type of the style,
everything between them is float32. 8-bit matrices are dequantized where they are used. Nothing here builds, runs, reads
files or measures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from enginebench_models.config import LlamaConfig
from enginebench_models.eight_bit import Quantised

from engine_tensorrt.number_types import carried, full

Array = npt.NDArray[Any]
IDS, POSITIONS, START, LAST = "ids", "positions", "start", "last"
LOGITS, NEXT_ID, NEXT_POSITIONS = "logits", "next_id", "next_positions"
UPDATED = "updated."
SCALES = ".scales"
MASKED = -60000.0  # added to a score: float16 holds it, and no exponent survives it


@dataclass(frozen=True)
class Style:
    """What differs between the uses of the network.

    dtype      "float32", "float16" or "bfloat16": products and cache
    n_ctx      positions that the cache holds
    fused      attention is TensorRT's own layer, which must find a dedicated kernel (16 bits only); else it is
               spelled out in products and a softmax
    eight_bit  "int8" or "fp8": the blocks' matrices as they are stored; "": in `dtype`
    last_only  logits after the last id; else after each
    """

    dtype: str
    n_ctx: int
    fused: bool
    eight_bit: str = ""
    last_only: bool = True


@dataclass(frozen=True)
class LlamaNetwork:
    """`arrays` are what the network's constants point to, in their order: they have to outlive it."""

    network: Any
    config: LlamaConfig
    style: Style
    arrays: list[Array]


def cache_names(config: LlamaConfig) -> list[str]:
    """Layer by layer, keys before values; the updated ones are called the same with UPDATED before it."""
    return [f"{kind}.{layer}" for layer in range(config.n_layers) for kind in ("keys", "values")]


def llama_network(
    trt: Any,
    network: Any,
    config: LlamaConfig,
    style: Style,
    weights: Mapping[str, Array | Quantised],
    inverse_frequencies: npt.NDArray[np.float32],
) -> LlamaNetwork:
    """Fill the empty `network`. `weights` as load_weights gives them.

    Inputs, int32: ids [n]; their positions [n]; start [1], the first of the positions; last [1], the row of ids whose
    logits are wanted. And the cache: keys.0, values.0, … [1, n_kv_heads, n_ctx, head_dim].
    Outputs: logits float32 [1, vocab] ([n, vocab] without last_only); next_id int32, their argmax; next_positions, the
    positions plus one; updated.keys.0, … at the same addresses as the cache.
    """
    graph = Graph(trt, network, config, style, weights)
    graph.whole(rotary_table(inverse_frequencies, style.n_ctx))
    return LlamaNetwork(network, config, style, graph.arrays)


def rotary_table(inverse_frequencies: npt.NDArray[np.float32], n_ctx: int) -> npt.NDArray[np.float32]:
    """Cosines and sines of every position, [2, n_ctx, head_dim/2]; angles in float64, as they grow with n_ctx."""
    angles = np.outer(np.arange(n_ctx), inverse_frequencies.astype(np.float64))
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


class Graph:
    """Layers as they are added. `arrays` keeps alive what constants point to."""

    def __init__(
        self, trt: Any, network: Any, config: LlamaConfig, style: Style, weights: Mapping[str, Array | Quantised]
    ) -> None:
        self.trt = trt
        self.network = network
        self.config = config
        self.style = style
        self.weights = weights
        self.compute = {"float32": trt.float32, "float16": trt.float16, "bfloat16": trt.bfloat16}[style.dtype]
        self.arrays: list[Array] = []

    def whole(self, rotary: npt.NDArray[np.float32]) -> None:
        trt, style = self.trt, self.style
        ids, positions = self.int_input(IDS, -1), self.int_input(POSITIONS, -1)
        self.start, last = self.int_input(START, 1), self.int_input(LAST, 1)
        self.cos, self.sin = (self.constant(name, table) for name, table in zip(("cos", "sin"), rotary, strict=True))
        self.positions = self.reshaped(positions, (1, -1))
        after = self.binary("SUM", positions, self.constant("one", np.ones(1, np.int32)))
        self.mask = self.hidden(after)
        table = self.weight("embed_tokens")
        x = self.cast(self.network.add_gather(table, ids, 0).get_output(0), trt.float32)
        for layer in range(self.config.n_layers):
            x = self.block(layer, x)
        if style.last_only:
            x = self.network.add_gather(x, last, 0).get_output(0)
        self.head(x, table)
        self.output(NEXT_POSITIONS, after)

    def hidden(self, after: Any) -> Any:
        """[n], the position after each query → what is added to scores, [1, 1, n, n_ctx]: 0 for the keys before it.

        Numbers and not booleans, which attention takes too: TensorRT for RTX 1.7 fails on those in models of several
        layers with heads 48 or 128 wide ("more than one op named").
        """
        keys = self.constant("key_positions", np.arange(self.style.n_ctx, dtype=np.int32)[None, None, None])
        seen = self.binary("LESS", keys, self.reshaped(after, (1, 1, -1, 1)))
        shown, hidden = (
            self.constant(name, full((1, 1, 1, 1), value, self.style.dtype))
            for name, value in (("shown", 0), ("hidden", MASKED))
        )
        return self.network.add_select(seen, shown, hidden).get_output(0)

    def block(self, layer: int, x: Any) -> Any:
        """The residual stream, float32 [n, dim] → the same."""
        name = f"layers.{layer}"
        x = self.binary("SUM", x, self.attention(layer, self.normed(f"{name}.input_layernorm", x)))
        return self.binary("SUM", x, self.feed_forward(name, self.normed(f"{name}.post_attention_layernorm", x)))

    def attention(self, layer: int, x: Any) -> Any:
        """[n, dim] → [n, dim]"""
        config, prefix = self.config, f"layers.{layer}.self_attn"
        scale = self.constant(f"{prefix}.scale", np.full((1, 1, 1, 1), 1 / math.sqrt(config.head_dim), np.float32))
        queries = self.rotated(self.heads(self.project(f"{prefix}.q_proj", x), config.n_heads))
        queries = self.cast(self.binary("PROD", queries, scale), self.compute)
        keys = self.cast(self.rotated(self.heads(self.project(f"{prefix}.k_proj", x), config.n_kv_heads)), self.compute)
        values = self.heads(self.project(f"{prefix}.v_proj", x), config.n_kv_heads)
        keys, values = self.cached(f"keys.{layer}", keys), self.cached(f"values.{layer}", values)
        attend = self.fused if self.style.fused else self.spelled_out
        mixed = attend(queries, keys, values)
        rows = self.reshaped(mixed, (-1, config.query_dim()), before=(0, 2, 1, 3))
        return self.cast(self.project(f"{prefix}.o_proj", rows), self.trt.float32)

    def cached(self, name: str, update: Any) -> Any:
        """Write [1, n_kv_heads, n, head_dim] from `start` on: the whole cache, in place."""
        trt, config = self.trt, self.config
        shape = (1, config.n_kv_heads, self.style.n_ctx, config.head_dim)
        cache = self.network.add_input(name, self.compute, shape)
        layer = self.network.add_kv_cache_update(cache, update, self.start, trt.KVCacheMode.LINEAR)
        return self.output(UPDATED + name, layer.get_output(0))

    def fused(self, queries: Any, keys: Any, values: Any) -> Any:
        """[1, heads, n, head_dim] over the cache, in one layer. The mask leaves nothing to its ideas of causality."""
        trt = self.trt
        kinds = (trt.AttentionNormalizationOp.SOFTMAX, trt.CausalMaskKind.NONE)
        layer = self.network.add_attention_v2(queries, keys, values, *kinds)
        layer.mask = self.mask
        layer.decomposable = False
        return layer.get_output(0)

    def spelled_out(self, queries: Any, keys: Any, values: Any) -> Any:
        """The same, key/value heads as a dimension that query heads are grouped by."""
        trt, config = self.trt, self.config
        n_kv, n_ctx, head_dim = config.n_kv_heads, self.style.n_ctx, config.head_dim
        queries = self.reshaped(queries, (n_kv, config.n_heads // n_kv, -1, head_dim))
        keys, values = (self.reshaped(x, (n_kv, 1, n_ctx, head_dim)) for x in (keys, values))
        scores = self.binary("SUM", self.product(queries, keys, transposed=True), self.mask)
        softmax = self.network.add_softmax(self.cast(scores, trt.float32))
        softmax.axes = 1 << 3
        mixed = self.product(self.cast(softmax.get_output(0), self.compute), values)
        return self.reshaped(mixed, (1, config.n_heads, -1, head_dim))

    def feed_forward(self, name: str, x: Any) -> Any:
        """SwiGLU: [n, dim] → float32 [n, dim]"""
        trt = self.trt
        gate, up = (self.cast(self.project(f"{name}.mlp.{kind}_proj", x), trt.float32) for kind in ("gate", "up"))
        sigmoid = self.network.add_activation(gate, trt.ActivationType.SIGMOID).get_output(0)
        gated = self.binary("PROD", self.binary("PROD", gate, sigmoid), up)
        return self.cast(self.project(f"{name}.mlp.down_proj", self.cast(gated, self.compute)), trt.float32)

    def head(self, x: Any, table: Any) -> None:
        """A tied table is the same constant: one copy of it."""
        trt = self.trt
        matrix = table if self.config.tied_embeddings else self.weight("lm_head")
        logits = self.cast(self.product(self.normed("norm", x), matrix, transposed=True), trt.float32)
        self.output(LOGITS, logits)
        choice = self.network.add_topk(logits, trt.TopKOperation.MAX, 1, 1 << 1).get_output(1)
        self.output(NEXT_ID, self.reshaped(choice, (-1,)))

    def normed(self, name: str, x: Any) -> Any:
        """RMSNorm: float32 [n, dim] → [n, dim] in the type of products."""
        trt = self.trt
        epsilon = self.constant(f"{name}.epsilon", np.full((1, 1), self.config.norm_eps, np.float32))
        mean = self.network.add_reduce(self.binary("PROD", x, x), trt.ReduceOperation.AVG, 1 << 1, True).get_output(0)
        scale = self.unary("RECIP", self.unary("SQRT", self.binary("SUM", mean, epsilon)))
        return self.cast(self.binary("PROD", self.binary("PROD", x, scale), self.weight(name)), self.compute)

    def rotated(self, x: Any) -> Any:
        """RoPE on half-split pairs, in float32: [1, heads, n, head_dim] → the same."""
        x = self.cast(x, self.trt.float32)
        layer = self.network.add_rotary_embedding(x, self.cos, self.sin, False, self.config.head_dim)
        layer.set_input(3, self.positions)
        return layer.get_output(0)

    def heads(self, x: Any, count: int) -> Any:
        """[n, heads · head_dim] → [1, heads, n, head_dim]"""
        return self.reshaped(x, (1, -1, count, self.config.head_dim), after=(0, 2, 1, 3))

    def project(self, name: str, x: Any) -> Any:
        """x · weightᵀ: [n, in] × [out, in] → [n, out]"""
        return self.product(x, self.weight(name), transposed=True)

    def product(self, a: Any, b: Any, transposed: bool = False) -> Any:
        plain, turned = self.trt.MatrixOperation.NONE, self.trt.MatrixOperation.TRANSPOSE
        return self.network.add_matrix_multiply(a, plain, b, turned if transposed else plain).get_output(0)

    def binary(self, operation: str, a: Any, b: Any) -> Any:
        return self.network.add_elementwise(a, b, getattr(self.trt.ElementWiseOperation, operation)).get_output(0)

    def unary(self, operation: str, x: Any) -> Any:
        return self.network.add_unary(x, getattr(self.trt.UnaryOperation, operation)).get_output(0)

    def cast(self, x: Any, dtype: Any) -> Any:
        return x if x.dtype == dtype else self.network.add_cast(x, dtype).get_output(0)

    def reshaped(
        self, x: Any, shape: tuple[int, ...], before: tuple[int, ...] = (), after: tuple[int, ...] = ()
    ) -> Any:
        """-1 stands for the one dimension that follows from the others; transposed before or after."""
        layer = self.network.add_shuffle(x)
        if before:
            layer.first_transpose = before
        layer.reshape_dims = shape
        if after:
            layer.second_transpose = after
        return layer.get_output(0)

    def weight(self, name: str) -> Any:
        stored = self.weights[name]
        return self.dequantized(name, stored) if isinstance(stored, Quantised) else self.constant(name, stored)

    def dequantized(self, name: str, stored: Quantised) -> Any:
        """[out, in], in the type of products; a scale for each row."""
        values, scales = self.constant(name, stored.values), self.constant(name + SCALES, stored.scales)
        layer = self.network.add_dequantize(values, scales, self.compute)
        layer.axis = 0
        return layer.get_output(0)

    def constant(self, name: str, values: Array) -> Any:
        values = np.ascontiguousarray(values)
        self.arrays.append(values)
        weights = self.trt.Weights(carried(self.trt, values), values.ctypes.data, values.size)
        layer = self.network.add_constant(values.shape, weights)
        layer.name = name
        return layer.get_output(0)

    def int_input(self, name: str, size: int) -> Any:
        return self.network.add_input(name, self.trt.int32, (size,))

    def output(self, name: str, tensor: Any) -> Any:
        tensor.name = name
        self.network.mark_output(tensor)
        return tensor
