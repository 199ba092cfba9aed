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
"""Of an element of the tables, the norms and the cache: only matrices of the blocks are quantised."""
MATRIX_BYTES = {"float32": 4.0, "16-bit": 2.0, "int8": 1.0, "nf4": 0.5 + 2 / 64}
"""Of an element of a matrix. nf4: a float16 peak for each run of 64 (enginebench_models.nf4)."""
ROW_BYTES = {"int8": 4}
"""Of a row of a matrix: its float32 scale (enginebench_models.eight_bit)."""
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
        weights_bytes=_plain_elements(config) * plain + _share(_matrix_bytes(config, precision), shards),
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
    """All matrices of all blocks."""
    elements = config.layer_elements() - 2 * config.dim
    rows = config.query_dim() + 2 * config.kv_dim() + 2 * config.dim + 2 * config.hidden_dim
    return config.n_layers * int(elements * MATRIX_BYTES[precision] + rows * ROW_BYTES.get(precision, 0))


def _plain_elements(config: LlamaConfig) -> int:
    """The embedding table, an output matrix of its own, the norms."""
    tables = 1 if config.tied_embeddings else 2
    return tables * config.vocab_size * config.dim + (2 * config.n_layers + 1) * config.dim


def _activation_bytes(config: LlamaConfig, n_sent: int) -> int:
    """Of one block while the prompt is read, in float32: its input, queries, keys, values, gate, up; and the logits."""
    widths = 3 * config.dim + config.query_dim() + 2 * config.kv_dim() + 2 * config.hidden_dim
    return 4 * (n_sent * widths + config.vocab_size)


def _share(n_bytes: int, shards: int) -> int:
    return -(-n_bytes // shards)
