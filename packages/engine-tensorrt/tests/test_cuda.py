"""The driver's calls, against a driver of host memory: order, errors, what is given back."""

from __future__ import annotations

import numpy as np
import pytest
from engine_tensorrt.cuda import CudaError, Device

from .fake_gpu import FakeDriver


@pytest.fixture
def driver() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def device(driver: FakeDriver) -> Device:
    return Device(driver)


def test_the_gpu_says_what_it_is(device: Device) -> None:
    assert (device.name(), device.capability()) == ("Made-up GPU", "8.9")


def test_memory_is_zeroed_and_comes_back_as_it_was_sent(device: Device) -> None:
    here, there = device.pinned((4,), np.int32), device.allocate(16)
    device.fetch(here, there)
    device.synchronize()
    assert here.tolist() == [0, 0, 0, 0]
    here[:] = 1, 2, 3, 4
    device.send(there, here)
    device.copy(there, there + 8, 4)
    device.synchronize()
    here[:] = 0
    device.fetch(here[:2], there)
    device.synchronize()
    assert here.tolist() == [3, 2, 0, 0]


def test_nothing_arrives_before_it_is_waited_for(device: Device) -> None:
    here, there = device.pinned((1,), np.int32), device.allocate(4)
    here[0] = 5
    device.fetch(here, there)
    event = device.event()
    device.record(event)
    assert here[0] == 5
    device.wait(event)
    assert here[0] == 0


def test_a_graph_runs_when_it_is_launched_and_not_when_it_is_captured(device: Device) -> None:
    here, counter = device.pinned((2,), np.int32), device.allocate(8)
    here[:] = 7, 8
    device.send(counter, here)
    graph = device.captured(lambda: device.copy(counter, counter + 4, 4))
    device.fetch(here, counter)
    device.synchronize()
    assert here.tolist() == [7, 8]
    device.launch(graph)
    device.fetch(here, counter)
    device.synchronize()
    assert here.tolist() == [8, 8]


def test_a_failed_capture_ends_the_capture(driver: FakeDriver, device: Device) -> None:
    def fail() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        device.captured(fail)
    assert driver.calls["cuStreamEndCapture"] == 1


def test_a_call_that_fails_is_named_with_the_drivers_words(driver: FakeDriver, device: Device) -> None:
    driver.fail["cuEventCreate"] = 999
    with pytest.raises(CudaError, match=r"cuEventCreate: made up \(CUDA error 999\)"):
        device.event()


def test_no_memory_left_is_a_memory_error(driver: FakeDriver, device: Device) -> None:
    driver.fail["cuMemAlloc_v2"] = 2
    with pytest.raises(MemoryError, match="cuMemAlloc_v2: no GPU memory left"):
        device.allocate(8)


def test_close_gives_everything_back(driver: FakeDriver, device: Device) -> None:
    device.allocate(8)
    device.pinned((2,), np.int32)
    assert len(driver.memory) == 2
    device.close()
    assert not driver.memory
    assert driver.calls["cuStreamDestroy_v2"] == driver.calls["cuDevicePrimaryCtxRelease_v2"] == 1
