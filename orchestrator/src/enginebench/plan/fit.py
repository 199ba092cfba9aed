"""Does a model fit: weights, key/value cache and workspace, from its shape alone, against the memory there is.

Arithmetic, before anything is made or loaded. `need` is on the safe side, for a list of models; `least_bytes` is what
no engine can do without, so that what is refused for it could not have run. docs/methodology.md, "Does it fit", has
the formulas beside what was measured.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from enginebench_models.config import LlamaConfig

from enginebench.errors import UsageError
from enginebench.store.record import Workload


@dataclass(frozen=True)
class Kind:
    """Bytes of an element of a block's matrix, of the tables and of the cache; and of each row of a matrix."""

    matrix: float
    table: float = 2
    cache: int = 2
    row: int = 0


KINDS = {
    "float32": Kind(4, table=4, cache=4),
    "16-bit": Kind(2),
    "int8": Kind(1, row=4),  # a float32 scale (enginebench_models.eight_bit); fp8 alike
    "fp8": Kind(1, row=4),
    "int4": Kind(0.5 + 2 / 32),  # a float16 scale for each run of 32 (enginebench_models.int4)
    "nf4": Kind(0.5 + 2 / 64),  # a float16 peak for each run of 64 (enginebench_models.nf4)
    "q8_0": Kind(34 / 32, table=34 / 32),  # the last three: ggml-common.h, tables too
    "q4_0": Kind(18 / 32, table=18 / 32),
    "q4_k": Kind(144 / 256, table=144 / 256),
}
PRECISIONS = ("float32", "16-bit", "int8", "nf4")
"""Those that `enginebench models` shows."""
NORM_BYTES = 4
RUNTIME_BYTES = 1_500_000_000
"""Interpreter, libraries, compiled code: the most that any engine took beside weights and cache was 1.4 GB."""
LEAST_CONTEXT = 128
"""Positions that every launch allocates at least (docs/methodology.md, section 2)."""
TABLES = ("table", "head")
"""What an engine's table may say that each of several devices holds whole."""


@dataclass(frozen=True)
class Memory:
    """Bytes of this machine, and of each of its GPUs."""

    host_bytes: int
    devices_bytes: Sequence[int] = ()

    def room(self, device: str, shards: int) -> int | None:
        """For each of `shards`: ranks on a processor share its memory, GPUs have one each. None: nobody can tell."""
        if device == "cpu":
            return self.host_bytes // shards
        return min(self.devices_bytes[:shards], default=None)


@dataclass(frozen=True)
class Need:
    """Bytes on one device."""

    weights_bytes: int
    kv_cache_bytes: int
    workspace_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_cache_bytes + self.workspace_bytes


@dataclass(frozen=True)
class Demand:
    """What is asked of a model here. `room_bytes`: memory for each of `shards`; None: nobody can tell."""

    workloads: tuple[Workload, ...] = ()
    precisions: tuple[str, ...] = ("16-bit",)
    shards: int = 1
    room_bytes: int | None = None


def need(config: LlamaConfig, precision: str, workload: Workload, shards: int = 1, whole: Collection[str] = ()) -> Need:
    """Of each of `shards` devices: all is divided but norms, what is `whole` (of TABLES), and a key/value head."""
    return Need(
        weights_bytes=_weights_bytes(config, KINDS[precision], shards, whole),
        kv_cache_bytes=_cache_bytes(config, KINDS[precision], _tokens(workload), shards),
        workspace_bytes=RUNTIME_BYTES + _activation_bytes(config, workload.n_sent),
    )


def least_bytes(
    config: LlamaConfig,
    precision: str,
    workloads: Sequence[Workload],
    shards: int = 1,
    file_bytes: int | None = None,
    whole: Collection[str] = (),
) -> int:
    """Weights and the longest cache, on each of `shards` devices. A file of quantised blocks may be computed with as
    it is: no more than `file_bytes` then."""
    kind = KINDS.get(precision, KINDS["16-bit"])
    weights = _weights_bytes(config, kind, shards, whole)
    if file_bytes is not None and kind is KINDS["16-bit"]:
        weights = min(weights, _share(file_bytes, shards))
    tokens = max(map(_tokens, workloads), default=LEAST_CONTEXT)
    return weights + _cache_bytes(config, kind, tokens, shards)


def check_fits(name: str, config: LlamaConfig, demand: Demand, file_bytes: int | None = None) -> None:
    """Raises UsageError if the context or the memory is too small, in every precision that is asked for."""
    for workload in demand.workloads:
        if too_long := exceeds_context(config, workload):
            depth = f"n_depth {workload.n_depth} + " if workload.n_depth else ""
            counts = f"{depth}n_prompt {workload.n_prompt} + n_gen {workload.n_gen}"
            raise UsageError(f"{name}, {workload.name}: {counts} = {too_long}: ask for fewer")
    if demand.room_bytes is None or not demand.precisions:
        return
    needs = {
        precision: least_bytes(config, precision, demand.workloads, demand.shards, file_bytes)
        for precision in demand.precisions
    }
    precision, needed = min(needs.items(), key=lambda item: item[1])
    if needed > demand.room_bytes:
        raise UsageError(
            f"{name} does not fit: {shortage(precision, needed, demand.room_bytes, demand.shards)}; "
            "`enginebench models` lists what fits"
        )


def shortage(precision: str, needed_bytes: int, room_bytes: int, shards: int) -> str:
    """Why it cannot run, in words."""
    each = f" on each of {shards} devices" if shards > 1 else ""
    weights = "weights" if precision == "none" else f"weights in {precision.replace('16-bit', '16 bits')}"
    return f"{weights} and their cache need {needed_bytes / 1e9:.1f} GB{each}, there are {room_bytes / 1e9:.1f} GB"


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


def _weights_bytes(config: LlamaConfig, kind: Kind, shards: int, whole: Collection[str]) -> int:
    table = int(config.vocab_size * config.dim * kind.table)
    held = ["table"] if config.tied_embeddings else TABLES
    tables = sum(table if name in whole else _share(table, shards) for name in held)
    norms = (2 * config.n_layers + 1) * config.dim * NORM_BYTES
    return norms + tables + _share(_matrix_bytes(config, kind), shards)


def _matrix_bytes(config: LlamaConfig, kind: Kind) -> int:
    """All matrices of all blocks."""
    elements = config.layer_elements() - 2 * config.dim
    rows = config.query_dim() + 2 * config.kv_dim() + 2 * config.dim + 2 * config.hidden_dim
    return config.n_layers * int(elements * kind.matrix + rows * kind.row)


def _cache_bytes(config: LlamaConfig, kind: Kind, tokens: int, shards: int) -> int:
    return _share(tokens * config.kv_bytes_per_token(kind.cache), min(shards, config.n_kv_heads))


def _activation_bytes(config: LlamaConfig, n_sent: int) -> int:
    """Of one block while the prompt is read, in float32: its input, queries, keys, values, gate, up; and the logits."""
    widths = 3 * config.dim + config.query_dim() + 2 * config.kv_dim() + 2 * config.hidden_dim
    return 4 * (n_sent * widths + config.vocab_size)


def _tokens(workload: Workload) -> int:
    return max(workload.n_sent + workload.n_gen, LEAST_CONTEXT)


def _share(n_bytes: int, shards: int) -> int:
    return -(-n_bytes // shards)
