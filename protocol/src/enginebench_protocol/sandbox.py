"""What an engine's process gives up before the engine is imported: new privileges, core dumps, files that others read.

Nothing that a driver or a compiler needs: what is in force here costs no time and holds on every kernel.
"""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
_DRIVER, _MEMORY = Path("/proc/driver/nvidia/version"), Path("/dev/nvidia-uvm")


def enter() -> None:
    """For this process and all that it starts; it cannot be left."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if not needs_nvidia_modprobe(_DRIVER, _MEMORY):
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def needs_nvidia_modprobe(driver: Path, memory: Path) -> bool:
    """CUDA makes its device files at the first use after a boot, by a helper that runs as root: let it."""
    return driver.exists() and not memory.exists()
