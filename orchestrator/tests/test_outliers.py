"""Tukey's fences over the requests of a case, each against the median of its launch."""

from __future__ import annotations

from typing import Any

import pytest
from enginebench.judge.outliers import Outliers, outliers
from enginebench.store.record import Launch


@pytest.fixture
def launch(records: Any) -> Any:
    def made(*tpots_ms: float) -> Launch:
        """A launch with a measured request of each time per token."""
        timed: Launch = records.timed([records.request(i, (5, 5 + tpot)) for i, tpot in enumerate(tpots_ms)])
        return timed

    return made


def none_of(requests: int) -> Outliers:
    return Outliers(of=requests, slow_mild=0, slow_severe=0, fast_mild=0, fast_severe=0)


STEADY = (9.8, 9.9, 10.0, 10.1, 10.2)


def test_requests_within_the_fences_are_none(launch: Any) -> None:
    assert outliers([launch(*STEADY)] * 4) == none_of(20)


def test_mild_and_severe_slow_and_fast_are_told_apart(launch: Any) -> None:
    """Quartiles at 0.99 and 1.01: mild beyond 0.96 and 1.04, severe beyond 0.93 and 1.07."""
    found = outliers([*[launch(*STEADY)] * 8, launch(*STEADY, 10.5, 9.5), launch(*STEADY, 12, 9.1)])
    assert found == Outliers(of=54, slow_mild=1, slow_severe=1, fast_mild=1, fast_severe=1)


def test_a_launch_that_is_slow_as_a_whole_has_no_outliers(launch: Any) -> None:
    slow = launch(*(2 * tpot for tpot in STEADY))
    found = outliers([*[launch(*STEADY)] * 4, slow])
    assert found == none_of(25)


def test_equal_requests_have_no_outliers(launch: Any) -> None:
    found = outliers([launch(*[10.0] * 20)])
    assert found == none_of(20)


def test_fewer_than_twenty_requests_have_no_fences(launch: Any) -> None:
    assert outliers([launch(*STEADY)] * 3) is None
