"""Two runs: regressions are found and none invented; what is not known is said, what is not comparable refused."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from enginebench.cli import command_line
from enginebench.cli.compare import share
from enginebench.errors import UsageError
from enginebench.judge.regression import MEMORY_GRAIN_BYTES, compare_runs
from enginebench.judge.stored_run import StoredRun, read_run
from enginebench.report import regression as report
from enginebench.report.formats import Output
from typer.testing import CliRunner

Stored = Callable[..., Path]
LABEL = "torch:half"


def around(ms: float, launches: int = 10, seed: int = 0, cv: float = 0.005) -> list[float]:
    """Milliseconds per token of so many launches, with launch-to-launch noise."""
    noise = random.Random(seed)
    return [ms * (1 + noise.gauss(0, cv)) for _ in range(launches)]


@pytest.fixture
def base(stored_run: Stored) -> Path:
    return stored_run("20260101-base", {LABEL: around(4)})


def compared(base: Path, new: Path, **options: Any) -> Any:
    return compare_runs(read_run(base), read_run(new), **options)


def row_of(found: Any, metric: str = "decode_tps", label: str = LABEL) -> Any:
    (row,) = [row for row in found.rows if row.metric == metric and row.case_id.startswith(label)]
    return row


def exit_code(base: Path, new: Path, *options: str) -> int:
    """Of the command; a refusal is a UsageError, which main() turns into 2."""
    done = CliRunner().invoke(command_line(), ["compare", str(base), str(new), *options])
    return 2 if isinstance(done.exception, UsageError) else done.exit_code


# ---- outcomes -------------------------------------------------------------------------------------------------


def test_the_same_work_at_the_same_speed_is_no_regression(base: Path, stored_run: Stored) -> None:
    new = stored_run("20260102-same", {LABEL: around(4, seed=1)})
    found = compared(base, new)
    assert {row.metric: row.verdict for row in found.rows} == {
        "decode_tps": "SAME",
        "prefill_tps": "SAME",
        "load_ns": "SAME",
        "peak_memory_bytes": "SAME",
    }
    assert found.outcome == "ok"
    assert exit_code(base, new, "--fail-on-regression", "2%") == 0


def test_five_percent_more_time_per_token_is_a_regression_of_decode_only(base: Path, stored_run: Stored) -> None:
    new = stored_run("20260102-slow", {LABEL: around(4.2, seed=1)})
    found = compared(base, new)
    row = row_of(found)
    assert (row.verdict, row.outcome) == ("SLOWER", "regression")
    assert row.ratio == pytest.approx(1 / 1.05, rel=0.005)
    assert row.interval[0] < row.ratio < row.interval[1] < 1 / 1.02
    assert {r.outcome for r in found.rows if r is not row} == {"ok"}
    assert exit_code(base, new) == 1
    assert exit_code(base, new, "--fail-on-regression", "2%") == 1


def test_the_limit_decides(base: Path, stored_run: Stored) -> None:
    new = stored_run("20260102-slow", {LABEL: around(4.2, seed=1)})
    assert exit_code(base, new, "--fail-on-regression", "10%") == 0
    assert exit_code(base, new, "--fail-on-regression", "5%") == 3  # the interval holds 5 %: neither shown nor excluded


def test_faster_is_no_regression(base: Path, stored_run: Stored) -> None:
    found = compared(base, stored_run("20260102-fast", {LABEL: around(3.5, seed=1)}))
    assert (row_of(found).verdict, found.outcome) == ("FASTER", "ok")


def test_too_few_launches_give_no_verdict_however_large_the_difference(base: Path, stored_run: Stored) -> None:
    new = stored_run("20260102-three", {LABEL: around(8, launches=3)})
    row = row_of(compared(base, new))
    assert (row.verdict, row.outcome) == ("INCONCLUSIVE", "inconclusive")
    assert "3 launches: a verdict needs 10 at least" in row.notes
    assert exit_code(base, new) == 0
    assert exit_code(base, new, "--fail-on-regression", "2%") == 3


def test_noise_that_hides_a_regression_is_inconclusive(stored_run: Stored) -> None:
    base = stored_run("20260101-noisy", {LABEL: around(4, cv=0.1)})
    new = stored_run("20260102-noisy", {LABEL: around(4.1, seed=1, cv=0.1)})
    assert row_of(compared(base, new)).outcome == "inconclusive"
    assert exit_code(base, new, "--fail-on-regression", "2%") == 3


def test_a_slower_load_counts_beyond_five_percent(base: Path, stored_run: Stored) -> None:
    for load_ms, expected in ((208, "ok"), (212, "regression")):
        new = stored_run(f"2026010{load_ms}", {LABEL: around(4, seed=1)}, launch={"load_ns": load_ms * 1_000_000})
        assert row_of(compared(base, new), "load_ns").outcome == expected


@pytest.mark.parametrize(
    ("before", "growth", "expected"),
    [
        (2**30, MEMORY_GRAIN_BYTES, ("SAME", "ok")),
        (2**30, MEMORY_GRAIN_BYTES + 1, ("MORE", "regression")),
        (4 * 2**30, MEMORY_GRAIN_BYTES + 1, ("SAME", "ok")),  # less than 1 %
        (4 * 2**30, 42 * 2**20, ("MORE", "regression")),
        (2**30, -32 * 2**20, ("LESS", "ok")),
    ],
)
def test_memory_counts_beyond_one_percent_and_beyond_what_readings_differ(
    stored_run: Stored, base: Path, before: int, growth: int, expected: tuple[str, str]
) -> None:
    runs = []
    for peak in (before, before + growth):
        run = read_run(base)
        run.result["cases"][0]["metrics"]["peak_memory_bytes"]["value"] = peak
        runs.append(run)
    row = row_of(compare_runs(*runs), "peak_memory_bytes")
    assert (row.verdict, row.outcome) == expected


def test_a_case_that_fails_now_is_a_regression(records: Any, base: Path, stored_run: Stored) -> None:
    new = stored_run("20260102-fail", {LABEL: around(4)}, check={"fidelity": records.fidelity(passed=False)})
    row = row_of(compared(base, new))
    assert row.outcome == "regression"
    assert row.notes[0].startswith("invalid in NEW: fidelity gate failed")


def test_a_case_that_is_gone_is_not_known_to_be_as_fast(stored_run: Stored, base: Path) -> None:
    both = stored_run("20260100-both", {LABEL: around(4), "torch:baseline": around(8)})
    found = compared(both, base)
    assert (found.only_base, found.outcome) == (["torch:baseline/m/pp4+tg3"], "inconclusive")
    assert compared(base, both).outcome == "ok"


def test_a_case_that_failed_before_has_nothing_to_be_held_against(records: Any, base: Path, stored_run: Stored) -> None:
    broken = stored_run("20260100-x", {LABEL: around(4)}, check={"fidelity": records.fidelity(passed=False)})
    found = compared(broken, base)
    assert (found.rows, found.without_base) == ([], ["torch:half/m/pp4+tg3"])


def test_verdicts_are_corrected_for_all_that_was_asked(base: Path, stored_run: Stored) -> None:
    new = stored_run("20260102-slow", {LABEL: around(4.2, seed=1)})
    assert row_of(compared(base, new)).comparison.family == 3


def test_an_edited_launch_is_not_averaged_in(base: Path, stored_run: Stored) -> None:
    new = stored_run("20260102-same", {LABEL: [4.0] * 11})
    (new / "result.json").unlink()
    text = (new / "journal").read_bytes()
    (new / "journal").write_bytes(text.replace(b"[10000000,14000000,18000000]", b"[10000000,90000000,99000000]", 1))
    row = row_of(compared(base, new))
    assert row.comparison.n_new == 10
    assert row.verdict == "SAME"


# ---- incomparable ---------------------------------------------------------------------------------------------


def other_machine(records: Any) -> dict[str, Any]:
    return {"cpu": {**records.environment()["cpu"], "model": "Other CPU"}}


def other_gpu() -> dict[str, Any]:
    return {"gpus": [{"name": "Some GPU", "driver": "1", "memory_bytes": 1}]}


def changed(records: Any, what: str) -> dict[str, Any]:
    model = {**records.plan()["models"][0], "fingerprint": "e" * 64}
    loaded = records.loaded(weights_fingerprint="e" * 64)
    return {
        "machine": {"environment": other_machine(records)},
        "GPU": {"environment": other_gpu()},
        "device": {"device": "cuda"},
        "threads": {"threads": 8},
        "weights": {"models": [model], "check": {"loaded": loaded}, "launch": {"loaded": loaded}},
        "weight_dtype": {"launch": {"loaded": records.loaded(weight_dtype="float32")}},
        "kv_dtype": {"launch": {"loaded": records.loaded(kv_dtype="int8")}},
    }[what]


@pytest.mark.parametrize("what", ["machine", "GPU", "device", "threads", "weights", "weight_dtype", "kv_dtype"])
def test_incomparable_runs_are_refused_and_marked_when_forced(
    records: Any, base: Path, stored_run: Stored, what: str
) -> None:
    new = stored_run("20260102-other", {LABEL: around(4, seed=1)}, **changed(records, what))
    said = f"other {'machine' if what == 'GPU' else what}: "
    with pytest.raises(UsageError, match=said):
        compared(base, new)
    assert exit_code(base, new) == 2
    found = compared(base, new, force=True)
    assert len(found.rows) == 4
    assert all(any(said in note for note in row.notes) for row in found.rows)
    assert said in report.text(found, Output.md)


def test_other_work_is_refused_and_marked_when_forced(records: Any, base: Path, stored_run: Stored) -> None:
    run = read_run(base)
    longer = json.loads(json.dumps(run.result).replace("pp4+tg3", "pp4+tg9").replace('"n_gen": 3', '"n_gen": 9'))
    with pytest.raises(UsageError, match="no case in common: BASE has torch:half/m/pp4"):
        compare_runs(run, StoredRun(longer))
    found = compare_runs(run, StoredRun(longer), force=True)
    assert all("other workload: " in " ".join(row.notes) for row in found.rows)


def test_without_anything_in_common_force_does_not_help(base: Path, stored_run: Stored) -> None:
    new = stored_run("20260102-other", {"tinygrad:default": around(4)})
    with pytest.raises(UsageError, match="no case in common"):
        compared(base, new, force=True)


# ---- what is printed ------------------------------------------------------------------------------------------


@pytest.fixture
def two_cases(stored_run: Stored) -> Any:
    base = stored_run("20260101-a", {LABEL: around(4), "torch:baseline": around(8)})
    new = stored_run("20260102-b", {LABEL: around(4.2), "torch:baseline": around(8)}, environment={"kernel": "6.2"})
    return compared(base, new)


def test_what_is_equal_is_said_once_and_its_columns_are_hidden(two_cases: Any) -> None:
    text = report.text(two_cases, Output.md)
    head = text.splitlines()[0]
    assert "machine Some CPU" in head
    assert "kernel" not in head
    assert "| kernel | 6.1 | 6.2 |" in text
    assert "all rows: model m; workload pp4+tg3" in text
    assert "| case | metric | BASE | NEW | ratio | 95 % | verdict |" in text  # no model, workload, threads, note


def test_json_holds_everything_unrounded(two_cases: Any) -> None:
    told = json.loads(report.text(two_cases, Output.json))
    assert told["outcome"] == "regression"
    assert told["different"]["kernel"] == {"BASE": "6.1", "NEW": "6.2"}
    assert told["rows"][0]["ratio"] == row_of(two_cases).ratio


@pytest.mark.parametrize("output", list(Output))
def test_every_format_is_printed(base: Path, output: Output) -> None:
    done = CliRunner().invoke(command_line(), ["compare", str(base), str(base), "-o", output.value])
    assert done.exit_code == 0
    assert done.stdout.strip()


@pytest.mark.parametrize("text", ["2", "0.02", "x%", "%", "-1%", "0%", "100%", "nan%", ""])
def test_a_limit_that_is_no_percentage_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write a percentage"):
        share(text)


def test_a_percentage_is_a_share() -> None:
    assert share("2.5%") == pytest.approx(0.025)
