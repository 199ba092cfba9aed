"""The ratio of watched to unwatched launches, with launches of chosen speed."""

from __future__ import annotations

import random
from typing import Any

import pytest
from enginebench.machine.watch import Watch
from enginebench.selftest.looking import probe_rows
from enginebench.selftest.probe_cost import measure, outside

NOISE = 0.002


def launcher(records: Any, watched_factor: float) -> Any:
    """Launches of 2 ms per token with a spread of 0.2 %, slower by the factor where they are watched."""
    draw = random.Random(1)

    def launch(watch: Watch | None) -> Any:
        gap = 2 * draw.gauss(1, NOISE) * (watched_factor if watch else 1)
        return records.timed([records.request(0, (10, 10 + gap, 10 + 2 * gap))])

    return launch


def test_a_probe_that_costs_nothing_is_within_half_a_percent(records: Any) -> None:
    cost = measure(launcher(records, 1.0), Watch(), pairs=20)
    assert cost.passed
    assert cost.interval[0] < 1 < cost.interval[1]
    assert (cost.pairs, cost.left_out) == (20, 0)
    assert cost.snapshot_ms > 0


@pytest.mark.parametrize("factor", [1.01, 0.99])
def test_a_probe_that_changes_the_time_by_one_percent_is_found(records: Any, factor: float) -> None:
    cost = measure(launcher(records, factor), Watch(), pairs=20)
    assert not cost.passed
    assert cost.ratio == pytest.approx(factor, abs=0.002)


def test_pairs_with_a_launch_in_doubt_are_left_out(records: Any) -> None:
    plain, count = launcher(records, 1.0), iter(range(100))

    def launch(watch: Watch | None) -> Any:
        if next(count) == 0:
            return records.timed([records.request(0, (10, 11, 12))], doubts=["swap: 1"])
        return plain(watch)

    assert (measure(launch, Watch(), pairs=9).pairs, measure(launch, Watch(), pairs=9).left_out) == (8, 0)


def test_too_few_pairs_give_no_answer(records: Any) -> None:
    with pytest.raises(ValueError, match="5 of 5 pairs ended well, at least 6"):
        measure(launcher(records, 1.0), Watch(), pairs=5)


@pytest.mark.parametrize(("n", "expected"), [(6, 0), (9, 1), (20, 5), (100, 39)])
def test_the_interval_of_a_median_leaves_the_ranks_of_the_binomial_distribution_out(n: int, expected: int) -> None:
    """As printed in tables: of 20 values the 6th to the 15th, of 100 the 40th to the 61st."""
    assert outside(n) == expected


def test_one_launch_that_was_held_up_changes_nothing(records: Any) -> None:
    plain, count = launcher(records, 1.0), iter(range(100))

    def launch(watch: Watch | None) -> Any:
        held_up = next(count) == 7
        return records.timed([records.request(0, (10, 90, 170))]) if held_up else plain(watch)

    assert measure(launch, Watch(), pairs=20).passed


@pytest.mark.parametrize(("factor", "passed"), [(1.0, True), (1.01, False)])
def test_the_self_test_says_what_looking_costs(records: Any, factor: float, passed: bool) -> None:
    ratio, snapshot, harness = probe_rows(20, launcher(records, factor))
    assert ratio.passed == passed
    assert float(ratio.value.split()[0]) == pytest.approx(factor, abs=0.002)
    assert snapshot.value.endswith(" ms")
    assert (harness.value, harness.passed) == ("0.10%", True)
