"""Energy counters of this machine: processor packages and their memory (RAPL), and the board of the GPU (NVML).

Counters, not power readings: those of some GPUs cover a quarter of the time. What they count ends at the package and
the board: no fans, no power supply, no disk. Counters that cannot be read are absent with a reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .noise import SYS, first_line
from .nvml import NoGpu, NvmlGpu, open_gpu


class EnergyCounter(Protocol):
    """One cumulative counter. `range_j`: it starts again at 0 after so many joules; None: never within a run."""

    @property
    def name(self) -> str: ...

    @property
    def range_j(self) -> float | None: ...

    def read_j(self) -> float: ...


@dataclass(frozen=True)
class RaplDomain:
    """A folder of the kernel's powercap tree (kernel documentation, power/powercap)."""

    name: str
    folder: Path
    range_j: float | None

    def read_j(self) -> float:
        return int((self.folder / "energy_uj").read_text()) / 1e6


@dataclass(frozen=True)
class GpuBoard:
    """Millijoules since the driver was loaded, refreshed every 20 to 100 ms: windows must be long."""

    name: str
    gpu: NvmlGpu
    range_j: float | None = None

    def read_j(self) -> float:
        joules = self.gpu.energy_j()
        assert joules is not None, "it was read when the counters were looked for"
        return joules


@dataclass(frozen=True)
class Counters:
    """What can be read here, and why the rest cannot."""

    found: tuple[EnergyCounter, ...]
    lacks: tuple[str, ...]

    @property
    def lack(self) -> str | None:
        """Why nothing can be read at all."""
        return None if self.found else f"no energy counter: {'; '.join(self.lacks)}"


def energy_counters(device: str, sys: Path = SYS) -> Counters:
    """The processor's packages always; the GPU's board when engines run on it."""
    found, lacks = _rapl(sys)
    board: list[EnergyCounter] = []
    if device == "cuda":
        try:
            board = _board(open_gpu())
            lacks += [] if board else ["the GPU has no energy counter"]
        except NoGpu as none:
            lacks.append(f"GPU: {none}")
    return Counters((*found, *board), tuple(lacks))


def _rapl(sys: Path) -> tuple[list[EnergyCounter], list[str]]:
    folders = sorted(sys.glob("class/powercap/intel-rapl:*"))  # AMD's packages stand under this name too
    if not folders:
        return [], ["the kernel shows no RAPL counters"]
    found: list[EnergyCounter] = []
    for folder in folders:
        name = first_line(folder / "name") or ""
        if not (name.startswith("package") or name == "dram"):  # cores are part of the package, psys holds all
            continue
        if first_line(folder / "energy_uj") is None:
            return [], ["RAPL counters can be read by root only"]
        micro = first_line(folder / "max_energy_range_uj")
        found.append(RaplDomain(f"{name} ({folder.name})", folder, int(micro) / 1e6 if micro else None))
    return found, [] if found else ["RAPL shows no package"]


def _board(gpu: NvmlGpu) -> list[EnergyCounter]:
    return [GpuBoard(gpu.name, gpu)] if gpu.energy_j() is not None else []


class Meter:
    """Adds up what the counters counted. Read it more often than any of them wraps around."""

    def __init__(self, counters: Sequence[EnergyCounter]) -> None:
        self.names = [counter.name for counter in counters]
        self._counters = counters
        self._last = {counter.name: counter.read_j() for counter in counters}
        self._total = dict.fromkeys(self.names, 0.0)

    def read_j(self) -> dict[str, float]:
        """Joules of each counter since the meter was made."""
        for counter in self._counters:
            now, before = counter.read_j(), self._last[counter.name]
            wrapped = counter.range_j if now < before and counter.range_j else 0.0
            self._total[counter.name] += now - before + wrapped
            self._last[counter.name] = now
        return dict(self._total)
