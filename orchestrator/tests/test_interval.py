"""The interval over launches: coverage by simulation, and the cases with no spread or too few launches."""

from __future__ import annotations

import math

import numpy as np
import pytest
from enginebench.judge.interval import interval_95, intervals_of_logs, log_mean

from .bootstrap_t import bootstrap_t


def test_the_log_mean_is_the_geometric_mean() -> None:
    assert log_mean([1.0, 100.0]) == pytest.approx(10.0)


def test_one_value_is_its_own_mean_to_the_last_bit() -> None:
    assert log_mean([0.1]) == 0.1


@pytest.mark.parametrize("values", [[], [5.0], [5.0, 6.0]])
def test_fewer_than_three_launches_have_no_interval(values: list[float]) -> None:
    assert interval_95(values) is None


def test_equal_values_have_an_interval_of_no_width() -> None:
    assert interval_95([7.0, 7.0, 7.0, 7.0]) == pytest.approx([7.0, 7.0])


def test_three_launches_use_students_t_on_the_logs() -> None:
    """Logs -0.01, 0, 0.01: standard error 0.01/√3, times the quantile of t."""
    half = 4.302652729911275 * 0.01 / math.sqrt(3)
    expected = [math.exp(-half), math.exp(half)]
    assert interval_95([math.exp(-0.01), 1.0, math.exp(0.01)]) == pytest.approx(expected, rel=1e-9)


def test_the_same_values_give_the_same_interval() -> None:
    values = [1.0, 1.1, 0.9, 1.05, 0.97]
    assert interval_95(values) == interval_95(values)


@pytest.mark.parametrize("scale", [1e-3, 1e9])
def test_the_interval_scales_with_the_values(scale: float) -> None:
    values = [1.0, 1.1, 0.9, 1.05, 0.97]
    base, scaled = interval_95(values), interval_95([v * scale for v in values])
    assert base is not None
    assert scaled == pytest.approx([bound * scale for bound in base], rel=1e-6)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_interval_holds_the_truth_in_about_95_of_100_runs(n: int) -> None:
    """300 simulated runs, launch CV 1 %: between 91 % and 98.5 % (the binomial spread is 1.3 %)."""
    draw = np.random.default_rng(7)
    hits = 0
    for _ in range(300):
        found = interval_95(list(np.exp(draw.normal(0.0, 0.01, n))))
        assert found is not None
        hits += found[0] <= 1.0 <= found[1]
    assert 273 <= hits <= 296


@pytest.mark.parametrize("values", [[1.0, 1.001, 1.002, 1.5], [1.0 + i / 1000 for i in range(9)] + [500.0]])
def test_one_launch_far_off_does_not_make_the_interval_absurd(values: list[float]) -> None:
    found = interval_95(values)
    assert found is not None
    assert found[1] / found[0] < (max(values) / min(values)) ** 2
    low, high = bootstrap_t(np.log(np.asarray([values])), 0.95)[0]
    assert high - low > 20  # of logs: a factor of 10^9 between the bounds


@pytest.mark.slow
@pytest.mark.parametrize("disturbed", [0.0, 0.1])
@pytest.mark.parametrize("launches", [4, 5, 10, 20])
def test_the_bootstrap_covers_no_more_and_is_wider(launches: int, disturbed: float) -> None:
    """Launch CV 1 %; one launch in ten slowed down by 5 % on average, or none."""
    draw = np.random.default_rng(3)
    shape = (2000, launches)
    logs = draw.normal(0, 0.01, shape) + (draw.random(shape) < disturbed) * draw.exponential(0.05, shape)
    covered, width = {}, {}
    for name, method in {"t": intervals_of_logs, "bootstrap-t": bootstrap_t}.items():
        bounds = method(logs, 0.95)
        covered[name] = float(np.mean((bounds[:, 0] <= disturbed * 0.05) & (bounds[:, 1] >= disturbed * 0.05)))
        width[name] = np.quantile(bounds[:, 1] - bounds[:, 0], [0.5, 0.99])
    print(f"{launches} launches, {disturbed:.0%} disturbed: covered {covered}, widths (median, p99) {width}")
    assert covered["bootstrap-t"] < covered["t"] + 0.015
    assert (width["t"] < width["bootstrap-t"]).all()
