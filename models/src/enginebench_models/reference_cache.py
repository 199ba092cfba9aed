"""Reference logits, computed once for a model and a probe and kept on disk: they depend on nothing else."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

import numpy as np

from enginebench_models.greedy import Choices, choices
from enginebench_models.making import whole
from enginebench_models.quantisation import KINDS, QuantisedWeights
from enginebench_models.reference import Reference, Weights
from enginebench_models.storage import Floats

REVISION = 1
"""Raised with every change of reference.py that changes a logit."""


class Identified(Weights, Protocol):
    """Weights and what tells them from others: a checkpoint, or the file that an engine made of one."""

    @property
    def fingerprint(self) -> str: ...


def reference_logits(
    checkpoint: Identified, tokens: Sequence[int], n_prefill: int, folder: Path | None = None, precision: str = ""
) -> Floats:
    """Logits after tokens[:n_prefill] and after each later token: float32 [len(tokens) - n_prefill + 1, vocab].

    Of the weights as they are stored; where the engine's `precision` is a kind of quantisation.py, of what it makes.
    """
    folder = folder or default_folder()
    kind = precision if precision in KINDS else ""
    facts = f"{REVISION}:{checkpoint.fingerprint}:{n_prefill}:{list(tokens)}{kind and f':{kind}'}"
    name = hashlib.sha256(facts.encode()).hexdigest()
    path = folder / f"{name[:32]}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        weights = QuantisedWeights(checkpoint, kind) if kind else checkpoint
        logits = Reference(weights).logits(tokens, range(n_prefill - 1, len(tokens)))
        with whole(path) as file:
            np.save(file, logits)
    kept: Floats = np.load(path, mmap_mode="r", allow_pickle=False)
    return kept


def reference_choices(
    checkpoint: Identified,
    prompt: Sequence[int],
    ids: Sequence[int],
    folder: Path | None = None,
    precision: str = "",
) -> Choices:
    """How the reference ranks each of `ids` after `prompt` and those before it. Kept as numbers, not as logits."""
    folder = folder or default_folder()
    kind = precision if precision in KINDS else ""
    key = f"{REVISION}:{checkpoint.fingerprint}:choices:{len(prompt)}:{[*prompt, *ids]}:{kind}"
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    if path.exists():
        kept = json.loads(path.read_text())
        return Choices(tuple(kept["margins"]), tuple(kept["ranks"]))
    course = [*prompt, *ids[:-1]]
    weights = QuantisedWeights(checkpoint, kind) if kind else checkpoint
    found = choices(Reference(weights).logits(course, range(len(prompt) - 1, len(course))), ids)
    with whole(path) as file:
        file.write(json.dumps(asdict(found)).encode())
    return found


def default_folder() -> Path:
    """Where what was computed once is kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enginebench" / "reference"
