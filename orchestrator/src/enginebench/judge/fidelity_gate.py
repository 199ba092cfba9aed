"""Is the logits file of a launch the right answer? Compares it with the float32 reference and records the verdict.

A file that is missing, altered or of another shape is a failed gate with its reason, not an error of ours: the
distances are then NaN, which JSON keeps as null.
"""

from __future__ import annotations

import hashlib
import math
import stat
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
from enginebench_models.checkpoint import Checkpoint
from enginebench_models.fidelity import compare, gate
from enginebench_models.quantisation import KINDS
from enginebench_models.reference_cache import reference_logits

from enginebench.store.record import FidelityReading

from .impact import impact
from .reference_weights import Source

Logits = npt.NDArray[np.float32]
HEADER_BYTES = 4096
"""More than the header of any .npy file of one matrix."""


class BadLogits(Exception):
    """The file is not the matrix that the engine announced."""


def judge(
    checkpoint: Checkpoint,
    probe: Sequence[int],
    n_prefill: int,
    logits: Path,
    sha256: str,
    n_rows: int,
    precision: str,
    reference_folder: Path | None = None,
    top_logprobs: int = 0,
    made: Source | None = None,
) -> FidelityReading:
    """Never raises for an engine's fault.

    `made`: weights that the engine made of `checkpoint` and computes with; the gate then asks for those.
    `logits`: float32 [len(probe) - n_prefill + 1, vocab], row 0 after the prefill, the others after each decoded token.
    """
    expected_rows = len(probe) - n_prefill + 1
    try:
        if n_rows != expected_rows:
            raise BadLogits(f"the engine announced {n_rows} rows of logits, {expected_rows} were asked for")
        candidate = read_logits(logits, sha256, (expected_rows, checkpoint.config.vocab_size))
    except BadLogits as error:
        return unjudged(str(error), precision)
    reference = reference_logits(made or checkpoint, probe, n_prefill, reference_folder, precision)
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity are judged, not warned of
        distance = compare(reference, candidate, top_logprobs)
    verdict, quantising = gate(distance, precision), None
    if made is not None or precision in KINDS:
        original = reference_logits(checkpoint, probe, n_prefill, reference_folder)
        quantising = impact(original, candidate, probe[n_prefill:], top_logprobs)
    return FidelityReading(
        passed=verdict.passed,
        reasons=list(verdict.reasons),
        precision=precision,
        **asdict(distance),
        impact=quantising,
    )


def read_logits(path: Path, sha256: str, shape: tuple[int, int]) -> Logits:
    """The matrix, memory-mapped. Raises BadLogits unless hash, type and shape are those announced."""
    try:
        # Before it is opened: a pipe or a device would be read for ever, and so would a file of holes.
        kind = path.stat()
        if not stat.S_ISREG(kind.st_mode):
            raise BadLogits("what the engine names as its logits is not a file")
        if kind.st_size > 4 * math.prod(shape) + HEADER_BYTES:
            raise BadLogits(f"the logits file holds {kind.st_size} bytes instead of float32 {list(shape)}")
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise BadLogits(f"the logits file has sha256 {found[:12]}, the engine announced {sha256[:12]}")
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise BadLogits(f"the logits file cannot be read: {type(error).__name__}") from None
    if not isinstance(matrix, np.ndarray) or matrix.dtype != np.float32 or matrix.shape != shape:
        what = f"{matrix.dtype} {list(matrix.shape)}" if isinstance(matrix, np.ndarray) else "an archive"
        raise BadLogits(f"the logits file holds {what} instead of float32 {list(shape)}")
    return matrix


def unjudged(reason: str, precision: str) -> FidelityReading:
    """A failed gate without distances."""
    return FidelityReading(
        passed=False,
        reasons=[reason],
        precision=precision,
        n_positions=0,
        mean_kld=math.nan,
        max_kld=math.nan,
        top1=math.nan,
        max_abs_logit=math.nan,
    )
