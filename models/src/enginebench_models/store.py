"""From what a user types to a model on disk: a path, or a catalogue name with real or synthetic weights.

Downloads nothing. Synthetic models are made once and kept under the cache folder; their name holds the recipe, so
that a changed recipe makes a new file.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from enginebench_models.catalogue import Entry, entries, entry
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.config import LlamaConfig
from enginebench_models.detect import refuse_other_types
from enginebench_models.errors import ModelNotFound
from enginebench_models.fidelity import compare, gate, probe_ids
from enginebench_models.inventory import synthetic_path
from enginebench_models.reference_cache import reference_logits
from enginebench_models.tokenizer import load_tokenizer


@dataclass(frozen=True)
class LocatedModel:
    """Where a model is. `weights`: "real" or "synthetic"; `note` says why, where that was a choice."""

    name: str
    path: Path
    weights: str
    config: LlamaConfig
    note: str = ""


def cache_root() -> Path:
    """XDG base directory specification."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "enginebench"


def locate(name_or_path: str, weights: str = "auto", cache: Path | None = None) -> LocatedModel:
    """As `place`, and made if it is not there."""
    return made(place(name_or_path, weights, cache))


def made(found: LocatedModel) -> LocatedModel:
    """With its file, where that is of a synthetic model and not there yet. Raises NoRoom, ModelNotFound."""
    if found.path.exists():
        return found
    if found.weights == "real":  # what is made would stand for it
        raise ModelNotFound(f"{found.path} was there a moment ago and is gone. See who removed it.", "no-such-path")
    from enginebench_models.synthesis import synthesise  # noqa: PLC0415 - gguf's writer takes as long as all here

    synthesise(found.config, found.path, "gguf", seed=0)
    return found


def place(name_or_path: str, weights: str = "auto", cache: Path | None = None) -> LocatedModel:
    """Where a model is. Nothing is made: a synthetic one may not be there yet, of which only the shape is known.

    `weights` is "auto", "real" or "synthetic"; auto takes real files where there are any.
    Raises ModelNotFound with what there is, or with what to do.
    """
    cache = cache or cache_root() / "models"
    path = Path(name_or_path).expanduser()
    if name_or_path not in entries() and (path.exists() or _looks_like_a_path(name_or_path)):
        return at_path(path)
    found = entry(name_or_path)
    real = cache / found.name
    if weights != "synthetic" and real.exists():
        return LocatedModel(found.name, real, "real", found.config)
    if weights == "real":
        raise ModelNotFound(
            f"The weights of {found.name} are not on this machine: {_where_from(found)}, give a path to them, or use "
            "--weights synthetic."
        )
    note = "as asked for" if weights == "synthetic" else "no real weights on this machine"
    return LocatedModel(found.name, synthetic_path(cache, found.name), "synthetic", found.config, note)


def at_path(path: Path) -> LocatedModel:
    """A model given by its path; a file that synthesis.py made says so itself."""
    if path.exists():
        refuse_other_types(path)
    checkpoint = open_checkpoint(path)
    name = path.stem if path.is_file() else path.resolve().name
    return LocatedModel(name, path, "synthetic" if checkpoint.synthetic else "real", checkpoint.config)


def _looks_like_a_path(text: str) -> bool:
    return os.sep in text or text.startswith((".", "~")) or text.endswith((".gguf", ".safetensors"))


def _where_from(found: Entry) -> str:
    if not found.repository:
        return "it exists as a synthetic model only"
    return f"they are published as {found.repository}. Download them with `enginebench models pull {found.name}`"


class LocalModels:
    """What an engine's stand-alone commands need of this package (enginebench_protocol.standalone.Models)."""

    def locate(self, name_or_path: str, weights: str) -> tuple[Path, str, str]:
        located = locate(name_or_path, weights)
        return located.path, located.name, located.weights

    def encode(self, path: Path, text: str) -> list[int]:
        return load_tokenizer(open_checkpoint(path)).encode(text)

    def decode(self, path: Path, ids: Sequence[int]) -> str:
        return load_tokenizer(open_checkpoint(path)).decode(list(ids))

    def probe(self, path: Path, n_prefill: int, n_decode: int) -> list[int]:
        return probe_ids(open_checkpoint(path).config.vocab_size, n_prefill + n_decode)

    def compare(
        self,
        path: Path,
        tokens: Sequence[int],
        n_prefill: int,
        logits_npy_path: Path,
        precision: str,
        top_logprobs: int = 0,
    ) -> dict[str, Any]:
        checkpoint: Checkpoint = open_checkpoint(path)
        logits = np.load(logits_npy_path, allow_pickle=False)
        distance = compare(reference_logits(checkpoint, tokens, n_prefill, precision=precision), logits, top_logprobs)
        verdict = gate(distance, precision)
        return {"passed": verdict.passed, "reasons": list(verdict.reasons), "precision": precision} | asdict(distance)
