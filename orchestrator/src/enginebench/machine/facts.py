"""What a number depends on besides the engine: processor, memory, kernel, GPU, the commit, and how busy the machine is.

Facts only, read from /proc and /sys; what cannot be read is None. No host name, no user and no path is ever recorded.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from enginebench.store.record import Record
from enginebench.workspace.discovery import ROOT

PROC, SYS = Path("/proc"), Path("/sys")
PRESSURE_WARNING = 1.0
"""Percent of time that runnable work waited (PSI `some avg10`) above which a machine is not idle (method M11)."""
RUNNABLE_WARNING = 1
"""Other threads that wanted to run at that moment (pyperf's test)."""
STEAL_WARNING = 0.001
"""Share of processor time that the hypervisor gave to others."""
MEBIBYTE = 2**20


class Cpu(Record, frozen=True):
    """`allowed` is how many of the logical processors this process may use."""

    model: str
    architecture: str
    logical: int | None
    physical: int | None
    allowed: int
    governor: str | None
    turbo: bool | None
    max_frequency_khz: int | None
    smt: bool | None


class Gpu(Record, frozen=True):
    name: str
    driver: str
    memory_bytes: int | None


class Repository(Record, frozen=True):
    """`dirty`: there are changes that no commit holds."""

    commit: str | None
    dirty: bool


class Environment(Record, frozen=True):
    """The machine and the checkout at the start of a run."""

    date: str
    cpu: Cpu
    memory_bytes: int
    swap_bytes: int
    kernel: str
    distribution: str | None
    python: str
    clocksource: str | None
    gpus: list[Gpu] | None
    repository: Repository | None


class NoiseSnapshot(Record, frozen=True):
    """How busy the machine is at one moment, and counters whose differences tell what happened between two."""

    date: str
    load_1min: float | None
    runnable: int | None
    """Runnable threads besides our own."""
    pressure_cpu: float | None
    pressure_memory: float | None
    pressure_io: float | None
    """PSI `some avg10`, percent."""
    cpu_ticks: int | None
    steal_ticks: int | None
    swapped_in_pages: int | None
    swapped_out_pages: int | None
    swap_used_bytes: int | None
    thermal_throttles: int | None


def environment() -> dict[str, Any]:
    """The facts of this machine, as they are stored (class Environment)."""
    facts: dict[str, Any] = msgspec.to_builtins(read_environment())
    return facts


def noise() -> dict[str, Any]:
    """How busy this machine is now, as it is stored (class NoiseSnapshot)."""
    facts: dict[str, Any] = msgspec.to_builtins(read_noise())
    return facts


def read_environment(proc: Path = PROC, sys: Path = SYS, root: Path = ROOT) -> Environment:
    return Environment(
        date=_now(),
        cpu=_cpu(proc, sys),
        memory_bytes=psutil.virtual_memory().total,
        swap_bytes=psutil.swap_memory().total,
        kernel=platform.release(),
        distribution=_distribution(),
        python=platform.python_version(),
        clocksource=_line(sys / "devices/system/clocksource/clocksource0/current_clocksource"),
        gpus=_gpus(),
        repository=_repository(root),
    )


def read_noise(proc: Path = PROC, sys: Path = SYS) -> NoiseSnapshot:
    load = (_line(proc / "loadavg") or "").split()
    ticks = [int(word) for word in (_line(proc / "stat") or "").split()[1:]]
    pages = dict(line.split() for line in _lines(proc / "vmstat") if line.startswith("pswp"))
    return NoiseSnapshot(
        date=_now(),
        load_1min=float(load[0]) if load else None,
        runnable=max(0, int(load[3].split("/")[0]) - 1) if load else None,
        pressure_cpu=_pressure(proc / "pressure/cpu"),
        pressure_memory=_pressure(proc / "pressure/memory"),
        pressure_io=_pressure(proc / "pressure/io"),
        cpu_ticks=sum(ticks[:8]) if ticks else None,  # guest time, the last two, is in user time already
        steal_ticks=ticks[7] if len(ticks) > 7 else None,
        swapped_in_pages=int(pages["pswpin"]) if "pswpin" in pages else None,
        swapped_out_pages=int(pages["pswpout"]) if "pswpout" in pages else None,
        swap_used_bytes=psutil.swap_memory().used,
        thermal_throttles=_throttles(sys),
    )


def noise_warnings(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[str]:
    """What speaks against numbers taken between the two snapshots; a missing fact accuses nobody."""
    if not before or not after:
        return []
    warnings = []
    if (others := before.get("runnable") or 0) > RUNNABLE_WARNING:
        warnings.append(f"{others} other threads were runnable before the run")
    if (before.get("pressure_cpu") or 0) > PRESSURE_WARNING:
        warnings.append(f"the processors were busy before the run (PSI {before['pressure_cpu']:.0f} %)")
    if (swapped := _grown(before, after, "swapped_in_pages") + _grown(before, after, "swapped_out_pages")) > 0:
        warnings.append(f"the machine swapped during the run ({swapped} pages)")
    ticks = _grown(before, after, "cpu_ticks")
    if ticks and (share := _grown(before, after, "steal_ticks") / ticks) > STEAL_WARNING:
        warnings.append(f"the hypervisor gave {share:.1%} of the processor time to others")
    if (throttled := _grown(before, after, "thermal_throttles")) > 0:
        warnings.append(f"the processors throttled for heat ({throttled} times)")
    return warnings


def _grown(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> int:
    first, last = before.get(name), after.get(name)
    return 0 if first is None or last is None else int(last - first)


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _cpu(proc: Path, sys: Path) -> Cpu:
    policy = sys / "devices/system/cpu/cpu0/cpufreq"
    frequency = _line(policy / "cpuinfo_max_freq")
    smt = _line(sys / "devices/system/cpu/smt/active")
    return Cpu(
        model=_cpu_model(proc) or platform.machine(),
        architecture=platform.machine(),
        logical=psutil.cpu_count(logical=True),
        physical=psutil.cpu_count(logical=False),
        allowed=len(os.sched_getaffinity(0)),
        governor=_line(policy / "scaling_governor"),
        turbo=_turbo(sys),
        max_frequency_khz=int(frequency) if frequency else None,
        smt=None if smt is None else smt == "1",
    )


def _cpu_model(proc: Path) -> str | None:
    names = (line.partition(":")[2].strip() for line in _lines(proc / "cpuinfo") if line.startswith("model name"))
    return next(names, None)


def _turbo(sys: Path) -> bool | None:
    """Intel's driver has "no_turbo", the others "boost"."""
    no_turbo = _line(sys / "devices/system/cpu/intel_pstate/no_turbo")
    boost = _line(sys / "devices/system/cpu/cpufreq/boost")
    if no_turbo is not None:
        return no_turbo == "0"
    return None if boost is None else boost == "1"


def _throttles(sys: Path) -> int | None:
    counters = sys.glob("devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")
    counts = [int(count) for counter in counters if (count := _line(counter)) is not None]
    return sum(counts) if counts else None


def _pressure(path: Path) -> float | None:
    """`some avg10=1.23 avg60=…` of a PSI file (kernel documentation, accounting/psi)."""
    words = (_line(path) or "").split()
    averages = [word.removeprefix("avg10=") for word in words if word.startswith("avg10=")]
    return float(averages[0]) if averages else None


def _distribution() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def _gpus() -> list[Gpu] | None:
    fields = "name,driver_version,memory.total"
    text = _output(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"])
    return parse_gpus(text) if text else None


def parse_gpus(text: str) -> list[Gpu]:
    """Lines `name, driver, MiB`; a memory size that is not told ("[N/A]") is None."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.count(",") == 2]
    return [
        Gpu(name=name, driver=driver, memory_bytes=int(size) * MEBIBYTE if size.isdigit() else None)
        for name, driver, size in rows
    ]


def _repository(root: Path) -> Repository | None:
    status = _output(["git", "-C", str(root), "status", "--porcelain"])
    if status is None:
        return None
    commit = _output(["git", "-C", str(root), "rev-parse", "--verify", "--quiet", "HEAD"])
    return Repository(commit=commit.strip() if commit else None, dirty=bool(status.strip()))


def _output(command: Sequence[str]) -> str | None:
    """What a program prints; None if it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def _lines(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return path.read_text().splitlines()
    return []


def _line(path: Path) -> str | None:
    """The first line of a file; None if it cannot be read."""
    lines = _lines(path)
    return lines[0].strip() if lines else None
