"""Plans are pure; the schedule leaves out whole launches and requests, never tokens."""

from __future__ import annotations

import pytest
from enginebench.errors import UsageError
from enginebench.plan.plan import PRESETS, Plan, preset
from enginebench.plan.schedule import Cost, Fit, fit
from enginebench.store.record import Case, Workload

WORKLOAD = Workload(n_prompt=8, n_gen=4)
CASES = tuple(Case(engine=e, configuration="c", model="m", workload=WORKLOAD) for e in "abcdef")


def test_every_block_holds_every_case_once_in_its_own_order() -> None:
    blocks = Plan(preset("standard"), CASES, seed=1).blocks
    assert all(sorted(c.id for c in block) == sorted(c.id for c in CASES) for block in blocks)
    assert len({tuple(c.id for c in block) for block in blocks}) > 5


def test_the_seed_decides_the_order() -> None:
    first, again, other = (Plan(preset("standard"), CASES, seed=s).blocks for s in (1, 1, 2))
    assert first == again
    assert first != other


def test_what_the_user_asks_for_replaces_the_preset() -> None:
    changed = preset("quick", iterations=9)
    assert (changed.iterations, changed.launches) == (9, PRESETS["quick"].launches)


def test_an_unknown_preset_is_refused_with_the_near_match() -> None:
    with pytest.raises(UsageError, match="did you mean 'quick'"):
        preset("quikc")


QUICK = preset("quick")  # 3 launches x (2 warm-up + 5 measured)
ONE_SECOND = [Cost(ready_seconds=3.0, request_seconds=1.0)]


def test_everything_runs_where_it_fits() -> None:
    assert fit(QUICK, ONE_SECOND, 30.0) == Fit(3, 5, 2, ())
    assert fit(QUICK, ONE_SECOND, None) == Fit(3, 5, 2, ())


def test_requests_are_left_out_before_launches() -> None:
    assert fit(QUICK, ONE_SECOND, 29.9) == Fit(3, 4, 2, ("1 of 5 measured requests per launch",))
    assert fit(QUICK, ONE_SECOND, 20.0) == Fit(2, 5, 2, ("1 of 3 launches per case",))


def test_one_launch_of_one_request_always_remains() -> None:
    left = fit(QUICK, ONE_SECOND, 1.0)
    assert (left.launches, left.iterations, left.warmup) == (1, 1, 1)
    assert len(left.left_out) == 3


def test_a_longer_list_of_cases_costs_their_sum() -> None:
    assert fit(QUICK, ONE_SECOND * 2, 59.0).iterations == 4
