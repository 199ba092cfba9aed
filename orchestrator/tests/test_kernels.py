"""Kernels by time, from traces written by hand; every number is exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from enginebench.errors import UsageError
from enginebench.judge.kernels import by_time, kernels_of
from enginebench.report.profile import MOST, kernel_sheet
from enginebench.store import profiles


def event(name: str, ts: float, dur: float, cat: str = "cpu_op", tid: int = 0) -> dict[str, Any]:
    return {"ph": "X", "name": name, "cat": cat, "pid": 1, "tid": tid, "ts": ts, "dur": dur}


def test_an_operator_has_the_time_that_none_inside_it_took() -> None:
    """linear 0-100 holds matmul 10-70, which holds mm 20-60; a second mm stands alone in another thread."""
    events = [event("linear", 0, 100), event("matmul", 10, 60), event("mm", 20, 40), event("mm", 20, 50, tid=1)]
    found = {kernel.name: kernel for kernel in by_time(events)}
    assert {name: kernel.total_ns for name, kernel in found.items()} == {"mm": 90e3, "linear": 40e3, "matmul": 20e3}
    assert found["mm"].calls == 2
    assert found["linear"].share == pytest.approx(40 / 150)


def test_kernels_of_a_device_are_taken_instead_of_the_operators_that_launched_them() -> None:
    events = [event("mm", 0, 100), event("gemm", 50, 30, cat="kernel"), event("add", 80, 10, cat="kernel")]
    assert [(kernel.name, kernel.total_ns) for kernel in by_time(events)] == [("gemm", 30e3), ("add", 10e3)]


def test_the_frame_around_compiled_kernels_is_no_kernel() -> None:
    events = [event("Torch-Compiled Region: 0/1", 0, 100), event("cpp_fused_add_0", 10, 60)]
    assert [kernel.name for kernel in by_time(events)] == ["cpp_fused_add_0"]


def test_a_trace_without_kernels_has_none() -> None:
    assert by_time([event("load", 0, 10, cat="request")]) == []


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"traceEvents": [1]}', '{"traceEvents": [{"ph": "X", "cat": "kernel"}]}']
)
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"trace\.json is no trace"):
        kernels_of(path)


def test_the_sheet_has_the_longest_kernels_and_one_row_for_the_rest(tmp_path: Path) -> None:
    folder = profiles.folder_of(tmp_path, "fake:default/tiny/pp8+tg4")
    folder.mkdir(parents=True)
    events = [event(f"k{n:02}", n, n + 1, cat="kernel") for n in range(MOST + 3)]
    (folder / "trace.json").write_text(json.dumps({"traceEvents": events}))
    sheet = kernel_sheet(tmp_path)
    assert len(sheet.rows) == MOST + 1
    assert sheet.rows[0][:4] == ("fake-default-tiny-pp8+tg4", f"k{MOST + 2}", 1, (MOST + 3) / 1e3)
    assert sheet.rows[-1][1:4] == ("3 others", 3, (1 + 2 + 3) / 1e3)


def test_a_run_without_profiles_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--profile"):
        kernel_sheet(tmp_path)


# ---- what an engine names -------------------------------------------------------------------------------------


def test_files_of_the_scratch_folder_are_kept(tmp_path: Path) -> None:
    scratch, folder = tmp_path / "scratch", tmp_path / "run" / "case"
    scratch.mkdir()
    (scratch / "t.json").write_text("{}")
    profiles.keep({"trace.json": str(scratch / "t.json")}, scratch, folder)
    assert (folder / "trace.json").read_text() == "{}"


@pytest.mark.parametrize("name", ["../trace.json", "a/b", "", ".hidden", "t" * 202, "/etc/x", "nul.json"])
def test_a_name_with_a_folder_or_odd_letters_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(profiles.BadProfile, match="calls a file"):
        profiles.keep({name: str(tmp_path / "t.json")}, tmp_path, tmp_path / "run")


def test_a_file_from_elsewhere_a_link_or_a_folder_is_refused(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    secret = tmp_path / "secret"
    secret.write_text("x")
    (scratch / "link").symlink_to(secret)
    for path in (secret, scratch / "link", scratch, scratch / "none", scratch / ".." / "secret"):
        with pytest.raises(profiles.BadProfile, match=r"outside its own folder|not there|no regular file"):
            profiles.keep({"trace.json": str(path)}, scratch, tmp_path / "run")
