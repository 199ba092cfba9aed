"""The models that have a name as rows: what is on the disk, and what fits this machine's memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from enginebench_models.catalogue import Entry
from enginebench_models.inventory import Held

from enginebench.plan.fit import PRECISIONS, Memory

from .formats import Cell, Sheet

KINDS = ("real", "synthetic", "unfinished")


@dataclass(frozen=True)
class Standing:
    """One model here. `held` by kind; `needs`: bytes on one device by precision; `device` is None without a GPU."""

    entry: Entry
    workload: str
    shards: int
    held: Mapping[str, Held]
    needs: Mapping[str, int]
    host: str
    device: str | None


def data_row(model: Standing) -> dict[str, Cell]:
    """Every fact, nothing rounded."""
    config = model.entry.config
    row: dict[str, Cell] = {
        "name": model.entry.name,
        "description": model.entry.description,
        "parameters": config.weight_elements(),
        "bytes_16_bit": 2 * config.weight_elements(),
        "max_context": config.max_context,
        "licence": model.entry.licence,
        "repository": model.entry.repository,
        "revision": model.entry.revision,
    }
    for kind in KINDS:
        held = model.held.get(kind)
        row |= {f"{kind}_bytes": held and held.size_bytes, f"{kind}_path": held and str(held.path)}
    row |= {"workload": model.workload, "shards": model.shards}
    row |= {f"needs_{name.replace('-', '_')}_bytes": model.needs[name] for name in PRECISIONS}
    return {**row, "host": model.host, "device": model.device}


def catalogue_sheet(models: Sequence[Standing]) -> Sheet:
    rows = [
        {
            "name": model.entry.name,
            "weights": count(model.entry.config.weight_elements()),
            "context": model.entry.config.max_context,
            "on disk": ", ".join(f"{kind} {size(model.held[kind].size_bytes)}" for kind in KINDS if kind in model.held)
            or None,
            "what": model.entry.description,
        }
        for model in models
    ]
    return Sheet.of("models", rows)


def fit_sheet(models: Sequence[Standing]) -> Sheet:
    """Without a column for GPUs where there is none."""
    rows: list[dict[str, Cell]] = [
        {
            "name": model.entry.name,
            **{name: f"{model.needs[name] / 1e9:.1f}" for name in PRECISIONS},
            "in memory": model.host,
            **({} if model.device is None else {"on the GPU": model.device}),
        }
        for model in models
    ]
    return Sheet.of("fit", rows)


def heading(memory: Memory, workload: str, shards: int) -> str:
    """What the second table is about."""
    of_each = f" of each of {shards} devices" if shards > 1 else ""
    gpus = "".join(f", a GPU of {size(each)}" for each in memory.devices_bytes) or ", no GPU"
    return f"\nGB{of_each} for {workload}, of {size(memory.host_bytes)} of memory{gpus}:"


def count(elements: int) -> str:
    return f"{elements / 1e9:.2f} G" if elements >= 1e9 else f"{elements / 1e6:.1f} M"


def size(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB" if n_bytes >= 1e9 else f"{n_bytes / 1e6:.1f} MB"
