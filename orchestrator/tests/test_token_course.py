"""The time of each token of a process, on hand-written timestamps."""

from __future__ import annotations

from typing import Any

import msgspec
from enginebench.judge.token_course import POINTS, TokenCourse, token_course
from enginebench.store.record import Workload

from .conftest import Records


def case(*launches: Any) -> dict[str, Any]:
    return {"launches": msgspec.to_builtins(launches)}


def test_gaps_are_numbered_from_the_start_of_the_process_without_first_tokens(records: Records) -> None:
    """Two requests of three tokens: numbers 1 and 4 end prefills."""
    slow, steady = records.request(0, (50, 70, 80), warmup=True), records.request(1, (9, 11, 13))
    found = token_course(case(records.timed([slow, steady])))
    assert found == TokenCourse([2, 3, 5, 6], [20e6, 10e6, 2e6, 2e6], warmup_tokens=3)


def test_of_several_launches_each_place_has_the_median(records: Records) -> None:
    launches = [records.timed([records.request(0, (1, 1 + gap, 1 + 2 * gap))]) for gap in (2, 3, 100)]
    found = token_course(case(*launches))
    assert found == TokenCourse([2, 3], [3e6, 3e6], warmup_tokens=0)


def test_what_no_average_uses_is_left_out(records: Records) -> None:
    request = records.request(0, (1, 2, 3))
    doubtful = records.timed([request], doubts=["swap"])
    died = records.timed([request], failure=records.failure())
    assert token_course(case(records.check(), doubtful, died)) is None


def test_one_token_a_request_has_no_course() -> None:
    records = Records(Workload(n_prompt=4, n_gen=1))
    assert token_course(case(records.timed([records.request(0, (5,))]))) is None


def test_long_runs_are_thinned_towards_their_end_and_keep_their_first_tokens() -> None:
    records = Records(Workload(n_prompt=4, n_gen=2001))
    request = records.request(0, [1000, *(1000 + 2 * n for n in range(1, 2001))])
    found = token_course(case(records.timed([request])))
    assert found is not None
    assert len(found.tokens) == len(found.gap_ns) <= POINTS
    assert found.tokens[:4] == [2, 3, 4, 5]
    assert found.tokens == sorted(found.tokens)
    assert set(found.gap_ns) == {2e6}
