"""Which launches and requests count, why the others do not, and what is believed of those that do."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from enginebench.judge.metrics import GATE_FAILED, GATE_MISSING, case_metrics

from .timed_launches import MS, one_launch, with_tpot


def test_requests_of_the_check_launch_never_count_as_speed(records: Any) -> None:
    slow_check = msgspec.structs.replace(records.check(), requests=[records.request(0, (900, 1800, 2700))])
    assert case_metrics([slow_check, with_tpot(records, 2)])["tpot_ns"].value == 2 * MS


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
