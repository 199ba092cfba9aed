"""Metrics on timestamps written by hand; every number is exact."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from enginebench.judge.metrics import GATE_FAILED, GATE_MISSING, case_metrics, limit_of
from enginebench.judge.utilisation import ABOVE_LIMIT, Limit
from enginebench.store.record import DeviceMemoryReading, Launch, Workload

MS = 1_000_000
NAMES = {
    "startup_ns",
    "load_ns",
    "cold_start_ns",
    "first_request_ttft_ns",
    "ttft_ns",
    "tpot_ns",
    "min_itl_ns",
    "max_itl_ns",
    "e2e_ns",
    "prefill_tps",
    "decode_tps",
    "peak_decode_tps",
    "total_time_ns",
    "iterations",
    "launches",
    "peak_memory_bytes",
    "peak_resident_bytes",
    "cgroup_peak_bytes",
    "device_peak_memory_bytes",
    "device_process_peak_bytes",
    "device_growth_peak_bytes",
    "device_context_bytes",
    "workspace_bytes",
    "unaccounted_memory_bytes",
    "model_memory_bytes",
    "kv_cache_bytes",
    "memory_overhead_bytes",
    "mbu",
    "mfu",
    "warmup_improvement",
    "compile_ns",
    "first_request_extra_ns",
    "cv",
    "tokens_per_second_per_gb",
} | {f"{name}_p{percent}_ns" for name in ("ttft", "itl") for percent in (50, 90, 95, 99)}


def one_launch(records: Any) -> list[Launch]:
    """Warm-up 50, 60, 70 ms; then gaps of 2 and 4 ms, of 3 and 5 ms, and of 10 and 20 ms."""
    requests = [
        records.request(0, (50, 60, 70), warmup=True),
        records.request(1, (8, 10, 14)),
        records.request(2, (12, 15, 20)),
        records.request(3, (30, 40, 60)),
    ]
    return [records.check(), records.timed(requests)]


def with_tpot(records: Any, ms: float, **changes: Any) -> Launch:
    """A launch of one request whose two gaps are `ms` long."""
    launch: Launch = records.timed([records.request(0, (10, 10 + ms, 10 + 2 * ms))], **changes)
    return launch


def test_every_metric_is_there(records: Any) -> None:
    assert set(case_metrics(one_launch(records))) == NAMES


@pytest.mark.parametrize(
    ("name", "expected", "unit"),
    [
        ("startup_ns", 100 * MS, "ns"),
        ("load_ns", 200 * MS, "ns"),
        ("cold_start_ns", 900 * MS, "ns"),
        ("first_request_ttft_ns", 50 * MS, "ns"),
        ("ttft_ns", 12 * MS, "ns"),
        ("tpot_ns", 4 * MS, "ns"),  # 3, 4, 15
        ("min_itl_ns", 3 * MS, "ns"),  # 2, 3, 10
        ("max_itl_ns", 5 * MS, "ns"),  # 4, 5, 20
        ("e2e_ns", 20 * MS, "ns"),  # 14, 20, 60
        ("prefill_tps", 4 / 0.012, "tok/s"),
        ("decode_tps", 250.0, "tok/s"),
        ("peak_decode_tps", 1 / 0.003, "tok/s"),
        ("total_time_ns", 94 * MS, "ns"),
        ("iterations", 3, "count"),
        ("launches", 1, "count"),
        ("peak_memory_bytes", 2000, "bytes"),
        ("model_memory_bytes", 1000, "bytes"),
        ("kv_cache_bytes", 256, "bytes"),
        ("memory_overhead_bytes", 744, "bytes"),
        ("warmup_improvement", 3.5, "ratio"),  # 70 ÷ 20
        ("first_request_extra_ns", 50 * MS, "ns"),  # 70 - 20
        ("tokens_per_second_per_gb", 250 / 2e-6, "tok/s/GB"),
    ],
)
def test_the_value_of(records: Any, name: str, expected: float, unit: str) -> None:
    metric = case_metrics(one_launch(records))[name]
    assert metric.value == pytest.approx(expected, rel=1e-12)
    assert (metric.valid, metric.unit, metric.reasons) == (True, unit, [])


def test_compile_time_is_what_the_engine_says_and_missing_where_it_says_nothing(records: Any) -> None:
    silent = case_metrics(one_launch(records))["compile_ns"]
    assert (silent.value, silent.reasons) == (None, ["the engine names no compilation among its stages"])
    stages = [records.loaded(stages_ns={"read": 5, "compile": ns}) for ns in (100, 300, 900)]
    launches = [records.check(), *(with_tpot(records, 2, loaded=loaded) for loaded in stages)]
    assert case_metrics(launches)["compile_ns"].value == 300


def test_percentiles_need_their_number_of_samples(records: Any) -> None:
    """Three requests of two gaps in eleven launches: 33 and 66 samples, so p50 and of the gaps p90."""
    launches = [records.check(), *(one_launch(records)[1] for _ in range(11))]
    metrics = case_metrics(launches)
    assert metrics["ttft_p50_ns"].value == 30 * MS  # 11 samples each of 8, 12 and 30 ms: the 10th worst of 33
    assert metrics["ttft_p90_ns"].reasons == ["33 samples: a bound of p90 needs 64 at least"]
    assert metrics["itl_p90_ns"].value == 20 * MS
    assert metrics["itl_p95_ns"].value is None


def test_a_launch_counts_as_the_median_of_its_requests_and_a_case_as_the_log_mean_of_its_launches(
    records: Any,
) -> None:
    launches = [records.check(), with_tpot(records, 2), with_tpot(records, 8)]
    metrics = case_metrics(launches)
    assert metrics["tpot_ns"].value == pytest.approx(4 * MS)
    assert metrics["decode_tps"].value == pytest.approx(250.0)  # not the mean of 500 and 125
    assert metrics["launches"].value == 2


def test_requests_of_the_check_launch_never_count_as_speed(records: Any) -> None:
    slow_check = msgspec.structs.replace(records.check(), requests=[records.request(0, (900, 1800, 2700))])
    assert case_metrics([slow_check, with_tpot(records, 2)])["tpot_ns"].value == 2 * MS


def test_two_launches_have_no_interval_and_three_do(records: Any) -> None:
    launches = [records.check(), with_tpot(records, 2), with_tpot(records, 3)]
    assert case_metrics(launches)["tpot_ns"].interval is None
    found = case_metrics([*launches, with_tpot(records, 4)])["tpot_ns"]
    assert found.interval is not None
    assert found.value is not None
    assert found.interval[0] < found.value < found.interval[1]


def test_the_interval_of_a_rate_is_that_of_the_time_turned_over(records: Any) -> None:
    metrics = case_metrics([records.check(), *(with_tpot(records, ms) for ms in (2, 3, 4))])
    time, rate = metrics["tpot_ns"].interval, metrics["decode_tps"].interval
    assert time is not None
    assert rate == pytest.approx([1e9 / time[1], 1e9 / time[0]])


def test_the_variation_is_that_between_launches(records: Any) -> None:
    launches = [records.check(), with_tpot(records, 2), with_tpot(records, 4)]
    assert case_metrics(launches)["cv"].value == pytest.approx(math.sqrt(2) / 3)


def test_one_launch_has_no_variation_and_says_why(records: Any) -> None:
    metric = case_metrics(one_launch(records))["cv"]
    assert (metric.value, metric.valid, metric.reasons) == (None, False, ["one launch has no spread"])


def test_doubtful_requests_are_excluded_and_counted(records: Any) -> None:
    doubt = "engine's and parent's clocks disagree by 7.1 ms"
    requests = [
        records.request(0, (10, 12, 14)),
        records.request(1, (500, 700, 900), doubts=[doubt]),
        records.request(2, (500, 700, 900), doubts=[doubt.replace("7.1", "9.9")]),
    ]
    metrics = case_metrics([records.check(), records.timed(requests)])
    assert metrics["tpot_ns"].value == 2 * MS
    assert metrics["iterations"].value == 1
    assert metrics["tpot_ns"].reasons == [
        "2 of 3 measured requests excluded (2 x engine's and parent's clocks disagree)"
    ]


def test_a_launch_of_doubtful_requests_only_has_no_speed(records: Any) -> None:
    launches = [records.check(), records.timed([records.request(0, (1, 2, 3), doubts=["swapped"])])]
    metrics = case_metrics(launches)
    assert metrics["tpot_ns"].value is None
    assert metrics["tpot_ns"].reasons == ["no valid measured request"]
    assert metrics["iterations"].value is None
    assert metrics["load_ns"].value == 200 * MS


def test_a_doubtful_first_request_gives_no_first_token_time(records: Any) -> None:
    requests = [records.request(0, (50, 60, 70), doubts=["swapped"], warmup=True), records.request(1, (8, 10, 14))]
    metrics = case_metrics([records.check(), records.timed(requests)])
    assert metrics["ttft_ns"].value == 8 * MS
    for name in ("first_request_ttft_ns", "warmup_improvement"):
        assert metrics[name].value is None
        assert metrics[name].reasons == ["the first request is in doubt"]


def test_a_failed_launch_is_left_out_and_counted(records: Any) -> None:
    broken = with_tpot(records, 50, failure=records.failure())
    metric = case_metrics([records.check(), with_tpot(records, 2), broken])["tpot_ns"]
    assert metric.value == 2 * MS
    assert metric.reasons == ["1 of 2 timed launches failed (1 x hang)"]


@pytest.mark.parametrize("which", ["nothing", "check only", "failed"])
def test_what_was_not_measured_is_null_with_a_reason_and_never_zero(records: Any, which: str) -> None:
    launches = {
        "nothing": [],
        "check only": [records.check()],
        "failed": [records.check(), with_tpot(records, 2, failure=records.failure())],
    }[which]
    metrics = case_metrics(launches)
    for name in ("load_ns", "tpot_ns", "decode_tps", "total_time_ns", "iterations", "launches", "mbu", "cv"):
        assert metrics[name].value is None, name
        assert metrics[name].reasons, name
        assert not metrics[name].valid, name


def test_without_a_check_launch_there_is_no_memory(records: Any) -> None:
    metrics = case_metrics([with_tpot(records, 2)])
    assert metrics["peak_memory_bytes"].value is None
    assert metrics["peak_memory_bytes"].reasons == ["no check launch"]


def test_one_generated_token_has_no_decode_rate(records: Any) -> None:
    metrics = case_metrics([records.check(), records.timed([records.request(0, (10,))])])
    assert metrics["ttft_ns"].value == 10 * MS
    for name in ("tpot_ns", "decode_tps", "min_itl_ns", "peak_decode_tps"):
        assert metrics[name].value is None
        assert metrics[name].reasons == ["one generated token has no gap to a next one"]


def test_tokens_stamped_at_the_same_moment_have_no_peak(records: Any) -> None:
    metric = case_metrics([records.check(), records.timed([records.request(0, (10, 10, 14))])])["peak_decode_tps"]
    assert metric.value is None
    assert "below the clock's resolution" in metric.reasons[0]


# ---- fidelity gate --------------------------------------------------------------------------------------------


def test_a_failed_gate_keeps_every_speed_and_believes_none(records: Any) -> None:
    good = case_metrics(one_launch(records))
    launches = one_launch(records)
    launches[0] = records.check(fidelity=records.fidelity(passed=False))
    failed = case_metrics(launches)
    for name, metric in failed.items():
        assert metric.value == good[name].value
        speed = metric.unit not in ("bytes", "count")
        assert (GATE_FAILED in metric.reasons) == speed, name
        assert not (speed and metric.valid), name


def test_one_failed_reading_of_two_is_a_failed_gate(records: Any) -> None:
    launches = [records.check(), records.check(fidelity=records.fidelity(passed=False)), with_tpot(records, 2)]
    assert not case_metrics(launches)["decode_tps"].valid


def test_an_engine_without_a_reading_is_not_believed(records: Any) -> None:
    metrics = case_metrics([records.check(fidelity=None), with_tpot(records, 2)])
    assert (metrics["decode_tps"].valid, metrics["decode_tps"].reasons) == (False, [GATE_MISSING])


def test_an_instrument_needs_no_reading(records: Any) -> None:
    metrics = case_metrics([records.check(fidelity=None), with_tpot(records, 2)], role="instrument")
    assert metrics["decode_tps"].valid


# ---- behind a depth -------------------------------------------------------------------------------------------


def behind_a_depth(records: Any, alone_ms: list[float]) -> list[Launch]:
    """A prompt of 4 behind 100 tokens: prefill of all 104 in 50 ms (median); that of the 100 alone as given."""
    deep = type(records)(workload=Workload(n_prompt=4, n_gen=3, n_depth=100))
    whole = [deep.request(i, (ms, ms + 2, ms + 4)) for i, ms in enumerate((40, 50, 90))]
    alone = [msgspec.structs.replace(deep.request(3 + i, (ms,)), phase="depth") for i, ms in enumerate(alone_ms)]
    return [deep.timed([*whole, *alone])]


def test_the_prefill_behind_a_depth_is_what_the_prompt_adds_to_it(records: Any) -> None:
    """The first request of the depth alone may compile: 46 is the median of the others, so 4 tokens take 50 - 46 ms."""
    metrics = case_metrics(behind_a_depth(records, [70, 45, 46, 47]), role="instrument")
    assert metrics["ttft_ns"].value == pytest.approx(50 * MS)
    assert metrics["depth_ttft_ns"].value == pytest.approx(46 * MS)
    assert metrics["prefill_tps"].value == pytest.approx(4 / 0.004)
    assert metrics["tpot_ns"].value == pytest.approx(2 * MS)  # requests of the depth alone are no measured ones
    assert metrics["iterations"].value == 3


@pytest.mark.parametrize("alone_ms", [[], [70], [70, 51, 52, 53], [70, 45, 46, 49]])
def test_no_prefill_rate_where_the_prompt_adds_less_than_the_noise(records: Any, alone_ms: list[float]) -> None:
    metric = case_metrics(behind_a_depth(records, alone_ms), role="instrument")["prefill_tps"]
    assert metric.value is None
    assert metric.reasons == ["what the prompt adds to the prefill of its depth is below the noise"]


# ---- memory bandwidth utilisation -----------------------------------------------------------------------------


def test_mbu_counts_weights_and_the_cache_at_the_mean_context(records: Any) -> None:
    """900 bytes of weights + 256/128 bytes x (4 + 1.5) positions = 911, at 250 tok/s, of 1000 bytes at 500 tok/s."""
    metric = case_metrics(one_launch(records), limit=Limit("limit:read", 1000, 500.0))["mbu"]
    assert metric.value == pytest.approx(911 * 250 / (1000 * 500), rel=1e-12)
    assert metric.valid


def test_mbu_counts_the_depth_as_context(records: Any) -> None:
    deep = type(records)(workload=Workload(n_prompt=4, n_gen=3, n_depth=100))
    metric = case_metrics(one_launch(deep), limit=Limit("limit:read", 1000, 500.0))["mbu"]
    assert metric.value == pytest.approx((900 + 2 * 105.5) * 250 / (1000 * 500), rel=1e-12)


def test_mbu_above_the_limit_is_invalid_and_tells_the_limits_own_noise(records: Any) -> None:
    limit = Limit("limit:read", 1000, 200.0, interval=[190.0, 210.0])
    metric = case_metrics(one_launch(records), limit=limit)["mbu"]
    assert metric.value == pytest.approx(911 * 250 / 200_000)
    assert not metric.valid
    assert metric.reasons[0] == ABOVE_LIMIT
    assert "-5.0%/+5.0%" in metric.reasons[1]


def test_the_limit_holds_for_bytes_not_for_tokens(records: Any) -> None:
    """The same speed is possible at half the bytes."""
    limit = Limit("limit:read", 1000, 227.0)
    half = records.timed(one_launch(records)[1].requests, loaded=records.loaded(read_bytes_per_token=450))
    assert not case_metrics(one_launch(records), limit=limit)["mbu"].valid
    assert case_metrics([records.check(), half], limit=limit)["mbu"].valid


def test_mbu_without_a_limit_is_missing(records: Any) -> None:
    metric = case_metrics(one_launch(records))["mbu"]
    assert (metric.value, metric.reasons) == (None, ["no limit was measured in this run"])


def test_the_limits_own_row_is_exactly_at_the_limit(records: Any) -> None:
    case = records.case("limit", "read")
    launches = [with_tpot(records, ms, case=case) for ms in (2, 3, 5)]
    limit = limit_of(launches, case)
    assert limit is not None
    metric = case_metrics(launches, role="instrument", limit=limit)["mbu"]
    assert metric.value == pytest.approx(1.0, rel=1e-12)
    assert metric.valid


def test_an_instrument_that_failed_is_no_limit(records: Any) -> None:
    assert limit_of([with_tpot(records, 2, failure=records.failure())], records.case()) is None


# ---- memory ---------------------------------------------------------------------------------------------------


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


def served(records: Any, decode_ns: int, **more: int) -> Any:
    """Gaps of 2 and 4 ms at the client, and what the server says of them."""
    told = {"n_prompt": 3, "n_gen": 3, "decode_ns": decode_ns, "n_requests": 1} | more
    return records.request(0, (10, 12, 16), reported=told)


def test_serving_overhead_is_the_clients_time_over_the_servers(records: Any) -> None:
    launches = [records.check(), records.timed([served(records, 5 * MS)])]
    assert case_metrics(launches)["serving_overhead"].value == pytest.approx(6 / 5)


def test_a_server_that_was_asked_twice_tells_no_serving_overhead(records: Any) -> None:
    launches = [records.check(), records.timed([served(records, 5 * MS, n_requests=2)])]
    assert case_metrics(launches)["serving_overhead"].value is None


def test_an_engine_without_a_server_has_no_serving_overhead(records: Any) -> None:
    assert "serving_overhead" not in case_metrics(one_launch(records))


def test_the_memory_of_a_shared_server_is_not_the_engines(records: Any) -> None:
    check = records.check()
    shared = msgspec.structs.replace(check, loaded=msgspec.structs.replace(check.loaded, shared_server=True))
    found = case_metrics([shared])
    assert found["peak_memory_bytes"].value is None
    assert found["memory_overhead_bytes"].reasons == ["the server ran before: its memory is not the engine's"]


def test_a_launch_in_doubt_is_left_out_and_the_reason_counted(records: Any) -> None:
    good = [records.timed([records.request(0, (10, 12, 14))]) for _ in range(2)]
    swapped = records.timed([records.request(0, (10, 90, 180))], doubts=["swap: the machine swapped 7 pages"])
    metrics = case_metrics([records.check(), *good, swapped])
    tpot = metrics["tpot_ns"]
    assert (tpot.value, tpot.valid) == (pytest.approx(2 * MS), True)
    assert tpot.reasons == ["1 of 3 timed launches excluded for noise (1 x swap)"]
    assert metrics["launches"].value == 2


def test_launches_that_are_all_in_doubt_leave_no_speed(records: Any) -> None:
    swapped = records.timed([records.request(0, (10, 12, 14))], doubts=["swap: the machine swapped 7 pages"])
    tpot = case_metrics([records.check(), swapped])["tpot_ns"]
    assert (tpot.value, tpot.valid) == (None, False)
    assert tpot.reasons == ["no launch without noise: 1 of 1 timed launches excluded for noise (1 x swap)"]


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
