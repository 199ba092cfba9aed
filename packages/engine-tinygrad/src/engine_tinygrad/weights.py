"""Checkpoint → tensors on the device: matrices in float16, norms in float32. Every layout quirk is here.

tinygrad's own GGUF reader is not used: it opens the model file for writing (a disk tensor is mapped read-write), it
drops `rope_freqs` and reorders Q and K by itself. The tests compare the results bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.tensor import Tensor as Stored
from tinygrad import Device, Tensor, dtypes
from tinygrad.device import Buffer
from tinygrad.dtype import DType
from tinygrad.helpers import CPU_COUNT

from engine_tinygrad.model import LayerWeights, Matrix, Weights
from engine_tinygrad.quantize import level_table, quantised
from engine_tinygrad.shard import cut_axis

STORED_DTYPES: dict[str, DType] = {"f32": dtypes.float32, "f16": dtypes.float16, "bf16": dtypes.bfloat16}
LAYER_NAMES = {
    "input_layernorm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "o_proj": "self_attn.o_proj",
    "post_attention_layernorm": "post_attention_layernorm",
    "gate_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "down_proj": "mlp.down_proj",
}
REORDERED = ("q_proj", "k_proj")
"""Weights whose rows a GGUF file has in another order than the checkpoint delivers."""


def load_weights(
    checkpoint: Checkpoint, devices: tuple[str, ...], on_layer: Callable[[float], None], kind: str = ""
) -> Weights:
    """All weights over `devices`, the blocks' matrices quantised to `kind` (on one device only).

    `on_layer` gets the fraction done.
    """
    config, levels = checkpoint.config, level_table(devices[0])

    def load(name: str) -> Tensor:
        stored = checkpoint.tensor(name)
        tensor = load_tensor(stored, devices, cut_axis(name, stored.shape, len(devices)))
        if len(devices) > 1:
            drop_freed(devices)
        return tensor

    def load_matrix(name: str) -> Matrix:
        if not kind or not name.endswith("_proj"):
            return load(name)
        return quantised(checkpoint.tensor(name), kind, devices[0], levels, CPU_COUNT.value)

    embed_tokens = load("embed_tokens")
    lm_head = embed_tokens if config.tied_embeddings else load("lm_head")
    layers = []
    for i in range(config.n_layers):
        layers.append(LayerWeights(**{field: load_matrix(f"layers.{i}.{name}") for field, name in LAYER_NAMES.items()}))
        on_layer((i + 1) / config.n_layers)
    return Weights(embed_tokens, layers, load("norm"), lm_head)


def load_tensor(stored: Stored, devices: tuple[str, ...], axis: int | None = None) -> Tensor:
    """One weight, realised: a matrix in float16, a vector in float32. `axis` is divided among several devices."""
    dtype = dtypes.float16 if len(stored.shape) > 1 else dtypes.float32
    return host_tensor(stored).shard(devices, axis).cast(dtype).contiguous().realize()


def drop_freed(devices: tuple[str, ...]) -> None:
    """Give back what tinygrad keeps for reuse: whole copies of the matrices that were cut, 2.2 GB of the 1B model."""
    for device in devices:
        Device[device].synchronize()
    for device in devices:
        Device[device].allocator.free_cache()


def host_tensor(stored: Stored) -> Tensor:
    """The stored values in host memory, in the stored type; block formats expanded to float32.

    Read straight into tinygrad's buffer where type and order allow it: the pages of a mapped file count as resident,
    and would be a second copy of the model.
    """
    as_stored = stored.dtype in STORED_DTYPES
    tensor = Tensor.empty(*stored.shape, dtype=STORED_DTYPES.get(stored.dtype, dtypes.float32), device="CPU")
    buffer = tensor.uop.buffer
    assert isinstance(buffer, Buffer), "one device, one buffer"
    memory = buffer.ensure_allocated().as_memoryview(force_zero_copy=True)
    if as_stored and not stored.name.endswith(REORDERED):
        read_into(memory, stored)
    else:
        values = stored.data if as_stored else stored.float32()
        np.frombuffer(memory, values.dtype)[:] = values.reshape(-1)
    return tensor


def read_into(memory: memoryview, stored: Stored) -> None:
    with stored.file.open("rb") as file:
        file.seek(stored.offset)
        if file.readinto(memory) != len(memory):
            raise OSError(f"{stored.file} became shorter while {stored.name} was read from it")
