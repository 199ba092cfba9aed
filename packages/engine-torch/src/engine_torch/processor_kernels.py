"""nf4.cpp as torch operators: compiled for this processor when nf4 is first loaded, kept beside inductor's code.

torch has no NF4 product of its own, and inductor compiles the look-up of a level into one load for each weight. The
`engine_torch` operators are opaque to the compiler; the graph goes on around them.
"""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from pathlib import Path

import torch
from enginebench_models.making import making
from enginebench_protocol.errors import EngineFailure
from torch import Tensor

SOURCE = Path(__file__).with_name("nf4.cpp")
CPUINFO = Path("/proc/cpuinfo")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC")
OPERATORS = torch.library.Library("engine_torch", "DEF")
OPERATORS.define("nf4_row(Tensor x, Tensor packed, Tensor peaks, Tensor levels) -> Tensor")
OPERATORS.define("nf4_widen(Tensor packed, Tensor peaks, Tensor levels) -> Tensor")


def build(cache: Path) -> None:
    """Make the operators work in this process. Raises EngineFailure where nothing can compile them."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise EngineFailure("compile", "nf4 needs a C++ compiler on the CPU, there is none on PATH", "install g++")
    register(ctypes.CDLL(str(compiled(compiler, cache))))


def compiled(compiler: str, cache: Path) -> Path:
    """A library for this source, compiler and processor."""
    version = subprocess.run([compiler, "--version"], capture_output=True, check=True).stdout
    facts = [SOURCE.read_bytes(), version, " ".join(FLAGS).encode(), instructions()]
    path = cache / f"nf4-{hashlib.sha256(b'|'.join(facts)).hexdigest()[:16]}.so"
    if path.exists():
        return path
    with making(path) as folder:
        fresh = folder / path.name
        command = [compiler, *FLAGS, str(SOURCE), "-o", str(fresh)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise EngineFailure("compile", f"{compiler} does not compile {SOURCE.name}", detail=done.stderr[-2000:])
        return fresh.replace(path)


def instructions() -> bytes:
    """What `-march=native` may use: a cache folder may be shared by processors of one family that differ in some."""
    lines = CPUINFO.read_bytes().splitlines()
    return next((line for line in lines if line.startswith((b"flags", b"Features"))), b"")


def register(library: ctypes.CDLL) -> None:
    pointer, count = ctypes.c_void_p, ctypes.c_long
    row, widen = library.nf4_row, library.nf4_widen
    row.argtypes, row.restype = (*[pointer] * 5, count, count), None
    widen.argtypes, widen.restype = (*[pointer] * 4, count), None

    def nf4_row(x: Tensor, packed: Tensor, peaks: Tensor, levels: Tensor) -> Tensor:
        """x float32 [in] → float32 [out]"""
        y = x.new_empty(packed.shape[0])
        row(packed.data_ptr(), peaks.data_ptr(), levels.data_ptr(), x.data_ptr(), y.data_ptr(), len(y), len(x))
        return y

    def nf4_widen(packed: Tensor, peaks: Tensor, levels: Tensor) -> Tensor:
        """→ float32 [rows, in]"""
        y = levels.new_empty(packed.shape[0], 64 * packed.shape[1])
        widen(packed.data_ptr(), peaks.data_ptr(), levels.data_ptr(), y.data_ptr(), peaks.numel())
        return y

    OPERATORS.impl("nf4_row", nf4_row, "CPU", allow_override=True)
    OPERATORS.impl("nf4_widen", nf4_widen, "CPU", allow_override=True)


@torch.library.register_fake("engine_torch::nf4_row")
def _(x: Tensor, packed: Tensor, peaks: Tensor, levels: Tensor) -> Tensor:
    return x.new_empty(packed.shape[0])


@torch.library.register_fake("engine_torch::nf4_widen")
def _(packed: Tensor, peaks: Tensor, levels: Tensor) -> Tensor:
    return levels.new_empty(packed.shape[0], 64 * packed.shape[1])
