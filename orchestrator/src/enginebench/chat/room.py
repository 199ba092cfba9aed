"""Whether several engines may live at once: by memory, roughly, and on the safe side."""

from __future__ import annotations

from collections.abc import Sequence

import psutil
from enginebench_models.config import LlamaConfig

from .choice import Choice

OVERHEAD_BYTES = 1_500_000_000
"""Of one engine beside weights and cache: libraries, workspace, and half the file mapped in the page cache."""
LARGEST_SHARE = 0.8
"""Of the memory that is free now."""


def needed_bytes(choice: Choice, config: LlamaConfig, file_bytes: int, n_ctx: int) -> int:
    element_bytes = 4 if choice.precision == "float32" else 2
    weights = max(file_bytes, config.weight_elements() * element_bytes)
    return weights + n_ctx * config.kv_bytes_per_token(element_bytes) + OVERHEAD_BYTES


def fit_together(choices: Sequence[Choice], config: LlamaConfig, file_bytes: int, n_ctx: int, free_bytes: int) -> bool:
    needed = sum(needed_bytes(choice, config, file_bytes, n_ctx) for choice in choices)
    return needed <= LARGEST_SHARE * free_bytes


def free_bytes(device: str) -> int:
    """Of the host, or of the GPU; 0 where a GPU does not tell: then engines live one at a time."""
    if device != "cuda":
        return psutil.virtual_memory().available
    from enginebench.machine.nvml import find_gpu  # noqa: PLC0415 - only where there is a GPU

    gpu = find_gpu()
    return gpu.free_bytes() or 0 if gpu else 0
