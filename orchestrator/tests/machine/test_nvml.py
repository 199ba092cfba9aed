"""What is asked of NVML exists in the real bindings, and what a driver refuses is None."""

from __future__ import annotations

import inspect
import sys

import pynvml
import pytest
from enginebench.machine import nvml
from enginebench.machine.gpu_gates import HW_POWER_BRAKE, HW_SLOWDOWN, HW_THERMAL, SW_POWER_CAP, SW_THERMAL
from enginebench.machine.nvml import NoGpu, find_gpu, open_gpu

from .conftest import FakeMachine
from .fake_nvml import GIB, FakeNvml


@pytest.mark.parametrize("name", sorted(name for name in dir(FakeNvml) if name.startswith("nvml")))
def test_the_stand_in_takes_what_the_real_function_takes(name: str) -> None:
    ours = list(inspect.signature(getattr(FakeNvml, name)).parameters)[1:]
    real = inspect.signature(inspect.unwrap(getattr(pynvml, name))).parameters.values()
    assert [len(ours) <= len(real), ours] == [True, [p.name for p in real][: len(ours)]]
    assert all(p.default is not inspect.Parameter.empty for p in list(real)[len(ours) :])


@pytest.mark.parametrize("name", sorted(name for name in dir(FakeNvml) if name.startswith("NVML_")))
def test_the_stand_in_has_the_real_constants(name: str) -> None:
    assert getattr(FakeNvml, name) == getattr(pynvml, name)


def test_the_bits_of_the_gates_are_those_of_nvml() -> None:
    assert pynvml.nvmlClocksEventReasonSwPowerCap == SW_POWER_CAP
    assert pynvml.nvmlClocksEventReasonHwSlowdown == HW_SLOWDOWN
    assert pynvml.nvmlClocksEventReasonSwThermalSlowdown == SW_THERMAL
    assert pynvml.nvmlClocksEventReasonHwThermalSlowdown == HW_THERMAL
    assert pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown == HW_POWER_BRAKE


def test_a_state_holds_every_answer(machine: FakeMachine) -> None:
    state = open_gpu("0").state()
    assert (state.name, state.sm_clock_mhz, state.default_sm_clock_mhz) == ("NVIDIA Fake", 1980, 1980)
    assert (state.event_reasons, state.power_violation_ns, state.thermal_violation_ns) == (1, 5, 7)
    assert (state.persistence, state.ecc, state.mig, state.utilisation_percent) == (True, True, False, 0)
    assert None not in [getattr(state, name) for name in state.__struct_fields__]


def test_what_the_driver_refuses_is_none_and_the_rest_is_read(machine: FakeMachine) -> None:
    assert machine.nvml is not None
    machine.nvml.unsupported = {name for name in dir(FakeNvml) if name.startswith("nvmlDeviceGet")} - {
        "nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName",
    }  # fmt: skip
    gpu = open_gpu("0")
    state = gpu.state()
    assert {getattr(state, name) for name in state.__struct_fields__} == {"NVIDIA Fake", None}
    assert (gpu.memory(), gpu.energy_j()) == (None, None)


def test_a_driver_without_a_default_clock_gives_the_highest_one(machine: FakeMachine) -> None:
    assert machine.nvml is not None
    machine.nvml.unsupported = {"nvmlDeviceGetDefaultApplicationsClock"}
    assert open_gpu("0").state().default_sm_clock_mhz == 2100


def test_an_older_driver_tells_its_throttle_reasons(machine: FakeMachine) -> None:
    assert machine.nvml is not None
    machine.nvml.unsupported, machine.nvml.event_reasons = {"nvmlDeviceGetCurrentClocksEventReasons"}, 8
    assert open_gpu("0").state().event_reasons == 8


@pytest.mark.parametrize(("visible", "expected"), [("0", "gpu0"), ("0,1", "gpu0"), ("GPU-4f,0", "GPU-4f")])
def test_the_first_visible_gpu_is_read(machine: FakeMachine, visible: str, expected: str) -> None:
    assert open_gpu(visible)._handle == expected


@pytest.mark.parametrize("visible", ["", "-1", "-1,0"])
def test_where_every_gpu_is_hidden_none_is_read(machine: FakeMachine, visible: str) -> None:
    with pytest.raises(NoGpu, match="CUDA_VISIBLE_DEVICES hides every GPU"):
        open_gpu(visible)
    assert nvml.gpu_memories(visible) == []
    assert nvml.gpu_count(visible) == 0


def test_no_driver_no_such_gpu_and_no_bindings_are_reasons(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NoGpu, match="Invalid Argument"):
        open_gpu("3")
    assert machine.nvml is not None
    machine.nvml.no_driver = True
    with pytest.raises(NoGpu, match="Library Not Found"):
        open_gpu("0")
    assert find_gpu() is None
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoGpu, match="nvidia-ml-py is not installed"):
        nvml.open_gpu("0")


def test_the_size_of_every_visible_gpu_is_told_or_none_is(machine: FakeMachine) -> None:
    assert machine.nvml is not None
    assert nvml.gpu_memories("0") == [141 * GIB]
    assert nvml.gpu_memories("GPU-4f, 0") == [141 * GIB] * 2
    assert nvml.gpu_memories("") == nvml.gpu_memories("7") == []
    machine.nvml.unsupported = {"nvmlDeviceGetMemoryInfo"}
    assert nvml.gpu_memories("0") == []


def test_memory_is_told_by_process(machine: FakeMachine) -> None:
    assert machine.nvml is not None
    machine.nvml.compute, machine.nvml.graphics = {7: 1000, 8: None}, {9: 50}
    memory = open_gpu("0").memory()
    assert memory is not None
    assert (memory.used_bytes, memory.of_process) == (2**30, {7: 1000, 8: None, 9: 50})
