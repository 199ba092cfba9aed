"""The machine examined with no engine: its facts, its state now, and a short time in which this process is kept busy.

The busy process stands in for an engine: it shows whether threads are displaced, and what clock the work gets.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from .facts import read_environment
from .gates import Finding, findings, launch_view
from .noise import PROC, SYS
from .nvml import find_gpu
from .watch import LaunchWatch, Watch


def examine(seconds: float, proc: Path = PROC, sys: Path = SYS) -> list[Finding]:
    """What every gate sees. A GPU is only looked at: no work is put on it, so its clocks under load stay unread."""
    watch = LaunchWatch(Watch(find_gpu(), proc, sys))
    watch.start(os.getpid())
    keep_busy(seconds)
    watch.end(os.getpid())
    return findings(launch_view(watch.noise, read_environment(proc, sys)))


def keep_busy(seconds: float) -> None:
    """One thread, no system call in between but the clock's."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass
