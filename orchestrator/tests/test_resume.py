"""A run goes on where it was interrupted, as what it was; and only so."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from enginebench.errors import StorageError, UsageError
from enginebench.plan.plan import preset
from enginebench.run import launcher, request
from enginebench.run import run as running
from enginebench.store.journal import Journal, read_journal
from enginebench.store.manifest import read_manifest
from enginebench.store.record import Launch
from enginebench.store.result import read_result

from .conftest import Records
from .small_run import LAUNCHES, SmallRun, essence, made_up


@pytest.fixture
def small(tmp_path: Path) -> Iterator[SmallRun]:
    with pytest.MonkeyPatch.context() as patch:
        yield SmallRun(patch, tmp_path / "cache")


def interrupted_after(small: SmallRun, n: int, results: Path, **changes: Any) -> Path:
    """Ctrl-C in launch n + 1."""
    count = 0

    def launch(*arguments: Any) -> Launch:
        nonlocal count
        count += 1
        if count > n:
            raise KeyboardInterrupt
        return made_up(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "run_launch", launch)
        return small.run(results, **changes)


def places(folder: Path) -> list[Any]:
    return [launch.place for launch in read_journal(folder / "journal").launches]


@pytest.mark.parametrize("n", range(LAUNCHES))
def test_an_interrupted_run_ends_like_one_that_was_not(small: SmallRun, tmp_path: Path, n: int) -> None:
    whole = small.run(tmp_path / "whole")
    folder = interrupted_after(small, n, tmp_path / "runs")
    before = read_result(folder / "result.json")
    assert before["plan"]["interrupted"]
    assert before["plan"]["left_out"][-1] == "the rest: interrupted"
    assert len(places(folder)) == n
    assert small.resume(folder) == folder
    assert places(folder) == places(whole)
    after = read_result(folder / "result.json")
    assert essence(after) == essence(read_result(whole / "result.json"))
    assert [each["launches"] for each in after["plan"]["resumed"]] == [n]


def test_it_may_be_interrupted_again_and_again(small: SmallRun, tmp_path: Path) -> None:
    whole = small.run(tmp_path / "whole")
    folder = interrupted_after(small, 0, tmp_path / "runs")
    for _ in range(LAUNCHES):
        with pytest.MonkeyPatch.context() as patch:
            once = iter([made_up])
            patch.setattr(launcher, "run_launch", lambda *a, once=once: next(once, _interrupt)(*a))
            small.resume(folder)
    small.resume(folder)
    assert essence(read_result(folder / "result.json")) == essence(read_result(whole / "result.json"))
    assert len(read_journal(folder / "journal").resumed) == LAUNCHES


def _interrupt(*_: Any) -> Launch:
    raise KeyboardInterrupt


def test_a_run_that_has_ended_is_left_as_it_is(small: SmallRun, tmp_path: Path) -> None:
    folder = small.run(tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    small.resume(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_that_ended_before_its_result_was_written_gets_one(small: SmallRun, tmp_path: Path) -> None:
    folder = small.run(tmp_path)
    expected = essence(read_result(folder / "result.json"))
    for name in ("manifest.json", "result.json"):
        (folder / name).unlink()
    small.resume(folder)
    assert essence(read_result(folder / "result.json")) == expected
    assert read_manifest(folder) is not None
    assert len(places(folder)) == LAUNCHES


def test_a_damaged_record_in_the_middle_is_measured_again(small: SmallRun, tmp_path: Path) -> None:
    folder = interrupted_after(small, 6, tmp_path)
    lines = (folder / "journal").read_bytes().split(b"\n")
    lines[3] = lines[3].replace(b"timed", b"TIMED").replace(b"check", b"CHECK")
    (folder / "journal").write_bytes(b"\n".join(lines))
    small.resume(folder)
    assert len(set(places(folder))) == LAUNCHES
    (resumed,) = read_result(folder / "result.json")["plan"]["resumed"]
    assert "line 4" in resumed["remarks"][0]


# ---- what was spent -------------------------------------------------------------------------------------------


def test_a_run_within_a_time_budget_decides_again_as_it_did(small: SmallRun, tmp_path: Path) -> None:
    """Every launch takes 10 s by this clock; 75 s are enough for the checks and one of two blocks."""
    small.patch.setattr(running, "Spent", TenSeconds)
    little = replace(small.request(tmp_path).preset, time_budget_seconds=75.0)
    whole = small.run(tmp_path / "whole", preset=little)
    folder = interrupted_after(small, 5, tmp_path / "runs", preset=little)
    small.resume(folder)
    result = read_result(folder / "result.json")
    assert result["plan"]["left_out"] == read_result(whole / "result.json")["plan"]["left_out"] != []
    assert places(folder) == places(whole)
    assert [launch.spent_ns for launch in read_journal(folder / "journal").launches] == [
        10_000_000_000 * n for n in range(1, len(places(whole)) + 1)
    ]


class TenSeconds:
    """For each launch."""

    seconds, ns = 0.0, 0

    def launched(self) -> int:
        self.replayed(self.ns + 10_000_000_000)
        return self.ns

    def replayed(self, ns: int) -> None:
        self.ns, self.seconds = ns, ns / 1e9


def test_a_launch_that_was_repeated_is_not_repeated_again(small: SmallRun, tmp_path: Path) -> None:
    def spoiled(order: Any, *_: Any) -> Launch:
        launch = made_up(order)
        return msgspec.structs.replace(launch, doubts=["noise"]) if order.kind == "timed" else launch

    small.patch.setattr(launcher, "run_launch", spoiled)
    whole = small.run(tmp_path / "whole")
    assert len(places(whole)) == LAUNCHES + 6
    for n in range(LAUNCHES + 6):
        folder = tmp_path / str(n) / whole.name
        folder.mkdir(parents=True)
        lines = (whole / "journal").read_bytes().splitlines(keepends=True)
        (folder / "journal").write_bytes(b"".join(lines[: n + 1]))
        small.resume(folder)
        assert places(folder) == places(whole)


# ---- the same experiment --------------------------------------------------------------------------------------


def test_what_was_asked_is_read_back(small: SmallRun, tmp_path: Path) -> None:
    asked = small.request(
        tmp_path,
        preset=preset("standard"),
        options={"fake": {"pace": "1.5"}},
        overrides={"engine-fake": Path("/some/python")},
        thread_counts=(1, 2),
        without=(("fake", "no-compile"),),
        models=("tiny", "a/b.gguf"),
        command=("run", "--results", "/some/where"),
    )
    stored = msgspec.json.decode(msgspec.json.encode(request.journalled(asked)))
    expected = replace(asked, command=("run", "--results", "…/where"))
    assert request.from_journal(stored, tmp_path, debug=False) == expected


def test_a_login_is_not_kept_and_without_it_nothing_goes_on(small: SmallRun, tmp_path: Path) -> None:
    asked = small.request(tmp_path, options={"ollama": {"host": "http://me:secret@127.0.0.1:1"}})
    stored = request.journalled(asked)
    assert "secret" not in str(stored)
    with pytest.raises(UsageError, match="held a login"):
        request.from_journal(stored, tmp_path, debug=False)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("kernel", "6.2", "kernel was 6.1, and is 6.2"),
        ("python", "3.12.1", "python was"),
        ("repository", {"commit": "d" * 40, "dirty": False}, "repository.commit was"),
        ("gpus", [{"name": "G", "driver": "1", "memory_bytes": 1}], "gpus was None"),
    ],
)
def test_another_machine_or_commit_is_refused(
    small: SmallRun, tmp_path: Path, name: str, value: Any, told: str
) -> None:
    folder = interrupted_after(small, 5, tmp_path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    small.patch.setattr(running.machine, "environment", lambda: {**Records().environment(), name: value})
    with pytest.raises(UsageError, match=told):
        small.resume(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_other_versions_other_pins_and_an_engine_that_is_gone_are_refused(small: SmallRun, tmp_path: Path) -> None:
    folder = interrupted_after(small, 5, tmp_path)
    interpreter = running.environment.prepare()  # type: ignore[call-arg]
    other = {
        "other versions of numpy": replace(interpreter, versions={"numpy": "2.5"}),
        "the pins of fake:default have changed": replace(interpreter, pins_sha256="c" * 64),
    }
    for told, found in other.items():
        small.patch.setattr(running.environment, "prepare", lambda *_, found=found, **__: found)
        with pytest.raises(UsageError, match=told):
            small.resume(folder)
    small.patch.setattr(running, "cannot_run", lambda *_: "its program is gone")
    with pytest.raises(UsageError, match="could run at the beginning, now it cannot: its program is gone"):
        small.resume(folder)


def test_another_model_is_refused(small: SmallRun, tmp_path: Path) -> None:
    folder = interrupted_after(small, 5, tmp_path)
    small.shape.fingerprint = "b" * 64
    with pytest.raises(UsageError, match="the model tiny has other weights"):
        small.resume(folder)


def test_changes_that_no_commit_holds_are_told(small: SmallRun, tmp_path: Path) -> None:
    dirty = {**Records().environment(), "repository": {"commit": "c" * 40, "dirty": True}}
    small.patch.setattr(running.machine, "environment", lambda: dirty)
    folder = interrupted_after(small, 5, tmp_path)
    small.resume(folder)
    (resumed,) = read_result(folder / "result.json")["plan"]["resumed"]
    assert "changes that no commit holds" in resumed["remarks"][0]


def test_a_run_of_an_older_enginebench_is_refused(records: Any, stored_run: Any, small: SmallRun) -> None:
    with pytest.raises(UsageError, match="begun by an older enginebench"):
        small.resume(stored_run("20260102-030405-aaaa", {"torch:half": (2, 4)}))


# ---- one at a time --------------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from enginebench.store.journal import Journal
journal = Journal.create(Path(sys.argv[1]), {})
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_with_the_pid_of_the_first_until_that_is_dead(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    with subprocess.Popen([sys.executable, "-c", HOLD, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        before = path.read_bytes()
        with pytest.raises(UsageError, match=rf"another enginebench \(pid {first.pid}\) is at work in"):
            Journal.reopen(path)
        with pytest.raises(FileExistsError):
            Journal.create(path, {})
        assert path.read_bytes() == before
        first.kill()
        first.wait()
    journal, content = Journal.reopen(path)
    journal.close()
    assert content.pid == first.pid != os.getpid()


def test_a_run_is_held_while_it_is_resumed(small: SmallRun, tmp_path: Path) -> None:
    folder = interrupted_after(small, 5, tmp_path)
    refused = []

    def other(*arguments: Any) -> Launch:
        with pytest.raises(UsageError, match=rf"\(pid {os.getpid()}\)") as error:
            small.resume(folder)
        refused.append(error)
        return made_up(*arguments)

    small.patch.setattr(launcher, "run_launch", other)
    small.resume(folder)
    assert len(refused) == LAUNCHES - 5


# ---- the disk -------------------------------------------------------------------------------------------------


def test_after_a_failed_sync_nothing_is_appended(tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    launch = records.timed([])
    journal = Journal.create(tmp_path / "journal", {})
    with journal, monkeypatch.context() as patch:
        patch.setattr("enginebench.store.files.sync", _fails)
        with pytest.raises(StorageError, match="Input/output error"):
            journal.append(launch)
        patch.undo()
        with pytest.raises(StorageError, match="nothing more is written"):
            journal.append(launch)
    assert read_journal(tmp_path / "journal").launches == []


def _fails(_: int) -> None:
    raise OSError(5, "Input/output error")


def test_a_full_disk_is_told_with_its_folder_and_the_run_goes_on_once_there_is_room(
    small: SmallRun, tmp_path: Path
) -> None:
    whole = small.run(tmp_path / "whole")
    written = 0

    def full(descriptor: int, data: memoryview) -> int:
        nonlocal written
        written += 1
        if written > 6:
            raise OSError(28, "No space left on device")
        return os.write(descriptor, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("enginebench.store.files.write", full)
        with pytest.raises(StorageError) as told:
            small.run(tmp_path / "runs")
    (folder,) = (tmp_path / "runs").iterdir()
    assert f"cannot write to the journal in {folder}: No space left on device" in str(told.value)
    assert f"enginebench run --resume {folder}" in str(told.value)
    assert len(places(folder)) == 5
    small.resume(folder)
    assert essence(read_result(folder / "result.json")) == essence(read_result(whole / "result.json"))
