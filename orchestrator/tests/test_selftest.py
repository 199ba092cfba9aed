"""The self-test counts what it is shown: here the launches are replaced by the pace they were told."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from enginebench.errors import UsageError
from enginebench.judge.comparison import compare_paired
from enginebench.machine.gates import GATES
from enginebench.selftest import gate_faults, pairs, parts, published
from enginebench.selftest.gate_faults import gate_rows
from enginebench.selftest.known_speed import detected, false_verdicts
from enginebench.selftest.many_runs import store_rows
from enginebench.selftest.page import Part, Row, markdown, write_page
from enginebench.selftest.pairs import Injected, Subject, Tally, floor_of, tally
from enginebench.selftest.parts import Effort
from enginebench.selftest.published import published_rows
from enginebench.selftest.simulated import coverage_rows, verdict_rows
from enginebench.store.aa_floor import Floor, floors, keep, place_of
from enginebench.store.record import Workload
from enginebench.workspace import discovery
from enginebench.workspace.discovery import discover
from enginebench.workspace.environment import Interpreter

Options = dict[str, str]
Time = Callable[[float, int], float | None]
Scripted = Callable[[Time], None]


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return Subject(
        info=discover()["fake"],
        configuration="jitter",
        interpreter=Interpreter(tmp_path / "python", {}, None, {}),
        model="tiny",
        model_path=tmp_path,
        device="cpu",
        threads=1,
        cache=tmp_path,
        workload=Workload(n_prompt=8, n_gen=12),
        warmup=1,
        iterations=5,
    )


@pytest.fixture
def launches_take(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    """launches_take(f): a launch told to pace p, as number n of its block, takes f(p, n) ns for each token."""

    def replace(time: Time) -> None:
        def launched(subject: Subject, block: int, order: int, options: Options) -> tuple[float, int]:
            return float(options["pace"]), order

        monkeypatch.setattr(pairs, "launched", launched)
        monkeypatch.setattr(pairs, "time_per_token", lambda launch: time(*launch))

    return replace


def silent(text: str) -> None:
    pass


def honest(pace: float, order: int) -> float:
    return 1e6 * pace


def test_equals_are_the_same_and_a_large_slow_down_is_found(subject: Subject, launches_take: Scripted) -> None:
    launches_take(honest)
    equal, _ = tally(subject, Injected(launch_cv=0.001), 5, 10, 0, silent)
    slower, _ = tally(subject, Injected(0.05, 0.01), 5, 10, 0, silent)
    assert equal.verdicts == Counter(SAME=5)
    assert equal.false_rate == 0
    assert slower.verdicts == Counter(SLOWER=5)
    assert slower.detection_rate == 1


def test_random_order_averages_out_a_second_launch_that_is_always_slower(
    subject: Subject, launches_take: Scripted
) -> None:
    launches_take(lambda pace, order: 1e6 * pace * (1 + 0.02 * order))
    found, _ = tally(subject, Injected(launch_cv=0.001), 20, 20, 0, silent)
    assert found.false_rate <= 0.05  # 2 % of bias in 20 pairs: without it, every pair would be SLOWER


def test_an_instrument_that_cannot_see_the_slow_down_is_found_out(subject: Subject, launches_take: Scripted) -> None:
    launches_take(lambda pace, order: 1e6)
    rows = detected(subject, 3, 10, 0.01, silent)
    assert [row.passed for row in rows] == [True, False, False]
    assert rows[1].value == "0 of 3 (0%)"


def test_fewer_than_200_pairs_prove_nothing(subject: Subject, launches_take: Scripted) -> None:
    launches_take(honest)
    assert not false_verdicts(subject, 6, 10, silent)[0].passed


def test_launches_without_a_valid_request_drop_their_block(subject: Subject, launches_take: Scripted) -> None:
    calls = iter(range(1000))
    launches_take(lambda pace, order: None if next(calls) == 3 else 1e6 * pace)
    _, (comparison,) = tally(subject, Injected(launch_cv=0.001), 1, 11, 0, silent)
    assert comparison.n == 10


def test_what_contradicts_the_injected_truth_is_false() -> None:
    words = Counter(FASTER=2, SLOWER=3, SAME=4, INCONCLUSIVE=1)
    assert Tally(Injected(), 10, words).false_rate == 0.5
    assert Tally(Injected(slowdown=0.02), 10, words).false_rate == 0.2
    assert Tally(Injected(slowdown=0.02), 10, words).detection_rate == 0.3


def test_the_floor_is_the_95th_percentile_of_the_distance_from_one() -> None:
    comparisons = [
        compare_paired(dict.fromkeys(range(10), 1.0), dict.fromkeys(range(10), 1 + i / 1000)) for i in range(1, 21)
    ]
    assert floor_of(comparisons) == pytest.approx(0.019)


def part(passed: bool) -> Part:
    row = Row(what="x", value="1 | 2", target="0", passed=passed)
    return Part(rows=[row], date="2026-01-01T00:00:00", commit=None, cpu="one", how="that")


def test_a_page_keeps_the_parts_that_were_not_measured_now(tmp_path: Path) -> None:
    write_page(tmp_path, {"speed": part(False), "gates": part(True)})
    merged = write_page(tmp_path, {"speed": part(True)})
    assert list(merged) == ["speed", "gates"]
    assert json.loads((tmp_path / "selftest.json").read_text())["speed"]["rows"][0]["passed"] is True
    assert (tmp_path / "selftest.md").read_text() == markdown(merged)


def test_a_target_that_was_missed_stands_out() -> None:
    assert "| x | 1 &#124; 2 | 0 | **no** |" in markdown({"speed": part(False)})


def test_every_gate_is_shown_its_fault() -> None:
    assert gate_rows()[0].value == f"{len(GATES)} of {len(GATES)}"
    assert all(row.passed for row in gate_rows())


def test_a_gate_that_sleeps_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(gate_faults.FAULTS, "swap", gate_faults.QUIET)
    assert not gate_rows()[0].passed
    assert gate_rows()[0].value.endswith("(not: swap)")


def test_published_rows_that_cannot_be_true_are_flagged_and_no_others() -> None:
    assert [row.value for row in published_rows()] == ["8 of 8", "6 of 6"]
    assert all(row.passed for row in published_rows())


def test_an_expected_flag_that_does_not_come_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    tables = {**published.PUBLISHED_TPS, ("trt-llm", "mistral"): {"fp32": 60.0, "fp16": 120.0, "int8": 240.0}}
    monkeypatch.setattr(published, "PUBLISHED_TPS", tables)
    assert published_rows()[0].value == "5 of 8"
    assert not published_rows()[0].passed


def test_a_pair_that_is_not_known_well_enough_goes_on_as_standard_does(
    subject: Subject, launches_take: Scripted
) -> None:
    launches_take(honest)
    _, (narrow,) = tally(subject, Injected(launch_cv=0.001), 1, 10, 0, silent)
    _, wide = tally(subject, Injected(launch_cv=0.01), 8, 10, 0, silent)
    assert narrow.n == 10
    assert {c.n for c in wide} & {15, 20}


def test_simulated_rows_have_a_target_where_one_was_asked_for() -> None:
    rows = [*coverage_rows(1000, silent), *verdict_rows(3, silent)]
    assert [row.target for row in rows].count("95 ± 1.5 %") == 4
    assert [row.target for row in rows].count("≥ 90 %") == 2
    assert all(row.passed for row in rows if "hold the truth" in row.what)


def test_stored_runs_are_copied_and_asked(tmp_path: Path, stored_run: Callable[..., Path]) -> None:
    template = stored_run("20200101-000000-0000", {"torch:half": [4.0 + i / 100 for i in range(10)]})
    rows = store_rows(template, silent, runs=20, tries=1)
    assert [row.target for row in rows] == ["< 2 s", "< 2 s", ""]
    assert float(rows[0].value.split()[0]) > 0


ENVIRONMENT = {"cpu": {"model": "a processor"}, "gpus": [{"name": "a GPU"}]}


def test_a_floor_is_found_again_where_it_was_measured_and_nowhere_else(subject: Subject, tmp_path: Path) -> None:
    place = place_of(subject.case, ENVIRONMENT, "cpu", 2)
    keep(tmp_path, Floor(place=place, shares={"tpot_ns": 0.03}, pairs=9, date="then"))
    keep(tmp_path, Floor(place=place, shares={"tpot_ns": 0.02}, pairs=10, date="now"))
    assert floors(tmp_path)[place].shares == {"tpot_ns": 0.02}
    others = [place_of(subject.case, ENVIRONMENT, "cuda", 2), place_of(subject.case, ENVIRONMENT, "cpu", 1)]
    assert not set(others) & set(floors(tmp_path))
    assert others[0].processor == "a GPU"


def test_a_damaged_file_of_floors_is_no_floor(tmp_path: Path) -> None:
    (tmp_path / "aa-floors.json").write_text('[{"place": 1}]')
    assert floors(tmp_path) == {}


def test_the_real_engine_is_the_one_that_was_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery, "unavailable_reason", lambda *_: "stop here")
    effort = Effort(1, 10, 100, "torch:half", "tiny", Workload(n_prompt=8, n_gen=8))
    with pytest.raises(UsageError, match="torch:half is unavailable: stop here"):
        parts.engine(effort, silent)
    with pytest.raises(UsageError, match="name one configuration, like torch:"):
        parts.engine(dataclasses.replace(effort, engine="torch"), silent)
