"""`enginebench run --dry-run`: the product of what was asked for, and about how long it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby

from enginebench_models.config import LlamaConfig

from enginebench.counted import counted
from enginebench.plan.plan import Plan, rough_request_seconds, rough_seconds
from enginebench.store.record import Case, Workload
from enginebench.workspace.discovery import EngineInfo, unavailable_reason


def print_plan(plan: Plan, configs: Mapping[str, LlamaConfig], device: str) -> None:
    """Pure of measurements: what a request takes is a guess from the size of the model."""
    preset = plan.preset
    print(f"preset {preset.name}: one check launch per case, then")
    print(f"{counted(preset.launches, 'launch')} x ({preset.warmup} warm-up + {preset.iterations} measured) requests")
    if preset.stopping:
        print(f"up to {preset.stopping.most} launches, until ratios are known to ±{preset.stopping.half_width:.1%}")
    if preset.cold_launches:
        print(f"{counted(preset.cold_launches, 'disk-cold launch')} x {counted(preset.warmup + 1, 'request')}")
    for (model, workload), cases in groupby(plan.cases, key=_work):
        seconds = rough_request_seconds(workload, configs[model], device)
        print(
            f"{model}  {workload.name}: a request of {workload.n_sent} + {workload.n_gen} tokens, about {seconds:.1f} s"
        )
        for case in cases:
            print(f"  {case.label}")
    print(f"{_factors(plan)}, {len(plan.cases) * (1 + preset.launches + preset.cold_launches)} launches")
    minutes = rough_seconds(plan, configs, device) / 60
    print(f"about {minutes:.0f} min after set-up, if the machine is as fast as assumed; a run measures its own pilot")


def able_here(
    chosen: Sequence[tuple[EngineInfo, str]], device: str, options: Mapping[str, Mapping[str, str]]
) -> tuple[list[tuple[EngineInfo, str]], dict[str, str]]:
    """What can run on this machine, as far as its table tells; and why the others cannot."""
    reasons = {
        f"{info.name}:{name}": reason
        for info, name in chosen
        if (reason := unavailable_reason(info, name, device, options.get(info.name, {}))) is not None
    }
    return [(info, name) for info, name in chosen if f"{info.name}:{name}" not in reasons], reasons


def _work(case: Case) -> tuple[str, Workload]:
    return case.model, case.workload


def _factors(plan: Plan) -> str:
    """The product, spelled out."""
    kinds: dict[str, set[object]] = {
        "model": {case.model for case in plan.cases},
        "workload": {case.workload.name for case in plan.cases},
        "configuration": {(case.engine, case.configuration) for case in plan.cases},
        "thread count": {case.threads for case in plan.cases},
    }
    factors = [counted(len(found), name) for name, found in kinds.items()]
    return f"{' x '.join(factors)} = {counted(len(plan.cases), 'case')}"
