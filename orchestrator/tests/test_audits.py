"""The audits on hand-written launches: each passes honest work and fails on the one thing it is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from enginebench.judge.audits import Audit, audits, objection
from enginebench.run.repeated import ask_again
from enginebench.store.record import GreedyReading, Request

SAME, OTHER = "b" * 64, "c" * 64


def found(launches: list[Any]) -> dict[str, Audit]:
    return {audit.name: audit for audit in audits(launches)}


def answer(records: Any, iteration: int, ttft_ms: float = 10.0, **changes: Any) -> Request:
    times = (ttft_ms, ttft_ms + 2, ttft_ms + 4)
    request: Request = records.request(iteration, times, warmup=True, **changes)
    return request


def replaced(request: Request, **changes: Any) -> Request:
    import msgspec

    return msgspec.structs.replace(request, **changes)


def check(records: Any, again_ms: float = 10.0, **again: Any) -> Any:
    """Two prompts, and the second asked again."""
    repeat = replaced(answer(records, 1, again_ms, repeat=True), **again)
    return records.timed([answer(records, 0), answer(records, 1), repeat], kind="check")


def timed(records: Any, *answers: Request, **changes: Any) -> Any:
    return records.timed(list(answers) or [answer(records, 0), answer(records, 1)], **changes)


def test_honest_work_passes_every_audit(records: Any) -> None:
    by_name = found([check(records), timed(records), timed(records)])
    assert {name: audit.passed for name, audit in by_name.items()} == {
        "token-counts": True,
        "same-output": True,
        "repeated-prompt": True,
        "repeatable": True,
    }
    assert objection(by_name.values()) is None
    assert by_name["same-output"].detail == "4 timed answers equal those of the check launch"


def test_records_from_before_there_were_audits_have_nothing_to_look_at(records: Any) -> None:
    by_name = found([records.check(), records.timed([records.request(3, (5, 7, 9))])])
    assert [by_name[name].passed for name in ("same-output", "repeated-prompt", "repeatable")] == [None] * 3
    assert objection(by_name.values()) is None
    assert audits([]) == []


# ---- same-output (TEST01) -------------------------------------------------------------------------------------


def test_another_answer_in_a_timed_launch_refuses_the_case_and_says_where(records: Any) -> None:
    first = replaced(answer(records, 0), tokens=[1, 2, 3])
    checked = records.timed([first, answer(records, 1), answer(records, 1, repeat=True)], kind="check")
    other = timed(records, replaced(first, tokens_sha256=OTHER, tokens=[1, 9, 3]))
    audit = found([checked, timed(records), other])["same-output"]
    assert (audit.passed, audit.refuses) == (False, True)
    assert audit.detail == "1 of 3 timed answers differ from the check launch's, first at token 2"


@pytest.mark.parametrize(("passed", "refuses"), [(True, False), (False, True)])
def test_a_choice_as_likely_to_the_reference_excuses_another_answer(records: Any, passed: bool, refuses: bool) -> None:
    greedy = [GreedyReading(iteration=0, n_tokens=3, passed=passed, worst_margin=0.05, worst_rank=2)]
    other = timed(records, replaced(answer(records, 0), tokens_sha256=OTHER), greedy=greedy)
    audit = found([check(records), other])["same-output"]
    assert (audit.passed, audit.refuses) == (False, refuses)


def test_prompts_that_only_the_repeats_made_the_check_ask_are_not_compared(records: Any) -> None:
    later = replaced(answer(records, 2), tokens_sha256=OTHER)
    repeats = [answer(records, 1, repeat=True), later, replaced(later, repeat=True)]
    checked = records.timed([answer(records, 0), answer(records, 1), *repeats], kind="check")
    audit = found([checked, timed(records, answer(records, 0), answer(records, 2))])["same-output"]
    assert (audit.passed, audit.detail) == (True, "1 timed answers equal those of the check launch")


# ---- repeated-prompt (TEST04) ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("again_ms", "passed"), [(8.9, False), (9.1, True), (12.0, True)])
def test_a_repeated_prompt_may_be_ten_percent_faster(records: Any, again_ms: float, passed: bool) -> None:
    audit = found([check(records, again_ms), timed(records)])["repeated-prompt"]
    assert (audit.passed, audit.refuses) == (passed, not passed)
    assert passed or audit.detail.startswith("prefix cache on: a prompt asked again takes 89% of the time")


def test_a_gain_below_the_noise_of_a_clock_is_no_cache(records: Any) -> None:
    quick = records.timed([answer(records, 1, 0.3), answer(records, 1, 0.15, repeat=True)], kind="check")
    assert found([quick])["repeated-prompt"].passed is True


def test_the_depth_of_a_workload_is_no_repeat(records: Any) -> None:
    depth = replaced(answer(records, 1, 1.0), phase="depth")
    assert found([check(records), timed(records, answer(records, 0), depth)])["repeated-prompt"].passed is True


class Asked:
    """Answers with the given times to first token, in turn."""

    def __init__(self, records: Any, distinct: Sequence[float], repeats: Sequence[float]) -> None:
        self.records, self.times = records, {False: iter(distinct), True: iter(repeats)}
        self.asked: list[tuple[int, bool]] = []

    def __call__(self, iteration: int, repeat: bool) -> Request:
        self.asked.append((iteration, repeat))
        return answer(self.records, iteration, next(self.times[repeat]), repeat=repeat)


def test_an_unsuspicious_repeat_is_asked_once(records: Any) -> None:
    asked = Asked(records, [], [9.5])
    ask_again(answer(records, 1, 10.0), asked)
    assert asked.asked == [(1, True)]


def test_a_slow_first_prompt_is_cleared_by_the_next_pair(records: Any) -> None:
    asked = Asked(records, [10.0], [10.0, 10.0])
    ask_again(answer(records, 1, 20.0), asked)
    assert asked.asked == [(1, True), (2, False), (2, True)]


def test_a_cache_is_asked_until_it_is_sure(records: Any) -> None:
    asked = Asked(records, [10.0] * 9, [1.0] * 9)
    ask_again(answer(records, 1, 10.0), asked)
    assert len(asked.asked) == 5  # three pairs, the pilot among them
    weak = Asked(records, [10.0] * 9, [8.0] * 9)
    ask_again(answer(records, 1, 10.0), weak)
    assert len(weak.asked) == 9  # five pairs


# ---- token-counts (TEST06) ------------------------------------------------------------------------------------


def test_a_server_that_counts_other_tokens_refuses_the_case(records: Any) -> None:
    audit = found([timed(records, answer(records, 0, reported={"n_gen": 4, "n_requests": 1}))])["token-counts"]
    assert (audit.passed, audit.refuses) == (False, True)
    assert audit.detail == "n_gen is 4 by the engine's count, 3 by ours, in 1 request"


def test_an_answer_that_was_broken_off_and_asked_again_is_no_miscount(records: Any) -> None:
    launch = timed(records, answer(records, 0, reported={"n_gen": 2, "n_requests": 2}))
    assert found([launch])["token-counts"].passed is True


def test_fewer_ids_than_asked_for_refuse_the_case(records: Any) -> None:
    launch = timed(records, replaced(answer(records, 0), t_token_ns=[1_000_000, 2_000_000]))
    assert found([launch])["token-counts"].detail.startswith("4 prompt tokens and 2 ids instead of 4 and 3")


# ---- repeatable -----------------------------------------------------------------------------------------------


def test_the_same_request_with_other_ids_is_said_and_not_refused(records: Any) -> None:
    first = replaced(answer(records, 1), tokens=[1, 2, 3])
    again = replaced(answer(records, 1, repeat=True), tokens=[1, 2, 4], tokens_sha256=OTHER)
    audit = found([records.timed([answer(records, 0), first, again], kind="check")])["repeatable"]
    assert (audit.passed, audit.refuses) == (False, False)
    assert audit.detail == "not deterministic: the same request gives other ids, from token 3 on"
