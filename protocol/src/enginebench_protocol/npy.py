"""Write a float32 matrix as a .npy file (format 1.0, numpy.lib.format), without needing NumPy."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .engine import Logits


def write_matrix(path: Path, matrix: Logits) -> tuple[str, int]:
    """Returns the file's sha256 and the number of rows. Raises ValueError unless float32, C-contiguous, 2-D."""
    view = memoryview(matrix)
    if view.format != "f" or view.ndim != 2 or not view.c_contiguous or view.shape is None:
        raise ValueError(f"logits must be float32 [rows, vocab], C-contiguous; got {view.format} {view.shape}")
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({view.shape[0]}, {view.shape[1]}), }}"
    padded = header.ljust((10 + len(header) + 64) // 64 * 64 - 11) + "\n"
    prefix = b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded.encode("ascii")
    data = view.cast("B")
    with path.open("wb") as file:
        file.write(prefix)
        file.write(data)
    digest = hashlib.sha256(prefix)
    digest.update(data)
    return digest.hexdigest(), view.shape[0]
