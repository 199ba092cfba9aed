"""Memory of a GPU as seen from outside while one engine runs: by process, and as the device's growth over its baseline.

Two readings, since each fails somewhere: a container without the host's process ids, or a MIG slice, shows no process;
the device's growth is the engine's only while nobody else uses the GPU (`machine.gates` sees to that). Both hold what
the driver itself takes for the engine's context, which no allocator of the engine knows of.
"""

from __future__ import annotations

import threading

from .memory import process_tree
from .nvml import DeviceMemory, NvmlGpu
from .sampling import Sampler

INTERVAL_SECONDS = 0.015
NO_PROCESS = "NVML lists no process of the engine: a container without the host's process ids, or MIG"
NO_SIZE = "NVML does not tell what a process holds here"


class DeviceMemorySampler(Sampler):
    """Samples from entering to leaving the context. `baseline_bytes`: what was in use before the engine was started."""

    def __init__(self, gpu: NvmlGpu, pid: int, baseline_bytes: int) -> None:
        super().__init__(INTERVAL_SECONDS)
        self.baseline_bytes = baseline_bytes
        self.peak_growth_bytes: int | None = None
        self.peak_of_processes_bytes: int | None = None
        self._listed_without_size = False
        self._gpu, self._pid = gpu, pid
        self._lock = threading.Lock()

    @property
    def lack(self) -> str:
        """Why there is no reading by process."""
        return NO_SIZE if self._listed_without_size else NO_PROCESS

    def mark(self) -> int | None:
        """Take a sample now; the growth over the baseline, None where the driver does not tell."""
        with self._lock:
            memory = self._gpu.memory()
            if memory is None:
                return None
            growth = max(0, memory.used_bytes - self.baseline_bytes)
            self.peak_growth_bytes = max(self.peak_growth_bytes or 0, growth)
            self._keep_processes(memory)
            return growth

    def _keep_processes(self, memory: DeviceMemory) -> None:
        ours = set(process_tree(self._pid)) & set(memory.of_process)
        sizes = [memory.of_process[pid] for pid in ours]
        self._listed_without_size |= None in sizes
        if ours and None not in sizes:
            held = sum(size or 0 for size in sizes)
            self.peak_of_processes_bytes = max(self.peak_of_processes_bytes or 0, held)
