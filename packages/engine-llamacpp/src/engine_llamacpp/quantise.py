"""A quantised GGUF file, made once from a 16-bit one by llama.cpp's own quantiser, without calibration data.

Kept in the engine's cache under what it was made from, its kind and the version of the library: the next load finds it.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import llama_cpp
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.disk import check_room, exclusive
from enginebench_models.storage import GGML
from llama_cpp import llama_cpp as native

from .library import log
from .model import Refused

KINDS = {
    "q8_0": native.LLAMA_FTYPE_MOSTLY_Q8_0,
    "q4_0": native.LLAMA_FTYPE_MOSTLY_Q4_0,
    "q4_k_m": native.LLAMA_FTYPE_MOSTLY_Q4_K_M,
}
LARGEST = {"q8_0": "q8_0", "q4_0": "q6_k", "q4_k_m": "q6_k"}
"""The largest type that a matrix gets: tables and heads of 4-bit files are q6_k (llama-quant.cpp)."""
HEADER_BYTES = 32 << 20
ROWS_BYTES = 256 << 20
"""Of float32 rows that are held at once; llama.cpp's own choice would be 8 GiB."""
TENSOR_DONE = re.compile(r"^\[ *(\d+)/ *(\d+)\]")


def quantised(
    file: Path, checkpoint: Checkpoint, kind: str, cache: Path, threads: int, progress: Callable[[float], None]
) -> tuple[Path, bool]:
    """The file, and whether it had to be made. Raises UnsupportedModel, NoRoom, Refused, OSError."""
    checkpoint.check_unquantised()
    folder = cache / "quantised"
    path = folder / f"{checkpoint.fingerprint[:40]}-{kind}-{llama_cpp.__version__}.gguf"
    with exclusive(folder / "lock"):
        if path.exists():
            return path, False
        part = folder / "being-made.gguf"
        part.unlink(missing_ok=True)  # one at a time: a killed process left it, and it takes room
        check_room(f"A {kind} copy of {file.name}", largest_bytes(checkpoint, kind), folder)
        make(file, part, KINDS[kind], threads, progress)
        part.replace(path)
    return path, True


def largest_bytes(checkpoint: Checkpoint, kind: str) -> int:
    storage = next(storage for storage in GGML.values() if storage.name == LARGEST[kind])
    return HEADER_BYTES + checkpoint.config.weight_elements() * storage.block_bytes // storage.block


def make(file: Path, target: Path, ftype: int, threads: int, progress: Callable[[float], None]) -> None:
    """Raises Refused."""
    parameters = native.llama_model_quantize_default_params()
    parameters.ftype, parameters.nthread, parameters.max_buf_size = ftype, threads, ROWS_BYTES

    def told(line: str) -> None:
        if counted := TENSOR_DONE.match(line):
            progress(int(counted[1]) / int(counted[2]))

    log().clear()
    with log().listener(told):
        code = native.llama_model_quantize(str(file).encode(), str(target).encode(), ctypes.byref(parameters))
    if code:
        target.unlink(missing_ok=True)
        raise Refused(f"quantising ended with {code}: {log().complaints()}")
