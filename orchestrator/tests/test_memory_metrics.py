"""Memory as metrics: on the host, on a device, by whose account, and what nobody read."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from enginebench.judge.metrics import case_metrics
from enginebench.store.record import DeviceMemoryReading

from .timed_launches import with_tpot


def test_without_a_check_launch_there_is_no_memory(records: Any) -> None:
    metrics = case_metrics([with_tpot(records, 2)])
    assert metrics["peak_memory_bytes"].value is None
    assert metrics["peak_memory_bytes"].reasons == ["no check launch"]


def test_on_a_device_the_overhead_and_the_rate_per_gb_are_those_of_its_memory(records: Any) -> None:
    check = records.check()
    memory = msgspec.structs.replace(check.memory, engine_device_peak_bytes=5000)
    metrics = case_metrics([msgspec.structs.replace(check, memory=memory), with_tpot(records, 4)])
    assert metrics["device_peak_memory_bytes"].value == 5000
    assert metrics["memory_overhead_bytes"].value == 5000 - 1256
    assert metrics["tokens_per_second_per_gb"].value == pytest.approx(250 / 5e-6)


def test_an_account_above_the_peak_is_not_believed(records: Any) -> None:
    check = records.check()
    memory = msgspec.structs.replace(check.memory, engine_weights_bytes=3000)
    metric = case_metrics([msgspec.structs.replace(check, memory=memory)])["memory_overhead_bytes"]
    assert (metric.value, metric.valid) == (-1256, False)
    assert "accounts for more than the peak" in metric.reasons[0]


def test_a_peak_without_a_sample_is_missing(records: Any) -> None:
    check = records.check()
    memory = msgspec.structs.replace(check.memory, n_samples=0, peak_pss_bytes=0)
    metrics = case_metrics([msgspec.structs.replace(check, memory=memory), with_tpot(records, 4)])
    assert metrics["peak_memory_bytes"].value is None
    assert metrics["memory_overhead_bytes"].value is None
    assert metrics["tokens_per_second_per_gb"].value is None


def test_the_memory_of_a_shared_server_is_not_the_engines(records: Any) -> None:
    check = records.check()
    shared = msgspec.structs.replace(check, loaded=msgspec.structs.replace(check.loaded, shared_server=True))
    found = case_metrics([shared])
    assert found["peak_memory_bytes"].value is None
    assert found["memory_overhead_bytes"].reasons == ["the server ran before: its memory is not the engine's"]


def with_memory(records: Any, **changes: Any) -> dict[str, Any]:
    check = records.check()
    return case_metrics([msgspec.structs.replace(check, memory=msgspec.structs.replace(check.memory, **changes))])


def test_device_memory_is_that_of_nvml_where_it_can_be_read(records: Any) -> None:
    device = DeviceMemoryReading(baseline_bytes=50, peak_growth_bytes=4000, unloaded_growth_bytes=300)
    by_process = msgspec.structs.replace(device, peak_of_processes_bytes=3500)
    told = {"engine_device_peak_bytes": 3000, "engine_workspace_bytes": 200}
    found = {
        "processes": with_memory(records, device=by_process, **told),
        "growth of the device": with_memory(records, device=device, **told),
        "own account": with_memory(records, **told),
    }
    peaks = {name: metrics["device_peak_memory_bytes"] for name, metrics in found.items()}
    assert [metric.value for metric in peaks.values()] == [3500, 4000, 3000]
    assert all(name in metric.reasons[0] for name, metric in peaks.items())
    metrics = found["processes"]
    assert metrics["memory_overhead_bytes"].value == 3500 - 1256
    assert metrics["unaccounted_memory_bytes"].value == 3500 - 1256 - 200
    assert metrics["device_context_bytes"].value == 300


def test_memory_that_no_instrument_read_is_missing_with_its_reason(records: Any) -> None:
    metrics = with_memory(records, cgroup_lack="cgroup version 2 is not mounted")
    reasons = {name: metrics[name].reasons for name in ("cgroup_peak_bytes", "device_context_bytes", "workspace_bytes")}
    assert reasons == {
        "cgroup_peak_bytes": ["cgroup version 2 is not mounted"],
        "device_context_bytes": ["no device memory was read from outside"],
        "workspace_bytes": ["the engine does not tell"],
    }
    assert metrics["unaccounted_memory_bytes"].value is None
    assert with_memory(records, cgroup_peak_bytes=7)["cgroup_peak_bytes"].value == 7
