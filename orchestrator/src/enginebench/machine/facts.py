"""What a number depends on besides the engine: processor, memory, kernel, GPU, the commit.

Facts only, read from /proc and /sys; what cannot be read is None. No host name, no user and no path is ever recorded.
How busy the machine is stands in `machine.noise`.
"""

from __future__ import annotations

import datetime as dt
import os
import platform
from pathlib import Path
from typing import Any

import msgspec
import psutil

from enginebench.store.record import Record
from enginebench.workspace.discovery import ROOT

from .noise import PROC, SYS, base_frequency_khz, first_line, lines_of
from .repository import Repository, output_of, repository

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
    base_frequency_khz: int | None = None
    """What the maker promises without turbo."""
    frequency_limit_khz: int | None = None
    """The highest that the frequency driver allows at present."""
    isolated: str | None = None
    """Processors kept free of other tasks ("2-5"), "" for none."""
    numa_nodes: int | None = None


class Gpu(Record, frozen=True):
    name: str
    driver: str
    memory_bytes: int | None


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
    on_battery: bool | None = None
    """None without a battery."""


def environment() -> dict[str, Any]:
    """The facts of this machine, as they are stored (class Environment)."""
    facts: dict[str, Any] = msgspec.to_builtins(read_environment())
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
        clocksource=first_line(sys / "devices/system/clocksource/clocksource0/current_clocksource"),
        gpus=_gpus(),
        repository=repository(root),
        on_battery=_on_battery(sys),
    )


def _now() -> str:
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def _cpu(proc: Path, sys: Path) -> Cpu:
    policy = sys / "devices/system/cpu/cpu0/cpufreq"
    smt = first_line(sys / "devices/system/cpu/smt/active")
    return Cpu(
        model=_cpu_model(proc) or platform.machine(),
        architecture=platform.machine(),
        logical=psutil.cpu_count(logical=True),
        physical=psutil.cpu_count(logical=False),
        allowed=len(os.sched_getaffinity(0)),
        governor=first_line(policy / "scaling_governor"),
        turbo=_turbo(sys),
        max_frequency_khz=_number(policy / "cpuinfo_max_freq"),
        smt=None if smt is None else smt == "1",
        base_frequency_khz=base_frequency_khz(sys),
        frequency_limit_khz=_number(policy / "scaling_max_freq"),
        isolated=_isolated(sys),
        numa_nodes=len(list(sys.glob("devices/system/node/node[0-9]*"))) or None,
    )


def _number(path: Path) -> int | None:
    text = first_line(path)
    return int(text) if text else None


def _isolated(sys: Path) -> str | None:
    path = sys / "devices/system/cpu/isolated"
    return (first_line(path) or "") if path.is_file() else None


def _on_battery(sys: Path) -> bool | None:
    supplies = [s for s in sys.glob("class/power_supply/*") if first_line(s / "type") == "Battery"]
    batteries = [s for s in supplies if first_line(s / "scope") != "Device"]  # that of a mouse or a headset
    return any(first_line(s / "status") == "Discharging" for s in batteries) if batteries else None


def _cpu_model(proc: Path) -> str | None:
    names = (line.partition(":")[2].strip() for line in lines_of(proc / "cpuinfo") if line.startswith("model name"))
    return next(names, None)


def _turbo(sys: Path) -> bool | None:
    """Intel's driver has "no_turbo", the others "boost"."""
    no_turbo = first_line(sys / "devices/system/cpu/intel_pstate/no_turbo")
    boost = first_line(sys / "devices/system/cpu/cpufreq/boost")
    if no_turbo is not None:
        return no_turbo == "0"
    return None if boost is None else boost == "1"


def _distribution() -> str | None:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    except OSError:
        return None


def _gpus() -> list[Gpu] | None:
    fields = "name,driver_version,memory.total"
    text = output_of(["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader,nounits"])
    return parse_gpus(text) if text else None


def parse_gpus(text: str) -> list[Gpu]:
    """Lines `name, driver, MiB`; a memory size that is not told ("[N/A]") is None."""
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.count(",") == 2]
    return [
        Gpu(name=name, driver=driver, memory_bytes=int(size) * MEBIBYTE if size.isdigit() else None)
        for name, driver, size in rows
    ]
