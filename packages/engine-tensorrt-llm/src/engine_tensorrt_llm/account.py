"""What the worker in this process holds, read off its own tensors; and of several together.

The pool of the KV cache is counted apart from the model, as it was allocated: blocks, not positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Held:
    """Names of dtypes, bytes, and the positions that a request may have."""

    weight_dtype: str
    activation_dtype: str
    kv_dtype: str
    weights_bytes: int
    read_bytes_per_token: int
    kv_cache_bytes: int
    max_positions: int


def held(worker: Any) -> Held:
    """`worker`: tensorrt_llm.executor.worker.GenerationExecutorWorker, whose `engine` is a PyExecutor.

    A table that is not the output projection too is held, but of it a token reads one row.
    """
    model_engine = worker.engine.model_engine
    model, pool = model_engine.model, worker.engine.kv_cache_manager.get_unique_primary_pool()
    table, head = model.model.embed_tokens.weight, model.lm_head.weight
    weights_bytes = allocated_bytes(model.parameters())
    tied = table.untyped_storage().data_ptr() == head.untyped_storage().data_ptr()
    return Held(
        weight_dtype=dtype_name(head.dtype),
        activation_dtype=dtype_name(model_engine.dtype),
        kv_dtype=dtype_name(pool.dtype),
        weights_bytes=weights_bytes,
        read_bytes_per_token=weights_bytes - (0 if tied else table.nbytes - table[0].nbytes),
        kv_cache_bytes=pool.nbytes,
        max_positions=worker.max_seq_len,
    )


def total(workers: Sequence[Held]) -> Held:
    """Of all together: they are alike, and their bytes add up."""
    return replace(
        workers[0],
        weights_bytes=sum(worker.weights_bytes for worker in workers),
        read_bytes_per_token=sum(worker.read_bytes_per_token for worker in workers),
        kv_cache_bytes=sum(worker.kv_cache_bytes for worker in workers),
        max_positions=min(worker.max_positions for worker in workers),
    )


def allocated_bytes(tensors: Iterable[Any]) -> int:
    """Tied weights are two parameters of one allocation: models are moved off the meta device one by one."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def dtype_name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")
