"""When a process is steady: change-points on series of known shape, and what a launch says of its first tokens."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from enginebench.judge.warmup import FEWEST_POINTS, case_warmup, change_points, steadiness, tokens_to_steady
from enginebench.report.sparkline import sparkline
from enginebench.report.warmup import warmup_remark
from enginebench.store.record import Workload

MS = 1_000_000


def wiggle(levels: Sequence[float]) -> list[float]:
    """±0.2 % around each level, so that no segment is without variance."""
    return [level * (1 + 0.002 * (-1) ** i) for i, level in enumerate(levels)]


def test_a_step_is_found_where_it_is() -> None:
    assert change_points(wiggle([2.0] * 4 + [1.0] * 12)) == [0, 4]


def test_two_steps_are_found_where_they_are() -> None:
    assert change_points(wiggle([3.0] * 4 + [2.0] * 5 + [1.0] * 11)) == [0, 4, 9]


def test_a_change_of_variance_alone_is_a_change_point_but_no_warm_up() -> None:
    series = [1 + 0.05 * (-1) ** i for i in range(10)] + [1 + 0.0005 * (-1) ** i for i in range(20)]
    assert change_points(series) == [0, 10]
    assert steadiness(series).kind == "flat"


@pytest.mark.parametrize(
    ("levels", "kind", "start"),
    [
        ([1.0] * 20, "flat", 0),
        ([2.0] * 4 + [1.0] * 16, "warm-up", 4),
        ([1.0] * 4 + [1.5] * 16, "slow-down", 4),
        ([1.0] * 14 + [2.0] * 6, "no steady state", None),  # it begins in the second half
        ([2.0] * 14 + [1.0] * 6, "no steady state", None),
        ([1.005] * 6 + [1.0] * 14, "flat", 0),  # within 1 % of the last level
        ([2.0] * 4 + [0.9] * 4 + [1.0] * 12, "slow-down", 8),  # was faster once
    ],
)
def test_the_class_and_the_steady_start(levels: list[float], kind: str, start: int | None) -> None:
    found = steadiness(wiggle(levels))
    assert (found.kind, found.start) == (kind, start)


@pytest.mark.parametrize("scale", [1e-3, 1e9])
def test_the_class_does_not_depend_on_the_unit(scale: float) -> None:
    assert steadiness([scale * v for v in wiggle([2.0] * 4 + [1.0] * 16)]).start == 4


def test_equal_values_are_flat_and_one_slow_first_value_is_a_warm_up() -> None:
    assert steadiness([5.0] * 20).kind == "flat"
    assert steadiness([9.0] + [5.0] * 19).kind == "warm-up"


# ---- how often it is right: research/method.md, 2.7 -----------------------------------------------------------


def noise(draw: np.random.Generator, n: int) -> np.ndarray[Any, Any]:
    """1 % normal noise; 3 in 100 requests are disturbed, by 2 % on average."""
    values = np.exp(draw.normal(0, 0.01, n))
    disturbed = draw.random(n) < 0.03
    values[disturbed] *= 1 + draw.exponential(0.02, int(disturbed.sum()))
    return values


def shape(name: str, n: int) -> np.ndarray[Any, Any]:
    i = np.arange(n)
    return {
        "flat": np.ones(n),
        "ten percent for five": 1 + 0.10 * (i < 5),
        "exponential": 1 + 0.20 * np.exp(-i / 3),
        "first only": 1 + 0.50 * (i == 0),
        "drift": 1 + 0.05 * i / n,
    }[name]


def shares(name: str, n: int, trials: int, penalty: float = 5.0) -> dict[str, float]:
    draw = np.random.default_rng(5)
    kinds = Counter(steadiness(list(shape(name, n) * noise(draw, n)), penalty).kind for _ in range(trials))
    return {kind: count / trials for kind, count in kinds.items()}


RIGHT = {
    "flat": ("flat",),
    "ten percent for five": ("warm-up",),
    "exponential": ("warm-up",),
    "first only": ("warm-up",),
    "drift": ("slow-down", "no steady state"),
}


@pytest.mark.parametrize("n", [30, 60])
@pytest.mark.parametrize("name", RIGHT)
def test_the_class_is_right_in_nine_of_ten_series_at_a_penalty_of_5_ln_n(name: str, n: int) -> None:
    """The method's own simulation has 95 % of flat ones, 75 to 97 % of warm-ups, 96 to 100 % of drifts."""
    found = shares(name, n, 100)
    assert sum(found.get(kind, 0.0) for kind in RIGHT[name]) >= 0.90


def test_the_penalty_that_suits_thousands_of_iterations_is_blind_at_thirty() -> None:
    """Barrett's 15 ln n calls a drift of 5 % flat: 0.99 in the method's table."""
    assert shares("drift", 30, 100, penalty=15.0)["flat"] >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("n", [13, 30, 60, 120])
def test_the_table_of_the_method_in_full(n: int) -> None:
    for name, right in RIGHT.items():
        found = shares(name, n, 600)
        print(n, name, {kind: round(share, 3) for kind, share in found.items()})
        assert n == 13 or sum(found.get(kind, 0.0) for kind in right) >= 0.90


# ---- of launches ----------------------------------------------------------------------------------------------

TOKENS = 20


def launch(records: Any, request_factors: Sequence[float], first_gaps: Sequence[float] | None = None) -> Any:
    """Requests of 20 tokens, 10 ms each times their factor, with gaps that grow by 1 % from token to token."""
    deep = type(records)(workload=Workload(n_prompt=4, n_gen=TOKENS))
    requests, start = [], 0
    for i, factor in enumerate(request_factors):
        gaps = first_gaps if i == 0 and first_gaps is not None else [factor] * (TOKENS - 1)
        tremble = 1 + 0.001 * (-1) ** i
        stamps = np.cumsum([10 * factor * tremble, *(10 * g * tremble * 1.01**j for j, g in enumerate(gaps))])
        request = deep.request(i, list(stamps), warmup=i < 3)
        requests.append(
            type(request)(**{**{f: getattr(request, f) for f in request.__struct_fields__}, "t_start_ns": start})
        )
        start += int(stamps[-1] * MS) + 5 * MS
    return deep.timed(requests)


def test_requests_tokens_and_seconds_until_steady(records: Any) -> None:
    """Four slow requests of 20 tokens; the fifth begins after 4 x (2 x 218.11 + 5) ms."""
    found = case_warmup([launch(records, [2.0] * 4 + [1.0] * 9)])
    assert found is not None
    assert found.classes == {"flat": 0, "warm-up": 1, "slow-down": 0, "no steady state": 0}
    assert (found.requests_to_steady, found.tokens_to_steady) == (4, 80)
    assert found.seconds_to_steady == pytest.approx(4 * (2 * 0.21811 + 0.005), rel=1e-3)
    assert found.curve[0] == pytest.approx(2.0, rel=0.003)
    assert found.curve[-1] == pytest.approx(1.0, rel=0.003)


def test_the_counts_of_a_case_are_those_of_its_launches(records: Any) -> None:
    kinds = [[1.0] * 13, [2.0] * 4 + [1.0] * 9, [1.0] * 9 + [2.0] * 4, [1.0] * 13]
    found = case_warmup([launch(records, factors) for factors in kinds])
    assert found is not None
    assert found.classes == {"flat": 2, "warm-up": 1, "slow-down": 0, "no steady state": 1}


def test_the_first_tokens_of_a_first_request_tell_how_many_were_slow(records: Any) -> None:
    """Gaps grow by a fifth over a request, which is no warm-up; six of the first request are twice as long."""
    slow = launch(records, [1.3] + [1.0] * 12, [2.0] * 6 + [1.0] * 13)
    assert tokens_to_steady(slow, 3) == 6


def test_a_first_request_that_is_slow_throughout_counts_whole(records: Any) -> None:
    slow = launch(records, [2.0] + [1.0] * 12)
    assert tokens_to_steady(slow, 1) == TOKENS


def test_too_few_requests_have_no_class_but_a_reason_and_a_curve(records: Any) -> None:
    found = case_warmup([launch(records, [2.0] + [1.0] * (FEWEST_POINTS - 2))])
    assert found is not None
    assert found.classes is None
    assert found.reason == "9 requests a launch: a steady state is told from 10 on"
    assert found.requests_to_steady is None
    assert len(found.curve) == 9


def test_requests_of_a_depth_alone_are_other_work_and_not_in_the_series(records: Any) -> None:
    """They are shorter, and come last: in the series they would be a change-point."""
    plain = launch(records, [2.0] + [1.0] * 12)
    alone = [
        msgspec.structs.replace(plain.requests[-1], phase="depth", t_token_ns=[MS], iteration=13 + i) for i in range(4)
    ]
    with_depth = msgspec.structs.replace(plain, requests=[*plain.requests, *alone])
    assert case_warmup([with_depth]) == case_warmup([plain])


def test_check_launches_and_failed_ones_are_not_judged(records: Any) -> None:
    failed = launch(records, [1.0] * 13)
    failed = type(failed)(**{**{f: getattr(failed, f) for f in failed.__struct_fields__}, "failure": records.failure()})
    assert case_warmup([records.check(), failed]) is None


# ---- in the table ---------------------------------------------------------------------------------------------


def test_a_sparkline_has_a_bar_for_each_value() -> None:
    assert sparkline([2.0, 1.0, 1.5, 1.0]) == "█▁▅▁"
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert sparkline([]) == ""


def test_the_table_shows_classes_the_way_to_steady_and_the_curve(records: Any) -> None:
    found = case_warmup([launch(records, [2.0] * 4 + [1.0] * 9), launch(records, [1.0] * 9 + [2.0] * 4)])
    remark = warmup_remark({"warmup": msgspec.to_builtins(found)})
    assert remark is not None
    assert "1 warm-up, 1 no steady state" in remark
    assert "steady after 4 requests, 80 tokens, 1.8 s" in remark
    assert "a mean says little" in remark


@pytest.mark.parametrize("factors", [[1.0] * 13, [1.0] * 5])
def test_flat_and_unjudged_cases_need_no_remark(records: Any, factors: list[float]) -> None:
    assert warmup_remark({"warmup": msgspec.to_builtins(case_warmup([launch(records, factors)]))}) is None
    assert warmup_remark({}) is None
