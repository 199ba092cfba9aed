"""The models of a run: located or made, opened, and checked against what will be asked of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.detect import TYPES, check_model_type
from enginebench_models.errors import ModelError, ModelTypeMismatch
from enginebench_models.store import LocatedModel, made, place
from enginebench_models.validation import refuse_hostile
from enginebench_protocol.host import cache_folder

from enginebench.errors import UsageError, unknown
from enginebench.machine.nvml import gpu_memories
from enginebench.plan.fit import Demand, Memory, check_fits


@dataclass(frozen=True)
class Model:
    """Where it is and what it is."""

    source: str
    located: LocatedModel
    checkpoint: Checkpoint

    @property
    def name(self) -> str:
        return self.located.name

    @property
    def facts(self) -> dict[str, Any]:
        config = self.checkpoint.config
        return {
            "name": self.name,
            "source": self.source,
            "weights": self.located.weights,
            "fingerprint": self.checkpoint.fingerprint,
            "format": self.checkpoint.format,
            "file_bytes": self.checkpoint.file_bytes,
            "shape": {name: getattr(config, name) for name in _SHAPE},
        }


_SHAPE = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size", "tied_embeddings")


def find_models(sources: Sequence[str], weights: str, model_type: str | None, demand: Demand) -> dict[str, Model]:
    """By name; all are checked before the first is made. Raises UsageError."""
    located = located_models(sources, weights, model_type, demand)
    return {each.name: _opened(source, each) for source, each in zip(sources, located.values(), strict=True)}


def located_models(
    sources: Sequence[str], weights: str, model_type: str | None, demand: Demand
) -> dict[str, LocatedModel]:
    """By name, checked as far as that goes without making any. Raises UsageError if two have the same name."""
    found, of = dict[str, LocatedModel](), dict[str, str]()
    for source in sources:
        located = located_model(source, weights, model_type, demand)
        if located.name in found:
            raise UsageError(f"{source} and {of[located.name]} are both called {located.name}: rename one of them")
        found[located.name], of[located.name] = located, source
    return found


def find_model(source: str, weights: str, model_type: str | None, demand: Demand) -> Model:
    """Check the model, and make it if it is a synthetic one. Raises UsageError with the remedy."""
    return _opened(source, located_model(source, weights, model_type, demand))


def located_model(source: str, weights: str, model_type: str | None, demand: Demand) -> LocatedModel:
    """Where it is, or where a synthetic one will be. Raises UsageError for one that cannot be run as asked."""
    if model_type not in (None, *TYPES):
        raise unknown("model type", str(model_type), TYPES)
    try:
        refuse_hostile(Path(source))
        if model_type is not None and Path(source).exists():
            check_model_type(Path(source), model_type)
        found = place(source, weights, cache_folder() / "models")
        if found.path.exists() and found.path != Path(source):
            refuse_hostile(found.path)
        if model_type is not None:
            _check_type(found, model_type)
        file_bytes = open_checkpoint(found.path).file_bytes if found.path.exists() else None
    except ModelError as error:
        raise UsageError(str(error)) from None
    check_fits(found.name, found.config, demand, file_bytes)
    return found


def _opened(source: str, found: LocatedModel) -> Model:
    """What was made just now is checked as everything else was before."""
    is_new = not found.path.exists()
    try:
        made(found)
        if is_new:
            refuse_hostile(found.path)
        return Model(source, found, open_checkpoint(found.path))
    except ModelError as error:
        raise UsageError(str(error)) from None


def memory_here(device: str) -> Memory:
    """All that this machine has."""
    return Memory(psutil.virtual_memory().total, gpu_memories() if device == "cuda" else ())


def _check_type(found: LocatedModel, expected: str) -> None:
    """Of a model that is not made yet: all that can be made are LLaMA models."""
    if found.path.exists():
        check_model_type(found.path, expected)
    elif expected != "llama":
        raise ModelTypeMismatch(expected, "llama", found.path)


def free_here(device: str) -> Memory:
    """What is free of it now; of a GPU all, which an engine finds out."""
    return Memory(psutil.virtual_memory().available, gpu_memories() if device == "cuda" else ())
