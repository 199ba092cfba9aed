"""Each noise gate is quiet on a quiet machine and fires on its own fault, injected into /proc, /sys or NVML."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from enginebench.machine.gates import GATES, doubts, findings, launch_view, launch_warnings
from enginebench.machine.noise import read_noise
from enginebench.machine.view import View
from enginebench.store.surroundings import GpuState, LaunchNoise, NoiseSnapshot, ProcessCounters

from .conftest import CPU, FakeMachine, Launched, engine_files

Fault = Callable[[FakeMachine], None]


def files(proc: dict[str, str] | None = None, sys: dict[str, str] | None = None) -> Fault:
    return lambda machine: machine.write(proc, sys)


def gpu(**changes: Any) -> Fault:
    def fault(machine: FakeMachine) -> None:
        for name, value in changes.items():
            setattr(machine.nvml, name, value)

    return fault


def ticks(line: str) -> Fault:
    def fault(machine: FakeMachine) -> None:
        machine.write({"stat": line})

    fault.own_ticks = True  # type: ignore[attr-defined]
    return fault


def psi(name: str, avg10: float, total: int) -> dict[str, str]:
    return {f"pressure/{name}": f"some avg10={avg10} avg60=0.00 avg300=0.00 total={total}\n"}


BEFORE: dict[str, tuple[Fault, str]] = {
    "runnable": (files({"loadavg": "2 2 2 4/96 1\n"}), "3 other threads were runnable"),
    "pressure-cpu": (files(psi("cpu", 1.25, 1000)), "some task waited for a processor 1 % of 10 s"),
    "governor": (files(sys={f"{CPU}/cpu0/cpufreq/scaling_governor": "powersave"}), "it is powersave"),
    "turbo": (files(sys={f"{CPU}/intel_pstate/no_turbo": "0"}), "turbo on"),
    "frequency-limit": (
        files(sys={f"{CPU}/cpu0/cpufreq/scaling_max_freq": "2000000"}), "limited to 2000 of 3500 MHz",
    ),
    "smt": (files(sys={f"{CPU}/smt/active": "1"}), "SMT on"),
    "numa": (files(sys={"devices/system/node/node1/cpulist": "1"}), "NUMA nodes: 2"),
    "clocksource": (
        files(sys={"devices/system/clocksource/clocksource0/current_clocksource": "hpet"}), "clock hpet",
    ),
    "battery": (files(sys={"class/power_supply/BAT0/status": "Discharging"}), "running on battery: on"),
    "gpu-processes": (gpu(compute={77: 5}), "1 other processes computed on the GPU"),
    "gpu-display": (gpu(graphics={78: 5}), "1 process drew with the GPU"),
    "gpu-busy": (gpu(utilisation=2), "the GPU was 2 % busy before the launch"),
    "gpu-persistence": (gpu(persistence=0), "persistence mode is off"),
    "gpu-power-limit": (gpu(power_limit=500_000), "power limit 500 W, default 700 W"),
    "gpu-ecc": (gpu(ecc=0), "ECC is off, default on"),
    "gpu-mig": (gpu(mig=1), "MIG is on"),
}  # fmt: skip
DURING: dict[str, tuple[Fault, str]] = {
    "pressure-memory": (files(psi("memory", 0, 31_000)), "some task waited for memory 1.5 % of the time"),
    "pressure-io": (files(psi("io", 0, 31_000)), "some task waited for the disk 1.5 % of the time"),
    "steal": (ticks("cpu  490 0 20 300 0 0 0 2 0 0\n"), "the hypervisor gave 0.5% of the processor time to others"),
    "foreign-cpu": (
        ticks("cpu  800 0 20 300 0 0 0 0 0 0\n"), "other programs used 44.3% of all processors",
    ),
    "involuntary-switches": (
        files(engine_files(ticks=400, switches=202)), "threads were displaced 101 times per second",
    ),
    "swap": (files({"vmstat": "pswpin 3\npswpout 5\n"}), "the machine swapped 1 pages"),
    "major-faults": (
        files(engine_files(ticks=400, major_faults=1)), "the process waited for the disk at 1 page faults",
    ),
    "thermal-throttle": (
        files(sys={f"{CPU}/cpu0/thermal_throttle/core_throttle_count": "3"}),
        "the processors throttled for heat 1 time",
    ),
    "cpu-clock": (files({"cpuinfo": "cpu MHz\t: 2700.0\n"}), "the fastest processor ran at 90% of the base frequency"),
    "gpu-clock-void": (gpu(sm_mhz=1400), "the SM clock fell to 71% of its default"),
    "gpu-clock": (gpu(sm_mhz=1800), "the SM clock was at 91% of its default"),
    "gpu-throttle": (gpu(event_reasons=0x40), "thermal slowdown by the hardware"),
    "gpu-power-cap": (gpu(event_reasons=0x4), "the power limit held the clock down"),
}  # fmt: skip


def quiet_during(machine: FakeMachine) -> None:
    machine.write(engine_files(ticks=400))


def fired(found: dict[str, Any]) -> dict[str, str]:
    return {name: finding.sight.seen for name, finding in found.items() if finding.sight.fired}


def test_a_quiet_machine_fires_no_gate_and_every_gate_can_be_read(launched: Launched) -> None:
    found = launched.findings(during=quiet_during)
    assert {finding.state for finding in found.values()} == {"ok"}


@pytest.mark.parametrize("name", BEFORE)
def test_a_gate_sees_its_fault_before_the_launch_and_no_other_does(launched: Launched, name: str) -> None:
    fault, seen = BEFORE[name]
    assert fired(launched.findings(before=fault, during=quiet_during)) == {name: seen}


@pytest.mark.parametrize("name", DURING)
def test_a_gate_sees_its_fault_during_the_launch_and_no_other_does(launched: Launched, name: str) -> None:
    fault, seen = DURING[name]

    def both(machine: FakeMachine) -> None:
        quiet_during(machine)
        fault(machine)

    both.own_ticks = getattr(fault, "own_ticks", False)  # type: ignore[attr-defined]
    assert fired(launched.findings(during=both)) == {name: seen}


def test_every_gate_of_the_set_has_its_injected_fault() -> None:
    assert {gate.name for gate in GATES} == {*BEFORE, *DURING}
    assert len({gate.name for gate in GATES}) == len(GATES)
    assert all(gate.why and gate.remedy for gate in GATES)


def test_only_recorded_causes_invalidate() -> None:
    assert {gate.name for gate in GATES if gate.severity == "invalid"} == {
        "swap", "major-faults", "thermal-throttle", "gpu-processes", "gpu-busy", "gpu-clock-void", "gpu-throttle",
    }  # fmt: skip


def test_what_cannot_be_read_accuses_nobody() -> None:
    assert {finding.state for finding in findings(View())} == {"unreadable"}
    empty = LaunchNoise(before=NoiseSnapshot(), start=NoiseSnapshot(), end=NoiseSnapshot())
    assert doubts(empty) == []


def test_a_launch_is_in_doubt_by_invalidating_gates_alone() -> None:
    counters = {"cpu_ns": 0, "involuntary_switches": 0}
    noise = LaunchNoise(
        before=NoiseSnapshot(runnable=9, pressure_cpu=80.0),
        start=NoiseSnapshot(t_ns=0, swapped_in_pages=1, swapped_out_pages=1),
        end=NoiseSnapshot(t_ns=10**9, swapped_in_pages=1, swapped_out_pages=8),
        engine_start=ProcessCounters(major_faults=2, **counters),
        engine_end=ProcessCounters(major_faults=5, **counters),
    )
    assert doubts(noise) == [
        "swap: the machine swapped 7 pages",
        "major-faults: the process waited for the disk at 3 page faults",
    ]
    warned = [f.gate.name for f in findings(launch_view(noise)) if f.state == "warn"]
    assert warned == ["runnable", "pressure-cpu"]


def test_a_gpu_that_only_idles_between_requests_is_not_slow() -> None:
    """The clock is judged right after requests; before the launch it is low because nothing runs."""
    idle = GpuState(name="x", sm_clock_mhz=345, default_sm_clock_mhz=1980, event_reasons=1)
    view = View(now=NoiseSnapshot(gpu=idle), gpu_after_requests=(GpuState(name="x"),))
    assert not [finding for finding in findings(view) if finding.sight.fired]


def test_heat_that_came_and_went_between_two_samples_is_counted() -> None:
    hot, later = (GpuState(name="x", thermal_violation_ns=ns) for ns in (7, 2_000_007))
    view = View(start=NoiseSnapshot(gpu=hot), end=NoiseSnapshot(gpu=later))
    seen = {f.gate.name: f.sight.seen for f in findings(view) if f.sight.fired}
    assert seen == {"gpu-throttle": "heat held the clock down for 2 ms"}


def test_warnings_of_launches_are_counted_with_the_worst(records: Any) -> None:
    import msgspec

    def launch(runnable: int) -> dict[str, Any]:
        noise = LaunchNoise(before=NoiseSnapshot(runnable=runnable))
        plain: dict[str, Any] = msgspec.to_builtins(records.timed([], noise=noise))
        return plain

    old = msgspec.to_builtins(records.timed([]))
    del old["noise"]
    check = {**launch(50), "kind": "check"}
    assert launch_warnings([launch(0), launch(3), launch(7), old, check]) == [
        "noise around 2 of 3 timed launches: runnable: 7 other threads were runnable"
    ]


def test_a_slow_processor_is_seen_from_the_record_of_a_launch_alone() -> None:
    moment = NoiseSnapshot(highest_mhz=2000.0, base_mhz=2500.0)
    found = {f.gate.name: f for f in findings(launch_view(LaunchNoise(before=moment, start=moment, end=moment)))}
    assert found["cpu-clock"].state == "warn"
    assert found["cpu-clock"].sight.seen == "the fastest processor ran at 80% of the base frequency"


def test_amds_and_arms_base_frequency_is_read_in_megahertz(machine: FakeMachine) -> None:
    (machine.sys / f"{CPU}/cpu0/cpufreq/base_frequency").unlink()
    machine.write(sys={f"{CPU}/cpu0/acpi_cppc/nominal_freq": "2450\n"})
    assert read_noise(machine.proc, machine.sys).base_mhz == 2450.0
