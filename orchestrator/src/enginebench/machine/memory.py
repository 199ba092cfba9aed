"""Memory of an engine as seen from outside: the proportional set size (PSS), summed over its process tree.

PSS counts a page shared by n processes as 1/n in each, so a sum over processes never counts a page twice; a sum of RSS
would. Sampling costs the engine time (the kernel walks its page tables), so it never runs while speed is measured.
Device memory: `machine.device_memory`.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from .sampling import Sampler

INTERVAL_SECONDS = 0.05

_PROC = Path("/proc")


@dataclass(frozen=True)
class PssReading:
    """Bytes, summed over the process tree at one moment. Shared memory (tmpfs, memfd) counts as file."""

    pss_bytes: int = 0
    anon_bytes: int = 0
    file_bytes: int = 0
    vm_hwm_bytes: int = 0
    """The highest VmHWM of any single process: the kernel's own peak of RSS, which misses no moment."""
    n_processes: int = 0
    pss_of_process: Mapping[int, int] = field(default_factory=dict)
    """The first is the root of the tree."""


class MemorySampler(Sampler):
    """Samples from entering to leaving the context, every 50 ms or as LARGEST_SHARE allows, and once at each end."""

    def __init__(self, pid: int, interval_seconds: float = INTERVAL_SECONDS) -> None:
        super().__init__(interval_seconds)
        self.pid = pid
        self.peak = PssReading()
        self.max_vm_hwm_bytes = 0
        self.n_samples = 0
        self._last = PssReading()
        self._peaks: dict[int, int] = {}
        self._lock = threading.Lock()

    def mark(self) -> PssReading:
        """Take a sample now. All zero if no process of the tree is left."""
        with self._lock:
            reading = read_tree(self.pid)
            if reading.n_processes:
                self._keep(reading)
            return reading

    @property
    def process_peaks_bytes(self) -> list[int]:
        """Of each process that the last sample found, the engine's own first; empty where it is the only one.

        A compiler that came and went is no part of the engine.
        """
        alive = list(self._last.pss_of_process)
        return [self._peaks[pid] for pid in alive] if len(alive) > 1 else []

    def _keep(self, reading: PssReading) -> None:
        self.n_samples += 1
        self._last = reading
        for pid, pss in reading.pss_of_process.items():
            self._peaks[pid] = max(pss, self._peaks.get(pid, 0))
        self.max_vm_hwm_bytes = max(self.max_vm_hwm_bytes, reading.vm_hwm_bytes)
        if reading.pss_bytes > self.peak.pss_bytes:
            self.peak = reading


def read_tree(pid: int) -> PssReading:
    """One process and its descendants. Those that vanish meanwhile count nothing."""
    found = {member: reading for member in process_tree(pid) if (reading := read_process(member)) is not None}
    readings = found.values()
    return PssReading(
        pss_bytes=sum(reading.pss_bytes for reading in readings),
        anon_bytes=sum(reading.anon_bytes for reading in readings),
        file_bytes=sum(reading.file_bytes for reading in readings),
        vm_hwm_bytes=max((reading.vm_hwm_bytes for reading in readings), default=0),
        n_processes=len(readings),
        pss_of_process={member: reading.pss_bytes for member, reading in found.items()},
    )


def process_tree(pid: int) -> list[int]:
    """`pid` and its descendants. By parent ids: /proc/PID/task/TID/children is not built into every kernel."""
    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def read_process(pid: int, proc: Path = _PROC) -> PssReading | None:
    """None for a process that is gone, is a zombie, or belongs to someone else."""
    try:
        sizes = kilobyte_fields((proc / str(pid) / "smaps_rollup").read_text())
    except OSError:
        return None
    if "Pss" not in sizes:
        return None
    shared_memory = sizes.get("Pss_Shmem", 0)
    hwm = 0
    with contextlib.suppress(OSError):
        hwm = kilobyte_fields((proc / str(pid) / "status").read_text()).get("VmHWM", 0)
    return PssReading(
        pss_bytes=sizes["Pss"],
        anon_bytes=sizes.get("Pss_Anon", 0),
        file_bytes=sizes.get("Pss_File", 0) + shared_memory,
        vm_hwm_bytes=hwm,
        n_processes=1,
    )


def kilobyte_fields(text: str) -> dict[str, int]:
    """The lines `Name:   123 kB` of a /proc file, in bytes (proc(5): kB there are units of 1024)."""
    fields = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB" and words[0].endswith(":"):
            fields[words[0][:-1]] = int(words[1]) * 1024
    return fields
