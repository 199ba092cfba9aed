"""The ratio of watched to unwatched launches, with launches of chosen speed."""

from __future__ import annotations

import random
from typing import Any

import pytest
from enginebench.machine.watch import Watch
from enginebench.run.probe_cost import measure

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

    assert (measure(launch, Watch(), pairs=5).pairs, measure(launch, Watch(), pairs=5).left_out) == (4, 0)


def test_too_few_pairs_give_no_answer(records: Any) -> None:
    with pytest.raises(ValueError, match="2 of 2 pairs ended well, at least 3"):
        measure(launcher(records, 1.0), Watch(), pairs=2)
