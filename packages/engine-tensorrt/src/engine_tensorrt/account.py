"""What a network holds and what a token reads, off the network's own constants and products."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from engine_tensorrt.model import SCALES, LlamaNetwork
from engine_tensorrt.number_types import name_of

TABLE, FIRST_MATRIX = "embed_tokens", "layers.0.self_attn.q_proj"


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
    constants = {layer.name: layer.get_output(0) for layer in layers(made.network, trt.LayerType.CONSTANT)}
    weights = {name: tensor for name, tensor in constants.items() if name in names}
    with_scales = [tensor for name, tensor in constants.items() if name.removesuffix(SCALES) in names]
    product = next(layers(made.network, trt.LayerType.MATRIX_MULTIPLY))
    weights_bytes = sum(map(n_bytes, with_scales))
    unread = 0 if made.config.tied_embeddings else n_bytes(weights[TABLE])
    return Held(
        weight_dtype=name_of(weights[FIRST_MATRIX].dtype),
        activation_dtype=name_of(product.get_input(0).dtype),
        parameters=sum(map(volume, weights.values())),
        weights_bytes=weights_bytes,
        read_bytes_per_token=weights_bytes - unread,
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
