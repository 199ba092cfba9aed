"""The sampler sees what a process tree holds, from outside, and survives processes that vanish."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from enginebench.machine.memory import MemorySampler, PssReading, kilobyte_fields, process_tree, read_process, read_tree

MIB = 2**20
ALLOCATED = 200_000_000
# Waits for a line before and after it allocates (and touches) the bytes; answers with a line each time.
ALLOCATOR = f"""
import sys
print("ready", flush=True); sys.stdin.readline()
block = bytearray({ALLOCATED}); block[::4096] = b"x" * len(block[::4096])
print("held", flush=True); sys.stdin.readline()
del block
print("freed", flush=True); sys.stdin.readline()
"""
IN_A_GRANDCHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {ALLOCATOR!r}])"


@contextmanager
def running(program: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def step(process: subprocess.Popen[str], expected: str) -> None:
    """Wait for the program's word."""
    assert process.stdout
    assert process.stdout.readline().strip() == expected


def proceed(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


# Maps the file named in its argument, or a memfd or an anonymous shared mapping, touches every page, says so and waits.
MAPPER = f"""
import mmap, os, sys
print("ready", flush=True); sys.stdin.readline()
kind, size = sys.argv[1], {ALLOCATED}
if kind == "memfd":
    fd = os.memfd_create("x"); os.ftruncate(fd, size)
else:
    fd = os.open(kind, os.O_RDWR)
block = mmap.mmap(fd, size, mmap.MAP_SHARED)
touched = sum(block[i] for i in range(0, size, 4096)) if kind != "memfd" else 0
if kind == "memfd":
    for i in range(0, size, 4096): block[i] = 1
print("held", flush=True); sys.stdin.readline()
"""
TWO_MAPPERS = f"""
import subprocess, sys
pair = [subprocess.Popen([sys.executable, "-c", {MAPPER!r}, sys.argv[1]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)]
for p in pair: p.stdout.readline()
print("ready", flush=True); sys.stdin.readline()
for p in pair: p.stdin.write(b"\\n"); p.stdin.flush(); p.stdout.readline()
print("held", flush=True); sys.stdin.readline()
for p in pair: p.communicate(b"\\n")
"""


def wait_for_samples(sampler: MemorySampler, count: int) -> None:
    """By its thread; on a busy machine each takes its time."""
    wanted, deadline = sampler.n_samples + count, time.monotonic() + 20
    while sampler.n_samples < wanted and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("program", [ALLOCATOR, IN_A_GRANDCHILD], ids=["child", "grandchild"])
def test_200_megabytes_are_found_within_two_percent(program: str) -> None:
    with running(program) as process:
        step(process, "ready")
        with MemorySampler(process.pid) as sampler:
            before = sampler.mark()
            proceed(process)
            step(process, "held")
            held = sampler.mark()
            proceed(process)
            step(process, "freed")
            after = sampler.mark()
    assert held.pss_bytes - before.pss_bytes == pytest.approx(ALLOCATED, rel=0.02)
    assert held.anon_bytes - before.anon_bytes == pytest.approx(ALLOCATED, rel=0.02)
    assert sampler.peak.pss_bytes - before.pss_bytes == pytest.approx(ALLOCATED, rel=0.02)
    assert after.pss_bytes < before.pss_bytes + 0.1 * ALLOCATED
    assert sampler.max_vm_hwm_bytes >= ALLOCATED


@pytest.fixture
def cached_file(tmp_path: Path) -> Iterator[str]:
    """Of ALLOCATED bytes, in the page cache because it was just written; pytest keeps folders, so it goes at once."""
    path = tmp_path / "weights"
    with path.open("wb") as file:
        for _ in range(ALLOCATED // 10_000_000):
            file.write(b"x" * 10_000_000)
    yield str(path)
    path.unlink()


def grown(program: str, *arguments: str) -> tuple[PssReading, PssReading]:
    """Readings before and after the program took its memory."""
    with running(program, *arguments) as process:
        step(process, "ready")
        before = read_tree(process.pid)
        proceed(process)
        step(process, "held")
        held = read_tree(process.pid)
        proceed(process)
    return before, held


@pytest.mark.parametrize("kind", ["file", "memfd"])
def test_mapped_memory_counts_as_file_within_two_percent(kind: str, request: pytest.FixtureRequest) -> None:
    before, held = grown(MAPPER, request.getfixturevalue("cached_file") if kind == "file" else "memfd")
    assert held.pss_bytes - before.pss_bytes == pytest.approx(ALLOCATED, rel=0.02)
    assert held.file_bytes - before.file_bytes == pytest.approx(ALLOCATED, rel=0.02)
    assert held.anon_bytes - before.anon_bytes < 0.02 * ALLOCATED
    assert held.vm_hwm_bytes - before.vm_hwm_bytes == pytest.approx(ALLOCATED, rel=0.02)


def test_a_file_that_two_processes_map_is_counted_once(cached_file: str) -> None:
    """A sum of RSS would be twice as much; VmHWM of one process holds all of it."""
    before, held = grown(TWO_MAPPERS, cached_file)
    assert held.n_processes == 3
    assert held.pss_bytes - before.pss_bytes == pytest.approx(ALLOCATED, rel=0.02)
    assert held.vm_hwm_bytes - before.vm_hwm_bytes == pytest.approx(ALLOCATED, rel=0.02)


def test_a_peak_between_two_marks_is_found_by_the_thread() -> None:
    with running(ALLOCATOR) as process:
        step(process, "ready")
        with MemorySampler(process.pid) as sampler:
            before = sampler.mark()
            proceed(process)
            step(process, "held")
            wait_for_samples(sampler, 2)  # one may have begun before all was touched
            proceed(process)
            step(process, "freed")
        marks = 3
    assert sampler.peak.pss_bytes - before.pss_bytes == pytest.approx(ALLOCATED, rel=0.02)
    assert sampler.n_samples > marks


def test_sampling_that_takes_long_is_done_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(pid: int) -> PssReading:
        time.sleep(0.04)
        return PssReading(pss_bytes=1, n_processes=1)

    monkeypatch.setattr("enginebench.machine.memory.read_tree", slow)
    with MemorySampler(1) as sampler:
        time.sleep(1.0)
    assert 3 <= sampler.n_samples <= 6, "every 50 ms it would be 12"


def test_a_process_that_ends_keeps_its_peak() -> None:
    with running("print('ready', flush=True)") as process:
        step(process, "ready")
        with MemorySampler(process.pid, interval_seconds=0.01) as sampler:
            process.wait(10)
            samples = sampler.n_samples
            assert sampler.mark().n_processes == 0
            time.sleep(0.05)
    assert sampler.n_samples == samples
    assert sampler.mark() == PssReading()


def test_a_process_that_never_was_gives_no_sample() -> None:
    with running("pass") as process:
        process.wait(10)
        with MemorySampler(process.pid) as sampler:
            pass
    assert (sampler.n_samples, sampler.peak) == (0, PssReading())


def test_a_tree_names_every_descendant() -> None:
    with running(IN_A_GRANDCHILD) as process:
        step(process, "ready")
        tree = process_tree(process.pid)
        assert tree[0] == process.pid
        assert len(tree) == 2
        assert read_tree(process.pid).n_processes == 2
        proceed(process)
        proceed(process)


def test_each_process_of_a_tree_has_a_peak_of_its_own() -> None:
    with running(IN_A_GRANDCHILD) as process:
        step(process, "ready")
        with MemorySampler(process.pid) as sampler:
            proceed(process)
            step(process, "held")
            sampler.mark()
            proceed(process)
            step(process, "freed")
        own, grandchild = sampler.process_peaks_bytes
        assert own < ALLOCATED / 2 < ALLOCATED <= grandchild
        assert own + grandchild >= sampler.peak.pss_bytes


def test_a_process_alone_has_no_list_of_peaks() -> None:
    with running("input()") as process, MemorySampler(process.pid) as sampler:
        pass
    assert sampler.process_peaks_bytes == []
    assert sampler.peak.pss_bytes > 0


def test_fields_are_read_in_bytes() -> None:
    text = "5600-7fff ---p 00000000 00:00 0    [rollup]\nPss:      334 kB\nPss_Anon:   112 kB\nThreads:  4\n"
    assert kilobyte_fields(text) == {"Pss": 334 * 1024, "Pss_Anon": 112 * 1024}


def test_shared_memory_counts_as_file(tmp_path: Path) -> None:
    folder = tmp_path / "7"
    folder.mkdir()
    (folder / "smaps_rollup").write_text("Pss: 60 kB\nPss_Anon: 10 kB\nPss_File: 20 kB\nPss_Shmem: 30 kB\n")
    (folder / "status").write_text("Name: x\nVmHWM:   90 kB\n")
    expected = PssReading(60 * 1024, 10 * 1024, 50 * 1024, 90 * 1024, 1)
    assert read_process(7, tmp_path) == expected


@pytest.mark.parametrize("rollup", [None, ""], ids=["vanished", "zombie"])
def test_a_process_without_memory_is_no_reading(tmp_path: Path, rollup: str | None) -> None:
    (tmp_path / "7").mkdir()
    if rollup is not None:
        (tmp_path / "7" / "smaps_rollup").write_text(rollup)
    assert read_process(7, tmp_path) is None
