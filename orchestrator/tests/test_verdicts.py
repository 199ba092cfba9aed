"""The comparisons of a run: which pairs are asked, which groups remain, and how the table says it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from enginebench.judge.assemble import CaseFacts, assemble
from enginebench.judge.verdicts import Candidate, named_comparisons, pair_comparisons, rank_groups
from enginebench.report import verdicts as report
from enginebench.report.table import markdown
from enginebench.store.result import schema_fault

MS = 1_000_000
NOISE = (-0.2, 0.1, 0.3, -0.1, 0.0, 0.2, -0.3, 0.1, -0.2, 0.1)
"""Percent, one for each of ten blocks."""


def launches(records: Any, label: str, tpot: Sequence[float], ttft: float = 10.0, load_ms: float = 200.0) -> list[Any]:
    """One launch per block; a warm-up request that takes twice as long, two measured ones."""
    case = records.case(*label.split(":"))
    return [
        records.timed(
            [
                records.request(0, [2 * ttft, 2 * (ttft + ms), 2 * (ttft + 2 * ms)], warmup=True),
                *(records.request(i, [ttft, ttft + ms, ttft + 2 * ms]) for i in (1, 2)),
            ],
            case,
            block=block,
            load_ns=int(load_ms * MS),
        )
        for block, ms in enumerate(tpot)
    ]


def noisy(middle: float, turn: int = 0) -> list[float]:
    return [middle * math.exp(NOISE[(i + turn) % 10] / 100) for i in range(10)]


def candidate(records: Any, label: str, tpot: Sequence[float], role: str = "engine", **facts: Any) -> Candidate:
    return Candidate(records.case(*label.split(":")), role, launches(records, label, tpot), **facts)


def id_of(records: Any, label: str) -> str:
    return f"{label}/m/{records.workload.name}"


def three(records: Any) -> list[Candidate]:
    """b is 0.8 % slower than a, c 0.8 % slower than b and 1.6 % slower than a."""
    return [
        candidate(records, "x:a", noisy(4.0)),
        candidate(records, "x:b", noisy(4.032, 3)),
        candidate(records, "x:c", noisy(4.064, 5)),
    ]


def test_every_pair_is_asked_in_each_metric_and_each_metric_is_a_table_of_its_own(records: Any) -> None:
    found = pair_comparisons(three(records))
    assert len(found) == 9
    assert {(c.metric, c.family) for c in found} == {("tpot_ns", 3), ("ttft_ns", 3), ("load_ns", 3)}
    assert all(c.paired and c.n == 10 and c.name is None for c in found)


def test_instruments_and_tests_are_not_compared_with_engines(records: Any) -> None:
    other = [candidate(records, "limit:read", noisy(1.0), "instrument"), candidate(records, "f:d", noisy(1.0), "test")]
    found = pair_comparisons([*three(records), *other])
    assert {end for c in found for end in (c.base, c.new)} == {id_of(records, f"x:{name}") for name in "abc"}


def test_a_case_between_two_that_differ_shares_a_group_with_each(records: Any) -> None:
    cases = three(records)
    found = pair_comparisons(cases)
    words = {(c.base[2], c.new[2]): c.verdict for c in found if c.metric == "tpot_ns"}
    assert words["a", "c"] == "SLOWER"
    assert "SLOWER" not in (words["a", "b"], words["b", "c"])
    assert rank_groups(cases, found) == {
        id_of(records, "x:a"): [1],
        id_of(records, "x:b"): [1, 2],
        id_of(records, "x:c"): [2],
    }


def test_without_verdicts_all_share_one_group(records: Any) -> None:
    assert set(map(tuple, rank_groups(three(records), []).values())) == {(1,)}


def test_failed_launches_and_check_launches_do_not_count(records: Any) -> None:
    """Block 3 of one case failed: nine blocks have both, one too few for a verdict."""
    slow = launches(records, "x:b", noisy(8.0))
    slow[3] = records.timed([], records.case("x", "b"), block=3, failure=records.failure())
    checked = [records.check(records.case("x", "b")), *slow]
    found = pair_comparisons(
        [candidate(records, "x:a", noisy(4.0)), Candidate(records.case("x", "b"), "engine", checked)]
    )[0]
    assert (found.n, found.verdict, found.further_launches) == (9, "INCONCLUSIVE", 1)
    assert found.ratio == pytest.approx(0.5, rel=0.01)


def test_a_launch_that_a_noise_gate_doubts_does_not_count(records: Any) -> None:
    slow = launches(records, "x:b", noisy(8.0))
    slow[0] = msgspec.structs.replace(slow[0], doubts=["swap: 3 pages were swapped in"])
    doubted = Candidate(records.case("x", "b"), "engine", slow)
    assert pair_comparisons([candidate(records, "x:a", noisy(4.0)), doubted])[0].n == 9


def test_the_larger_floor_of_the_two_cases_counts(records: Any) -> None:
    floored = candidate(records, "x:c", noisy(4.064, 5), aa_floors={"tpot_ns": 0.03})
    found = pair_comparisons([candidate(records, "x:a", noisy(4.0)), floored])
    assert [(c.metric, c.delta) for c in found] == [("tpot_ns", 0.03), ("ttft_ns", 0.01), ("load_ns", 0.01)]
    assert found[0].verdict == "SAME"


# ---- named comparisons ----------------------------------------------------------------------------------------


def test_a_configuration_is_compared_with_the_base_that_its_package_names(records: Any) -> None:
    cases = [
        candidate(records, "x:plain", noisy(4.0)),
        candidate(records, "x:fast", noisy(2.0, 3), compares={"compilation benefit": "plain"}),
        candidate(records, "y:plain", noisy(9.0)),
    ]
    found = [c for c in named_comparisons(cases) if c.name == "compilation benefit"]
    assert [(c.base, c.new, c.metric) for c in found] == [
        (id_of(records, "x:plain"), id_of(records, "x:fast"), metric) for metric in ("tpot_ns", "ttft_ns")
    ]
    assert found[0].ratio == pytest.approx(2.0, rel=1e-6)
    assert found[0].verdict == "FASTER"


def test_without_its_base_in_the_run_nothing_is_said(records: Any) -> None:
    alone = [candidate(records, "x:fast", noisy(2.0), compares={"compilation benefit": "plain"})]
    assert {c.name for c in named_comparisons(alone)} == {"warm-up improvement"}


@pytest.mark.parametrize(("dim", "file_bytes", "found"), [(64, 500, True), (64, 900, False), (128, 500, False)])
def test_fewer_bits_of_the_same_shape_are_a_quantisation(records: Any, dim: int, file_bytes: int, found: bool) -> None:
    """900 of 1000 bytes are another header, not fewer bits; another width is another model."""
    wide = candidate(records, "x:a", noisy(4.0))
    narrow_case = msgspec.structs.replace(wide.case, model="m-q8")
    narrow = Candidate(narrow_case, "engine", launches(records, "x:a", noisy(2.0)))
    models = [
        {"name": "m", "shape": {"dim": 64}, "file_bytes": 1000},
        {"name": "m-q8", "shape": {"dim": dim}, "file_bytes": file_bytes},
    ]
    quantised = [c for c in named_comparisons([wide, narrow], models) if c.name == "quantisation impact"]
    assert bool(quantised) == found
    if found:
        assert quantised[0].base == wide.case.id
        assert quantised[0].ratio == pytest.approx(2.0)


def test_the_warm_up_improvement_is_first_request_over_steady_one(records: Any) -> None:
    found = named_comparisons([candidate(records, "x:a", noisy(4.0))])[0]
    assert found.base == found.new
    assert found.ratio == pytest.approx(2.0)
    assert found.verdict == "FASTER"


# ---- in the result and the table ------------------------------------------------------------------------------


def result_of(records: Any, verdicts: bool, **tpot: Sequence[float]) -> dict[str, Any]:
    facts = [CaseFacts(records.case("x", name), "engine", compares=COMPARES.get(name, {})) for name in tpot]
    every = [
        launch
        for name, values in tpot.items()
        for launch in [records.check(records.case("x", name)), *launches(records, f"x:{name}", values)]
    ]
    return assemble("r1", records.environment(), records.plan(verdicts=verdicts), facts, every)


COMPARES = {"b": {"precision impact": "a"}}


def test_a_run_with_verdicts_stores_and_shows_them(records: Any) -> None:
    result = result_of(records, True, a=noisy(4.0), b=noisy(2.0, 3))
    assert schema_fault(result) is None
    assert [case["rank_groups"] for case in result["cases"]] == [[2], [1]]
    text = markdown(result)
    assert "| rank |" in text
    assert "of 1 pair 1 were told apart in decoding, 0 are the same, 0 inconclusive" in text
    assert "no A/A floor was measured here" in text
    line = next(line for line in text.splitlines() if line.startswith("x:a against x:b"))
    assert "decode 0.500x [0.4" in line
    assert "SLOWER; prefill 1.000x [1.000, 1.000] SAME" in line
    assert any(line.startswith("precision impact (x:b against x:a): decode 2.0") for line in text.splitlines())


def test_an_inconclusive_pair_names_the_launches_that_are_missing(records: Any) -> None:
    wild = [4.0 * math.exp(noise / 5) for noise in NOISE]
    result = result_of(records, True, a=wild, c=noisy(4.1, 3))
    pair = result["comparisons"][0]
    assert pair["verdict"] == "INCONCLUSIVE"
    assert f"INCONCLUSIVE (about {pair['further_launches']} more launches would decide)" in markdown(result)


def test_a_preset_without_verdicts_shows_ratios_of_configurations_but_no_word(records: Any) -> None:
    result = result_of(records, False, a=noisy(4.0)[:3], b=noisy(2.0)[:3])
    assert schema_fault(result) is None
    assert all(c["name"] and c["verdict"] == "INCONCLUSIVE" for c in result["comparisons"])
    text = markdown(result)
    assert "| rank |" not in text
    assert not any(word in text for word in ("FASTER", "SLOWER", "INCONCLUSIVE"))
    assert "precision impact (x:b against x:a): decode 2.0" in text


def test_a_verdict_with_fewer_than_ten_launches_breaks_the_schema(records: Any) -> None:
    result = result_of(records, True, a=noisy(4.0), b=noisy(2.0))
    assert result["comparisons"][0]["verdict"] == "FASTER"
    result["comparisons"][0]["n"] = 9
    assert schema_fault(result) is not None


def test_a_case_that_is_not_ok_is_compared_with_nobody(records: Any) -> None:
    facts = [CaseFacts(records.case("x", name), "engine") for name in "ab"]
    wrong = [records.check(records.case("x", "b"), fidelity=records.fidelity(passed=False))]
    good = [records.check(records.case("x", "a"))]
    every = [*good, *launches(records, "x:a", noisy(4.0)), *wrong, *launches(records, "x:b", noisy(2.0))]
    result = assemble("r1", records.environment(), records.plan(verdicts=True), facts, every)
    assert result["cases"][1]["status"] == "invalid"
    assert {c["name"] for c in result["comparisons"]} == {"warm-up improvement"}


def test_turning_a_comparison_twice_gives_it_back(records: Any) -> None:
    pair = result_of(records, True, a=noisy(4.0), b=noisy(2.0))["comparisons"][0]
    assert report.turned(pair)["verdict"] == "SLOWER"
    assert report.turned(report.turned(pair))["interval_95"] == pytest.approx(pair["interval_95"])
