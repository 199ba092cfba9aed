"""Every noise gate, shown its fault: it must fire, and no other gate with it.

The facts of an imagined quiet machine with one of them changed. That the facts themselves are read rightly from /proc,
/sys and NVML is what the tests show.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from msgspec.structs import replace as changed

from enginebench.machine.facts import Cpu, Environment
from enginebench.machine.gates import GATES, findings
from enginebench.machine.view import View, Worked
from enginebench.store.surroundings import GpuState, NoiseSnapshot

from .page import Row

_CPU = Cpu(
    model="imagined",
    architecture="x86_64",
    logical=4,
    physical=4,
    allowed=4,
    governor="performance",
    turbo=False,
    max_frequency_khz=3_000_000,
    smt=False,
    base_frequency_khz=3_000_000,
    frequency_limit_khz=3_000_000,
    isolated="",
    numa_nodes=1,
)
_MACHINE = Environment(
    date="",
    cpu=_CPU,
    memory_bytes=1,
    swap_bytes=0,
    kernel="",
    distribution=None,
    python="",
    clocksource="tsc",
    gpus=None,
    repository=None,
    on_battery=False,
)
_GPU = GpuState(
    name="imagined",
    sm_clock_mhz=1000,
    default_sm_clock_mhz=1000,
    event_reasons=0,
    thermal_violation_ns=0,
    power_violation_ns=0,
    power_limit_mw=500_000,
    default_power_limit_mw=500_000,
    utilisation_percent=0,
    compute_processes=0,
    graphics_processes=0,
    persistence=True,
    ecc=True,
    default_ecc=True,
    mig=False,
)
_START = NoiseSnapshot(
    t_ns=0,
    runnable=0,
    pressure_cpu=0.0,
    pressure_memory=0.0,
    pressure_io=0.0,
    waited_memory_us=0,
    waited_io_us=0,
    cpu_ticks=0,
    idle_ticks=0,
    steal_ticks=0,
    swapped_in_pages=0,
    swapped_out_pages=0,
    thermal_throttles=0,
    gpu=_GPU,
)
_END = changed(_START, t_ns=2_000_000_000, cpu_ticks=800, idle_ticks=400, highest_mhz=3000.0)
"""Two seconds later; four processors made 800 ticks, half of them idle, the others the engine's."""
QUIET = View(
    machine=_MACHINE,
    now=_START,
    start=_START,
    end=_END,
    engine=Worked(cpu_ns=4_000_000_000, major_faults=0, involuntary_switches=0),
    harness_cpu_ns=0,
    gpu_after_requests=(_GPU,),
)


def _cpu(**facts: Any) -> View:
    return replace(QUIET, machine=changed(_MACHINE, cpu=changed(_CPU, **facts)))


def _machine(**facts: Any) -> View:
    return replace(QUIET, machine=changed(_MACHINE, **facts))


def _before(**facts: Any) -> View:
    return replace(QUIET, now=changed(_START, **facts))


def _during(**facts: Any) -> View:
    return replace(QUIET, end=changed(_END, **facts))


def _engine(**facts: Any) -> View:
    assert QUIET.engine is not None
    return replace(QUIET, engine=replace(QUIET.engine, **facts))


def _gpu_before(**facts: Any) -> View:
    return _before(gpu=changed(_GPU, **facts))


def _gpu_during(**facts: Any) -> View:
    return replace(QUIET, gpu_after_requests=(changed(_GPU, **facts),))


FAULTS: dict[str, View] = {
    "runnable": _before(runnable=2),
    "pressure-cpu": _before(pressure_cpu=2.0),
    "pressure-memory": _during(waited_memory_us=40_000),
    "pressure-io": _during(waited_io_us=40_000),
    "foreign-cpu": _during(idle_ticks=300),
    "involuntary-switches": _engine(involuntary_switches=400),
    "steal": _during(steal_ticks=2, idle_ticks=398),
    "swap": _during(swapped_in_pages=1),
    "major-faults": _engine(major_faults=1),
    "thermal-throttle": _during(thermal_throttles=1),
    "cpu-clock": _during(highest_mhz=2700.0),
    "governor": _cpu(governor="powersave"),
    "turbo": _cpu(turbo=True),
    "frequency-limit": _cpu(frequency_limit_khz=2_000_000),
    "smt": _cpu(smt=True),
    "numa": _cpu(numa_nodes=2),
    "clocksource": _machine(clocksource="hpet"),
    "battery": _machine(on_battery=True),
    "gpu-processes": _gpu_before(compute_processes=1),
    "gpu-busy": _gpu_before(utilisation_percent=5),
    "gpu-display": _gpu_before(graphics_processes=1),
    "gpu-clock-void": _gpu_during(sm_clock_mhz=700),
    "gpu-clock": _gpu_during(sm_clock_mhz=900),
    "gpu-throttle": _gpu_during(event_reasons=0x40),
    "gpu-power-cap": _gpu_during(event_reasons=0x4),
    "gpu-persistence": _gpu_before(persistence=False),
    "gpu-power-limit": _gpu_before(power_limit_mw=400_000),
    "gpu-ecc": _gpu_before(ecc=False),
    "gpu-mig": _gpu_before(mig=True),
}


def fired(view: View) -> set[str]:
    return {finding.gate.name for finding in findings(view) if finding.sight.fired}


def gate_rows() -> list[Row]:
    right = [gate.name for gate in GATES if gate.name in FAULTS and fired(FAULTS[gate.name]) == {gate.name}]
    wrong = sorted({gate.name for gate in GATES} - {*right})
    missed = f" (not: {', '.join(wrong)})" if wrong else ""
    silent = not fired(QUIET)
    return [
        Row(
            what="noise gates that fire on their fault, and alone",
            value=f"{len(right)} of {len(GATES)}{missed}",
            target="all",
            passed=not wrong,
        ),
        Row(
            what="gates that fire on a quiet machine",
            value=", ".join(sorted(fired(QUIET))) or "none",
            target="none",
            passed=silent,
        ),
    ]
