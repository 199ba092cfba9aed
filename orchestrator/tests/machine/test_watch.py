"""What is recorded around a launch, the wait for the GPU before it, and counters of processes that really run."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from enginebench.machine import watch as watching
from enginebench.machine.examination import examine, keep_busy
from enginebench.machine.gates import findings, launch_view
from enginebench.machine.noise import process_counters, tree_counters
from enginebench.machine.watch import LaunchWatch, Watch
from enginebench.run import launch as launching

from .conftest import FakeMachine
from .fake_nvml import GIB

MIB = 2**20


def test_a_launch_has_three_snapshots_and_one_gpu_sample_for_each_request(machine: FakeMachine) -> None:
    launch = LaunchWatch(machine.watch())
    launch.start(os.getpid())
    for mhz in (1980, 1900):
        assert machine.nvml is not None
        machine.nvml.sm_mhz = mhz
        launch.after_request()
    launch.end(os.getpid())
    noise = launch.noise
    assert noise.start is not None
    assert noise.end is not None
    assert (noise.before.runnable, noise.start.swapped_in_pages, noise.end.mean_mhz) == (0, 3, 3000.0)
    assert [gpu.sm_clock_mhz for gpu in noise.gpu_after_requests] == [1980, 1900]
    assert noise.engine_end is not None
    assert noise.engine_end.cpu_ns == 100_000_000  # 10 ticks
    assert (noise.gpu_settled, noise.harness_cpu_ns is not None) == (True, True)


def test_a_launch_that_failed_before_its_requests_keeps_what_was_read(machine: FakeMachine) -> None:
    noise = LaunchWatch(machine.watch()).noise
    assert (noise.before.runnable, noise.start, noise.end, noise.harness_cpu_ns) == (0, None, None, None)


def test_a_run_on_the_processor_asks_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "find_gpu", lambda: pytest.fail("the GPU was looked for"))
    watch = Watch.of_device("cpu")
    assert (watch.gpu, watch.settle(), watch.snapshot().gpu) == (None, None, None)


def test_a_launch_waits_until_the_memory_of_the_last_one_is_given_back(
    machine: FakeMachine, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, nvml, waits = machine.watch(), machine.nvml, 0
    assert nvml is not None
    nvml.used_bytes, nvml.utilisation = GIB + 65 * MIB, 50

    def give_back(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 2:
            nvml.used_bytes = GIB + 64 * MIB
        if waits == 4:
            nvml.utilisation = 1

    monkeypatch.setattr(watching.time, "sleep", give_back)
    settled = watch.settle()
    assert settled is not None
    assert (settled.settled, waits) == (True, 4)


def test_the_wait_for_the_gpu_ends_at_its_deadline_and_says_so(machine: FakeMachine) -> None:
    watch = machine.watch()
    assert machine.nvml is not None
    machine.nvml.used_bytes = 3 * GIB
    settled = watch.settle(deadline_seconds=0.15)
    assert settled is not None
    assert not settled.settled
    assert 150_000_000 <= settled.wait_ns < 5_000_000_000


def test_processor_time_of_a_process_is_counted() -> None:
    before, wall = process_counters(os.getpid()), time.process_time()
    keep_busy(0.3)
    after, used = process_counters(os.getpid()), time.process_time() - wall
    assert before is not None
    assert after is not None
    assert (after.cpu_ns - before.cpu_ns) / 1e9 == pytest.approx(used, abs=0.03)


def test_a_process_that_is_gone_has_no_counters() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait(10)
    assert tree_counters(process.pid) is None


def test_a_program_that_really_runs_is_seen_as_foreign() -> None:
    """A burner for each processor beside the engine, which is one too: most of the busy time is not the engine's."""
    engine, *others = (
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range((os.cpu_count() or 1) + 1)
    )
    try:
        launch = LaunchWatch(Watch())
        launch.start(engine.pid)
        time.sleep(1.0)
        launch.end(engine.pid)
    finally:
        for process in (engine, *others):
            process.kill()
            process.wait()
    found = {finding.gate.name: finding for finding in findings(launch_view(launch.noise))}
    assert found["foreign-cpu"].state == "warn"
    assert found["foreign-cpu"].sight.value > 0.2


def test_a_process_is_examined_on_this_machine_and_no_gate_raises(tmp_path: Path) -> None:
    here = examine(0.5)
    assert len({finding.gate.name for finding in here}) == len(here)
    nowhere = {finding.gate.name: finding for finding in examine(0.01, tmp_path, tmp_path)}
    assert nowhere["swap"].state == nowhere["governor"].state == "unreadable"


@pytest.mark.parametrize(("kind", "expected"), [("timed", 1), ("energy", 1), ("check", 0), ("cold", 0)])
def test_only_launches_that_measure_times_or_joules_are_put_in_doubt(
    machine: FakeMachine, kind: str, expected: int
) -> None:
    """A busy GPU before the spawn; the check is recorded all the same."""
    watch = machine.watch()
    watch.settle = lambda *_: None  # type: ignore[method-assign]
    assert machine.nvml is not None
    machine.nvml.utilisation = 50
    around = launching._around(LaunchWatch(watch), kind)  # type: ignore[arg-type]
    assert around["noise"].before.gpu.utilisation_percent == 50
    assert len(around["doubts"]) == expected


# Writes a file, has it dropped from the page cache, maps it and reads every page; tells its own counts and waits.
READER = """
import mmap, os, resource, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.write(fd, b"x" * (8 << 20)); os.fsync(fd); os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
block = mmap.mmap(fd, 8 << 20, mmap.MAP_SHARED); block.madvise(mmap.MADV_RANDOM)
total = sum(block[i] for i in range(0, 8 << 20, 4096))
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_majflt, used.ru_nivcsw, flush=True); sys.stdin.readline()
"""


def test_faults_that_wait_for_the_disk_are_counted_as_the_process_counts_its_own(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path / "file")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    faults, switches = map(int, process.stdout.readline().split())
    counters = tree_counters(process.pid)
    process.communicate("\n")
    (tmp_path / "file").unlink()
    assert counters is not None
    if faults == 0:
        pytest.skip("nothing leaves the page cache here: a file system in memory")
    assert counters.major_faults == faults
    assert counters.involuntary_switches >= switches
