"""A stand-in for the module `pynvml`: the functions and constants that we use, over state that a test sets.

test_nvml.py checks every name and every number of arguments against the real bindings.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

GIB = 2**30


class NVMLError(Exception):
    """As the real one: the base of all."""


@dataclass
class FakeNvml:
    """A quiet H100-like GPU. `unsupported`: names of functions that the driver refuses."""

    NVMLError = NVMLError
    NVML_CLOCK_SM = 1
    NVML_CLOCK_MEM = 2
    NVML_PERF_POLICY_POWER = 0
    NVML_PERF_POLICY_THERMAL = 1
    NVML_TEMPERATURE_GPU = 0

    sm_mhz: int = 1980
    default_sm_mhz: int = 1980
    event_reasons: int = 1  # idle
    violation_ns: dict[int, int] = field(default_factory=lambda: {0: 5, 1: 7})
    utilisation: int = 0
    compute: dict[int, int | None] = field(default_factory=dict)
    graphics: dict[int, int | None] = field(default_factory=dict)
    used_bytes: int = GIB
    persistence: int = 1
    power_limit: int = 700_000
    ecc: int = 1
    mig: int = 0
    energy_mj: int = 1_000_000
    unsupported: set[str] = field(default_factory=set)
    no_driver: bool = False

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in object.__getattribute__(self, "unsupported"):
            return self._refuse
        return object.__getattribute__(self, name)

    def _refuse(self, *_: Any) -> None:
        raise NVMLError("Not Supported")

    def nvmlInit(self) -> None:  # noqa: N802
        if self.no_driver:
            raise NVMLError("NVML Shared Library Not Found")

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:  # noqa: N802
        if index > 0:
            raise NVMLError("Invalid Argument")
        return f"gpu{index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        return uuid

    def nvmlDeviceGetName(self, handle: str) -> str:  # noqa: N802
        return "NVIDIA Fake"

    def nvmlDeviceGetClockInfo(self, handle: str, type: int) -> int:  # noqa: A002, N802
        return {1: self.sm_mhz, 2: 2619}[type]

    def nvmlDeviceGetDefaultApplicationsClock(self, handle: str, type: int) -> int:  # noqa: A002, N802
        return {1: self.default_sm_mhz, 2: 2619}[type]

    def nvmlDeviceGetMaxClockInfo(self, handle: str, type: int) -> int:  # noqa: A002, N802
        return {1: 2100, 2: 2619}[type]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:  # noqa: N802
        return self.event_reasons

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle: str) -> int:  # noqa: N802
        return self.event_reasons

    def nvmlDeviceGetViolationStatus(self, device: str, perfPolicyType: int) -> SimpleNamespace:  # noqa: N802, N803
        return SimpleNamespace(referenceTime=0, violationTime=self.violation_ns[perfPolicyType])

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:  # noqa: N802
        return 40

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:  # noqa: N802
        return 90_000

    def nvmlDeviceGetPowerManagementLimit(self, handle: str) -> int:  # noqa: N802
        return self.power_limit

    def nvmlDeviceGetPowerManagementDefaultLimit(self, handle: str) -> int:  # noqa: N802
        return 700_000

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(gpu=self.utilisation, memory=0)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[SimpleNamespace]:  # noqa: N802
        return _listed(self.compute)

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle: str) -> list[SimpleNamespace]:  # noqa: N802
        return _listed(self.graphics)

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(total=141 * GIB, used=self.used_bytes, free=141 * GIB - self.used_bytes)

    def nvmlDeviceGetPersistenceMode(self, handle: str) -> int:  # noqa: N802
        return self.persistence

    def nvmlDeviceGetEccMode(self, handle: str) -> list[int]:  # noqa: N802
        return [self.ecc, self.ecc]

    def nvmlDeviceGetDefaultEccMode(self, handle: str) -> int:  # noqa: N802
        return 1

    def nvmlDeviceGetMigMode(self, device: str) -> list[int]:  # noqa: N802
        return [self.mig, self.mig]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:  # noqa: N802
        return self.energy_mj


def _listed(processes: dict[int, int | None]) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in processes.items()]
