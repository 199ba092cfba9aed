"""Executes a TensorRT network in NumPy, layer by layer, as the network itself says through TensorRT's interface.

It knows nothing of LLaMA: what it computes is what the builder was given. Every result has the type that the network
declares for it; products add in float32, as the GPU's do. Where a layer is asked for something not met so far, it
refuses. Values of types that NumPy lacks are float32 here, rounded to that type (`rounded`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from engine_tensorrt.model import LlamaNetwork
from engine_tensorrt.number_types import name_of
from enginebench_models.sixteen_bits import rounded_to_bfloat16

Array = npt.NDArray[Any]


class Interpreter:
    """`run` takes the inputs by name and gives the outputs by name; a cache comes back updated, its input as it was."""

    def __init__(self, trt: Any, made: LlamaNetwork) -> None:
        self.trt = trt
        self.network = network = made.network
        layers = [network.get_layer(i) for i in range(network.num_layers)]
        self.layers = [(layer.type, specialised(trt, layer)) for layer in layers]
        constants = [layer for kind, layer in self.layers if kind == trt.LayerType.CONSTANT]
        self.given = {layer.name: array for layer, array in zip(constants, made.arrays, strict=True)}
        self.evaluate: dict[Any, Callable[[Any, list[Array]], Array]] = {
            trt.LayerType.ACTIVATION: self.activation,
            trt.LayerType.ATTENTION_INPUT: self.attention,
            trt.LayerType.ATTENTION_OUTPUT: lambda layer, inputs: inputs[0],
            trt.LayerType.CAST: lambda layer, inputs: inputs[0],
            trt.LayerType.CONSTANT: self.constant,
            trt.LayerType.DEQUANTIZE: self.dequantize,
            trt.LayerType.ELEMENTWISE: self.elementwise,
            trt.LayerType.GATHER: self.gather,
            trt.LayerType.KV_CACHE_UPDATE: self.kv_cache_update,
            trt.LayerType.MATRIX_MULTIPLY: self.matrix_multiply,
            trt.LayerType.REDUCE: self.reduce,
            trt.LayerType.ROTARY_EMBEDDING: self.rotary_embedding,
            trt.LayerType.SELECT: lambda layer, inputs: np.where(*inputs),
            trt.LayerType.SHUFFLE: self.shuffle,
            trt.LayerType.SOFTMAX: self.softmax,
            trt.LayerType.TOPK: self.topk,
            trt.LayerType.UNARY: self.unary,
        }

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        network = self.network
        expected = {network.get_input(i).name for i in range(network.num_inputs)}
        assert set(inputs) == expected, set(inputs) ^ expected
        values: dict[str, Array] = {}
        for i in range(network.num_inputs):
            self.place(values, network.get_input(i), inputs[network.get_input(i).name])
        waiting, idle = deque(self.layers), 0
        while waiting:  # layers are in the order they were added, which is not always the order of the data
            kind, layer = waiting.popleft()
            names = [layer.get_input(i).name for i in range(layer.num_inputs) if layer.get_input(i) is not None]
            if all(name in values for name in names):
                self.place(values, output_of(layer), self.evaluate[kind](layer, [values[name] for name in names]))
                idle = 0
            else:
                waiting.append((kind, layer))
                idle += 1
                assert idle <= len(waiting), f"inputs of {layer.name} never come: {names}"
        return {name: values[name] for name in (network.get_output(i).name for i in range(network.num_outputs))}

    def place(self, values: dict[str, Array], tensor: Any, value: Array) -> None:
        """In the declared type; the declared shape has to fit."""
        shape = tuple(tensor.shape)
        fits = len(shape) == value.ndim and all(a in (b, -1) for a, b in zip(shape, value.shape, strict=True))
        assert fits, f"{tensor.name}: declared {shape}, computed {value.shape}"
        assert tensor.name not in values, f"two tensors are called {tensor.name}"
        values[tensor.name] = rounded(value, name_of(tensor.dtype) if tensor.dtype != self.trt.bool else "bool")

    def constant(self, layer: Any, inputs: list[Array]) -> Array:
        """As the network gives it back; it does not show types that NumPy lacks: then what it was given."""
        shape, given = tuple(layer.shape), self.given[layer.name]
        if isinstance(layer.weights, self.trt.Weights):
            assert layer.weights.nbytes == given.nbytes
            return decoded(given, name_of(layer.weights.dtype)).reshape(shape)
        assert np.shares_memory(layer.weights, given), layer.name
        return np.asarray(layer.weights).reshape(shape)

    def dequantize(self, layer: Any, inputs: list[Array]) -> Array:
        """[out, in] and a scale for each row"""
        values, scales = inputs
        assert (layer.axis, scales.shape) == (0, values.shape[:1])
        return np.asarray(values.astype(np.float32) * scales[:, None])

    def elementwise(self, layer: Any, inputs: list[Array]) -> Array:
        operations = self.trt.ElementWiseOperation
        known = {operations.SUM: np.add, operations.PROD: np.multiply, operations.LESS: np.less}
        assert layer.get_input(0).dtype == layer.get_input(1).dtype, layer.name
        return np.asarray(known[layer.op](*inputs))

    def unary(self, layer: Any, inputs: list[Array]) -> Array:
        operations = self.trt.UnaryOperation
        return np.asarray({operations.SQRT: np.sqrt, operations.RECIP: np.reciprocal}[layer.op](inputs[0]))

    def activation(self, layer: Any, inputs: list[Array]) -> Array:
        assert layer.type == self.trt.ActivationType.SIGMOID  # the function's type: it hides the layer's
        return np.asarray(1 / (1 + np.exp(-np.maximum(inputs[0].astype(np.float32), -80))))

    def reduce(self, layer: Any, inputs: list[Array]) -> Array:
        assert layer.op == self.trt.ReduceOperation.AVG
        return np.asarray(inputs[0].mean(axis=axes_of(layer.axes), keepdims=layer.keep_dims))

    def gather(self, layer: Any, inputs: list[Array]) -> Array:
        assert layer.mode == self.trt.GatherMode.DEFAULT
        assert inputs[1].min() >= 0
        return np.take(inputs[0], inputs[1], axis=layer.axis)

    def matrix_multiply(self, layer: Any, inputs: list[Array]) -> Array:
        assert layer.get_input(0).dtype == layer.get_input(1).dtype, layer.name
        sides = [
            side.swapaxes(-1, -2) if operation == self.trt.MatrixOperation.TRANSPOSE else side
            for side, operation in zip(inputs, (layer.op0, layer.op1), strict=True)
        ]
        return np.matmul(*(side.astype(np.float32) for side in sides))

    def shuffle(self, layer: Any, inputs: list[Array]) -> Array:
        x = inputs[0].transpose(order_of(layer.first_transpose, inputs[0].ndim))
        x = x.reshape(tuple(layer.reshape_dims))
        return x.transpose(order_of(layer.second_transpose, x.ndim))

    def softmax(self, layer: Any, inputs: list[Array]) -> Array:
        return softmax(inputs[0], axes_of(layer.axes))

    def topk(self, layer: Any, inputs: list[Array]) -> Array:
        assert (layer.op, layer.k) == (self.trt.TopKOperation.MAX, 1)
        return inputs[0].argmax(axes_of(layer.axes)[0], keepdims=True)

    def rotary_embedding(self, layer: Any, inputs: list[Array]) -> Array:
        """[b, heads, n, head_dim], cos and sin [positions, head_dim/2], position ids [b, n]"""
        x, cos, sin, positions = inputs
        assert not layer.interleaved
        assert layer.rotary_embedding_dim in (0, x.shape[-1])
        cos, sin = cos[positions][:, None], sin[positions][:, None]
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def kv_cache_update(self, layer: Any, inputs: list[Array]) -> Array:
        """cache [b, heads, positions, head_dim], update [b, heads, n, head_dim], write indices [b]"""
        cache, update, start = inputs
        assert layer.cache_mode == self.trt.KVCacheMode.LINEAR
        end = int(start[0]) + update.shape[2]
        assert cache.shape[0] == 1
        assert end <= cache.shape[2], f"writes up to {end} of {cache.shape[2]} positions"
        cache = cache.copy()
        cache[:, :, start[0] : end] = update
        return cache

    def attention(self, layer: Any, inputs: list[Array]) -> Array:
        """queries [b, heads, n, head_dim], keys and values [b, kv heads, m, head_dim], mask [b, 1, n, m]

        The mask is added. No scale of its own: the queries come scaled.
        """
        queries, keys, values, mask = inputs
        attention = layer.attention
        assert attention.norm_op == self.trt.AttentionNormalizationOp.SOFTMAX
        assert attention.causal_kind == self.trt.CausalMaskKind.NONE
        assert layer.get_input(3).dtype == layer.get_input(0).dtype
        group = queries.shape[1] // keys.shape[1]
        queries, mask = queries.astype(np.float32), mask.astype(np.float32)
        keys, values = (np.repeat(x.astype(np.float32), group, axis=1) for x in (keys, values))
        return np.asarray(softmax(queries @ keys.swapaxes(-1, -2) + mask, (-1,)) @ values)


def specialised(trt: Any, layer: Any) -> Any:
    """A network gives its layers as ILayer; what a kind of layer has of its own shows after this."""
    names = {
        "ACTIVATION": "IActivationLayer",
        "ATTENTION_INPUT": "IAttentionInputLayer",
        "CAST": "ICastLayer",
        "CONSTANT": "IConstantLayer",
        "DEQUANTIZE": "IDequantizeLayer",
        "ELEMENTWISE": "IElementWiseLayer",
        "GATHER": "IGatherLayer",
        "KV_CACHE_UPDATE": "IKVCacheUpdateLayer",
        "MATRIX_MULTIPLY": "IMatrixMultiplyLayer",
        "REDUCE": "IReduceLayer",
        "ROTARY_EMBEDDING": "IRotaryEmbeddingLayer",
        "SHUFFLE": "IShuffleLayer",
        "SOFTMAX": "ISoftMaxLayer",
        "TOPK": "ITopKLayer",
        "UNARY": "IUnaryLayer",
    }
    name = layer.type.name
    if name in names:
        layer.__class__ = getattr(trt, names[name])
    return layer


def rounded(values: Array, dtype: str) -> Array:
    """To the type called `dtype`; bfloat16 and FP8, which come from constants only, as float32."""
    if dtype == "bfloat16":
        return decoded(rounded_to_bfloat16(np.ascontiguousarray(values, np.float32)), dtype)
    return values if dtype == "float8_e4m3" else values.astype(dtype)


def decoded(stored: Array, dtype: str) -> Array:
    """The numbers of an array that carries bits of a type which NumPy lacks; others as they are."""
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return E4M3[stored] if dtype == "float8_e4m3" else stored


def e4m3_values() -> Array:
    """Of all 256 bit patterns, by the format's definition (OFP8 E4M3: bias 7, 0x7F and 0xFF are NaN)."""
    bits = np.arange(256)
    sign, exponent, mantissa = np.where(bits & 0x80, -1.0, 1.0), bits >> 3 & 0xF, bits & 7
    normal, subnormal = (1 + mantissa / 8) * 2.0 ** (exponent - 7), mantissa / 8 * 2.0**-6
    values = sign * np.where(exponent == 0, subnormal, normal)
    return np.where(bits & 0x7F == 0x7F, np.nan, values).astype(np.float32)


E4M3 = e4m3_values()


def output_of(layer: Any) -> Any:
    """The output that is used: of TopK, the indices."""
    return layer.get_output(layer.num_outputs - 1)


def axes_of(mask: int) -> tuple[int, ...]:
    return tuple(axis for axis in range(mask.bit_length()) if mask >> axis & 1)


def order_of(permutation: Any, ndim: int) -> tuple[int, ...]:
    return tuple(permutation)[:ndim]


def softmax(scores: Array, axes: tuple[int, ...]) -> Array:
    powers = np.exp(scores - scores.max(axis=axes, keepdims=True))
    return np.asarray(powers / powers.sum(axis=axes, keepdims=True))
