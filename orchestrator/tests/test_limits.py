"""How long each state of a launch may take."""

from __future__ import annotations

import math

import pytest
from enginebench.run.limits import Ladder, Limit, Limits

SILENCE = 1800.0


@pytest.mark.parametrize(
    ("stage", "stall", "deadline"),
    [
        ("hello", 30, 180),
        ("load", 300, 7200),
        ("request 1", 120, 1800),
        ("score", 120, 1800),
        ("unload", 60, 300),
        ("shutdown", 60, 300),
        ("reply", 120, math.inf),
    ],
)
def test_each_state_has_its_own(stage: str, stall: float, deadline: float) -> None:
    assert Limits().of(stage, SILENCE) == Limit(stall, deadline)


@pytest.mark.parametrize(("usual", "stall", "deadline"), [(0.1, 30, 120), (2.0, 100, 120), (10.0, 120, 500)])
def test_a_measured_request_may_take_fifty_times_the_usual(usual: float, stall: float, deadline: float) -> None:
    assert Limits().of("request 5", SILENCE, usual) == Limit(stall, deadline)


@pytest.mark.parametrize("stage", ["hello", "load", "request 1", "memory", "unload"])
def test_the_silence_that_the_user_allows_bounds_them_all(stage: str) -> None:
    limit = Limits().of(stage, 5.0)
    assert limit.stall == 5.0
    assert limit.deadline == (20.0 if stage == "load" else 5.0)  # a load may tell of its progress
    assert Limits().of(stage, 5.0, usual=100.0).stall == 5.0


def test_a_longer_silence_allows_longer_answers() -> None:
    assert Limits().of("request 1", 7200.0) == Limit(120, 7200)


def test_the_kill_ladder_is_bounded() -> None:
    assert Ladder().longest == pytest.approx(28.0)
