"""NVIDIA's management library, asked from outside the engine: the state of a GPU, its memory and its energy counter.

The bindings (nvidia-ml-py) are imported when a GPU is asked for, never before. What a driver does not support is None;
no other module knows NVML. Only the first GPU that an engine may see is read: engines use one.
"""

from __future__ import annotations

import importlib
import itertools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from enginebench.store.surroundings import GpuState

T = TypeVar("T")


class NoGpu(Exception):
    """No GPU can be read here; the message says why."""


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes in use on the device, and of each process that NVML lists (None where it does not tell the size)."""

    used_bytes: int
    of_process: dict[int, int | None]


class NvmlGpu:
    """One GPU."""

    def __init__(self, library: Any, handle: Any) -> None:
        self._library = library
        self._handle = handle

    @property
    def name(self) -> str:
        return str(self._library.nvmlDeviceGetName(self._handle))

    def state(self) -> GpuState:
        nvml = self._library
        limit, default_limit = self._ask("PowerManagementLimit"), self._ask("PowerManagementDefaultLimit")
        ecc, mig = self._ask("EccMode"), self._ask("MigMode")
        return GpuState(
            name=self.name,
            sm_clock_mhz=self._ask("ClockInfo", nvml.NVML_CLOCK_SM),
            default_sm_clock_mhz=self._default_clock(),
            memory_clock_mhz=self._ask("ClockInfo", nvml.NVML_CLOCK_MEM),
            event_reasons=self._event_reasons(),
            thermal_violation_ns=self._violation(nvml.NVML_PERF_POLICY_THERMAL),
            power_violation_ns=self._violation(nvml.NVML_PERF_POLICY_POWER),
            temperature_c=self._ask("Temperature", nvml.NVML_TEMPERATURE_GPU),
            power_mw=self._ask("PowerUsage"),
            power_limit_mw=limit,
            default_power_limit_mw=default_limit,
            utilisation_percent=self.utilisation_percent(),
            compute_processes=_count(self._ask("ComputeRunningProcesses")),
            graphics_processes=_count(self._ask("GraphicsRunningProcesses")),
            memory_used_bytes=self._used(),
            persistence=_is_on(self._ask("PersistenceMode")),
            ecc=None if ecc is None else bool(ecc[0]),
            default_ecc=_is_on(self._ask("DefaultEccMode")),
            mig=None if mig is None else bool(mig[0]),
        )

    def clocks(self) -> GpuState:
        """The few facts that matter right after a request: four questions, no lists."""
        nvml = self._library
        return GpuState(
            name=self.name,
            sm_clock_mhz=self._ask("ClockInfo", nvml.NVML_CLOCK_SM),
            default_sm_clock_mhz=self._default_clock(),
            memory_clock_mhz=self._ask("ClockInfo", nvml.NVML_CLOCK_MEM),
            event_reasons=self._event_reasons(),
            power_mw=self._ask("PowerUsage"),
        )

    def memory(self) -> DeviceMemory | None:
        """None where the driver does not tell what is in use (then it tells nothing of processes either)."""
        used = self._used()
        if used is None:
            return None
        listed = [*self._processes("Compute"), *self._processes("Graphics")]
        return DeviceMemory(used, {int(process.pid): process.usedGpuMemory for process in listed})

    def utilisation_percent(self) -> int | None:
        rates = self._ask("UtilizationRates")
        return None if rates is None else int(rates.gpu)

    def free_bytes(self) -> int | None:
        memory = self._ask("MemoryInfo")
        return None if memory is None else int(memory.free)

    def energy_j(self) -> float | None:
        """Since the driver was loaded; the whole board (Volta and later count it)."""
        millijoules = self._ask("TotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1000

    def _default_clock(self) -> int | None:
        clock = self._library.NVML_CLOCK_SM
        found: int | None = self._ask("DefaultApplicationsClock", clock) or self._ask("MaxClockInfo", clock)
        return found

    def _event_reasons(self) -> int | None:
        """By its name since driver 535, else by the older one."""
        reasons = self._ask("CurrentClocksEventReasons")
        found: int | None = self._ask("CurrentClocksThrottleReasons") if reasons is None else reasons
        return found

    def _violation(self, policy: int) -> int | None:
        status = self._ask("ViolationStatus", policy)
        return None if status is None else int(status.violationTime)

    def _used(self) -> int | None:
        memory = self._ask("MemoryInfo")
        return None if memory is None else int(memory.used)

    def _processes(self, kind: str) -> Iterable[Any]:
        return self._ask(f"{kind}RunningProcesses") or []

    def _ask(self, what: str, *arguments: int) -> Any:
        """nvmlDeviceGet{what}; None where this driver or this GPU does not support it."""
        return _supported(self._library, f"nvmlDeviceGet{what}", self._handle, *arguments)


def open_gpu(visible: str | None = None) -> NvmlGpu:
    """The first GPU that engines see. `visible`: as CUDA_VISIBLE_DEVICES has it. Raises NoGpu with the reason."""
    library, names = _library(), _visible(visible)
    if names == []:
        raise NoGpu("CUDA_VISIBLE_DEVICES hides every GPU")
    try:
        library.nvmlInit()
        return NvmlGpu(library, _handle(library, names[0] if names else "0"))
    except library.NVMLError as error:
        raise NoGpu(f"NVML: {error}") from None


def gpu_count(visible: str | None = None) -> int | None:
    """GPUs that engines see. `visible`: as CUDA_VISIBLE_DEVICES has it. None where nobody can tell."""
    names = _visible(visible)
    if names is not None:
        return len(names)
    try:
        library = _library()
        library.nvmlInit()
        return int(library.nvmlDeviceGetCount())
    except NoGpu:
        return None
    except library.NVMLError:
        return None


def gpu_memories(visible: str | None = None) -> list[int]:
    """Total bytes of each GPU that engines see; empty where there is none or nobody can tell."""
    names = _visible(visible)
    try:
        library = _library()
        library.nvmlInit()
        chosen = map(str, range(library.nvmlDeviceGetCount())) if names is None else names
        handles = [_handle(library, name) for name in chosen]
        return [int(library.nvmlDeviceGetMemoryInfo(handle).total) for handle in handles]
    except NoGpu:
        return []
    except library.NVMLError:
        return []


def _visible(visible: str | None) -> list[str] | None:
    """Numbers and UUIDs; None: all are. What stands behind an invalid one is hidden, and -1 is the usual invalid one
    (CUDA C++ Programming Guide, "CUDA Environment Variables")."""
    text = os.environ.get("CUDA_VISIBLE_DEVICES") if visible is None else visible
    if text is None:
        return None
    names = (name for part in text.split(",") if (name := part.strip()))
    return list(itertools.takewhile(lambda name: not name.startswith("-"), names))


def find_gpu() -> NvmlGpu | None:
    """None where there is none."""
    try:
        return open_gpu()
    except NoGpu:
        return None


def _library() -> Any:
    try:
        return importlib.import_module("pynvml")
    except ImportError:
        raise NoGpu("the Python package nvidia-ml-py is not installed") from None


def _handle(library: Any, name: str) -> Any:
    """By number or UUID, as CUDA_VISIBLE_DEVICES has it."""
    return library.nvmlDeviceGetHandleByIndex(int(name)) if name.isdigit() else library.nvmlDeviceGetHandleByUUID(name)


def _supported(library: Any, name: str, *arguments: Any) -> Any:
    ask: Callable[..., Any] | None = getattr(library, name, None)
    if ask is None:
        return None
    try:
        return ask(*arguments)
    except library.NVMLError:
        return None


def _count(processes: list[Any] | None) -> int | None:
    return None if processes is None else len(processes)


def _is_on(mode: int | None) -> bool | None:
    return None if mode is None else bool(mode)
