"""Records what the machine did around each timed launch: before the spawn, and at both ends of the measured requests.

Nothing is read while a request runs. Before a launch on a GPU, waits (bounded) until the memory of the one before is
given back. Whether a launch is to be doubted is decided in `machine.gates`.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from enginebench.store.surroundings import GpuState, LaunchNoise, NoiseSnapshot, ProcessCounters

from .noise import PROC, SYS, read_noise, tree_counters
from .nvml import NvmlGpu, find_gpu

SETTLE_SECONDS = 10.0
SETTLE_BYTES = 64 * 2**20
"""Memory that may remain in use above the baseline of the run (method R7)."""
SETTLE_BUSY_PERCENT = 1
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Settled:
    """How the wait for a quiet GPU ended."""

    wait_ns: int
    settled: bool


class Watch:
    """For the launches of one run. `gpu` None: its engines use none, or none can be read."""

    def __init__(self, gpu: NvmlGpu | None = None, proc: Path = PROC, sys: Path = SYS) -> None:
        self.gpu = gpu
        self.proc, self._sys = proc, sys
        memory = gpu.memory() if gpu else None
        self.baseline_bytes = memory.used_bytes if memory else None
        """Device memory in use before the first launch of the run."""

    @classmethod
    def of_device(cls, device: str) -> Watch:
        return cls(find_gpu() if device == "cuda" else None)

    def snapshot(self) -> NoiseSnapshot:
        return read_noise(self.proc, self._sys, self.gpu.state() if self.gpu else None)

    def settle(self, deadline_seconds: float = SETTLE_SECONDS) -> Settled | None:
        """Wait until memory is back at the baseline and the GPU idle; None without a GPU."""
        if self.gpu is None or self.baseline_bytes is None:
            return None
        started = time.monotonic_ns()
        while not (quiet := self._is_quiet()) and time.monotonic_ns() - started < deadline_seconds * 1e9:
            time.sleep(_POLL_SECONDS)
        return Settled(time.monotonic_ns() - started, quiet)

    def memory_left(self, deadline_seconds: float = SETTLE_SECONDS) -> int | None:
        """Bytes above the baseline, and SETTLE_BYTES at least, that stay in use when an engine is gone; else None."""
        ends = time.monotonic() + deadline_seconds
        while (left := self._above_baseline()) is not None and left > SETTLE_BYTES and time.monotonic() < ends:
            time.sleep(_POLL_SECONDS)
        return left if left is not None and left > SETTLE_BYTES else None

    def _above_baseline(self) -> int | None:
        memory = self.gpu.memory() if self.gpu else None
        return None if memory is None or self.baseline_bytes is None else memory.used_bytes - self.baseline_bytes

    def _is_quiet(self) -> bool:
        """What cannot be read is not waited for."""
        assert self.gpu is not None
        state = self.gpu.state()
        limit = (self.baseline_bytes or 0) + SETTLE_BYTES
        return (state.memory_used_bytes or 0) <= limit and (state.utilisation_percent or 0) <= SETTLE_BUSY_PERCENT


class LaunchWatch:
    """Around one launch. Call `start` and `end` with the engine's pid, `after_request` after each measured request."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._settled = watch.settle()
        self._before = watch.snapshot()
        self._start: NoiseSnapshot | None = None
        self._end: NoiseSnapshot | None = None
        self._engine: list[ProcessCounters | None] = [None, None]
        self._harness_ns = [0, 0]
        self._gpu: list[GpuState] = []

    def start(self, pid: int) -> None:
        self._engine[0] = tree_counters(pid, self._watch.proc)
        self._harness_ns[0] = time.process_time_ns()
        self._start = self._watch.snapshot()

    def after_request(self) -> None:
        if self._watch.gpu is not None:
            self._gpu.append(self._watch.gpu.clocks())

    def end(self, pid: int) -> None:
        self._end = self._watch.snapshot()
        if pid != os.getpid():  # else our own time is the engine's already
            self._harness_ns[1] = time.process_time_ns() - self._harness_ns[0]
        self._engine[1] = tree_counters(pid, self._watch.proc)

    @property
    def noise(self) -> LaunchNoise:
        finished = self._end is not None
        return LaunchNoise(
            before=self._before,
            start=self._start,
            end=self._end,
            engine_start=self._engine[0],
            engine_end=self._engine[1],
            harness_cpu_ns=self._harness_ns[1] if finished else None,
            gpu_after_requests=self._gpu,
            gpu_wait_ns=self._settled.wait_ns if self._settled else None,
            gpu_settled=self._settled.settled if self._settled else None,
        )
