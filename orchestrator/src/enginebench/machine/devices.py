"""How many devices a run may use: processors, or GPUs."""

from __future__ import annotations

from enginebench_protocol.host import default_threads

from .nvml import gpu_count


def device_count(device: str) -> int | None:
    """None where the GPUs cannot be counted."""
    return default_threads() if device == "cpu" else gpu_count()
