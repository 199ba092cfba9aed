"""A stored run: what the seal finds, what the journal gives back, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from enginebench.errors import UsageError
from enginebench.judge.stored_run import read_run
from enginebench.store.journal import Journal
from enginebench.store.manifest import read_manifest, seal, without_folders
from enginebench.store.run_folder import find_run, run_names


@pytest.fixture
def folder(stored_run: Callable[..., Path]) -> Path:
    """A run of one case whose launches took 2, 4 and 8 ms per token."""
    return stored_run("20260102-030405-aaaa", {"torch:half": (2, 4, 8)})


def edit(path: Path, old: bytes, new: bytes) -> None:
    before = path.read_bytes()
    assert old in before
    path.write_bytes(before.replace(old, new, 1))


def tpot(result: dict[str, Any]) -> float:
    value: float = result["cases"][0]["metrics"]["tpot_ns"]["value"]
    return value


def test_a_whole_run_is_read_as_it_was_written(folder: Path) -> None:
    run = read_run(folder)
    assert (run.rebuilt, run.remarks) == (False, [])
    assert run.result == json.loads((folder / "result.json").read_text())


def test_the_manifest_holds_the_command_without_folders(folder: Path) -> None:
    seal(
        folder, "r1", ["run", "torch:half", "--model", "/some/where/a.gguf", "--python=engine-x=/usr/bin/python"], None
    )
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.command == ["run", "torch:half", "--model", "…/a.gguf", "--python=engine-x=…/python"]
    assert sorted(manifest.files) == ["journal", "result.json"]
    assert without_folders("-o") == "-o"


def test_without_a_result_the_journal_gives_the_same_metrics(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    expected = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    run = read_run(folder)
    assert run.rebuilt
    assert run.remarks == [f"{folder.name}/result.json is missing: made again from the journal"]
    assert run.result["cases"] == expected["cases"]
    assert run.result["plan"]["launches"] == 3
    assert run.result["plan"]["left_out"] == ["the rest: the run did not end"]


def test_an_edited_result_is_made_again_from_the_journal(folder: Path) -> None:
    before = tpot(read_run(folder).result)
    edit(folder / "result.json", b"[10000000, 18000000, 26000000]", b"[10000000, 11000000, 12000000]")
    run = read_run(folder)
    assert run.rebuilt
    assert "is not the file that the run wrote" in run.remarks[0]
    assert tpot(run.result) == before == pytest.approx(4e6)


def test_an_edited_journal_line_is_named_and_not_averaged_in(folder: Path) -> None:
    (folder / "result.json").unlink()
    edit(folder / "journal", b"[10000000,18000000,26000000]", b"[10000000,11000000,12000000]")
    run = read_run(folder)
    assert run.remarks[1] == f"{folder.name}/journal line 5: edited: the checksum does not hold; left out"
    assert run.result["cases"][0]["metrics"]["launches"]["value"] == 2
    assert tpot(run.result) == pytest.approx((2 * 4) ** 0.5 * 1e6)


def test_a_torn_journal_gives_what_was_whole(folder: Path) -> None:
    (folder / "manifest.json").unlink()
    (folder / "result.json").unlink()
    whole = (folder / "journal").read_bytes()
    (folder / "journal").write_bytes(whole[:-40])
    run = read_run(folder)
    assert run.remarks[1].endswith("journal line 5: torn: the write was cut short; left out")
    assert run.result["cases"][0]["metrics"]["launches"]["value"] == 2


def test_an_edited_journal_beside_a_good_result_is_reported(folder: Path) -> None:
    edit(folder / "journal", b"[10000000,18000000,26000000]", b"[10000000,11000000,12000000]")
    run = read_run(folder)
    assert not run.rebuilt
    assert [remark.split(": ")[0] for remark in run.remarks] == [f"{folder.name}/journal line 5"]


@pytest.mark.parametrize("name", ["manifest.json", "result.json", "journal"])
def test_a_run_of_a_newer_schema_is_refused(folder: Path, name: str) -> None:
    if name != "manifest.json":
        (folder / "manifest.json").unlink()
    if name == "journal":
        (folder / "journal").unlink()
        (folder / "result.json").unlink()
        Journal.create(folder / "journal", {"schema_version": 99}).close()
    else:
        edit(folder / name, b'"schema_version": 1', b'"schema_version": 99')
    with pytest.raises(UsageError, match="schema version 99, this enginebench reads up to 1"):
        read_run(folder)


def test_an_edited_result_without_a_journal_is_refused(folder: Path) -> None:
    edit(folder / "result.json", b"[10000000, 18000000, 26000000]", b"[10000000, 11000000, 12000000]")
    (folder / "journal").unlink()
    with pytest.raises(UsageError, match="there is no journal to make it again"):
        read_run(folder)


def test_a_journal_that_names_no_cases_is_refused(tmp_path: Path) -> None:
    Journal.create(tmp_path / "journal", {"run_id": "r1", "plan": {}, "environment": {}}).close()
    with pytest.raises(UsageError, match="older enginebench"):
        read_run(tmp_path)


def test_requests_of_a_depth_alone_are_no_warm_up_of_a_run_that_was_cut_off(folder: Path, records: Any) -> None:
    (folder / "manifest.json").unlink()
    (folder / "result.json").unlink()
    depth = msgspec.structs.replace(records.request(3, (9,)), phase="depth")
    requests = [records.request(0, (10, 12, 14), warmup=True), records.request(1, (10, 12, 14)), depth, depth]
    with Journal.reopen(folder / "journal")[0] as journal:
        journal.append(records.timed(requests, records.case("torch", "half"), block=3))
    plan = read_run(folder).result["plan"]
    assert (plan["warmup"], plan["iterations"], plan["launches"]) == (1, 1, 4)


@pytest.mark.parametrize(
    "forged",
    [{"cases": "x"}, {"plan": None}, {"plan": {"models": 1}}, {"environment": {"date": []}}, {"run_id": 7}],
    ids=str,
)
def test_a_forged_journal_is_refused(tmp_path: Path, records: Any, forged: dict[str, Any]) -> None:
    honest = {"run_id": "r1", "plan": records.plan(), "environment": records.environment(), "cases": []}
    folder = tmp_path / "r1"
    folder.mkdir()
    Journal.create(folder / "journal", {**honest, **forged}).close()
    with pytest.raises(UsageError, match="r1/journal does not say what its run was: "):
        read_run(folder)


def test_a_damaged_manifest_is_refused_with_the_remedy(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"schema_version": 1')
    with pytest.raises(UsageError, match="remove it to read the run without its seal"):
        read_run(folder)


def test_runs_are_found_by_id_by_its_beginning_by_place_and_latest(
    folder: Path, stored_run: Callable[..., Path], tmp_path: Path
) -> None:
    first, last = folder, stored_run("20260103-030405-aaaa", {"torch:half": (2, 4, 8)})
    assert run_names(tmp_path) == [first.name, last.name]
    for name in (first.name, "20260102", str(first), str(first / "result.json")):
        assert find_run(name, tmp_path) == first
    assert find_run("latest", tmp_path) == last
    alone = tmp_path / "copy.json"
    alone.write_bytes((first / "result.json").read_bytes())
    assert find_run(str(alone), tmp_path) == alone
    assert read_run(alone).run_id == first.name


def test_an_ambiguous_or_unknown_run_is_refused_with_what_there_is(
    folder: Path, stored_run: Callable[..., Path], tmp_path: Path
) -> None:
    stored_run("20260103-030405-aaaa", {"torch:half": (2, 4, 8)})
    with pytest.raises(UsageError, match="begins 2 names"):
        find_run("2026", tmp_path)
    with pytest.raises(UsageError, match="did you mean '20260102-030405-aaaa'"):
        find_run("20260102-030405-aaab", tmp_path)
    with pytest.raises(UsageError, match="there are none yet"):
        find_run("latest", tmp_path / "nowhere")
