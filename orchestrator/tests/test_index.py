"""The index: the same values as in the results, always up to date, and nothing that a question could change."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from enginebench.errors import BenchError, UsageError
from enginebench.judge.rows import rows_of
from enginebench.store import index
from enginebench.store.index import keep_up, open_index
from enginebench.store.manifest import seal
from enginebench.store.tables import TABLES, VIEWS
from enginebench.workspace.discovery import ROOT

Stored = Callable[..., Path]


@pytest.fixture
def runs(stored_run: Stored, tmp_path: Path) -> Path:
    """Two runs: two cases of two launches, and one case of one."""
    stored_run("20260102-000000-aaaa", {"torch:half": (2, 4), "torch:baseline": (8, 8)})
    stored_run("20260103-000000-bbbb", {"torch:half": (3,)})
    return tmp_path


def ask(results: Path, sql: str) -> list[Any]:
    with open_index(results, rows_of) as connection:
        return connection.execute(sql).fetchall()


def test_every_table_counts_what_is_in_the_results(runs: Path) -> None:
    counts = {
        name: ask(runs, f"SELECT count(*) FROM {name}")[0][0] for name in ("runs", "cases", "launches", "requests")
    }
    assert counts == {"runs": 2, "cases": 3, "launches": 3 + 5, "requests": 3 + 5}
    assert ask(runs, "SELECT count(*) FROM unread") == [(0,)]


def test_metrics_are_those_of_the_result(runs: Path) -> None:
    result = json.loads((runs / "20260102-000000-aaaa" / "result.json").read_text())
    expected = {
        (case["configuration"], name): (metric["value"], metric["unit"], metric["valid"])
        for case in result["cases"]
        for name, metric in case["metrics"].items()
    }
    rows = ask(
        runs,
        "SELECT configuration, metric, value, unit, valid FROM metrics JOIN cases USING (run_id, case_id) "
        "WHERE run_id LIKE '20260102%'",
    )
    assert {(row[0], row[1]): row[2:] for row in rows} == expected


def test_launches_and_requests_have_the_times_of_their_stamps(runs: Path) -> None:
    sql = "SELECT tpot_ns FROM launches WHERE kind = 'timed' AND run_id LIKE '20260102%' ORDER BY tpot_ns"
    assert ask(runs, sql) == [(2e6,), (4e6,), (8e6,), (8e6,)]
    sql = "SELECT ttft_ns, tpot_ns, e2e_ns, n_tokens FROM requests WHERE phase = 'measured' ORDER BY tpot_ns LIMIT 1"
    assert ask(runs, sql) == [(10e6, 2e6, 14e6, 3)]


def test_an_invalid_metric_is_null_in_the_columns_of_cases(records: Any, stored_run: Stored, tmp_path: Path) -> None:
    stored_run("r1", {"torch:half": (2,)}, check={"fidelity": records.fidelity(passed=False)})
    assert ask(tmp_path, "SELECT decode_tps, fidelity_passed, status FROM cases") == [(None, False, "invalid")]
    assert ask(tmp_path, "SELECT value IS NULL, valid FROM metrics WHERE metric = 'decode_tps'") == [(False, False)]


def test_new_changed_and_removed_runs_are_noticed(runs: Path, stored_run: Stored) -> None:
    assert ask(runs, "SELECT count(*) FROM runs") == [(2,)]
    stored_run("20260104-000000-cccc", {"torch:half": (5,)})
    assert ask(runs, "SELECT count(*) FROM runs") == [(3,)]
    shutil.rmtree(runs / "20260103-000000-bbbb")
    assert ask(runs, "SELECT run_id FROM runs ORDER BY date, run_id") == [
        ("20260102-000000-aaaa",),
        ("20260104-000000-cccc",),
    ]
    shutil.rmtree(runs / "20260104-000000-cccc")
    stored_run("20260104-000000-cccc", {"torch:half": (6, 6)})
    assert ask(runs, "SELECT tpot_ns FROM cases WHERE run_id LIKE '20260104%'") == [(pytest.approx(6e6),)]
    assert ask(runs, "SELECT count(*) FROM launches") == [(6 + 3,)]


def test_an_index_that_is_up_to_date_reads_no_run(runs: Path) -> None:
    ask(runs, "SELECT 1")

    def fail(folder: Path) -> Any:
        raise AssertionError(folder)

    with open_index(runs, fail) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (2,)


@pytest.mark.parametrize("content", [b"", b"not a database" * 1000])
def test_a_damaged_index_is_made_anew(runs: Path, content: bytes) -> None:
    ask(runs, "SELECT 1")
    (runs / index.NAME).write_bytes(content)
    assert ask(runs, "SELECT count(*) FROM runs") == [(2,)]


def test_a_folder_called_blocks_is_not_taken_for_a_lock(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "LOCK_SECONDS", 0)
    blocks = runs / "blocks"
    blocks.mkdir()
    shutil.copytree(runs / "20260103-000000-bbbb", blocks / "20260103-000000-bbbb")
    (blocks / index.NAME).write_bytes(b"not a database" * 1000)
    assert ask(blocks, "SELECT count(*) FROM runs") == [(1,)]


def test_an_index_that_another_process_holds_is_told_after_a_while(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "LOCK_SECONDS", 0)
    ask(runs, "SELECT 1")
    hold = f"import duckdb; held = duckdb.connect({str(runs / index.NAME)!r}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(BenchError, match="another enginebench has held"):
            ask(runs, "SELECT 1")
        other.communicate(b"\n")


def test_an_index_of_another_layout_is_made_anew(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(runs, "SELECT 1")
    monkeypatch.setattr(index, "LAYOUT", "another")
    assert ask(runs, "SELECT layout FROM layout") == [("another",)]


def test_a_run_without_a_result_is_there_marked_as_rebuilt(runs: Path) -> None:
    (runs / "20260103-000000-bbbb" / "result.json").unlink()
    assert ask(runs, "SELECT rebuilt FROM runs ORDER BY run_id") == [(False,), (True,)]


def test_what_cannot_be_read_is_named_and_the_rest_is_there(runs: Path) -> None:
    (runs / "20260103-000000-bbbb" / "result.json").write_text("{}")
    (runs / "20260103-000000-bbbb" / "journal").write_text("x")
    shutil.copytree(runs / "20260102-000000-aaaa", runs / "copy")
    assert ask(runs, "SELECT count(*) FROM runs") == [(1,)]
    (broken, why), (copy, of) = ask(runs, "SELECT * FROM unread ORDER BY folder")
    assert (broken, copy) == ("20260103-000000-bbbb", "copy")
    assert "is no journal" in why
    assert of == "a copy of the run in 20260102-000000-aaaa"


LAUNCH = ("cases", 0, "launches", 0)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ((*LAUNCH, "block"), 10**12),
        (("plan", "seed"), 10**30),
        ((*LAUNCH, "requests", 0, "t_token_ns"), [2**70]),
        (("cases", 0, "versions"), {"a": "\ud800"}),
        (("plan",), {}),
    ],
    ids=str,
)
def test_what_no_column_takes_is_unread_and_the_other_runs_are_there(
    runs: Path, place: tuple[Any, ...], value: object
) -> None:
    folder = runs / "20260103-000000-bbbb"
    result = json.loads((folder / "result.json").read_text())
    within = result
    for step in place[:-1]:
        within = within[step]
    within[place[-1]] = value
    (folder / "result.json").write_text(json.dumps(result))
    seal(folder, folder.name, [], None)  # a forged seal: no schema is asked then
    assert ask(runs, "SELECT run_id FROM runs") == [("20260102-000000-aaaa",)]
    assert ask(runs, "SELECT folder, reason LIKE 'not as a run writes it: %' FROM unread") == [(folder.name, True)]


def test_a_results_folder_with_a_newer_schema_is_refused(runs: Path) -> None:
    path = runs / "20260103-000000-bbbb" / "manifest.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 2'))
    with pytest.raises(UsageError, match="schema version 2, this enginebench reads up to 1"):
        open_index(runs, rows_of)


def test_without_a_results_folder_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="run a benchmark first"):
        open_index(tmp_path / "none", rows_of)


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE runs",
        "INSERT INTO files SELECT * FROM files",
        "CREATE TABLE x AS SELECT 1",
        "COPY runs TO 'out.csv'",
        "SELECT * FROM read_text('out.csv')",
        "ATTACH 'other.db'",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
    ],
)
def test_a_question_can_change_nothing_and_read_no_file(runs: Path, statement: str) -> None:
    (runs / "out.csv").write_text("kept")
    with open_index(runs, rows_of) as connection, pytest.raises(duckdb.Error):
        connection.execute(statement.replace("out.csv", str(runs / "out.csv")))
    assert (runs / "out.csv").read_text() == "kept"
    assert ask(runs, "SELECT count(*) FROM runs") == [(2,)]


def test_where_no_file_can_be_written_it_is_made_in_memory(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(path: Path, read_only: bool) -> Any:
        raise duckdb.IOException(f"Cannot open file {path}: Read-only file system")

    monkeypatch.setattr(index, "_connect", read_only)
    assert ask(runs, "SELECT count(*) FROM runs") == [(2,)]
    assert not (runs / index.NAME).exists()


def test_a_finished_run_is_taken_in_and_a_broken_index_is_no_error(runs: Path) -> None:
    keep_up(runs, rows_of)
    assert (runs / index.NAME).is_file()
    keep_up(runs / "none", rows_of)


def test_every_table_and_column_is_documented() -> None:
    text = (ROOT / "results" / "SCHEMA.md").read_text()
    for table in TABLES:
        assert f"| `{table.name}` |" in text, table.name
        for column in table.columns:
            assert f"`{column.name}`" in text, (table.name, column.name)
    for name in VIEWS:
        assert f"| `{name}` |" in text, name


def test_rows_go_in_through_a_file_without_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One with a name stays where the process is killed at the wrong moment."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen = []

    class Connection:
        def execute(self, _: str, parameters: list[str]) -> None:
            seen.append((json.loads(Path(parameters[0]).read_bytes()), list(tmp_path.iterdir())))

    index._insert(Connection(), "runs", [{"run_id": "a"}])  # type: ignore[arg-type]
    assert seen == [({"run_id": "a"}, [])]
