"""The few facts about this machine that a command needs for its defaults."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def default_device() -> str:
    """ "cuda" where the NVIDIA driver is loaded, else "cpu"."""
    return "cuda" if Path("/proc/driver/nvidia/version").exists() else "cpu"


def default_threads() -> int:
    """The processors this process may run on."""
    return len(os.sched_getaffinity(0))


def cache_folder() -> Path:
    """Where models and compiled kernels are kept between runs (XDG base directory specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "enginebench"


def installed_versions(*packages: str) -> dict[str, str]:
    """Python's, and that of each package; one that a vendor's interpreter has under another name is left out."""
    found = {"python": sys.version.split()[0]}
    for name in packages:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
