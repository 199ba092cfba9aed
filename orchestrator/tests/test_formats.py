"""Rows in every form: each is read back by a program of its own."""

from __future__ import annotations

import csv
import datetime as dt
import io
import json
import shutil
import sqlite3
import subprocess
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from enginebench.errors import UsageError
from enginebench.judge.stored_run import read_run
from enginebench.report.benchstat import benchstat
from enginebench.report.case_sheet import case_sheet
from enginebench.report.formats import Output, Sheet, rendered, to_csv, to_json, to_jsonl, to_sql

AWKWARD = Sheet(
    "odd rows",
    ("name", "count", "rate", "ok", "parts", "at"),
    [
        ('it\'s "x", a|b\n<c>', 3, 2.5, True, {"a": [1, None]}, dt.datetime(2026, 1, 2, 3, 4, 5)),
        (None, None, float("nan"), False, [], None),
        ("é", 2**40, Decimal("1.25"), None, (1, 2), None),
    ],
)


def test_json_lines_are_one_object_per_row() -> None:
    lines = to_jsonl(AWKWARD).splitlines()
    assert [json.loads(line) for line in lines] == json.loads(to_json(AWKWARD))
    assert json.loads(lines[0]) == {
        "name": 'it\'s "x", a|b\n<c>',
        "count": 3,
        "rate": 2.5,
        "ok": True,
        "parts": {"a": [1, None]},
        "at": "2026-01-02T03:04:05",
    }


def test_what_is_not_a_number_is_null() -> None:
    assert [row["rate"] for row in json.loads(to_json(AWKWARD))] == [2.5, None, 1.25]


def test_csv_is_read_back_cell_by_cell() -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(AWKWARD))))
    assert [row["name"] for row in rows] == ['it\'s "x", a|b\n<c>', "", "é"]
    assert [row["parts"] for row in rows] == ['{"a": [1, null]}', "[]", "[1, 2]"]


def test_sqlite_takes_the_sql_and_holds_the_same_values() -> None:
    database = sqlite3.connect(":memory:")
    database.executescript(to_sql(AWKWARD))
    database.executescript(to_sql(AWKWARD))  # a second export goes into the same table
    rows = database.execute('SELECT name, count, rate, ok FROM "odd rows"').fetchall()
    expected = [('it\'s "x", a|b\n<c>', 3, 2.5, "true"), (None, None, None, "false"), ("é", 2**40, 1.25, None)]
    assert rows == expected * 2
    assert database.execute('SELECT typeof(count), typeof(rate) FROM "odd rows"').fetchone() == ("integer", "real")
    database.close()


@pytest.mark.skipif(shutil.which("sqlite3") is None, reason="sqlite3 is not installed")
def test_the_sqlite3_program_takes_it_too() -> None:
    done = subprocess.run(
        ["sqlite3", ":memory:"],
        input=to_sql(AWKWARD) + '\nSELECT count(*) FROM "odd rows";',
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "3", "")


@pytest.mark.parametrize("output", [Output.md, Output.json, Output.jsonl, Output.csv, Output.sql])
def test_no_rows_are_no_error(output: Output) -> None:
    assert isinstance(rendered(Sheet("t", ("a", "b"), []), output), str)


def test_rows_that_are_no_launches_cannot_be_benchstat() -> None:
    with pytest.raises(UsageError, match="no launches"):
        rendered(AWKWARD, Output.benchstat)


# ---- of a result ----------------------------------------------------------------------------------------------


@pytest.fixture
def result(stored_run: Callable[..., Path]) -> dict[str, Any]:
    folder = stored_run("r1", {"torch:half": (2, 4), "torch:baseline": (8,)})
    return read_run(folder).result


def test_a_result_is_one_json_line_per_case(result: dict[str, Any]) -> None:
    half, baseline = map(json.loads, to_jsonl(case_sheet(result)).splitlines())
    assert (half["run_id"], half["commit"], half["machine"]) == ("r1", "c" * 40, "Some CPU, 2 of 2 processors")
    assert (half["configuration"], half["n_prompt"], half["tpot_ns"]) == ("half", 4, pytest.approx(8**0.5 * 1e6))
    assert baseline["decode_tps"] == pytest.approx(125.0)
    assert "mbu" in half["invalid"].split()


def test_benchstat_has_one_line_per_timed_launch_with_its_units(result: dict[str, Any]) -> None:
    lines = benchstat(result).splitlines()
    name = "BenchmarkEngine/engine=torch/configuration=half/model=m/workload=pp4+tg3"
    assert [line for line in lines if line.startswith(name)] == [
        f"{name} 1 2000000.0 ns/tok 500.0 tok/s 400.0 prefill-tok/s 10000000.0 ttft-ns 200000000 load-ns",
        f"{name} 1 4000000.0 ns/tok 250.0 tok/s 400.0 prefill-tok/s 10000000.0 ttft-ns 200000000 load-ns",
        f"{name} 1 2000 peak-B",
    ]
    assert "run: r1" not in lines
    assert "run: r1" in benchstat(result, result).splitlines()  # benchstat -col run
    differing = [line for line in lines if line.startswith(("date:", "commit:", "run:"))]
    assert differing == []  # each would be a table of its own where two files are compared
    assert "Unit tok/s better=higher" in lines
    assert "Unit ns/tok better=lower" in lines


def test_benchstat_has_no_speed_for_a_case_that_failed_the_gate(records: Any, stored_run: Callable[..., Path]) -> None:
    check = {"fidelity": records.fidelity(passed=False)}
    lines = benchstat(read_run(stored_run("r2", {"torch:half": (2, 4)}, check=check)).result).splitlines()
    assert not [line for line in lines if line.startswith("Benchmark")]
    assert any(line.startswith("# BenchmarkEngine/engine=torch/configuration=half") for line in lines)


def test_a_name_with_spaces_stays_one_word(records: Any, result: dict[str, Any]) -> None:
    result["cases"][0]["model"] = "my model/v2"
    line = next(line for line in benchstat(result).splitlines() if line.startswith("Benchmark"))
    assert line.split(" ")[0] == "BenchmarkEngine/engine=torch/configuration=half/model=my_model_v2/workload=pp4+tg3"
