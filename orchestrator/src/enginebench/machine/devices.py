"""Which device a run may use, and how many of them: processors, or GPUs."""

from __future__ import annotations

from enginebench_protocol.host import default_device, default_threads

from enginebench.errors import UsageError

from .nvml import gpu_count


def check_device(device: str) -> None:
    """Raises UsageError for a GPU without a driver."""
    if device == "cuda" and default_device() != "cuda":
        raise UsageError("no device `cuda`: no NVIDIA driver is loaded on this machine; use --device cpu")


def device_count(device: str) -> int | None:
    """None where the GPUs cannot be counted."""
    return default_threads() if device == "cpu" else gpu_count()
