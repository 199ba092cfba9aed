"""Fitting a plan into a time budget: whole launches and whole requests are left out, never tokens inside a request.

The check launches are the pilot: they tell what getting ready costs in each case, and what a request costs.
"""

from __future__ import annotations

from dataclasses import dataclass

from enginebench.store.record import Launch

from .plan import Preset

FEWEST_ITERATIONS = 2


@dataclass(frozen=True)
class Cost:
    """Seconds that one case takes: in a new process besides its requests, and for each of them."""

    ready_seconds: float
    request_seconds: float

    def launch_seconds(self, warmup: int, iterations: int) -> float:
        return self.ready_seconds + (warmup + iterations) * self.request_seconds


@dataclass(frozen=True)
class Fit:
    """What is run of a preset, and what was left out of it (sentences for the table)."""

    launches: int
    iterations: int
    warmup: int
    left_out: tuple[str, ...]


def cost_of(check: Launch) -> Cost:
    """From a case's check launch: its first request holds the compilation, its last one is a plain request."""
    first, last = check.requests[0], [r for r in check.requests if not r.repeat][-1]
    request = last.t_token_ns[-1] / 1e9
    compile_seconds = max(0.0, first.t_token_ns[-1] / 1e9 - request)
    depth_seconds = check.case.workload.n_depth_requests * last.t_token_ns[0] / 1e9
    ready = ((check.startup_ns or 0) + (check.load_ns or 0)) / 1e9 + compile_seconds + depth_seconds
    return Cost(ready, request)


def fit(preset: Preset, costs: list[Cost], seconds_left: float | None) -> Fit:
    """The most launches that fit with at least FEWEST_ITERATIONS requests each, then the most requests.

    At least one launch of one request remains, whatever it costs: a benchmark that measured nothing helps nobody.
    """
    if seconds_left is None or _block_seconds(preset, costs, preset.iterations) * preset.launches <= seconds_left:
        return Fit(preset.launches, preset.iterations, preset.warmup, ())
    fewest = min(FEWEST_ITERATIONS, preset.iterations)
    least = _block_seconds(preset, costs, fewest)
    if least > seconds_left:
        return _report(preset, 1, 1, 1)
    launches = min(preset.launches, int(seconds_left // least))
    iterations = max(
        n for n in range(fewest, preset.iterations + 1) if _block_seconds(preset, costs, n) * launches <= seconds_left
    )
    return _report(preset, launches, iterations, preset.warmup)


def _block_seconds(preset: Preset, costs: list[Cost], iterations: int) -> float:
    return sum(cost.launch_seconds(preset.warmup, iterations) for cost in costs)


def _report(preset: Preset, launches: int, iterations: int, warmup: int) -> Fit:
    left_out = [
        f"{wanted - done} of {wanted} {what}"
        for done, wanted, what in (
            (launches, preset.launches, "launches per case"),
            (iterations, preset.iterations, "measured requests per launch"),
            (warmup, preset.warmup, "warm-up requests per launch"),
        )
        if done < wanted
    ]
    return Fit(launches, iterations, warmup, tuple(left_out))
