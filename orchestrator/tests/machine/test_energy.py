"""Joules from counters whose every step is chosen: a machine that idles at 50 W, and an engine of known cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from enginebench.judge.energy_metrics import NAMES, NO_PASS, energy_metrics
from enginebench.machine.energy import EnergyCounter, Meter, energy_counters
from enginebench.run.energy_pass import Clock, measure
from enginebench.store.record import EnergyReading, EnergyWindow

from .conftest import FakeMachine

RAPL = "class/powercap/intel-rapl"
IDLE_W, PREFILL_J, DECODE_J = 50.0, 30.0, 4.0
PREFILL_S, TOKEN_S = 0.5, 0.1
N_SENT, N_GEN = 100, 11


class Simulated:
    """Time and energy that pass only when something is done; the counter wraps at `range_j`."""

    def __init__(self, range_j: float | None = None) -> None:
        self.now, self.joules = 0.0, 0.0
        self.name, self.range_j = "package-0", range_j
        self.asked: list[tuple[int, int]] = []

    def read_j(self) -> float:
        return self.joules % self.range_j if self.range_j else self.joules

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.joules += seconds * IDLE_W

    def ask(self, iteration: int, n_gen: int) -> None:
        self.asked.append((iteration, n_gen))
        self.sleep(PREFILL_S + TOKEN_S * (n_gen - 1))
        self.joules += PREFILL_J + DECODE_J * (n_gen - 1)

    def reading(self, n_gen: int = N_GEN, **changes: Any) -> EnergyReading:
        return measure(Meter([self]), self.ask, N_SENT, n_gen, clock=Clock(lambda: self.now, self.sleep), **changes)


@pytest.mark.parametrize("range_j", [None, 260.0], ids=["no wrap", "wraps in every request or two"])
def test_energy_is_split_into_idle_prefill_and_decode(records: Any, range_j: float | None) -> None:
    reading = Simulated(range_j).reading()
    metrics = energy_metrics([records.timed([], kind="energy", energy=reading)], {})
    assert {name: metric.unit for name, metric in metrics.items()} == NAMES
    values = {name: metric.value for name, metric in metrics.items()}
    assert values == {
        "idle_power_w": pytest.approx(50),
        "prefill_j_per_token": pytest.approx(0.3),
        "decode_j_per_token": pytest.approx(4),
        "prefill_gross_j_per_token": pytest.approx((30 + 25) / 100),
        "decode_gross_j_per_token": pytest.approx(4 + 5),
    }
    assert all(metric.valid for metric in metrics.values())
    assert metrics["decode_j_per_token"].reasons == ["counted: package-0; not the wall"]


def test_every_window_is_long_enough_and_no_prompt_is_asked_twice() -> None:
    simulated = Simulated()
    reading = simulated.reading()
    assert reading.idle is not None
    assert reading.prefill is not None
    assert reading.full is not None
    assert (reading.idle.seconds, reading.idle.n_requests) == (10.0, 0)
    assert (reading.prefill.seconds, reading.prefill.n_requests) == (10.0, 20)
    assert (reading.full.seconds, reading.full.n_requests) == (pytest.approx(10.5), 7)
    assert [iteration for iteration, _ in simulated.asked] == list(range(2 + 20 + 7))


def test_a_workload_of_one_token_has_no_energy_of_decoding(records: Any) -> None:
    metrics = energy_metrics([records.timed([], kind="energy", energy=Simulated().reading(n_gen=1))], {})
    assert metrics["prefill_j_per_token"].value == pytest.approx(0.3)
    assert (metrics["decode_j_per_token"].value, metrics["decode_j_per_token"].valid) == (None, False)
    assert metrics["decode_j_per_token"].reasons[0] == "one generated token: nothing is decoded"


def test_windows_that_are_too_short_make_an_invalid_value_that_is_kept(records: Any) -> None:
    reading = Simulated().reading(window_seconds=3.0)
    metric = energy_metrics([records.timed([], kind="energy", energy=reading)], {})["prefill_j_per_token"]
    assert (metric.value, metric.valid) == (pytest.approx(0.3), False)
    assert "measured over 3.0 s" in metric.reasons[0]


def test_work_that_cost_less_than_idling_is_invalid(records: Any) -> None:
    windows = {
        "idle": EnergyWindow(seconds=10, joules={"a": 500}, n_requests=0),
        "prefill": EnergyWindow(seconds=10, joules={"a": 400}, n_requests=4),
        "full": EnergyWindow(seconds=10, joules={"a": 600}, n_requests=4),
    }
    reading = EnergyReading(counters=["a"], n_sent=10, n_gen=2, **windows)
    metric = energy_metrics([records.timed([], kind="energy", energy=reading)], {})["prefill_j_per_token"]
    assert (metric.value, metric.valid) == (-2.5, False)
    assert "less than the idle machine drew" in metric.reasons[0]


def test_a_doubt_about_the_launch_is_one_about_its_energy(records: Any) -> None:
    launch = records.timed([], kind="energy", energy=Simulated().reading(), doubts=["swap: 7 pages"])
    metric = energy_metrics([launch], {})["decode_j_per_token"]
    assert (metric.valid, metric.reasons[0]) == (False, "swap: 7 pages")


@pytest.mark.parametrize(
    ("environment", "reason"), [({"energy_lack": "no energy counter: x"}, "no energy counter: x"), ({}, NO_PASS)]
)
def test_energy_that_was_not_measured_is_missing_with_the_reason(
    records: Any, environment: dict[str, Any], reason: str
) -> None:
    metrics = energy_metrics([records.timed([])], environment)
    assert {metric.value for metric in metrics.values()} == {None}
    assert {tuple(metric.reasons) for metric in metrics.values()} == {(reason,)}
    failed = energy_metrics([records.timed([], kind="energy")], environment)
    assert failed["idle_power_w"].reasons == ["the energy pass failed"]


def rapl(machine: FakeMachine, **domains: int) -> None:
    """Domains 0, 0_0, 1 … of the powercap tree, each with a name and microjoules."""
    for place, micro in domains.items():
        folder = f"{RAPL}:{place.replace('_', ':').strip('d')}"
        machine.write(sys={f"{folder}/energy_uj": str(micro), f"{folder}/max_energy_range_uj": "262143328850"})


def name(machine: FakeMachine, **names: str) -> None:
    for place, text in names.items():
        machine.write(sys={f"{RAPL}:{place.replace('_', ':').strip('d')}/name": text})


def test_packages_and_their_memory_are_counted_and_nothing_twice(machine: FakeMachine) -> None:
    rapl(machine, d0=5_000_000, d0_0=1, d0_1=2_000_000, d1=7_000_000, d2=99)
    name(machine, d0="package-0", d0_0="core", d0_1="dram", d1="package-1", d2="psys")
    found = energy_counters("cpu", machine.sys).found
    assert {counter.name: counter.read_j() for counter in found} == {
        "package-0 (intel-rapl:0)": 5.0,
        "dram (intel-rapl:0:1)": 2.0,
        "package-1 (intel-rapl:1)": 7.0,
    }
    assert {counter.range_j for counter in found} == {262143.32885}


def test_a_counter_that_wraps_around_goes_on(machine: FakeMachine) -> None:
    rapl(machine, d0=262_143_000_000)
    name(machine, d0="package-0")
    meter = Meter(energy_counters("cpu", machine.sys).found)
    rapl(machine, d0=671_150)
    assert meter.read_j() == {"package-0 (intel-rapl:0)": pytest.approx(1.0)}
    rapl(machine, d0=1_671_150)
    assert meter.read_j() == {"package-0 (intel-rapl:0)": pytest.approx(2.0)}


def test_the_board_of_the_gpu_is_counted_beside_the_packages(machine: FakeMachine) -> None:
    rapl(machine, d0=1)
    name(machine, d0="package-0")
    counters: tuple[EnergyCounter, ...] = energy_counters("cuda", machine.sys).found
    assert [counter.name for counter in counters] == ["package-0 (intel-rapl:0)", "NVIDIA Fake"]
    meter = Meter(counters)
    assert machine.nvml is not None
    machine.nvml.energy_mj += 2500
    assert meter.read_j()["NVIDIA Fake"] == pytest.approx(2.5)


def test_no_counter_at_all_has_its_reasons(machine: FakeMachine, tmp_path: Path) -> None:
    assert energy_counters("cpu", tmp_path).lack == "no energy counter: the kernel shows no RAPL counters"
    name(machine, d0="package-0")
    assert energy_counters("cpu", machine.sys).lack == "no energy counter: RAPL counters can be read by root only"
    assert machine.nvml is not None
    machine.nvml.unsupported = {"nvmlDeviceGetTotalEnergyConsumption"}
    assert energy_counters("cuda", tmp_path).lacks[1] == "the GPU has no energy counter"
    machine.nvml.no_driver = True
    assert energy_counters("cuda", tmp_path).lacks[1] == "GPU: NVML: NVML Shared Library Not Found"
