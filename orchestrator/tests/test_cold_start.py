"""Cold starts on records written by hand: parts that add up, courses with exact times, states that are never mixed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from enginebench.judge.cold_start import anatomy, cold_metrics, course, courses, started, states, time_to_tokens
from enginebench.judge.metrics import case_metrics
from enginebench.report.cold_start import sentence
from enginebench.store.record import CLOCKS_DISAGREE, Launch, StartState

MS = 1_000_000
WARM = StartState(asked="cache-warm", resident_share=1.0)
COLD = StartState(asked="disk-cold", resident_share=0.0)
MAPPED = StartState(asked="disk-cold", resident_share=0.4, reason="40.0% of the model stayed in memory")


def timed(records: Any, **changes: Any) -> Launch:
    """Spawned 0, hello 100, loaded 300, first token 900 ms. Warm-up tokens at 50, 60, 70, steady at 8, 10, 12."""
    requests = [records.request(0, (50, 60, 70), warmup=True), *(records.request(i, (8, 10, 12)) for i in (1, 2))]
    given = {"start_state": WARM, "loaded": records.loaded(stages_ns={"import": 20 * MS, "read": 50 * MS}), **changes}
    return records.timed(requests, **given)  # type: ignore[no-any-return]


def cold(records: Any, **changes: Any) -> Launch:
    """The same with a load of 1200 ms and a first token after 1900 ms; two warm-up requests."""
    requests = [records.request(0, (50, 60, 70), warmup=True), records.request(1, (9, 11, 13), warmup=True)]
    facts = {"load_ns": 1200 * MS, "cold_start_ns": 1900 * MS, "start_state": COLD, "kind": "cold", **changes}
    return records.timed(requests, **facts)  # type: ignore[no-any-return]


# ---- anatomy --------------------------------------------------------------------------------------------------


def test_the_parts_of_a_cold_start_add_up_to_the_first_token(records: Any) -> None:
    found = anatomy([timed(records)], "cache-warm")
    assert found.parts_ns == {
        "spawn": 100 * MS,
        "import": 20 * MS,
        "read": 50 * MS,
        "convert": None,
        "compile": None,
        "rest_of_load": 130 * MS,
        "handover": 550 * MS,
        "first_token": 50 * MS,
    }
    assert found.total_ns == sum(ns for ns in found.parts_ns.values() if ns) == 900 * MS


def test_imports_before_hello_and_in_the_load_are_one_part(records: Any) -> None:
    """The process's first line after 30 ms, hello after 100: 70 ms of imports before the 20 ms that the load tells."""
    found = anatomy([timed(records, interpreter_ns=30 * MS)], "cache-warm")
    assert (found.parts_ns["spawn"], found.parts_ns["import"]) == (30 * MS, 90 * MS)
    assert found.parts_ns["rest_of_load"] == 130 * MS
    assert found.total_ns == sum(ns for ns in found.parts_ns.values() if ns) == 900 * MS


def test_what_the_warm_up_took_longer_than_steady_requests_is_told_apart_from_the_first_token(records: Any) -> None:
    found = anatomy([timed(records)], "cache-warm")
    assert found.steady_ttft_ns == 8 * MS
    assert found.settling_ns == (70 - 12) * MS - (50 - 8) * MS


def test_launches_are_averaged_part_by_part_so_that_they_still_add_up(records: Any) -> None:
    other = timed(records, startup_ns=300 * MS, cold_start_ns=1500 * MS)
    found = anatomy([timed(records), other], "cache-warm")
    assert found.launches == 2
    assert found.parts_ns["spawn"] == 200 * MS
    assert sum(ns for ns in found.parts_ns.values() if ns) == found.total_ns == 1200 * MS


def test_disk_cold_and_cache_warm_are_never_mixed(records: Any) -> None:
    launches = [timed(records), cold(records)]
    assert states(launches) == ["cache-warm", "disk-cold"]
    assert anatomy(launches, "cache-warm").total_ns == 900 * MS
    assert anatomy(launches, "disk-cold").total_ns == 1900 * MS
    metrics = case_metrics(launches, role="instrument")
    assert metrics["load_ns"].value == pytest.approx(200 * MS)
    assert metrics["launches"].value == 1
    assert metrics["total_time_ns"].value == 24 * MS
    assert cold_metrics(launches)["disk_cold_load_ns"].value == pytest.approx(1200 * MS)
    assert cold_metrics(launches)["disk_cold_start_ns"].value == pytest.approx(1900 * MS)


def test_a_case_without_disk_cold_launches_has_no_such_metrics(records: Any) -> None:
    assert cold_metrics([timed(records)]) == {}
    assert states([timed(records)]) == ["cache-warm"]


def test_a_launch_whose_pages_were_not_evicted_says_nothing_of_a_cold_start(records: Any) -> None:
    launches = [timed(records), cold(records, start_state=MAPPED)]
    found = anatomy(launches, "disk-cold")
    assert (found.valid, found.total_ns, found.reasons) == (False, None, ["40.0% of the model stayed in memory"])
    assert set(found.parts_ns.values()) == {None}
    metric = cold_metrics(launches)["disk_cold_load_ns"]
    assert (metric.value, metric.valid, metric.reasons) == (None, False, ["40.0% of the model stayed in memory"])
    assert "disk-cold" not in courses(launches)


def test_one_launch_that_started_wrong_is_left_out_and_named(records: Any) -> None:
    found = anatomy([timed(records), cold(records), cold(records, start_state=MAPPED)], "disk-cold")
    assert (found.launches, found.total_ns) == (1, 1900 * MS)
    assert found.reasons == ["40.0% of the model stayed in memory"]


def test_a_timed_launch_that_found_the_model_on_the_disk_is_left_out_of_the_load_time_alone(records: Any) -> None:
    half = msgspec.structs.replace(WARM, resident_share=0.5, reason="only 50.0% of the model was in the page cache")
    launches = [timed(records), timed(records, start_state=half, load_ns=9000 * MS)]
    metrics = case_metrics(launches, role="instrument")
    assert metrics["load_ns"].value == pytest.approx(200 * MS)
    assert metrics["load_ns"].reasons[0].startswith("1 of 2 launches left out: only 50.0%")
    assert metrics["launches"].value == 2
    alone = case_metrics(launches[1:], role="instrument")["load_ns"]
    assert (alone.value, alone.valid) == (None, False)
    assert alone.reasons == ["1 of 1 launches left out: only 50.0% of the model was in the page cache"]


def test_clocks_that_differ_by_less_than_a_hundredth_of_the_cold_start_do_not_spoil_it(records: Any) -> None:
    usual = timed(records).requests

    def kept(doubt: str = f"{CLOCKS_DISAGREE} by 2.000 ms", ns: int = 2 * MS) -> int:
        first = msgspec.structs.replace(usual[0], doubts=[doubt], clock_disagreement_ns=ns)
        return len(started([records.timed([first, *usual[1:]], start_state=WARM)], "cache-warm")[0])

    assert kept() == 1
    assert kept(ns=10 * MS) == 0
    assert kept(ns=-1) == 0
    assert kept(doubt="answer broken off") == 0


def test_a_failed_launch_has_no_cold_start(records: Any) -> None:
    good, reasons = started([cold(records, failure=records.failure())], "disk-cold")
    assert (good, reasons) == ([], ["a launch failed: hang"])


# ---- time to N tokens -----------------------------------------------------------------------------------------


def test_tokens_come_as_in_the_warm_up_and_then_steadily(records: Any) -> None:
    """First request from 850 ms: tokens at 900, 910, 920. Then requests of 12 ms with tokens at 8, 10, 12."""
    found = course([timed(records)], "cache-warm")
    assert found is not None
    assert [found.at(n) / MS for n in range(1, 8)] == pytest.approx([900, 910, 920, 928, 930, 932, 940])
    assert found.at(10_000) / MS == pytest.approx(920 + 3332 * 12 + 8)  # 3 + 3332 requests of 3 + 1 token


def test_a_disk_cold_course_settles_at_the_rate_of_the_timed_launches(records: Any) -> None:
    found = course([timed(records), cold(records)], "disk-cold")
    assert found is not None
    assert [found.at(n) / MS for n in (1, 3, 4, 6, 7, 9)] == pytest.approx([1900, 1920, 1929, 1933, 1941, 1945])


def test_a_case_that_was_never_timed_has_no_course(records: Any) -> None:
    assert courses([cold(records)]) == {}


def test_the_course_is_told_at_numbers_of_tokens_up_to_ten_thousand(records: Any) -> None:
    found = time_to_tokens(courses([timed(records)]))["cache-warm"]
    assert list(found) == ["1", "2", "5", "10", "20", "50", "100", "200", "500", "1000", "2000", "5000", "10000"]
    assert found["1"] == pytest.approx(900 * MS)
    assert list(found.values()) == sorted(found.values())


# ---- report ---------------------------------------------------------------------------------------------------


def test_a_break_even_is_a_sentence_with_its_uncertainty() -> None:
    crossing = {"ahead": "X", "behind": "Y", "tokens": 341, "interval": [301, 391], "agreement": 1.0}
    assert sentence(crossing) == "X overtakes Y after 340 tokens (95 %: 300 to 390)"
    doubtful = {**crossing, "agreement": 0.6}
    assert sentence(doubtful).endswith("(95 %: 300 to 390, but in 60% of the resamples only)")
    assert "too few launches" in sentence({**crossing, "interval": None, "agreement": None})
