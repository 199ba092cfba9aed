"""What a network holds and what a token reads, off the network's own constants and products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine_tensorrt.model import LlamaNetwork

TABLE = "embed_tokens"


@dataclass(frozen=True)
class Held:
    """Names of dtypes, a count and bytes."""

    weight_dtype: str
    activation_dtype: str
    parameters: int
    weights_bytes: int
    read_bytes_per_token: int


def held(trt: Any, made: LlamaNetwork, names: list[str]) -> Held:
    """`names`: the weights of the checkpoint. A table that only ids are looked up in is held and not read."""
    weights = {layer.name: layer.get_output(0) for layer in layers(made.network, trt.LayerType.CONSTANT)}
    weights = {name: tensor for name, tensor in weights.items() if name in names}
    product = next(layers(made.network, trt.LayerType.MATRIX_MULTIPLY))
    sizes = {name: n_bytes(tensor) for name, tensor in weights.items()}
    unread = 0 if made.config.tied_embeddings else sizes[TABLE]
    return Held(
        weight_dtype=trt.nptype(product.get_input(1).dtype).__name__,
        activation_dtype=trt.nptype(product.get_input(0).dtype).__name__,
        parameters=sum(map(volume, weights.values())),
        weights_bytes=sum(sizes.values()),
        read_bytes_per_token=sum(sizes.values()) - unread,
    )


def layers(network: Any, kind: Any) -> Iterator[Any]:
    every = (network.get_layer(i) for i in range(network.num_layers))
    return (layer for layer in every if layer.type == kind)


def volume(tensor: Any) -> int:
    size = 1
    for extent in tensor.shape:
        size *= extent
    return size


def n_bytes(tensor: Any) -> int:
    return volume(tensor) * int(tensor.dtype.itemsize)
