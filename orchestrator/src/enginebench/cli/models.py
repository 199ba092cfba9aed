"""`enginebench models`: which models have a name, what of them is on the disk, and what fits this machine."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Annotated

import psutil
import typer
from enginebench_models import catalogue
from enginebench_models.catalogue import Entry
from enginebench_models.inventory import Held, inventory
from enginebench_protocol.host import cache_folder

from enginebench.errors import UsageError
from enginebench.machine.nvml import gpu_memories
from enginebench.plan import plan as planning
from enginebench.plan.fit import PRECISIONS, Memory, exceeds_context, need, verdict
from enginebench.plan.workload import workloads
from enginebench.report.formats import Output, Sheet
from enginebench.report.models import Standing, catalogue_sheet, data_row, fit_sheet, heading
from enginebench.store.record import Workload
from enginebench.workspace.discovery import discover

from .group import NamingGroup, with_debug
from .options import OutputOption, print_sheet
from .pull import pull, remove

DEFAULT_WORKLOAD = planning.preset("quick").workload.name

models = typer.Typer(cls=NamingGroup)
models.command()(with_debug(pull))
models.command()(with_debug(remove))


@models.callback(invoke_without_command=True)
def listing(
    context: typer.Context,
    workload: Annotated[str, typer.Option("--workload", "-w", help="what the cache must hold")] = DEFAULT_WORKLOAD,
    shard: Annotated[int, typer.Option(min=1, help="devices that share a model")] = 1,
    output: OutputOption = Output.table,
) -> None:
    """List the models that have a name, what is on the disk, and what fits this machine."""
    if context.invoked_subcommand:
        return
    chosen = _one_workload(workload)
    memory = Memory(psutil.virtual_memory().total, gpu_memories())
    whole = {part for info in discover().values() for part in info.whole_on_each}
    stock = inventory(cache_folder() / "models")
    found = [standing(entry, chosen, shard, memory, whole, stock) for entry in catalogue.entries().values()]
    if output is Output.json:
        print(json.dumps({"models": [data_row(model) for model in found]}, indent=2))
    elif output is Output.table:
        print_sheet(catalogue_sheet(found), output)
        print(heading(memory, chosen.name, shard))
        print_sheet(fit_sheet(found), output)
    else:
        print_sheet(Sheet.of("models", [data_row(model) for model in found]), output)


def standing(
    entry: Entry,
    workload: Workload,
    shards: int,
    memory: Memory,
    whole: Collection[str] = (),
    stock: Collection[Held] = (),
) -> Standing:
    """Ranks on a processor share its memory; GPUs have one each. `whole`: what some engine does not divide; `stock`:
    what is on the disk."""
    needs = {name: need(entry.config, name, workload, shards, whole).total_bytes for name in PRECISIONS}
    held = {each.kind: each for each in stock if each.name == entry.name}
    host = verdict({name: needed * shards for name, needed in needs.items()}, memory.host_bytes)
    device = _on_devices(needs, shards, memory)
    if too_long := exceeds_context(entry.config, workload):
        host, device = too_long, device and too_long
    return Standing(entry, workload.name, shards, held, needs, host, device)


def _on_devices(needs: dict[str, int], shards: int, memory: Memory) -> str | None:
    gpus = memory.devices_bytes
    if gpus and shards > len(gpus):
        return f"does not fit: {shards} GPUs asked for, this machine has {len(gpus)}"
    return verdict(needs, min(gpus[:shards])) if gpus else None


def _one_workload(text: str) -> Workload:
    chosen, *others = workloads([text])
    if others:
        raise UsageError(f"--workload {text} stands for {len(others) + 1}: give one, like {DEFAULT_WORKLOAD}")
    return chosen
