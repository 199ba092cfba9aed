"""Crossings of hand-written courses; every number is exact."""

from __future__ import annotations

import numpy as np
import pytest
from enginebench.judge.breakeven import HORIZON, Course, break_even, crossings, overtaking

TOKENS = np.arange(1, HORIZON + 1, dtype=np.float64)


def course(*launches: tuple[float, float]) -> Course:
    """Each launch: (ms until it is ready, ms per token)."""
    return Course(np.stack([1e6 * (ready + each * TOKENS) for ready, each in launches]))


QUICK_START, FAST = course((100, 2)), course((440, 1))


def test_the_fast_one_overtakes_where_the_lines_cross() -> None:
    """100 + 2 n = 440 + n at 340 tokens; at 341 the fast one is in front."""
    found = break_even("quick", QUICK_START, "fast", FAST)
    assert found is not None
    assert (found.ahead, found.behind, found.tokens) == ("fast", "quick", 341)
    assert (found.interval, found.agreement) == (None, None)  # one launch each


def test_who_is_named_first_makes_no_difference() -> None:
    assert break_even("fast", FAST, "quick", QUICK_START) == break_even("quick", QUICK_START, "fast", FAST)


def test_no_break_even_where_one_is_always_in_front() -> None:
    assert break_even("a", course((100, 2)), "b", course((100, 3))) is None
    assert break_even("a", course((100, 1)), "b", course((100 + HORIZON, 2 - 1e-12))) is None
    assert break_even("a", FAST, "b", FAST) is None


def test_a_crossing_beyond_the_horizon_is_not_claimed() -> None:
    assert break_even("a", course((0, 2)), "b", course((HORIZON + 1, 1))) is None
    found = break_even("a", course((0, 2)), "b", course((HORIZON - 1, 1)))
    assert found is not None
    assert found.tokens == HORIZON


def test_only_the_last_crossing_is_for_good() -> None:
    assert overtaking(np.array([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])) == 5
    assert overtaking(np.array([-1.0, -1.0])) is None
    assert overtaking(np.array([1.0, 0.0, -1.0])) == 3
    assert overtaking(np.array([1.0, -1.0, 0.0])) is None  # equal at the end: nobody is in front


def test_the_course_of_a_case_is_the_log_mean_of_its_launches() -> None:
    assert course((0, 1), (0, 4)).at(10) == pytest.approx(20e6)


def test_launches_that_agree_give_a_narrow_interval_and_those_that_do_not_a_wide_one() -> None:
    steady = break_even("a", course(*[(100, 2)] * 5), "b", course(*[(440, 1)] * 5))
    assert steady is not None
    assert steady.agreement == 1.0
    assert steady.interval is not None
    assert steady.interval[0] <= 341 + 8  # the resamples look at 400 numbers of tokens, 2 % apart there
    assert steady.interval[1] - steady.interval[0] == 0
    scattered = [(300.0, 1.0), (350, 1), (440, 1), (530, 1), (580, 1)]
    varying = break_even("a", course(*[(100, 2)] * 5), "b", course(*scattered))
    assert varying is not None
    assert varying.interval is not None
    assert varying.interval[0] < 300
    assert varying.interval[1] > 380


def test_a_crossing_that_most_resamples_do_not_have_says_so() -> None:
    slow_half = [(440.0, 1.0), (440, 1), (440, 3.6), (440, 3.6)]
    found = break_even("a", course(*[(100, 2)] * 4), "b", course(*slow_half))
    assert found is not None
    assert found.agreement is not None
    assert 0.3 < found.agreement < 0.9


def test_all_crossings_of_a_table_come_earliest_first() -> None:
    found = crossings([("quick", QUICK_START), ("fast", FAST), ("never", course((5000, 5)))])
    assert [(c.ahead, c.behind, c.tokens) for c in found] == [("fast", "quick", 341)]
    found = crossings([("quick", QUICK_START), ("fast", FAST), ("later", course((1440, 0.5)))])
    assert [(c.ahead, c.behind) for c in found] == [("fast", "quick"), ("later", "quick"), ("later", "fast")]
