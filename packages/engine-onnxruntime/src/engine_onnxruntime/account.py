"""What is held and what a token reads, off the tensors that the session was given and the types that it answers in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from enginebench_models.config import LlamaConfig
from onnx import TensorProto, helper

from engine_onnxruntime.session import Method
from engine_onnxruntime.weights import OUTPUT, TABLE, Weights


@dataclass(frozen=True)
class Held:
    """Names of dtypes, and bytes. The cache has the type of the activations."""

    weight_dtype: str
    activation_dtype: str
    weights_bytes: int
    kv_cache_bytes: int
    read_bytes_per_token: int


def account(config: LlamaConfig, weights: Weights, method: Method, activations: npt.DTypeLike, n_ctx: int) -> Held:
    """`activations`: the type of the logits, and so of the weights where they were converted once.

    A table that nothing but the look-up of ids reads, a row per token, counts as held and not as read.
    """
    dtype = np.dtype(activations)
    table, products = weights.tensors[TABLE], products_of(weights)
    weight_dtype = stored_dtype(products[-1]) if method.block_elements else dtype
    read_bytes = elements(products) * dtype.itemsize if not method.block_elements else stored_bytes(products)
    extra = 0 if config.tied_embeddings and weight_dtype == stored_dtype(table[0]) else stored_bytes(table)
    return Held(
        weight_dtype=weights.kind or weight_dtype.name,
        activation_dtype=dtype.name,
        weights_bytes=read_bytes + extra,
        kv_cache_bytes=n_ctx * config.kv_bytes_per_token(dtype.itemsize),
        read_bytes_per_token=read_bytes,
    )


def products_of(weights: Weights) -> list[TensorProto]:
    """Everything that each token reads whole, the output projection last."""
    others = [name for name in weights.tensors if name not in {TABLE, OUTPUT}]
    return [tensor for name in [*others, OUTPUT] for tensor in weights.tensors[name]]


def stored_dtype(tensor: TensorProto) -> np.dtype[np.generic]:
    return np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type))


def elements(tensors: Iterable[TensorProto]) -> int:
    return sum(int(np.prod(tensor.dims)) for tensor in tensors)


def stored_bytes(tensors: Iterable[TensorProto]) -> int:
    return sum(int(np.prod(tensor.dims)) * stored_dtype(tensor).itemsize for tensor in tensors)
