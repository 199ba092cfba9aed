"""The page cache as it is: real files, real evictions, and a process that maps a file and keeps it where it is."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from enginebench.machine import pages
from enginebench.run.start_state import cache_warm, disk_cold
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.store import locate

SIZE = 4 * 2**20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("pages")
    if pages.filesystem(found) in ("tmpfs", "ramfs", "overlay"):
        pytest.skip("this file system is memory, or hides its pages: nothing can be evicted")
    return found


@pytest.fixture
def file(folder: Path) -> Path:
    path = folder / "file"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.fixture
def mapped(file: Path) -> Iterator[Path]:
    """The file while another process has every page of it mapped."""
    script = (
        "import mmap, sys; f = open(sys.argv[1], 'rb'); m = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ); "
        "sum(m[::4096]); print('mapped', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "mapped\n"
        yield file


def test_a_written_file_is_resident_until_it_is_evicted_and_again_when_it_was_read(file: Path) -> None:
    assert pages.resident_share([file]) == 1.0
    pages.evict([file])
    assert pages.resident_share([file]) == 0.0
    pages.warm([file])
    assert pages.resident_share([file]) == 1.0


def test_asking_does_not_read(file: Path) -> None:
    pages.evict([file])
    assert [pages.resident_share([file]) for _ in range(3)] == [0.0] * 3


def test_the_share_is_that_of_all_pages_of_all_files(file: Path, folder: Path) -> None:
    small = folder / "small"
    small.write_bytes(bytes(SIZE // 3))
    pages.evict([file])
    assert pages.resident_share([file, small]) == pytest.approx(0.25, abs=0.01)


def test_no_file_and_an_empty_one_have_no_share(folder: Path) -> None:
    empty = folder / "empty"
    empty.touch()
    assert pages.resident_share([]) is None
    assert pages.resident_share([empty]) is None


def test_pages_that_another_process_maps_stay(mapped: Path) -> None:
    pages.evict([mapped])
    assert pages.resident_share([mapped]) == 1.0


def test_the_bytes_that_a_process_had_from_the_disk_are_counted() -> None:
    before = pages.disk_read_bytes(os.getpid())
    assert before is None or before >= 0
    assert pages.disk_read_bytes(2**22 + 1) is None  # no such process


# ---- start states ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return locate("tiny", "synthetic", folder).path


def read_all(checkpoint: Checkpoint) -> None:
    assert all(checkpoint.tensor(name).float32().size for name in checkpoint.names())


def test_a_model_that_we_have_read_ourselves_can_be_evicted(model: Path, folder: Path) -> None:
    checkpoint = open_checkpoint(model)
    read_all(checkpoint)
    pages.evict([model])
    share = pages.resident_share([model])
    assert share is not None
    assert share > 0.5  # our own mapping holds it
    state = disk_cold(checkpoint, folder / "no-cache")
    assert (state.asked, state.reason) == ("disk-cold", None)
    assert state.resident_share is not None
    assert state.resident_share <= 0.01


def test_a_model_that_another_process_maps_is_no_cold_start_and_says_why(model: Path, folder: Path) -> None:
    with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as held:
        sum(held[:: mmap.PAGESIZE])
        state = disk_cold(open_checkpoint(model), folder / "no-cache")
    assert state.reason is not None
    assert "stayed in memory after eviction: another process maps it" in state.reason


def test_what_the_engine_keeps_between_launches_is_evicted_too(model: Path, folder: Path) -> None:
    kept = folder / "cache" / "deep" / "plan"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(bytes(SIZE))
    state = disk_cold(open_checkpoint(model), folder / "cache")
    assert state.reason is None
    assert pages.resident_share([kept]) == 0.0


def test_a_cold_model_is_read_into_the_cache_before_a_timed_launch(model: Path) -> None:
    pages.evict([model])
    state = cache_warm([model])
    assert (state.asked, state.resident_share, state.reason) == ("cache-warm", 1.0, None)


def test_a_model_that_does_not_fit_into_memory_is_left_where_it_is(
    model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_cold(open_checkpoint(model), folder / "no-cache")
    monkeypatch.setattr("enginebench.run.start_state.FREE_SHARE", 0.0)
    state = cache_warm([model])
    assert state.reason is not None
    assert state.reason.startswith("only 0.")
