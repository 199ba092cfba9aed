"""How much of the bandwidth that the limit showed is used; exact numbers."""

from __future__ import annotations

from typing import Any

import pytest
from enginebench.judge.metrics import case_metrics, limit_of
from enginebench.judge.utilisation import ABOVE_LIMIT, Limit
from enginebench.store.record import Workload

from .timed_launches import one_launch, with_tpot


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
