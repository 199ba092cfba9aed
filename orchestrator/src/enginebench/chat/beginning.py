"""When this process began, on the clock that everything else is stamped with."""

from __future__ import annotations

import os
import time
from pathlib import Path


def process_began_ns(stat: Path = Path("/proc/self/stat")) -> int:
    """In terms of time.perf_counter_ns; the kernel keeps it in ticks of 10 ms since boot (proc(5), field 22)."""
    after_name = stat.read_text().rpartition(")")[2].split()
    since_boot_ns = int(after_name[19]) * 10**9 // os.sysconf("SC_CLK_TCK")
    return since_boot_ns - (time.clock_gettime_ns(time.CLOCK_BOOTTIME) - time.perf_counter_ns())
