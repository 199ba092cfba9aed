"""Same weights, same prompts: what differs from the plan is named."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from enginebench.judge.comparable import difference


def test_the_same_work_has_no_difference(records: Any) -> None:
    launches = [records.check(), records.timed([records.request(i, (1, 2, 3)) for i in range(3)])]
    assert difference(launches, records.plan()) is None


def test_no_launch_has_no_difference(records: Any) -> None:
    assert difference([], records.plan()) is None


@pytest.mark.parametrize("kind", ["check", "timed"])
def test_other_weights_in_any_launch_are_found(records: Any, kind: str) -> None:
    other = records.loaded(weights_fingerprint="f" * 64)
    launches = [
        records.check(loaded=other if kind == "check" else records.loaded()),
        records.timed([records.request(0, (1, 2, 3))], loaded=other if kind == "timed" else records.loaded()),
    ]
    reason = difference(launches, records.plan())
    assert reason == "other weights: fingerprint ffffffffffff was loaded, the model's is aaaaaaaaaaaa"


def test_another_prompt_is_found(records: Any) -> None:
    swapped = msgspec.structs.replace(
        records.request(1, (1, 2, 3)), prompt_sha256=records.request(2, (1, 2, 3)).prompt_sha256
    )
    reason = difference([records.timed([records.request(0, (1, 2, 3)), swapped])], records.plan())
    assert reason is not None
    assert reason.startswith("other prompts: request 1 of a timed launch")


def test_another_seed_gives_other_prompts(records: Any) -> None:
    launches = [records.timed([records.request(0, (1, 2, 3))])]
    assert difference(launches, records.plan(seed=1)) is not None


def test_a_model_outside_the_plan_is_named(records: Any) -> None:
    launches = [records.timed([])]
    assert difference(launches, records.plan(models=[])) == "model m is not in the plan"
