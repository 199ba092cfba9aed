"""Does a model fit: weights, key/value cache and workspace, from its shape alone, against the memory there is.

Arithmetic, before anything is loaded. docs/methodology.md, "Does it fit", has the formulas beside what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from enginebench_models.config import LlamaConfig

from enginebench.store.record import Workload

PRECISIONS = ("float32", "16-bit", "int8", "nf4")
PLAIN_BYTES = {"float32": 4, "16-bit": 2, "int8": 2, "nf4": 2}
"""Of an element of the embedding table, the norms and the cache."""
NF4_BYTES = 0.5 + 4 / 64
"""Half a byte, and a float32 scale for each block of 64 (Dettmers et al. 2023, QLoRA, without double quantisation)."""
SCALE_BYTES = 4
RUNTIME_BYTES = 1_500_000_000
"""Interpreter, libraries, compiled code: the most that any engine took beside weights and cache was 1.4 GB."""
LEAST_CONTEXT = 128
"""Positions that every launch allocates at least (docs/methodology.md, section 2)."""


@dataclass(frozen=True)
class Need:
    """Bytes on one device."""

    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.workspace_bytes


def need(config: LlamaConfig, precision: str, workload: Workload, shards: int = 1) -> Need:
    """Of each of `shards` devices: matrices of the blocks and the cache are divided, tables and norms are not."""
    tokens = max(workload.n_sent + workload.n_gen, LEAST_CONTEXT)
    plain = PLAIN_BYTES[precision]
    cache = tokens * config.kv_bytes_per_token(plain)
    return Need(
        weights_bytes=_undivided_elements(config) * plain + _share(_matrix_bytes(config, precision), shards),
        kv_cache_bytes=_share(cache, min(shards, config.n_kv_heads)),
        workspace_bytes=RUNTIME_BYTES + _activation_bytes(config, workload.n_sent),
    )


def verdict(needs: Mapping[str, int], has_bytes: int) -> str:
    """`needs`: bytes by precision. In 16 bits where that fits; else the first quantisation that does."""
    if needs["16-bit"] <= has_bytes:
        return "fits"
    smaller = next((name for name in ("int8", "nf4") if needs[name] <= has_bytes), None)
    if smaller:
        return f"fits with {smaller}"
    return f"does not fit: needs {needs['nf4'] / 1e9:.1f} GB with nf4, has {has_bytes / 1e9:.1f} GB"


def exceeds_context(config: LlamaConfig, workload: Workload) -> str:
    """Empty where the model has positions enough."""
    tokens = workload.n_sent + workload.n_gen
    return f"{tokens} tokens exceed its context of {config.max_context}" if tokens > config.max_context else ""


def _matrix_bytes(config: LlamaConfig, precision: str) -> int:
    """The matrices that a token is multiplied with: those of the blocks, and an output matrix of its own."""
    elements, rows = _matrix_elements(config), _matrix_rows(config)
    if precision == "int8":
        return elements + rows * SCALE_BYTES
    return int(elements * (NF4_BYTES if precision == "nf4" else PLAIN_BYTES[precision]))


def _matrix_elements(config: LlamaConfig) -> int:
    blocks = config.n_layers * (config.layer_elements() - 2 * config.dim)
    return blocks + (0 if config.tied_embeddings else config.vocab_size * config.dim)


def _matrix_rows(config: LlamaConfig) -> int:
    of_block = config.query_dim() + 2 * config.kv_dim() + 2 * config.dim + 2 * config.hidden_dim
    return config.n_layers * of_block + (0 if config.tied_embeddings else config.vocab_size)


def _undivided_elements(config: LlamaConfig) -> int:
    return config.vocab_size * config.dim + (2 * config.n_layers + 1) * config.dim


def _activation_bytes(config: LlamaConfig, n_sent: int) -> int:
    """Of one block while the prompt is read, in float32: its input, queries, keys, values, gate, up; and the logits."""
    widths = 3 * config.dim + config.query_dim() + 2 * config.kv_dim() + 2 * config.hidden_dim
    return 4 * (n_sent * widths + config.vocab_size)


def _share(n_bytes: int, shards: int) -> int:
    return -(-n_bytes // shards)
