"""What will be run, decided before anything is spawned: cases, presets, blocks, and how long it may take.

Pure: the same request gives the same plan. What the machine turns out to be able to do is `schedule`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace

from enginebench_models.config import LlamaConfig

from enginebench.errors import unknown
from enginebench.store.record import Case, Workload


@dataclass(frozen=True)
class Stopping:
    """After the launches of the preset a run goes on, `step` blocks at a time, until every ratio of two cases is known
    to ± `half_width` (a share, 95 %) or each case was launched `most` times. Decided in `judge.stopping`."""

    half_width: float
    step: int
    most: int


@dataclass(frozen=True)
class Preset:
    """How much evidence to gather, of which workload if no other is asked for. `verdicts` false: indicative only."""

    name: str
    launches: int
    iterations: int
    warmup: int
    workload: Workload
    time_budget_seconds: float | None
    verdicts: bool
    cold_launches: int = 0
    """Of each case, with its model on the disk alone; after the timed ones."""
    stopping: Stopping | None = None
    """None: as many launches as said, and no more."""


PRESETS = {
    preset.name: preset
    for preset in (
        Preset("smoke", 1, 2, 1, Workload(n_prompt=32, n_gen=16), 660.0, verdicts=False),
        Preset("quick", 3, 5, 2, Workload(n_prompt=128, n_gen=64), 900.0, verdicts=False),
        Preset("standard", 10, 10, 3, Workload(n_prompt=128, n_gen=128), None, True, 3, Stopping(0.01, 5, 20)),
        Preset("rigorous", 20, 10, 5, Workload(n_prompt=512, n_gen=128), None, True, 5, Stopping(0.005, 5, 40)),
    )
}


def preset(
    name: str,
    iterations: int | None = None,
    time_budget_seconds: float | None = None,
    cold_launches: int | None = None,
) -> Preset:
    """A preset with what the user changed. Raises UsageError on an unknown name or a count below one."""
    if name not in PRESETS:
        raise unknown("preset", name, PRESETS)
    chosen = PRESETS[name]
    return replace(
        chosen,
        iterations=iterations or chosen.iterations,
        time_budget_seconds=time_budget_seconds or chosen.time_budget_seconds,
        cold_launches=chosen.cold_launches if cold_launches is None else cold_launches,
    )


@dataclass(frozen=True)
class Plan:
    """Cases and how often to launch them; `blocks` hold every case once, each in its own random order."""

    preset: Preset
    cases: tuple[Case, ...]
    seed: int

    @property
    def blocks(self) -> list[list[Case]]:
        return [self.block(number) for number in range(self.preset.launches)]

    def block(self, number: int) -> list[Case]:
        """Block `number` in its seeded order (a randomised complete block design)."""
        order = list(self.cases)
        random.Random(f"enginebench:{self.seed}:block:{number}").shuffle(order)  # noqa: S311 (not for secrets)
        return order


ASSUMED_BANDWIDTH = {"cpu": 15e9, "cuda": 1.5e12}
ASSUMED_FLOPS = {"cpu": 100e9, "cuda": 100e12}
ASSUMED_LAUNCH_SECONDS = 15.0
"""For the estimate of a dry run only; a real run measures its own pilot."""


def rough_seconds(plan: Plan, configs: Mapping[str, LlamaConfig], device: str) -> float:
    """A guess before anything was measured: bytes over an assumed bandwidth, operations over an assumed rate.

    `configs`: the shape of each model by its name.
    """
    preset = plan.preset
    requests = [rough_request_seconds(case.workload, configs[case.model], device) for case in plan.cases]
    launch = len(requests) * ASSUMED_LAUNCH_SECONDS * (1 + preset.launches + preset.cold_launches)
    timed, cold = preset.launches * (preset.warmup + preset.iterations), preset.cold_launches * (preset.warmup + 1)
    depths = [_depth_seconds(case.workload, configs[case.model], device) for case in plan.cases]
    whole = launch + sum(requests) * (4 + timed + cold) + sum(depths) * preset.launches
    return min(whole, preset.time_budget_seconds or whole)


def rough_request_seconds(workload: Workload, config: LlamaConfig, device: str) -> float:
    elements = config.read_elements_per_token()
    cache_bytes = config.kv_bytes_per_token(2) * (workload.n_sent + workload.n_gen / 2)
    decode = workload.n_gen * (elements * 2 + cache_bytes) / ASSUMED_BANDWIDTH[device]
    return decode + workload.n_sent * elements * 2 / ASSUMED_FLOPS[device]


def _depth_seconds(workload: Workload, config: LlamaConfig, device: str) -> float:
    """Of a launch's requests of the depth alone."""
    prefill = workload.n_depth * config.read_elements_per_token() * 2 / ASSUMED_FLOPS[device]
    return workload.n_depth_requests * prefill
