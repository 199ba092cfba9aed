"""Faults that an engine may have, as wrong models and wrong runs of the reference: the gates must see each of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.reference import KvCache, Reference, Weights
from enginebench_models.rope import base_frequencies
from enginebench_models.storage import Floats
from enginebench_models.tensor import Tensor

Edit = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Altered:
    """A checkpoint of which some tensors are edited, renamed or rotated otherwise."""

    checkpoint: Checkpoint
    edits: Mapping[str, Edit] = field(default_factory=dict)
    rename: Callable[[str], str] = str
    frequencies: Floats | None = None

    @property
    def config(self) -> LlamaConfig:
        return self.checkpoint.config

    @property
    def inverse_frequencies(self) -> Floats:
        return self.checkpoint.inverse_frequencies if self.frequencies is None else self.frequencies

    def tensor(self, name: str) -> Tensor:
        found = self.checkpoint.tensor(self.rename(name))
        return self.edits[name](found) if name in self.edits else found


@dataclass(frozen=True)
class Fault:
    """A run that goes wrong: other weights, other positions in decode, or a damaged cache after the prefill."""

    weights: Weights
    decode_shift: int = 0
    damage: Callable[[KvCache], None] | None = None

    def logits(self, ids: Sequence[int], n_prefill: int) -> Floats:
        """As an engine's score(): [len(ids) - n_prefill + 1, vocab]. Decode is one batch, which is the same numbers."""
        reference, cache = Reference(self.weights), KvCache(self.weights.config)
        after_prefill = reference.forward(ids[:n_prefill], cache)[-1:]
        if self.damage:
            self.damage(cache)
        decoded = reference.forward(ids[n_prefill:], cache, len(cache) + self.decode_shift)
        return reference.output(np.concatenate([after_prefill, decoded]))


def faults(checkpoint: Checkpoint) -> dict[str, Fault]:
    config = checkpoint.config
    middle = config.n_layers // 2
    found = {
        "RoPE off by one position in decode": Fault(checkpoint, decode_shift=1),
        "missing RoPE scaling": Fault(
            Altered(checkpoint, frequencies=base_frequencies(config.rope_theta, config.head_dim))
        ),
        "first two layers swapped": Fault(Altered(checkpoint, rename=swap(0, 1))),
        "last two layers swapped": Fault(Altered(checkpoint, rename=swap(config.n_layers - 2, config.n_layers - 1))),
        "K left in GGUF's row order": Fault(
            Altered(checkpoint, {key_name(n): unpermuted(config) for n in range(middle)})
        ),
        "one KV position overwritten": Fault(checkpoint, damage=overwrite_position(40, 41, range(config.n_layers))),
        "one KV position of one layer overwritten": Fault(checkpoint, damage=overwrite_position(40, 41, [middle])),
    }
    for kind in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"):
        found[f"garbage in a block of {kind}"] = Fault(Altered(checkpoint, {f"layers.{middle}.{kind}": garbage}))
    for kind in ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
        found[f"garbage in a block of {kind}"] = Fault(Altered(checkpoint, {f"layers.{middle}.{kind}": garbage}))
    return found


def key_name(layer: int) -> str:
    return f"layers.{layer}.self_attn.k_proj"


def swap(first: int, second: int) -> Callable[[str], str]:
    others = {f"layers.{first}": f"layers.{second}", f"layers.{second}": f"layers.{first}"}

    def renamed(name: str) -> str:
        prefix = ".".join(name.split(".")[:2])
        return name.replace(prefix, others[prefix], 1) if prefix in others else name

    return renamed


def unpermuted(config: LlamaConfig) -> Edit:
    def edit(tensor: Tensor) -> Tensor:
        pairs = tensor.data.reshape(config.n_kv_heads, 2, config.head_dim // 2, -1).swapaxes(1, 2)
        return replace(tensor, data=pairs.reshape(tensor.shape))

    return edit


def garbage(tensor: Tensor) -> Tensor:
    """32 consecutive float16 weights replaced by random bytes (finite, so that NaN does not do the gate's work)."""
    data = tensor.data.copy()
    bits = np.random.Philox(key=1).random_raw(8).astype("<u8").view("<u2")
    infinite = (bits & 0x7C00) == 0x7C00
    data[9, 64:96] = np.where(infinite, bits & 0xBFFF, bits).view(np.float16)
    return replace(tensor, data=data)


def overwrite_position(position: int, source: int, layers: Sequence[int]) -> Callable[[KvCache], None]:
    def damage(cache: KvCache) -> None:
        for layer in layers:
            for stored in (cache.keys, cache.values):
                stored[layer] = stored[layer].copy()
                stored[layer][:, position] = stored[layer][:, source]

    return damage


class RoundedReference(Reference):
    """The reference with every intermediate result rounded to bfloat16, the residual stream included."""

    def forward(self, ids: Sequence[int], cache: KvCache, first_position: int | None = None) -> Floats:
        angles = np.outer(np.arange(len(ids), dtype=np.float32), self.weights.inverse_frequencies)
        x = self.weights.tensor("embed_tokens").rows(np.asarray(ids)).float32()
        for layer in range(self.config.n_layers):
            x = bfloat16(
                x + self.attention(layer, self.normalised(x, f"layers.{layer}.input_layernorm"), angles, cache)
            )
            x = bfloat16(x + self.feed_forward(layer, self.normalised(x, f"layers.{layer}.post_attention_layernorm")))
        return self.normalised(x, "norm")

    def normalised(self, x: Floats, name: str) -> Floats:
        return bfloat16(super().normalised(x, name))

    def project(self, x: Floats, name: str) -> Floats:
        return bfloat16(super().project(bfloat16(x), name))


def bfloat16(x: Floats) -> Floats:
    """Round to nearest, ties to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) & np.uint32(0xFFFF0000)
    return rounded.view(np.float32)
