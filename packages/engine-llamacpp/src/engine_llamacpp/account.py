"""What is really in use, read off the tensors of one decoding step's graph: dtypes, bytes, where the weights lie.

llama.cpp has no function for that, but it shows every node of a graph to a callback before it computes it. The step is
run in a small sequence of its own, because the callback stays for a sequence's life.
"""

from __future__ import annotations

import ctypes
from array import array
from collections import Counter
from dataclasses import dataclass, field

from .library import ggml
from .model import CELLS, Model, Sequence

NAMES = {"f32": "float32", "f16": "float16", "bf16": "bfloat16"}
WEIGHTS = 1  # ggml-backend.h, enum ggml_backend_buffer_usage


class Tensor(ctypes.Structure):
    """ggml.h, struct ggml_tensor."""


Tensor._fields_ = [
    ("type", ctypes.c_int),
    ("buffer", ctypes.c_void_p),
    ("ne", ctypes.c_int64 * 4),
    ("nb", ctypes.c_size_t * 4),
    ("op", ctypes.c_int),
    ("op_params", ctypes.c_int32 * 16),
    ("flags", ctypes.c_int32),
    ("src", ctypes.POINTER(Tensor) * 10),
    ("view_src", ctypes.POINTER(Tensor)),
    ("view_offs", ctypes.c_size_t),
    ("data", ctypes.c_void_p),
    ("name", ctypes.c_char * 64),
]


@dataclass(frozen=True)
class Held:
    """`weight_dtype` names the types of the matrices, the one with the most bytes first."""

    weight_dtype: str
    activation_dtype: str
    kv_dtype: str
    precision: str
    device: str
    weights_bytes: int
    read_bytes_per_token: int
    kv_bytes_per_position: int
    flash_attention_layers: int


@dataclass
class Graph:
    """What one step's nodes refer to; keyed by address, so that nothing counts twice."""

    read: dict[int, Tensor] = field(default_factory=dict)
    looked_up: dict[int, Tensor] = field(default_factory=dict)
    matrices: dict[int, Tensor] = field(default_factory=dict)
    activations: set[str] = field(default_factory=set)
    cache: dict[int, Tensor] = field(default_factory=dict)
    flash_attention_layers: int = 0

    def see(self, address: int, ask: bool, _: object) -> bool:
        """False: the callback does not need the node's result."""
        if ask:
            node = Tensor.from_address(address)
            self._see(ggml().op_name(node.op).decode(), [source.contents for source in node.src if source])
        return False

    def _see(self, name: str, sources: list[Tensor]) -> None:
        for source in filter(is_weight, sources):
            (self.looked_up if name == "GET_ROWS" else self.read)[source.data] = source
        if name == "MUL_MAT" and is_weight(sources[0]):
            self.matrices[sources[0].data] = sources[0]
            self.activations.add(type_name(sources[1]))
        if name == "FLASH_ATTN_EXT":
            self.flash_attention_layers += 1
            self.cache |= {whole.data: whole for whole in map(root, sources[1:3])}


def of(model: Model, threads: int) -> Held:
    """Runs one step. It reads every weight, which also brings a mapped file into memory."""
    graph = Graph()
    sequence = Sequence(model, CELLS, threads, choose_in_graph=False, on_node=graph.see)
    try:
        sequence.prefill(array("i", [0]))
        sequence.choose()
        return summary(graph, sequence.n_ctx)
    finally:
        sequence.close()


def summary(graph: Graph, n_ctx: int) -> Held:
    matrices, cache = Counter[str](), {type_name(tensor) for tensor in graph.cache.values()}
    for matrix in graph.matrices.values():
        matrices[type_name(matrix)] += n_bytes(matrix)
    dtypes = [name for name, _ in matrices.most_common()]
    return Held(
        weight_dtype=",".join(dtypes),
        activation_dtype=",".join(sorted(graph.activations)),
        kv_dtype=",".join(sorted(cache)),
        precision=precision(dtypes, cache),
        device=",".join(sorted({device(tensor) for tensor in graph.matrices.values()})),
        weights_bytes=total_bytes(graph.read | graph.looked_up),
        read_bytes_per_token=total_bytes(graph.read),
        kv_bytes_per_position=total_bytes(graph.cache) // n_ctx,
        flash_attention_layers=graph.flash_attention_layers,
    )


def precision(matrices: list[str], cache: set[str]) -> str:
    """The class that the fidelity gate applies; a quantised model is named by the type with the most bytes."""
    quantised = [name for name in matrices if name not in NAMES.values()]
    if quantised:
        return quantised[0]
    return "float32" if {*matrices, *cache} == {"float32"} else "16-bit"


def type_name(tensor: Tensor) -> str:
    """As enginebench_models names it: "float16", "q4_k"."""
    name = ggml().type_name(tensor.type).decode().lower()
    return NAMES.get(name, name)


def n_bytes(tensor: Tensor) -> int:
    return int(ggml().nbytes(ctypes.addressof(tensor)))


def total_bytes(tensors: dict[int, Tensor]) -> int:
    return sum(map(n_bytes, tensors.values()))


def is_weight(tensor: Tensor) -> bool:
    return bool(tensor.buffer) and ggml().usage(tensor.buffer) == WEIGHTS


def root(tensor: Tensor) -> Tensor:
    """The tensor that a view looks at; ggml keeps no view of a view."""
    whole: Tensor = tensor.view_src.contents if tensor.view_src else tensor
    return whole


def device(tensor: Tensor) -> str:
    """Of the buffer that a tensor lies in: "CPU", or the GPU's name."""
    found = ggml().device_of_type(ggml().buffer_type(tensor.buffer))
    if not found or ggml().device_name(found) == b"CPU":
        return "CPU"
    return str(ggml().device_description(found).decode())
