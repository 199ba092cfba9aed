"""The verdict on a pair: which word, from which numbers, and what it must never say."""

from __future__ import annotations

import math

import pytest
from enginebench.judge.comparison import compare_paired, compare_unpaired, holm, launches_for

STEPS = [-1.0, 1.0, -0.5, 0.5, -1.5, 1.5, -1.0, 1.0, -0.5, 0.5]
"""Ten launches around zero: sum 0, sum of squares 9.5."""


def around(middle: float, cv: float, steps: list[float] = STEPS) -> list[float]:
    return [middle * math.exp(cv * step) for step in steps]


def blocks(values: list[float]) -> dict[int, float]:
    return dict(enumerate(values))


def test_the_ratio_is_one_of_speeds_half_the_time_is_twice_as_fast() -> None:
    """Base 100 ns, new 50 ns: the new one is twice as fast, in both designs."""
    base, new = around(100.0, 0.01), around(50.0, 0.005)
    for found in (compare_paired(blocks(base), blocks(new)), compare_unpaired(base, new)):
        assert found.ratio == pytest.approx(2.0)
        assert found.verdict == "FASTER"
        assert found.further_launches is None


def test_swapping_the_two_turns_the_verdict_and_the_interval() -> None:
    base, new = around(100.0, 0.01), around(97.0, 0.012, STEPS[::-1])
    there, back = compare_unpaired(base, new), compare_unpaired(new, base)
    assert (there.verdict, back.verdict) == ("FASTER", "SLOWER")
    assert there.interval_95 is not None
    assert back.interval_95 is not None
    assert back.interval_95 == pytest.approx([1 / there.interval_95[1], 1 / there.interval_95[0]])


def test_welch_on_hand_written_logs() -> None:
    """Variance of base's logs 9.5/9 x 0.01², new constant at 0.98: t = 0.020203 ÷ 0.003249 = 6.218 with 9 df."""
    found = compare_unpaired(around(1.0, 0.01), [0.98] * 10)
    error = 0.01 * math.sqrt(9.5 / 9 / 10)
    half = 2.2621571627 * error
    assert found.interval_95 == pytest.approx([math.exp(-math.log(0.98) - half), math.exp(-math.log(0.98) + half)])
    assert found.p_value == pytest.approx(1.553e-4, rel=1e-3)
    assert found.spread == pytest.approx(error * math.sqrt(10))


def test_pairing_removes_what_blocks_share() -> None:
    """A drift of 20 % over the blocks, 2 % between the two."""
    drift = [100.0 * 1.02**block for block in range(10)]
    base, new = drift, [value * 1.02 * math.exp(0.001 * s) for value, s in zip(drift, STEPS, strict=True)]
    assert compare_paired(blocks(base), blocks(new)).verdict == "SLOWER"
    assert compare_unpaired(base, new).verdict == "INCONCLUSIVE"


def test_only_blocks_that_have_both_are_paired() -> None:
    base = blocks(around(100.0, 0.001, [*STEPS, 0.0, 0.0]))
    new = {block + 2: value / 1.1 for block, value in base.items()}
    found = compare_paired(base, new)
    assert (found.n, found.n_base, found.n_new) == (10, 12, 12)


def test_a_significant_difference_below_one_percent_is_the_same_speed() -> None:
    """0.3 %, known to ±0.1 %: a p-value of nothing, and a difference that does not count."""
    found = compare_unpaired(around(100.0, 0.001), around(100.3, 0.001))
    assert found.p_value is not None
    assert found.p_value < 1e-4
    assert found.verdict == "SAME"


def test_the_floor_between_equals_raises_the_least_difference() -> None:
    base, new = around(100.0, 0.002), around(103.0, 0.002)
    assert compare_unpaired(base, new).verdict == "SLOWER"
    above = compare_unpaired(base, new, aa_floor=0.04)
    assert (above.verdict, above.delta) == ("SAME", 0.04)
    assert compare_unpaired(base, new, aa_floor=0.001).delta == 0.01


def test_without_a_significant_difference_sameness_is_not_assumed() -> None:
    found = compare_unpaired(around(100.0, 0.03), around(100.5, 0.03, STEPS[::-1]))
    assert found.verdict == "INCONCLUSIVE"
    assert found.further_launches is not None


def test_the_further_launches_named_would_decide_if_the_spread_stays() -> None:
    few = compare_unpaired(around(100.0, 0.03), around(103.0, 0.03, STEPS[::-1]))
    assert few.verdict == "INCONCLUSIVE"
    assert few.further_launches is not None
    times = math.ceil((10 + few.further_launches) / 10)
    assert compare_unpaired(around(100.0, 0.03, STEPS * times), around(103.0, 0.03, STEPS * times)).verdict == "SLOWER"


@pytest.mark.parametrize(
    ("cv", "expected"), [(0.005, (7, 4, 3)), (0.01, (18, 7, 4)), (0.02, (64, 18, 7)), (0.03, (141, 38, 12))]
)
def test_launches_for_a_half_width_of_half_one_and_two_percent(cv: float, expected: tuple[int, ...]) -> None:
    """The table of research/method.md, 2.5."""
    assert tuple(launches_for(cv, half) for half in (0.005, 0.01, 0.02)) == expected


def test_holm_corrects_for_every_comparison_of_the_table() -> None:
    pairs = [compare_unpaired(around(100.0, 0.01), around(m, 0.01, STEPS[::-1])) for m in (102.0, 100.1, 110.0)]
    table = holm(pairs)
    raw = [c.p_value for c in pairs]
    assert all(c.family == 3 for c in table)
    assert table[2].p_holm == pytest.approx(3 * raw[2])  # the smallest, times all three
    assert table[0].p_holm == pytest.approx(2 * raw[0])
    assert table[1].p_holm == pytest.approx(raw[1])


def test_holm_never_orders_corrected_values_other_than_the_raw_ones() -> None:
    pairs = [compare_unpaired(around(100.0, 0.01), around(m, 0.01, STEPS[::-1])) for m in (100.9, 100.9, 100.95)]
    corrected = [c.p_holm for c in holm(pairs)]
    assert corrected[0] == corrected[1] >= corrected[2]


def test_a_difference_that_a_pair_alone_shows_may_be_inconclusive_in_a_large_table() -> None:
    pair = compare_unpaired(around(100.0, 0.01), around(101.8, 0.01, STEPS[::-1]))
    assert pair.verdict == "SLOWER"
    assert holm([pair] * 40)[0].verdict == "INCONCLUSIVE"


# ---- bad input ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 2, 3, 9])
def test_fewer_than_ten_launches_give_no_verdict_however_large_the_difference(n: int) -> None:
    base, new = around(100.0, 0.001)[:n], around(50.0, 0.001)[:n]
    for found in (compare_paired(blocks(base), blocks(new)), compare_unpaired(base, new)):
        assert found.verdict == "INCONCLUSIVE"
        assert found.reasons
        assert (found.ratio is None) == (n == 0)
        assert (found.interval_95 is None) == (n < 3)
        assert found.further_launches == 10 - n


def test_unequal_numbers_of_launches_are_not_significant_by_themselves() -> None:
    """pyperf 2 reports such a pair as significant: its test raises, and the exception is taken for a difference."""
    found = compare_unpaired(around(100.0, 0.01), around(100.0, 0.01, [*STEPS, *STEPS, 0.3]))
    assert found.verdict in ("SAME", "INCONCLUSIVE")
    assert (found.n, found.n_base, found.n_new) == (10, 10, 21)


def test_no_spread_at_all_is_the_same_or_different_and_never_a_division_by_zero() -> None:
    same = compare_paired(blocks([5.0] * 10), blocks([5.0] * 10))
    assert (same.verdict, same.p_value, same.interval_95) == ("SAME", 1.0, [1.0, 1.0])
    slower = compare_unpaired([5.0] * 10, [6.0] * 10)
    assert (slower.verdict, slower.p_value) == ("SLOWER", 0.0)
    assert slower.interval_95 == pytest.approx([5 / 6, 5 / 6])


@pytest.mark.parametrize("bad", [math.nan, math.inf, 0.0, -3.0])
def test_a_value_that_is_no_time_is_left_out_and_counted(bad: float) -> None:
    base, new = [*around(100.0, 0.01), bad], [*around(110.0, 0.01), 120.0]
    for found in (compare_paired(blocks(base), blocks(new)), compare_unpaired(base, new)):
        assert found.ratio is not None
        assert math.isfinite(found.ratio)
        assert found.reasons == ["1 of 11 base launches have no usable value"]
    assert compare_unpaired([bad] * 10, new).ratio is None


def test_correcting_twice_says_the_same() -> None:
    pairs = [compare_unpaired(around(100.0, 0.01)[:5], around(102.0, 0.01)[:5])] * 2
    assert holm(holm(pairs)) == holm(pairs)
