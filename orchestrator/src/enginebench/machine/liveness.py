"""Signs of life of an engine, read from outside: processor time of its process tree, bytes it read, use of the GPU.

A native call may hold the interpreter for minutes, so an engine is not asked whether it lives. Reading costs some
milliseconds: only where a wait has become long (`run.vigil`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from .noise import PROC, TICK_NS, first_line, lines_of
from .nvml import NvmlGpu

LEAST_CPU_SHARE = 0.01
"""Of the time between two looks: less is a thread that wakes up to see that there is nothing to do."""
LEAST_CPU_NS = 50_000_000
"""At least: the kernel tells it in ticks of 10 ms, so that one tick more may be nothing at all."""
LEAST_IO_RATE = 64 * 1024
"""Bytes per second, likewise."""


@dataclass(frozen=True)
class Signs:
    """Sums over the processes that live; what a process took that is reaped counts in its parent's."""

    cpu_ns: int
    io_bytes: int
    """Read and written: one that converts weights, or waits for us to read its stderr, works."""
    gpu_percent: int | None = None
    """Of the moment; None where there is no GPU or nobody can tell."""
    unseen: bool = False
    """It works on a GPU whose use nobody can tell (a MIG slice): it may be busy, so only the deadline ends it."""


def read_signs(pids: Iterable[int], gpu: NvmlGpu | None = None, device: str = "cpu", proc: Path = PROC) -> Signs:
    """What vanishes meanwhile counts nothing."""
    found, gpu_percent = list(pids), None if gpu is None else gpu.utilisation_percent()
    return Signs(
        cpu_ns=sum(_cpu_ns(proc / str(pid)) for pid in found),
        io_bytes=sum(_io_bytes(proc / str(pid)) for pid in found),
        gpu_percent=gpu_percent,
        unseen=device == "cuda" and gpu_percent is None,
    )


def alive(before: Signs, now: Signs, seconds: float) -> bool:
    """Whether something was done in the `seconds` between two looks. A process that left the tree is a sign too."""
    return (
        abs(now.cpu_ns - before.cpu_ns) >= max(LEAST_CPU_NS, LEAST_CPU_SHARE * seconds * 1e9)
        or abs(now.io_bytes - before.io_bytes) >= LEAST_IO_RATE * seconds
        or bool(now.gpu_percent)
        or now.unseen
    )


def _cpu_ns(folder: Path) -> int:
    """proc(5): utime, stime, cutime, cstime are the fields 14 to 17 of /proc/PID/stat."""
    words = (first_line(folder / "stat") or "").rpartition(")")[2].split()  # a name may hold spaces
    return sum(map(int, words[11:15])) * TICK_NS


def _io_bytes(folder: Path) -> int:
    """By system calls (rchar, wchar), and from the disk (read_bytes: pages of mapped files come that way)."""
    counts = dict(line.split(":") for line in lines_of(folder / "io") if ":" in line)
    return sum(int(counts.get(name, 0)) for name in ("rchar", "wchar", "read_bytes"))
