"""A case over time: a step is found where it is, none is invented, and only what is comparable is one series."""

from __future__ import annotations

import csv
import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from enginebench.errors import UsageError
from enginebench.judge import history as judged
from enginebench.judge.history import MOST_POINTS, steps
from enginebench.judge.rows import rows_of
from enginebench.report import history as report
from enginebench.report.formats import Output
from enginebench.report.sparkline import WIDTH, sparkline
from enginebench.store.index import open_index

Stored = Callable[..., Path]
LABEL = "torch:half"


def noisy(levels: list[tuple[float, int]], cv: float = 0.003, seed: int = 0) -> list[float]:
    noise = random.Random(seed)
    return [level * (1 + noise.gauss(0, cv)) for level, count in levels for _ in range(count)]


def asked(results: Path, case: str = LABEL, metric: str = "decode_tps", machine: str = "") -> judged.History:
    with open_index(results, rows_of) as connection:
        return judged.history(connection, case, metric, machine)


@pytest.fixture
def runs(stored_run: Stored, tmp_path: Path) -> Path:
    """Twelve runs a day apart; from the ninth on each token takes 5 % longer, by another commit."""
    for day, ms in enumerate(noisy([(4.0, 8), (4.2, 4)]), start=1):
        commit = ("a" if day < 9 else "b") * 40
        stored_run(
            f"202601{day:02}-000000-aaaa",
            {LABEL: [ms]},
            date=f"2026-01-{day:02}T00:00:00+00:00",
            environment={"repository": {"commit": commit, "dirty": False}},
        )
    return tmp_path


# ---- steps ----------------------------------------------------------------------------------------------------


def test_a_step_is_found_at_the_run_where_it_is() -> None:
    (step,) = steps(noisy([(100, 12), (95, 12)]))
    assert step.at == 12
    assert step.ratio == pytest.approx(0.95, rel=0.005)


def test_two_steps_are_found_with_their_levels() -> None:
    first, second = steps(noisy([(100, 10), (110, 10), (90, 10)]))
    assert (first.at, second.at) == (10, 20)
    assert [first.before, first.after, second.after] == pytest.approx([100, 110, 90], rel=0.005)


@pytest.mark.parametrize("seed", range(10))
def test_noise_alone_is_no_step(seed: int) -> None:
    assert steps(noisy([(100, 40)], seed=seed)) == []


def test_a_change_of_less_than_one_percent_is_no_step() -> None:
    assert steps(noisy([(100, 20), (100.6, 20)], cv=0.0005)) == []


@pytest.mark.parametrize("values", [[5.0], [5.0, 9.0], [5.0] * 5])
def test_too_few_runs_have_no_step(values: list[float]) -> None:
    assert steps(values) == []


def test_of_many_runs_the_newest_are_searched() -> None:
    values = noisy([(100, 50), (50, MOST_POINTS - 30), (60, 30)])
    (step,) = steps(values)
    assert step.at == len(values) - 30


# ---- of stored runs -------------------------------------------------------------------------------------------


def test_the_history_of_a_case_has_its_step_and_what_changed_there(runs: Path) -> None:
    found = asked(runs)
    assert [point.run_id[:8] for point in found.points] == [f"202601{day:02}" for day in range(1, 13)]
    assert found.unit == "tok/s"
    (step,) = found.steps
    assert found.points[step.at].run_id.startswith("20260109")
    assert step.ratio == pytest.approx(1 / 1.05, rel=0.005)
    assert found.level(0) == step.before
    assert found.level(11) == step.after
    (line,) = [line for line in report.below(found, 30) if line.startswith("step")]
    assert line.startswith("step of -4.")
    assert line.endswith(f"commit {'a' * 12} to {'b' * 12}")


def test_another_machine_is_another_series(records: Any, runs: Path, stored_run: Stored) -> None:
    environment = {"cpu": {**records.environment()["cpu"], "model": "Other CPU"}}
    stored_run("20251231-x", {LABEL: [1.0]}, date="2025-12-31T00:00:00+00:00", environment=environment)
    found = asked(runs)
    assert (len(found.points), found.left_out) == (12, 1)
    assert [point.run_id for point in asked(runs, machine="other").points] == ["20251231-x"]
    with pytest.raises(UsageError, match="on a machine like 'third'"):
        asked(runs, machine="third")


def test_a_run_without_a_valid_value_is_no_point(records: Any, runs: Path, stored_run: Stored) -> None:
    stored_run("20260113-x", {LABEL: [1.0]}, check={"fidelity": records.fidelity(passed=False)})
    assert len(asked(runs).points) == 12


def test_an_unknown_case_or_metric_is_refused_with_the_near_match(runs: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean 'torch:half/m/pp4"):
        asked(runs, case="torch:hal/m")
    with pytest.raises(UsageError, match="did you mean 'decode_tps'"):
        asked(runs, metric="decode_tp")
    with pytest.raises(UsageError, match="no run has a valid mbu"):
        asked(runs, metric="mbu")


def test_a_name_that_stands_for_several_cases_is_refused_unless_it_is_one_of_them() -> None:
    with duckdb.connect(":memory:") as connection:
        connection.execute(
            "CREATE TABLE cases AS SELECT unnest(['a:x/m/pp4+tg3', 'a:x/m/pp4+tg3/t2', 'a:xy/m/w']) case_id"
        )
        with pytest.raises(UsageError, match=r"a:x stands for 2 cases: write one of a:x/m/pp4\+tg3, a:x/m/pp4\+tg3/t2"):
            judged.case_meant(connection, "a:x")
        assert judged.case_meant(connection, "a:x/m/pp4+tg3") == "a:x/m/pp4+tg3"
        assert judged.case_meant(connection, "a:xy") == "a:xy/m/w"


# ---- what is printed ------------------------------------------------------------------------------------------


def test_a_sparkline_has_one_block_per_run_and_no_more_than_fit() -> None:
    assert sparkline([1, 2, 3, 8]) == "▁▂▃█"
    assert sparkline([5, 5]) == "▁▁"
    assert len(sparkline(list(range(1000)))) == WIDTH


def test_json_and_csv_hold_every_run_unrounded(runs: Path) -> None:
    found = asked(runs)
    told = json.loads(report.text(found, Output.json, 3))
    assert [point["value"] for point in told["points"]] == [point.value for point in found.points]
    assert told["steps"][0]["run_id"].startswith("20260109")
    rows = list(csv.DictReader(io.StringIO(report.text(found, Output.csv, 3))))
    assert [bool(row["step"]) for row in rows] == [day == 9 for day in range(1, 13)]


def test_markdown_shows_the_newest_and_says_so(runs: Path) -> None:
    text = report.text(asked(runs), Output.md, 3)
    assert text.count("| 2026-01-") == 3
    assert "the newest 3 of 12 runs" in text
    assert "versions torch 2.15.0" in text
