"""Every instrument of memory over one engine, in the launch that is not timed: ΣPSS, VmHWM, the control group, the GPU.

Each is None where it cannot be read, with its reason. The engine's own account stands beside them and is not mixed in.
"""

from __future__ import annotations

import contextlib
from types import TracebackType
from typing import Self

import msgspec
from enginebench_protocol.messages import Account

from enginebench.store.record import DeviceMemoryReading, MemoryReading

from .cgroup import MemoryCgroup, NoCgroup
from .device_memory import DeviceMemorySampler
from .memory import MemorySampler
from .watch import Watch


class MemoryPass:
    """Make it right after the spawn; samples are taken from entering the context to leaving it."""

    def __init__(self, pid: int, watch: Watch | None) -> None:
        self._pss = MemorySampler(pid)
        gpu = watch.gpu if watch else None
        memory = gpu.memory() if gpu else None
        self._device = DeviceMemorySampler(gpu, pid, memory.used_bytes) if gpu and memory else None
        self._cgroup: MemoryCgroup | None = None
        self._cgroup_lack = "no peak is kept by this kernel"
        try:
            group = MemoryCgroup.create()
            group.take_in(pid)
            self._cgroup = group
        except NoCgroup as none:
            self._cgroup_lack = str(none)
        self._loaded_pss_bytes = 0
        self._ready_bytes: int | None = None
        self._loaded_bytes: int | None = None

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(self._pss)
        if self._device is not None:
            self._ready_bytes = self._device.mark()
            self._stack.enter_context(self._device)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def loaded(self) -> None:
        """The model is loaded and no request was sent yet."""
        self._loaded_pss_bytes = self._pss.mark().pss_bytes
        self._loaded_bytes = self._device.mark() if self._device else None

    def reading(self, account: Account) -> MemoryReading:
        peak, cgroup_peak = self._pss.peak, self._cgroup.peak_bytes() if self._cgroup else None
        return MemoryReading(
            peak_pss_bytes=peak.pss_bytes,
            peak_pss_anon_bytes=peak.anon_bytes,
            peak_pss_file_bytes=peak.file_bytes,
            loaded_pss_bytes=self._loaded_pss_bytes,
            max_vm_hwm_bytes=self._pss.max_vm_hwm_bytes,
            n_samples=self._pss.n_samples,
            engine_weights_bytes=account.weights_bytes,
            engine_kv_cache_bytes=account.kv_cache_bytes,
            engine_workspace_bytes=account.workspace_bytes,
            engine_device_peak_bytes=account.device_peak_bytes,
            cgroup_peak_bytes=cgroup_peak,
            cgroup_lack=self._cgroup_lack if cgroup_peak is None else "",
            process_peaks_bytes=self._pss.process_peaks_bytes,
            device=self._device_reading(),
        )

    def after_unload(self, reading: MemoryReading) -> MemoryReading:
        """With what the device still holds once the weights and the cache are given back."""
        if self._device is None or reading.device is None:
            return reading
        device = msgspec.structs.replace(reading.device, unloaded_growth_bytes=self._device.mark())
        return msgspec.structs.replace(reading, device=device)

    @property
    def oom_kills(self) -> int:
        """Processes of the engine's own control group that the kernel killed; 0 too where it has none."""
        return self._cgroup.oom_kills() if self._cgroup else 0

    def close(self) -> None:
        """When the engine is gone."""
        if self._cgroup is not None:
            self._cgroup.close()

    def _device_reading(self) -> DeviceMemoryReading | None:
        device = self._device
        if device is None:
            return None
        return DeviceMemoryReading(
            baseline_bytes=device.baseline_bytes,
            peak_growth_bytes=device.peak_growth_bytes,
            peak_of_processes_bytes=device.peak_of_processes_bytes,
            processes_lack=device.lack,
            ready_growth_bytes=self._ready_bytes,
            loaded_growth_bytes=self._loaded_bytes,
        )
