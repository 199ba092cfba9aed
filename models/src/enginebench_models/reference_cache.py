"""Reference logits, computed once for a model and a probe and kept on disk: they depend on nothing else."""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from enginebench_models.checkpoint import Checkpoint
from enginebench_models.reference import Reference
from enginebench_models.storage import Floats

REVISION = 1
"""Raised with every change of reference.py that changes a logit."""


def reference_logits(
    checkpoint: Checkpoint, tokens: Sequence[int], n_prefill: int, folder: Path | None = None
) -> Floats:
    """Logits after tokens[:n_prefill] and after each later token: float32 [len(tokens) - n_prefill + 1, vocab]."""
    folder = folder or _default_folder()
    name = hashlib.sha256(f"{REVISION}:{checkpoint.fingerprint}:{n_prefill}:{list(tokens)}".encode()).hexdigest()
    path = folder / f"{name[:32]}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write(path, Reference(checkpoint).logits(tokens, range(n_prefill - 1, len(tokens))))
    kept: Floats = np.load(path, mmap_mode="r", allow_pickle=False)
    return kept


def _default_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enginebench" / "reference"


def _write(path: Path, logits: Floats) -> None:
    """Through a temporary name: a reader never finds half a file."""
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".npy", delete=False) as file:
        np.save(file, logits)
    Path(file.name).replace(path)
