"""Signs of life, from a planted /proc and from a real process."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from enginebench.machine.liveness import Signs, alive, read_signs

SECOND = 1_000_000_000
READS = """
import time
zeros = open("/dev/zero", "rb")
print(".", flush=True)
while True:
    zeros.read(2**20)
    time.sleep(0.05)
"""


def planted(proc: Path, pid: int, ticks: tuple[int, int, int, int], rchar: int = 0, read_bytes: int = 0) -> None:
    folder = proc / str(pid)
    folder.mkdir()
    times = " ".join(map(str, ticks))
    (folder / "stat").write_text(f"{pid} (a (b) c) S 1 {pid} {pid} 0 -1 4194560 1 2 3 4 {times} 20 0 1 0 5\n")
    (folder / "io").write_text(f"rchar: {rchar}\nwchar: 7\nsyscr: 1\nread_bytes: {read_bytes}\nwrite_bytes: 9\n")


def test_they_are_summed_over_the_processes_with_the_time_of_those_that_they_reaped(tmp_path: Path) -> None:
    planted(tmp_path, 5, (100, 20, 3, 4), rchar=1000, read_bytes=4096)
    planted(tmp_path, 6, (1, 0, 0, 0), rchar=10)
    assert read_signs([5, 6, 7], proc=tmp_path) == Signs(cpu_ns=128 * SECOND // 100, io_bytes=5120)  # 7 is gone


def test_a_gpu_that_works_is_a_sign(tmp_path: Path) -> None:
    gpu: Any = SimpleNamespace(utilisation_percent=lambda: 37)
    assert read_signs([], gpu, "cuda", tmp_path).gpu_percent == 37


def test_a_gpu_whose_use_nobody_tells_may_be_busy(tmp_path: Path) -> None:
    """A MIG slice; an engine that waits for it takes no processor time."""
    mute: Any = SimpleNamespace(utilisation_percent=lambda: None)
    idle: Any = SimpleNamespace(utilisation_percent=lambda: 0)
    nothing = Signs(0, 0)
    assert alive(nothing, read_signs([], mute, "cuda", tmp_path), 10.0)
    assert alive(nothing, read_signs([], None, "cuda", tmp_path), 10.0)
    assert not alive(nothing, read_signs([], idle, "cuda", tmp_path), 10.0)
    assert not alive(nothing, read_signs([], None, "cpu", tmp_path), 10.0)


def test_a_tick_or_two_are_nothing() -> None:
    assert not alive(Signs(0, 0), Signs(40_000_000, 0), 0.5)
    assert alive(Signs(0, 0), Signs(50_000_000, 0), 0.5)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (Signs(0, 0), False),
        (Signs(SECOND // 10, 0), True),  # 1 % of 10 s
        (Signs(SECOND // 10 - 1, 0), False),  # a thread that wakes up to see that there is nothing to do
        (Signs(0, 10 * 64 * 1024), True),
        (Signs(0, 10 * 64 * 1024 - 1), False),
        (Signs(-SECOND, 0), True),  # a process of the tree ended, and took its time along
        (Signs(0, 0, 1), True),
        (Signs(0, 0, 0), False),
    ],
)
def test_what_counts_as_life_in_ten_seconds(now: Signs, expected: bool) -> None:
    assert alive(Signs(0, 0), now, 10.0) is expected


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import time; print('.', flush=True); time.sleep(1000)", False),
        ("print('.', flush=True)\nwhile True: pass", True),
        (READS, True),
    ],
)
def test_a_sleeper_is_told_from_one_that_computes_or_reads(code: str, expected: bool) -> None:
    with subprocess.Popen([sys.executable, "-I", "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.2)
        before, started, seen = read_signs([child.pid]), time.monotonic(), False
        while not seen and (seconds := time.monotonic() - started) < (10.0 if expected else 0.5):
            time.sleep(0.4)
            seen = alive(before, read_signs([child.pid]), seconds + 0.4)
        assert seen is expected
        child.kill()
