"""What keeps a case from running on this machine: its engine's table, the model's format, the memory.

`demand` is of all that was chosen together, before a model is made; `cannot_run` of one case, once the model is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from enginebench_models.checkpoint import Checkpoint

from enginebench.plan.fit import Demand, least_bytes, shortage
from enginebench.plan.sharding import DOES_NOT_SHARD
from enginebench.store.record import Case, Workload
from enginebench.workspace.discovery import EngineInfo, unavailable_reason

from .model import free_here, memory_here


def demand(
    chosen: Sequence[tuple[EngineInfo, str]],
    workloads: tuple[Workload, ...],
    device: str,
    shards: int,
    options: Mapping[str, Mapping[str, str]],
) -> Demand:
    """Of what can run here, as far as the engines' tables tell: of instruments only where nothing else can."""
    able = [
        (info, name) for info, name in chosen if not unavailable_reason(info, name, device, options.get(info.name, {}))
    ]
    others = [pair for pair in able if pair[0].role != "instrument"] or able
    precisions = dict.fromkeys(info.configurations[name].precision for info, name in others)
    return Demand(workloads, tuple(precisions), shards, memory_here(device).room(device, shards))


def cannot_run(
    info: EngineInfo, case: Case, checkpoint: Checkpoint, device: str, options: Mapping[str, str]
) -> str | None:
    """The reason; None if nothing speaks against it. An engine that tests the suite holds no model."""
    reason = unavailable_reason(info, case.configuration, device, options)
    if reason is None and case.shards > 1 and not info.shards:
        reason = DOES_NOT_SHARD
    if reason is not None or info.role == "test":
        return reason
    if checkpoint.format not in info.formats:
        return f"reads {' and '.join(info.formats)} files, this model is {checkpoint.format}"
    return _lacks_memory(info, case, checkpoint, device)


def _lacks_memory(info: EngineInfo, case: Case, checkpoint: Checkpoint, device: str) -> str | None:
    precision, shards = info.configurations[case.configuration].precision, case.shards
    room = free_here(device).room(device, shards)
    needed = least_bytes(
        checkpoint.config, precision, [case.workload], shards, checkpoint.file_bytes, info.whole_on_each
    )
    return None if room is None or needed <= room else shortage(precision, needed, room, shards)
