"""What is really held, read off the tensors in use: dtypes, bytes, device, threads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

from tinygrad import Device, Tensor, dtypes
from tinygrad.dtype import DType
from tinygrad.helpers import CPU_COUNT, GlobalCounters

from engine_tinygrad.graphs import Graphs
from engine_tinygrad.model import Matrix, Weights, devices_of
from engine_tinygrad.quantize import Int8

NAMES: dict[DType, str] = {dtypes.float16: "float16", dtypes.bfloat16: "bfloat16", dtypes.float32: "float32"}


@dataclass(frozen=True)
class Held:
    """`workspace_bytes` is everything tinygrad has allocated beyond weights and cache."""

    weight_dtype: str
    activation_dtype: str
    kv_dtype: str
    device: str
    threads: int
    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int
    read_bytes_per_token: int
    device_bytes: list[int]  # weights and cache of each of several devices


def of(graphs: Graphs) -> Held:
    llama = graphs.llama
    devices, table = llama.devices, llama.weights.embed_tokens
    weights, cache = total_bytes(all_weights(llama.weights)), total_bytes(llama.caches)
    allocated = sum(GlobalCounters.mem_used_per_device.values())
    tied = llama.weights.lm_head is table
    return Held(
        weight_dtype=dtype_of(llama.weights.layers[0].k_proj),
        activation_dtype=NAMES[graphs.activation_dtype],
        kv_dtype=NAMES[llama.caches[0].dtype],
        device=repr(Device[devices[0]].renderer.target),
        threads=CPU_COUNT.value * len(devices) if devices[0] == "CPU" else 1,
        weights_bytes=weights,
        kv_cache_bytes=cache,
        workspace_bytes=max(0, allocated - weights - cache),
        read_bytes_per_token=weights - total_bytes([table]) + (total_bytes([llama.output]) if tied else 0),
        device_bytes=[(weights + cache) // len(devices)] * len(devices) if len(devices) > 1 else [],
    )


def dtype_of(matrix: Matrix) -> str:
    """Quantised: the kind's name."""
    if isinstance(matrix, Tensor):
        return NAMES[matrix.dtype]
    return "int8" if isinstance(matrix, Int8) else "nf4"


def all_weights(weights: Weights) -> list[Tensor]:
    """Every tensor once: a tied output head is the embedding table."""
    tensors = [weights.embed_tokens, weights.norm]
    if weights.lm_head is not weights.embed_tokens:
        tensors.append(weights.lm_head)
    for layer in weights.layers:
        for held in (getattr(layer, field.name) for field in fields(layer)):
            tensors += [held] if isinstance(held, Tensor) else held.tensors()
    return tensors


def total_bytes(tensors: Iterable[Tensor]) -> int:
    """On all devices: what is not divided among them is on each."""
    return sum(int(tensor.nbytes()) * (len(devices_of(tensor)) if tensor.uop.axis is None else 1) for tensor in tensors)
