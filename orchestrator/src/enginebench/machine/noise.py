"""How busy the machine is: snapshots from /proc and /sys, and the counters of an engine's process tree.

A snapshot reads a dozen small files and is taken between requests only. What cannot be read is None. GPUs are read in
`machine.nvml`; what speaks against a number is decided in `machine.gates`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import statistics
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import psutil

from enginebench.store.surroundings import GpuState, NoiseSnapshot, ProcessCounters

from .memory import process_tree

PROC, SYS = Path("/proc"), Path("/sys")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def noise() -> dict[str, Any]:
    """How busy this machine is now, as it is stored (class NoiseSnapshot)."""
    facts: dict[str, Any] = msgspec.to_builtins(read_noise())
    return facts


def read_noise(proc: Path = PROC, sys: Path = SYS, gpu: GpuState | None = None) -> NoiseSnapshot:
    """The machine at this moment."""
    load = (first_line(proc / "loadavg") or "").split()
    ticks = [int(word) for word in (first_line(proc / "stat") or "").split()[1:]]
    events = _event_counters(proc / "vmstat", ("pswpin", "pswpout", "pgmajfault"))
    pressure = {name: _pressure(proc / "pressure" / name) for name in ("cpu", "memory", "io")}
    clocks = read_clocks(proc, sys)
    return NoiseSnapshot(
        date=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        t_ns=time.perf_counter_ns(),
        load_1min=float(load[0]) if load else None,
        runnable=max(0, int(load[3].split("/")[0]) - 1) if load else None,
        pressure_cpu=pressure["cpu"].get("avg10"),
        pressure_memory=pressure["memory"].get("avg10"),
        pressure_io=pressure["io"].get("avg10"),
        waited_cpu_us=_whole(pressure["cpu"].get("total")),
        waited_memory_us=_whole(pressure["memory"].get("total")),
        waited_io_us=_whole(pressure["io"].get("total")),
        cpu_ticks=sum(ticks[:8]) if ticks else None,  # guest time, the last two, is in user time already
        idle_ticks=sum(ticks[3:5]) if ticks else None,  # idle, and idle while a disk is waited for
        steal_ticks=ticks[7] if len(ticks) > 7 else None,
        swapped_in_pages=events.get("pswpin"),
        swapped_out_pages=events.get("pswpout"),
        swap_used_bytes=psutil.swap_memory().used,
        major_faults=events.get("pgmajfault"),
        thermal_throttles=_throttles(sys),
        mean_mhz=statistics.fmean(clocks) if clocks else None,
        highest_mhz=max(clocks, default=None),
        base_mhz=None if (base := base_frequency_khz(sys)) is None else base / 1000,
        gpu=gpu,
    )


def read_clocks(proc: Path = PROC, sys: Path = SYS) -> list[float]:
    """MHz of each processor: of the frequency driver, else as /proc/cpuinfo has it; empty where neither tells."""
    files = sorted(sys.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq"))
    driver = [float(text) / 1000 for file in files if (text := first_line(file)) is not None]
    told = [line.partition(":")[2] for line in lines_of(proc / "cpuinfo") if line.startswith("cpu MHz")]
    return driver or [float(text) for text in told]


def base_frequency_khz(sys: Path = SYS) -> int | None:
    """Intel's driver tells it in kHz, ACPI's table (AMD, Arm) in MHz."""
    cpu = sys / "devices/system/cpu/cpu0"
    driver, nominal = first_line(cpu / "cpufreq/base_frequency"), first_line(cpu / "acpi_cppc/nominal_freq")
    if driver:
        return int(driver)
    return int(nominal) * 1000 if nominal else None


def tree_counters(pid: int, proc: Path = PROC) -> ProcessCounters | None:
    """Sums over `pid` and its descendants; None if none of them can be read. Ended threads' switches are lost."""
    found = [counters for member in process_tree(pid) if (counters := process_counters(member, proc)) is not None]
    if not found:
        return None
    return ProcessCounters(
        cpu_ns=sum(counters.cpu_ns for counters in found),
        major_faults=sum(counters.major_faults for counters in found),
        involuntary_switches=sum(counters.involuntary_switches for counters in found),
    )


def process_counters(pid: int, proc: Path = PROC) -> ProcessCounters | None:
    """Fields of proc(5): majflt is the 12th of /proc/PID/stat, utime and stime the 14th and 15th."""
    words = (first_line(proc / str(pid) / "stat") or "").rpartition(")")[2].split()  # a name may hold spaces
    if len(words) < 13:
        return None
    return ProcessCounters(
        cpu_ns=(int(words[11]) + int(words[12])) * TICK_NS,
        major_faults=int(words[9]),
        involuntary_switches=sum(_switches(task / "status") for task in (proc / str(pid) / "task").glob("*")),
    )


def _switches(status: Path) -> int:
    counts = (line.split()[1] for line in lines_of(status) if line.startswith("nonvoluntary_ctxt_switches"))
    return int(next(counts, 0))


def grown(before: object, after: object, name: str) -> int | None:
    """after − before of a counter; None where one of them is missing."""
    first, last = getattr(before, name), getattr(after, name)
    return None if first is None or last is None else int(last - first)


def _event_counters(path: Path, names: Iterable[str]) -> dict[str, int]:
    rows = (line.split() for line in lines_of(path))
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[0] in names}


def _throttles(sys: Path) -> int | None:
    counters = sys.glob("devices/system/cpu/cpu*/thermal_throttle/*_throttle_count")
    counts = [int(count) for counter in counters if (count := first_line(counter)) is not None]
    return sum(counts) if counts else None


def _pressure(path: Path) -> Mapping[str, float]:
    """`some avg10=1.23 avg60=… total=9` of a PSI file (kernel documentation, accounting/psi); total is in µs."""
    words = (first_line(path) or "").split()[1:]
    return {name: float(value) for name, _, value in (word.partition("=") for word in words)}


def _whole(value: float | None) -> int | None:
    return None if value is None else int(value)


def lines_of(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text().splitlines()
    return []


def first_line(path: Path) -> str | None:
    """None if the file cannot be read or is empty."""
    lines = lines_of(path)
    return lines[0].strip() if lines else None
