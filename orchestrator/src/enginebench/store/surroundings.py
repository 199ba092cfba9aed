"""What is recorded of the machine around a launch: raw readings only, None where something could not be read.

Which of them speak against a number is decided in `machine.gates`; nothing here is judged or averaged.
"""

from __future__ import annotations

import msgspec


class Reading(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all readings."""


class GpuState(Reading, frozen=True):
    """One GPU at one moment, by NVML."""

    name: str
    sm_clock_mhz: int | None = None
    default_sm_clock_mhz: int | None = None
    """The default application clock, or the highest one where the driver has no default."""
    memory_clock_mhz: int | None = None
    event_reasons: int | None = None
    """Bits of nvmlClocksEventReason*: why the clocks are not higher."""
    thermal_violation_ns: int | None = None
    power_violation_ns: int | None = None
    """Time since the driver was loaded in which heat, or the power limit, held the clocks down."""
    temperature_c: int | None = None
    power_mw: int | None = None
    power_limit_mw: int | None = None
    default_power_limit_mw: int | None = None
    utilisation_percent: int | None = None
    compute_processes: int | None = None
    graphics_processes: int | None = None
    memory_used_bytes: int | None = None
    persistence: bool | None = None
    ecc: bool | None = None
    default_ecc: bool | None = None
    mig: bool | None = None


class NoiseSnapshot(Reading, frozen=True):
    """How busy the machine is at one moment, and counters whose differences tell what happened between two."""

    date: str = ""
    t_ns: int | None = None
    """perf_counter_ns: what lies between two snapshots."""
    load_1min: float | None = None
    runnable: int | None = None
    """Runnable threads besides our own."""
    pressure_cpu: float | None = None
    pressure_memory: float | None = None
    pressure_io: float | None = None
    """PSI `some avg10`, percent."""
    waited_cpu_us: int | None = None
    waited_memory_us: int | None = None
    waited_io_us: int | None = None
    """PSI `some total`: microseconds since boot in which some task waited."""
    cpu_ticks: int | None = None
    idle_ticks: int | None = None
    steal_ticks: int | None = None
    swapped_in_pages: int | None = None
    swapped_out_pages: int | None = None
    swap_used_bytes: int | None = None
    major_faults: int | None = None
    thermal_throttles: int | None = None
    mean_mhz: float | None = None
    highest_mhz: float | None = None
    """Over the processors, as the kernel tells it at that moment: idle ones pull the mean down."""
    base_mhz: float | None = None
    """What the maker promises without turbo."""
    gpu: GpuState | None = None


class ProcessCounters(Reading, frozen=True):
    """Sums over a process tree since its processes were started."""

    cpu_ns: int
    major_faults: int
    involuntary_switches: int
    """Times that a thread which could go on had to leave its processor to another."""


class LaunchNoise(Reading, frozen=True):
    """Around one launch: before the spawn, and at both ends of the measured requests; never inside one."""

    before: NoiseSnapshot
    start: NoiseSnapshot | None = None
    end: NoiseSnapshot | None = None
    engine_start: ProcessCounters | None = None
    engine_end: ProcessCounters | None = None
    harness_cpu_ns: int | None = None
    """Processor time of the orchestrator between `start` and `end`."""
    gpu_after_requests: list[GpuState] = []
    """Right after each measured request, before the next one is sent: the clocks of the work just done."""
    gpu_wait_ns: int | None = None
    """Waited before the spawn until the GPU's memory was back at the baseline of the run."""
    gpu_settled: bool | None = None
    """False: the wait ended at its deadline, with memory still held or the GPU still busy."""
