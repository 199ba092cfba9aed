"""The memory of one case: what was seen from outside, and the engine's own account of weights, cache and workspace.

Nothing is added up over instruments: each metric names the one it comes from, in its reasons where there is a choice.
"""

from __future__ import annotations

from enginebench.store.record import DeviceMemoryReading, LoadedFacts, MemoryReading

from .metric import Metric, missing

SHARED_SERVER = "the server ran before: its memory is not the engine's"
SEVERAL_GPUS = "of several GPUs only the first is read from outside"
NO_GPU = "no device memory was read from outside"
NAMES = (
    "peak_memory_bytes",
    "peak_resident_bytes",
    "cgroup_peak_bytes",
    "device_peak_memory_bytes",
    "device_process_peak_bytes",
    "device_growth_peak_bytes",
    "device_context_bytes",
    "model_memory_bytes",
    "kv_cache_bytes",
    "workspace_bytes",
    "memory_overhead_bytes",
    "unaccounted_memory_bytes",
)


def memory_metrics(reading: MemoryReading | None, loaded: LoadedFacts | None, *, checked: bool) -> dict[str, Metric]:
    """`checked`: there was a check launch. On a GPU, where the weights lie, the parts are held against its memory."""
    if reading is None:
        why = "the check launch failed before memory was read" if checked else "no check launch"
        return {name: missing("bytes", why) for name in NAMES}
    shared = loaded is not None and loaded.shared_server
    lack = SHARED_SERVER if shared else "no sample was taken"
    seen = not shared and reading.n_samples > 0
    host = _bytes(reading.peak_pss_bytes if seen else None, lack)
    several = loaded is not None and loaded.shards > 1 and reading.device is not None
    lack_of_device = SHARED_SERVER if shared else SEVERAL_GPUS if several else NO_GPU
    outside = _of_device(None if shared or several else reading.device, lack_of_device)
    device = _device_peak(outside, reading.engine_device_peak_bytes)
    peak = device if device.value is not None else host
    held, workspace = reading.engine_weights_bytes + reading.engine_kv_cache_bytes, reading.engine_workspace_bytes
    return {
        "peak_memory_bytes": host,
        "peak_resident_bytes": _bytes(reading.max_vm_hwm_bytes if seen else None, lack),
        "cgroup_peak_bytes": _bytes(
            None if shared else reading.cgroup_peak_bytes, lack if shared else _cgroup(reading)
        ),
        "device_peak_memory_bytes": device,
        **outside,
        "model_memory_bytes": _bytes(reading.engine_weights_bytes),
        "kv_cache_bytes": _bytes(reading.engine_kv_cache_bytes),
        "workspace_bytes": _bytes(workspace, "the engine does not tell"),
        "memory_overhead_bytes": _rest(peak, held),
        "unaccounted_memory_bytes": missing("bytes", "the engine does not tell its workspace")
        if workspace is None
        else _rest(peak, held + workspace),
    }


def efficiency(rate: Metric, memory: dict[str, Metric]) -> Metric:
    """Decoded tokens per second for each 10^9 bytes of peak memory, of the device where there is one."""
    unit = "tok/s/GB"
    peak = memory["device_peak_memory_bytes"].value or memory["peak_memory_bytes"].value
    if rate.value is None:
        return missing(unit, *rate.reasons)
    if not peak:
        return missing(unit, *memory["peak_memory_bytes"].reasons)
    interval = [bound / (peak / 1e9) for bound in rate.interval] if rate.interval else None
    return Metric(value=rate.value / (peak / 1e9), unit=unit, valid=True, reasons=rate.reasons, interval=interval)


def _cgroup(reading: MemoryReading) -> str:
    return reading.cgroup_lack or "no control group was read"


def _of_device(reading: DeviceMemoryReading | None, lack: str) -> dict[str, Metric]:
    """The readings by NVML."""
    if reading is None:
        names = ("device_process_peak_bytes", "device_growth_peak_bytes", "device_context_bytes")
        return {name: missing("bytes", lack) for name in names}
    return {
        "device_process_peak_bytes": _bytes(reading.peak_of_processes_bytes, reading.processes_lack),
        "device_growth_peak_bytes": _bytes(reading.peak_growth_bytes, "the driver does not tell"),
        "device_context_bytes": _bytes(reading.unloaded_growth_bytes, "the launch ended before it unloaded"),
    }


def _device_peak(outside: dict[str, Metric], engine: int | None) -> Metric:
    """Seen from outside where it can be; an engine's allocator does not know the driver's share."""
    choices = (
        (outside["device_process_peak_bytes"].value, "by NVML, of the engine's processes"),
        (outside["device_growth_peak_bytes"].value, "by NVML, growth of the device"),
        (engine, "by the engine's own account"),
    )
    for value, instrument in choices:
        if value:
            return Metric(value=value, unit="bytes", valid=True, reasons=[instrument])
    return missing("bytes", "the engine reports no device memory")


def _rest(peak: Metric, accounted: int) -> Metric:
    if peak.value is None:
        return missing("bytes", *peak.reasons)
    reasons = (
        []
        if peak.value >= accounted
        else ["the engine accounts for more than the peak: pages not resident, or a wrong account"]
    )
    return Metric(value=peak.value - accounted, unit="bytes", valid=not reasons, reasons=reasons)


def _bytes(value: int | None, why: str = "") -> Metric:
    return missing("bytes", why) if value is None else Metric(value=value, unit="bytes", valid=True)
