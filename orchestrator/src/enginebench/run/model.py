"""The models of a run: located or made, opened, and checked against what will be asked of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from enginebench_models.checkpoint import Checkpoint, open_checkpoint
from enginebench_models.detect import check_model_type
from enginebench_models.errors import ModelError
from enginebench_models.store import LocatedModel, locate
from enginebench_models.validation import refuse_hostile
from enginebench_protocol.host import cache_folder

from enginebench.errors import UsageError
from enginebench.plan.plan import check_fits
from enginebench.store.record import Workload


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


def find_models(
    sources: Sequence[str], weights: str, model_type: str | None, workloads: Iterable[Workload]
) -> dict[str, Model]:
    """By name. Raises UsageError if two of them have the same one."""
    wanted, found = list(workloads), dict[str, Model]()
    for source in sources:
        model = find_model(source, weights, model_type, wanted)
        if model.name in found:
            raise UsageError(
                f"{source} and {found[model.name].source} are both called {model.name}: rename one of them"
            )
        found[model.name] = model
    return found


def find_model(source: str, weights: str, model_type: str | None, workloads: Iterable[Workload]) -> Model:
    """Locate (or synthesise) and check the model. Raises UsageError with the remedy."""
    try:
        refuse_hostile(Path(source))
        if model_type is not None and Path(source).exists():
            check_model_type(Path(source), model_type)
        located = locate(source, weights, cache_folder() / "models")
        if located.path != Path(source):
            refuse_hostile(located.path)
        if model_type is not None:
            check_model_type(located.path, model_type)
        checkpoint = open_checkpoint(located.path)
    except ModelError as error:
        raise UsageError(str(error)) from None
    for workload in workloads:
        check_fits(workload, checkpoint.config, checkpoint.file_bytes, psutil.virtual_memory().total)
    return Model(source, located, checkpoint)
