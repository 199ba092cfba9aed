"""When a run goes on and when it ends: by widths alone."""

from __future__ import annotations

import math

import pytest
from enginebench.judge import stopping
from enginebench.judge.stopping import look
from enginebench.plan.plan import PRESETS, Stopping
from enginebench.report.verdicts import stopping_line

RULE = Stopping(half_width=0.01, step=5, most=20)
STEPS = [-1.0, 1.0, -0.5, 0.5, -1.5, 1.5, -1.0, 1.0, -0.5, 0.5]
"""Sum of squares 9.5: standard deviation 1.0274."""


def series(cv: float, level: float = 100.0) -> dict[int, float]:
    return {block: level * math.exp(cv * step) for block, step in enumerate(STEPS)}


FLAT = dict.fromkeys(range(10), 100.0)


def test_narrow_ratios_end_the_run_at_the_first_look() -> None:
    """t(9) 2.2622 x 0.010274 / √10 = 0.735 %."""
    found = look(RULE, [[series(0.01), FLAT]], 10)
    assert found.half_width == pytest.approx(0.00735, rel=1e-3)
    assert found.why == stopping.NARROW


def test_a_width_that_more_launches_can_mend_goes_on() -> None:
    found = look(RULE, [[series(0.015), FLAT]], 10)
    assert (found.why, found.needed) == (None, 12)


def test_noise_that_no_allowed_number_can_mend_ends_the_run_at_once() -> None:
    found = look(RULE, [[series(0.05), FLAT]], 10)
    assert found.why == stopping.TOO_NOISY
    assert found.needed is not None
    assert found.needed > 20


def test_the_cap_ends_the_run() -> None:
    assert look(RULE, [[series(0.015), FLAT]], 20).why == stopping.MOST


def test_the_size_of_the_difference_has_no_say() -> None:
    """The same spread, one pair equal and one apart by a factor of two: the same decision to the last digit."""
    for cv in (0.01, 0.015, 0.05):
        equal, apart = look(RULE, [[series(cv), FLAT]], 10), look(RULE, [[series(cv, 200.0), FLAT]], 10)
        assert apart.half_width == pytest.approx(equal.half_width)
        assert (apart.why, apart.needed) == (equal.why, equal.needed)


def test_the_widest_pair_of_any_group_decides_and_groups_are_not_mixed() -> None:
    narrow, wide = [series(0.001), FLAT], [series(0.015), FLAT]
    assert look(RULE, [narrow, wide], 10).why is None
    assert look(RULE, [narrow, [series(0.001, 5000.0), FLAT]], 10).why == stopping.NARROW


def test_what_blocks_share_does_not_count() -> None:
    assert look(RULE, [[series(0.05), series(0.05, 30.0)]], 10).half_width == pytest.approx(0.0, abs=1e-9)


def test_a_case_alone_is_looked_at_by_itself_and_no_case_is_nothing_to_wait_for() -> None:
    assert look(RULE, [[series(0.015)]], 10).why is None
    assert look(RULE, [], 10).why == stopping.NOTHING
    assert look(RULE, [[{0: math.nan}, FLAT]], 10).why == stopping.NOTHING


def test_presets_with_verdicts_have_a_rule_and_the_others_none() -> None:
    for preset in PRESETS.values():
        assert (preset.stopping is not None) == preset.verdicts
        if preset.stopping is not None:
            assert preset.launches >= 10
            assert preset.stopping.most == 2 * preset.launches


def test_the_table_says_why_the_run_ended() -> None:
    plan = {
        "stopping": {
            "half_width": 0.01,
            "looks": [
                {"launches": 10, "half_width": 0.02, "needed": 18, "why": None},
                {"launches": 15, "half_width": 0.03, "needed": 64, "why": stopping.TOO_NOISY},
            ],
        }
    }
    assert stopping_line(plan) == (
        f"ended after 15 launches: {stopping.TOO_NOISY} "
        "(widest ratio of times per token ±3.0%, wanted ±1.0%, 64 launches would)"
    )
    assert stopping_line({"stopping": None}) is None
    assert stopping_line({}) is None
