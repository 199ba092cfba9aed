"""The known error of the verdicts, by simulation. The long versions give the numbers of docs/methodology.md."""

from __future__ import annotations

import pytest
from enginebench.judge.simulation import (
    Noise,
    interval_coverage,
    pooled_requests_false_share,
    ratio_coverage,
    verdicts,
)
from enginebench.plan.plan import PRESETS

STANDARD = PRESETS["standard"].stopping


@pytest.mark.parametrize("launches", [3, 5, 10, 20])
def test_intervals_cover_95_percent(launches: int) -> None:
    assert interval_coverage(launches, 500) == pytest.approx(0.95, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("launches", [3, 5, 10, 20])
def test_intervals_cover_95_percent_in_ten_thousand_experiments(launches: int) -> None:
    found = interval_coverage(launches, 10_000)
    print(f"coverage at {launches} launches: {found:.4f}")
    assert found == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("launches", [3, 10])
def test_intervals_of_ratios_cover_95_percent(launches: int, paired: bool) -> None:
    """Welch's t is conservative at three launches of each: its degrees of freedom are estimated too."""
    found = ratio_coverage(launches, 1500, Noise(0.01), paired)
    assert 0.935 <= found <= (0.965 if paired or launches > 3 else 0.98)


@pytest.mark.slow
@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("launches", [3, 5, 10, 20])
def test_intervals_of_ratios_in_ten_thousand_comparisons(launches: int, paired: bool) -> None:
    for noise in (Noise(0.01), Noise(0.01, disturbed=0.1, disturbance=0.05)):
        found = ratio_coverage(launches, 10_000, noise, paired)
        print(f"ratio {'paired' if paired else 'Welch'} at {launches} launches, {noise}: {found:.4f}")
        assert found >= 0.935


def test_one_disturbed_launch_in_ten_does_not_break_the_intervals_of_ratios() -> None:
    """Slowed down by 5 % on average. The bootstrap-t covers 90 to 92 % of such ratios."""
    assert ratio_coverage(20, 1000, Noise(0.01, disturbed=0.1, disturbance=0.05)) >= 0.94


def test_too_few_values_for_a_bootstrap_would_be_seen() -> None:
    """Negative control: at a level of 90 % the same intervals hold the truth less often."""
    assert interval_coverage(10, 500, level=0.90) < 0.93


@pytest.mark.parametrize("cv", [0.01, 0.02, 0.03])
def test_equal_cases_are_told_apart_in_one_of_a_hundred_comparisons_at_most(cv: float) -> None:
    """Tables of three equal cases: 210 comparisons at ten launches."""
    assert verdicts(70, 10, Noise(cv), cases=3).share("FASTER", "SLOWER") <= 0.01


@pytest.mark.slow
@pytest.mark.parametrize("cases", [2, 4])
@pytest.mark.parametrize("cv", [0.005, 0.01, 0.02, 0.03])
def test_equal_cases_in_many_runs(cases: int, cv: float) -> None:
    for rule in (None, STANDARD):
        found = verdicts(5000 // (cases - 1), 10, Noise(cv), cases=cases, stopping=rule)
        false = found.share("FASTER", "SLOWER")
        print(f"A/A cases {cases} cv {cv} {'fixed' if rule is None else 'standard'}: {false:.4f} {found}")
        assert false <= 0.01


def test_a_slow_down_of_two_percent_is_found_by_standard_in_nine_of_ten_runs() -> None:
    """Launch CV 1 %; the run goes on to 15 or 20 launches where ten leave the ratio wider than 1 %."""
    found = verdicts(400, 10, Noise(0.01), slowdown=0.02, stopping=STANDARD)
    assert found.share("SLOWER") >= 0.90
    assert found.share("FASTER") == 0
    assert found.mean_launches < 15


def test_ten_launches_alone_find_it_less_often() -> None:
    """Negative control: the rule is what makes up for the strict level."""
    assert 0.60 <= verdicts(150, 10, Noise(0.01), slowdown=0.02).share("SLOWER") < 0.90


@pytest.mark.slow
@pytest.mark.parametrize("slowdown", [0.01, 0.02, 0.05])
@pytest.mark.parametrize("cv", [0.005, 0.01, 0.015, 0.02, 0.03])
def test_detection_in_many_runs(slowdown: float, cv: float) -> None:
    for rule in (None, STANDARD):
        found = verdicts(2000, 10, Noise(cv), slowdown=slowdown, stopping=rule)
        how = "fixed" if rule is None else "standard"
        print(f"slow-down {slowdown} cv {cv} {how}: {found.share('SLOWER'):.3f}, {found.mean_launches:.1f} launches")
        assert found.share("FASTER") <= 0.005
        if rule is not None and slowdown >= 0.02 and cv <= 0.01:
            assert found.share("SLOWER") >= 0.90


@pytest.mark.slow
def test_detection_in_a_table_of_six_pairs() -> None:
    for cv in (0.005, 0.01):
        found = verdicts(500, 10, Noise(cv), slowdown=0.02, cases=4, stopping=STANDARD)
        print(f"four cases cv {cv}: {found.share('SLOWER'):.3f}, {found.mean_launches:.1f} launches")
        assert found.share("FASTER") == 0


def test_what_a_block_does_to_all_its_launches_costs_nothing() -> None:
    """Blocks that differ by 10 %, launches by half a percent."""
    assert verdicts(40, 10, Noise(0.005, block_cv=0.10), slowdown=0.02).share("SLOWER") >= 0.95


def test_pooled_requests_would_find_differences_between_equals() -> None:
    """Negative control of the unit: 20 requests in each of ten launches, nominal level 5 %."""
    assert pooled_requests_false_share(400, 10, 20, Noise(0.01)) >= 0.25


def test_equal_cases_with_little_noise_are_shown_to_be_the_same() -> None:
    assert verdicts(40, 10, Noise(0.003)).share("SAME") >= 0.95
