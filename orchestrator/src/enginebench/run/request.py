"""What the user asked for, and which cases follow from it. It stands in the journal, so that a run can go on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from enginebench.errors import UsageError
from enginebench.machine.devices import check_device, device_count
from enginebench.plan.fit import Demand
from enginebench.plan.plan import Plan, Preset
from enginebench.plan.sharding import check_devices, sharded
from enginebench.plan.sweep import cases
from enginebench.store.anonymous import without_login
from enginebench.store.manifest import without_folders
from enginebench.store.record import Workload
from enginebench.workspace import discovery
from enginebench.workspace.discovery import EngineInfo
from enginebench.workspace.selection import Selection, selected

from .admission import demand


@dataclass(frozen=True)
class RunRequest:
    """What the user asked for, checked for form only."""

    names: tuple[str, ...]
    preset: Preset
    workloads: tuple[Workload, ...]
    device: str
    threads: int
    seed: int
    results: Path
    silence_seconds: float
    models: tuple[str, ...]
    """As they were typed."""
    weights: str = "auto"
    model_type: str | None = None
    options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Engine → settings that only it has."""
    overrides: Mapping[str, Path] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    """The words that were typed, for the manifest."""
    thread_counts: tuple[int, ...] = ()
    """Swept, if there are several; each is then part of a case."""
    precisions: tuple[str, ...] = ()
    """Only configurations of these; empty: all."""
    shards: int = 1
    """Devices, or ranks on one processor, that share each model."""
    fair: bool = True
    """Compare within one precision class; False: each engine as it comes out of the box."""
    quantisations: tuple[str, ...] = ()
    without: tuple[tuple[str, str], ...] = ()
    """As in `workspace.selection`."""
    energy: bool = False
    """Make an energy launch of each case, where anything counts energy."""
    profile: bool = False
    """Make a profile launch of each case whose engine has a profiler."""
    debug: bool = False
    """Show what passes between us and the engines, and what they write to stderr."""


def journalled(request: RunRequest) -> dict[str, Any]:
    """In JSON's own types, without where results are kept, for a folder of runs may be moved, and without logins."""
    options = {engine: {n: without_login(v) for n, v in own.items()} for engine, own in request.options.items()}
    kept = replace(request, command=tuple(map(without_folders, request.command)), options=options)
    facts: dict[str, Any] = msgspec.to_builtins(kept, enc_hook=str)
    del facts["results"], facts["debug"]
    return {**facts, "login_left_out": options != request.options}


def from_journal(facts: Mapping[str, Any], results: Path, debug: bool) -> RunRequest:
    """Raises UsageError for what another version has written, and where a login would be needed."""
    whole = {**facts, "results": results, "debug": debug}
    if whole.pop("login_left_out", False):
        raise UsageError("an option of this run held a login, which is kept nowhere: run it again")
    try:
        return msgspec.convert(whole, RunRequest, dec_hook=lambda kind, value: kind(value))
    except msgspec.ValidationError as error:
        raise UsageError(f"what was asked of this run cannot be read ({error}): run it again") from None


def choose(request: RunRequest) -> list[tuple[EngineInfo, str]]:
    """The engines and configurations asked for. Raises UsageError on a name that does not exist, or a missing GPU."""
    check_device(request.device)
    check_devices(request.shards, request.device, device_count(request.device))
    wish = Selection(request.names, request.fair, request.quantisations, request.without)
    chosen = selected(wish, discovery.discover())
    if not request.precisions:
        return chosen
    kept = [(i, c) for i, c in chosen if i.role != "engine" or i.configurations[c].precision in request.precisions]
    if all(info.role == "instrument" for info, _ in kept):
        raise UsageError(f"no configuration that was asked for computes in {' or '.join(request.precisions)}")
    return kept


def demand_of(request: RunRequest, chosen: list[tuple[EngineInfo, str]]) -> Demand:
    return demand(chosen, request.workloads, request.device, request.shards, request.options)


def plan_of(request: RunRequest, chosen: list[tuple[EngineInfo, str]], models: Collection[str]) -> Plan:
    names = [(info.name, configuration) for info, configuration in chosen]
    product = cases(names, list(models), request.workloads, request.thread_counts)
    instruments = {info.name for info, _ in chosen if info.role == "instrument"}
    return Plan(request.preset, sharded(product, request.shards, instruments), request.seed)


def workload_facts(workload: Workload) -> dict[str, Any]:
    return {
        "name": workload.name,
        "n_prompt": workload.n_prompt,
        "n_gen": workload.n_gen,
        "n_depth": workload.n_depth,
        "batch_size": workload.batch_size,
        "n_ctx": workload.n_ctx,
    }
