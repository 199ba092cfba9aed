"""What the workers hold, read off their own tensors. These functions run inside each worker.

The pool of the KV cache is counted apart from the model, as it was allocated: blocks, not positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Held:
    """Of one worker, or of all: names of dtypes, and bytes."""

    device: str
    weight_dtype: str
    activation_dtype: str
    kv_dtype: str
    weights_bytes: int
    read_bytes_per_token: int
    kv_cache_bytes: int


def held(worker: Any) -> Held:
    """A table that is not the output projection too is held, but of it a token reads one row."""
    model, caches = worker.get_model(), worker.model_runner.kv_caches
    table, head = model.model.embed_tokens.weight, model.lm_head.weight
    weights_bytes = sum(parameter.nbytes for parameter in model.parameters())
    return Held(
        device=torch.cuda.get_device_name() if table.is_cuda else "cpu",
        weight_dtype=dtype_name(head.dtype),
        activation_dtype=dtype_name(worker.model_config.dtype),
        kv_dtype=dtype_name(caches[0].dtype),
        weights_bytes=weights_bytes,
        read_bytes_per_token=weights_bytes - (0 if head is table else table.nbytes - table[0].nbytes),
        kv_cache_bytes=allocated_bytes(caches),
    )


def total(workers: Sequence[Held]) -> Held:
    """Of all workers together: they are alike, and their bytes add up."""
    first = workers[0]
    return Held(
        device=first.device if len(workers) == 1 else f"{len(workers)} × {first.device}",
        weight_dtype=first.weight_dtype,
        activation_dtype=first.activation_dtype,
        kv_dtype=first.kv_dtype,
        weights_bytes=sum(worker.weights_bytes for worker in workers),
        read_bytes_per_token=sum(worker.read_bytes_per_token for worker in workers),
        kv_cache_bytes=sum(worker.kv_cache_bytes for worker in workers),
    )


def allocated_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Layers may be views of one allocation."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def peak_bytes(worker: Any) -> int:
    """The most that torch had allocated on the worker's GPU."""
    return torch.cuda.max_memory_allocated()


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
