"""LLaMA as an ONNX graph: embedding, blocks over a key/value cache, output head and the greedy choice.

The graph only names its weights: `weights.py` says where their bytes are. Nothing here runs, reads files or measures.
Operators of the domain com.microsoft are ONNX Runtime's own (docs/ContribOperators.md in its repository).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from enginebench_models.config import LlamaConfig
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

MICROSOFT = "com.microsoft"
OPSET, IR_VERSION = 21, 10  # the newest for which every operator used here has both CPU and CUDA kernels
IDS, LOGITS, NEXT_ID = "input_ids", "logits", "next_id"
LAST, TOTAL, MASK = "last_position", "total_length", "attention_mask"


@dataclass(frozen=True)
class Style:
    """What differs between the uses of the graph.

    compute      ONNX type of activations, cache and products; a weight stored in another type is cast to it
    interleaved  whether rows of Q and K come in GGUF's order, rotated pairs adjacent
    masked       lengths come as the attention mask of ONNX Runtime GenAI, not as two numbers
    """

    compute: int
    interleaved: bool
    masked: bool = False


@dataclass(frozen=True)
class Packed:
    """Rows of a matrix as one operator multiplies by them: its weights by name, its attributes."""

    operator: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, int]


def cache_names(config: LlamaConfig, prefix: str) -> list[str]:
    """Of "past_key_values" or "present": layer by layer, key before value."""
    return [f"{prefix}.{layer}.{kind}" for layer in range(config.n_layers) for kind in ("key", "value")]


def llama_model(
    config: LlamaConfig,
    rotary: npt.NDArray[np.float32],
    style: Style,
    weights: Mapping[str, Sequence[TensorProto]],
    packed: Mapping[str, Sequence[Packed]] | None = None,
) -> ModelProto:
    """`rotary` [2, n_ctx, head_dim/2]: cosines and sines. `weights` by the names of the checkpoint, in blocks of rows;
    `packed`: those of them that are multiplied by in fewer bits.

    Inputs: input_ids int64 [1, n]; the cache, [1, n_kv_heads, n_ctx, head_dim] each; how long the sequence is after
    these ids. Outputs: logits [1, 1, vocab] after the last id, their argmax int64 [1, 1], the cache.
    """
    graph = Graph(config, style, weights, packed or {})
    graph.constant("cos", rotary[0])
    graph.constant("sin", rotary[1])
    graph.whole()
    cache: list[str | int] = ["batch", config.n_kv_heads, "n_ctx", config.head_dim]
    inputs = [value(IDS, TensorProto.INT64, ["batch", "n"]), *length_inputs(style)]
    inputs += [value(name, style.compute, cache) for name in cache_names(config, "past_key_values")]
    outputs = [value(LOGITS, style.compute, ["batch", 1, config.vocab_size])]
    if not style.masked:
        outputs.append(value(NEXT_ID, TensorProto.INT64, ["batch", 1]))
    outputs += [value(name, style.compute, cache) for name in cache_names(config, "present")]
    made = helper.make_graph([*graph.casts, *graph.nodes], "llama", inputs, outputs, initializer=graph.initializers)
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(made, opset_imports=opsets, ir_version=IR_VERSION, producer_name="enginebench")


def rotary_table(inverse_frequencies: npt.NDArray[np.float32], n_ctx: int) -> npt.NDArray[np.float32]:
    """Cosines and sines of every position: [2, n_ctx, head_dim/2]. Angles in float64, as they grow with n_ctx."""
    angles = np.outer(np.arange(n_ctx), inverse_frequencies.astype(np.float64))
    return np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)


def value(name: str, element_type: int, shape: Sequence[str | int]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, element_type, shape)


def length_inputs(style: Style) -> list[ValueInfoProto]:
    if style.masked:
        return [value(MASK, TensorProto.INT64, ["batch", "length"])]
    return [value(LAST, TensorProto.INT32, ["batch"]), value(TOTAL, TensorProto.INT32, [1])]


class Graph:
    """Nodes and constants as they are added. Values are named after what they hold."""

    def __init__(
        self,
        config: LlamaConfig,
        style: Style,
        weights: Mapping[str, Sequence[TensorProto]],
        packed: Mapping[str, Sequence[Packed]],
    ) -> None:
        self.config = config
        self.style = style
        self.weights = weights
        self.packed = packed
        self.nodes: list[NodeProto] = []
        self.casts: list[NodeProto] = []
        self.initializers = list({tensor.name: tensor for blocks in weights.values() for tensor in blocks}.values())

    def whole(self) -> None:
        if self.style.masked:
            self.lengths_of_mask()
        self.add("Gather", ["embed_tokens", IDS], ["embedded"])
        residual, update = self.computed("embedded", self.weights["embed_tokens"][0].data_type), ""
        for layer in range(self.config.n_layers):
            residual, update = self.block(f"layers.{layer}", residual, update)
        self.head(residual, update)

    def block(self, name: str, residual: str, update: str) -> tuple[str, str]:
        """[1, n, dim] twice → the same: what came so far, and what has to be added to it."""
        normed, residual = self.normed(f"{name}.input_layernorm", residual, update)
        attended = self.attention(name, normed)
        normed, residual = self.normed(f"{name}.post_attention_layernorm", residual, attended)
        return residual, self.feed_forward(f"{name}.mlp", normed)

    def attention(self, name: str, x: str) -> str:
        """Rotates, appends to the cache and attends in one operator: [1, n, dim] → [1, n, dim]"""
        layer, config = name.removeprefix("layers."), self.config
        q, k, v = (self.project(f"{name}.self_attn.{kind}_proj", x) for kind in "qkv")
        mixed = f"{name}.attended"
        self.add(
            "GroupQueryAttention",
            [q, k, v, *(f"past_key_values.{layer}.{kind}" for kind in ("key", "value")), LAST, TOTAL, "cos", "sin"],
            [mixed, *(f"present.{layer}.{kind}" for kind in ("key", "value"))],
            MICROSOFT,
            num_heads=config.n_heads,
            kv_num_heads=config.n_kv_heads,
            do_rotary=1,
            rotary_interleaved=int(self.style.interleaved),
        )
        return self.project(f"{name}.self_attn.o_proj", mixed)

    def feed_forward(self, name: str, x: str) -> str:
        """SwiGLU: [1, n, dim] → [1, n, dim]"""
        gate, up = self.project(f"{name}.gate_proj", x), self.project(f"{name}.up_proj", x)
        self.add("QuickGelu", [gate], [f"{name}.silu"], MICROSOFT, alpha=1.0)  # x · sigmoid(alpha · x)
        self.add("Mul", [f"{name}.silu", up], [f"{name}.gated"])
        return self.project(f"{name}.down_proj", f"{name}.gated")

    def head(self, residual: str, update: str) -> None:
        """Only the last position meets the output projection."""
        self.constant("last", np.array([-1], np.int64))
        self.add("Gather", [residual, "last"], ["last_residual"], axis=1)
        self.add("Gather", [update, "last"], ["last_update"], axis=1)
        normed, _ = self.normed("norm", "last_residual", "last_update")
        self.project("lm_head", normed, LOGITS)
        if not self.style.masked:
            self.add("ArgMax", [LOGITS], [NEXT_ID], axis=-1, keepdims=0)

    def normed(self, name: str, residual: str, update: str) -> tuple[str, str]:
        """RMSNorm of residual + update, and that sum."""
        weight, epsilon = self.weight(self.weights[name][0]), self.config.norm_eps
        if not update:
            self.add("SimplifiedLayerNormalization", [residual, weight], [f"{name}.normed"], epsilon=epsilon)
            return f"{name}.normed", residual
        outputs = [f"{name}.normed", "", "", f"{name}.residual"]
        self.add("SkipSimplifiedLayerNormalization", [residual, update, weight], outputs, MICROSOFT, epsilon=epsilon)
        return f"{name}.normed", f"{name}.residual"

    def project(self, name: str, x: str, output: str = "") -> str:
        """x · weightᵀ: [1, n, in] × [out, in] → [1, n, out], block by block."""
        output, blocks = output or f"{name}.projected", self.products(name)
        parts = [output] if len(blocks) == 1 else [f"{block.inputs[0]}.part" for block in blocks]
        for block, part in zip(blocks, parts, strict=True):
            self.add(block.operator, [x, *block.inputs], [part], MICROSOFT, **block.attributes)
        if len(parts) > 1:
            self.add("Concat", parts, [output], axis=-1)
        return output

    def products(self, name: str) -> Sequence[Packed]:
        if name in self.packed:
            return self.packed[name]
        return [Packed("FusedMatMul", (self.weight(block),), {"transB": 1}) for block in self.weights[name]]

    def weight(self, tensor: TensorProto) -> str:
        """A weight in the type of the products.

        Its cast comes before all other nodes of the graph: ONNX Runtime walks from the outputs to the inputs, the
        youngest node first (Graph::ReverseDFSFrom), so the oldest runs last: right before the product that needs it,
        when the memory of the block before is free again.
        """
        if tensor.data_type == self.style.compute:
            return tensor.name
        cast = f"{tensor.name}.cast"
        self.casts.append(helper.make_node("Cast", [tensor.name], [cast], cast, to=self.style.compute))
        return cast

    def computed(self, name: str, element_type: int) -> str:
        """An activation in the type of the products."""
        if element_type == self.style.compute:
            return name
        self.add("Cast", [name], [f"{name}.cast"], to=self.style.compute)
        return f"{name}.cast"

    def lengths_of_mask(self) -> None:
        """What GroupQueryAttention wants to know, from a mask of ones [1, length]."""
        self.constant("one", np.array([1], np.int64))
        self.add("ReduceSum", [MASK, "one"], ["mask_length"], keepdims=0)
        self.add("Sub", ["mask_length", "one"], ["mask_last"])
        self.add("Cast", ["mask_last"], [LAST], to=TensorProto.INT32)
        self.add("Shape", [MASK], ["mask_total"], start=1, end=2)
        self.add("Cast", ["mask_total"], [TOTAL], to=TensorProto.INT32)

    def add(self, operator: str, inputs: list[str], outputs: list[str], domain: str = "", **attributes: object) -> None:
        self.nodes.append(helper.make_node(operator, inputs, outputs, outputs[0], domain=domain, **attributes))

    def constant(self, name: str, values: npt.NDArray[np.generic]) -> None:
        tensor = numpy_helper.from_array(np.ascontiguousarray(values), name)
        if values.dtype == np.float32 and self.style.compute != TensorProto.FLOAT:
            tensor = helper.make_tensor(name, self.style.compute, values.shape, values.reshape(-1))
        self.initializers.append(tensor)
