"""Metrics on timestamps written by hand; every number is exact."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from enginebench.judge.metrics import case_metrics
from enginebench.store.record import Launch, Workload

from .timed_launches import MS, one_launch, with_tpot

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
