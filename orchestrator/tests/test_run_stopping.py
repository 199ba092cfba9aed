"""A run goes on by whole blocks while its ratios are wide, and keeps why it ended. Launches are made up here."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from enginebench.judge import stopping
from enginebench.plan.plan import Plan, Stopping, preset
from enginebench.plan.schedule import Cost, Fit
from enginebench.run.launcher import Launcher
from enginebench.run.run import Run
from enginebench.run.spent import Spent
from enginebench.store.record import Launch

SWING = [-1.0, 1.0, -0.5, 0.5, -1.5, 1.5, -1.0, 1.0, -0.5, 0.5]


def made_up(
    records: Any,
    cv: float,
    budget: float | None = None,
    seconds: Callable[[], float] = lambda: 0.0,
    fails: Callable[[Any, int], bool] = lambda *_: False,
) -> Run:
    """A run of two cases whose launches take no time; one case swings by `cv` from block to block.

    fails(case, block): whether that launch crashes.
    """
    cases = (records.case("x", "still"), records.case("x", "swinging"))
    chosen = replace(preset("standard"), stopping=Stopping(0.01, 5, 20), time_budget_seconds=budget)
    run = Run.__new__(Run)
    run.request = SimpleNamespace(preset=chosen, fair=True)  # type: ignore[assignment]
    run.plan = Plan(chosen, cases, 0)
    run.infos = {case.id: SimpleNamespace(role="engine") for case in cases}  # type: ignore[misc]
    run.bar = SimpleNamespace(expect=lambda _: None, begin=lambda *_: None, note=lambda _: None)  # type: ignore[assignment]
    run.left_out, run.looks = [], []
    run.spent = Spent()
    run.fit = Fit(10, 10, 3, ())
    launches: list[Launch] = []

    def launch(case: Any, kind: str, block: int, *_: Any) -> Launch:
        if fails(case, block):
            launches.append(records.timed([], case, block=block, failure=records.failure(reason="signal")))
            return launches[-1]
        ms = 4.0 * math.exp(cv * SWING[block % 10] * (case.configuration == "swinging"))
        run.spent.ns += round(seconds() * 1e9)
        launches.append(records.timed([records.request(0, (10, 10 + ms, 10 + 2 * ms))], case, block=block))
        return launches[-1]

    run.launcher = Launcher.__new__(Launcher)
    run.launcher.launches, run.launcher.recorded = launches, []
    run.launcher.launch, run.launcher.shown = launch, str  # type: ignore[method-assign, assignment]
    run._timed_blocks({case.id: Cost(seconds(), 0.0) for case in cases})
    return run


def blocks_of(run: Run) -> list[int]:
    return [launch.block for launch in run.launcher.launches]


def test_narrow_ratios_end_a_run_at_its_ten_launches(records: Any) -> None:
    run = made_up(records, 0.005)
    assert blocks_of(run) == sorted([*range(10)] * 2)
    assert [(look.launches, look.why) for look in run.looks] == [(10, stopping.NARROW)]


def test_wide_ratios_send_it_on_by_whole_blocks(records: Any) -> None:
    run = made_up(records, 0.015)
    assert blocks_of(run) == sorted([*range(15)] * 2)
    assert [(look.launches, look.why) for look in run.looks] == [(10, None), (15, stopping.NARROW)]
    facts = run._stopping()
    assert facts is not None
    assert facts["most"] == 20
    assert [look["why"] for look in facts["looks"]] == [None, stopping.NARROW]
    assert run.fit.launches == 15


def test_hopeless_noise_ends_it_at_once(records: Any) -> None:
    run = made_up(records, 0.10)
    assert [(look.launches, look.why) for look in run.looks] == [(10, stopping.TOO_NOISY)]
    assert len(run.launcher.launches) == 20


def test_the_time_budget_ends_it_in_the_middle_and_is_the_reason(records: Any) -> None:
    """Each launch takes 10 s as expected, a block 20 s, and 250 s allow twelve blocks."""
    run = made_up(records, 0.015, budget=250.0, seconds=lambda: 10.0)
    assert [(look.launches, look.why) for look in run.looks] == [(10, None), (12, "the time budget was spent")]
    assert run.fit.launches == 12
    assert blocks_of(run) == sorted([*range(12)] * 2)
    assert run.left_out == []


# ---- a case that crashes ------------------------------------------------------------------------------------------


def test_three_crashes_stop_a_case_and_no_other(records: Any) -> None:
    run = made_up(records, 0.005, fails=lambda case, block: case.configuration == "swinging" and block in (1, 4, 5, 6))
    blocks: dict[str, list[int]] = {"still": [], "swinging": []}
    for launch in run.launcher.launches:
        blocks[launch.case.configuration].append(launch.block)
    assert blocks == {"still": [*range(10)], "swinging": [*range(6)]}


def test_two_crashes_stop_nothing_and_cost_the_others_nothing(records: Any) -> None:
    run = made_up(records, 0.005, fails=lambda case, block: case.configuration == "swinging" and block in (1, 4))
    assert blocks_of(run) == sorted([*range(10)] * 2)
