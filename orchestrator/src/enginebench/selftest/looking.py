"""What measuring costs the measured: the noise snapshots around a launch, and the orchestrator itself."""

from __future__ import annotations

from enginebench.machine.watch import Watch
from enginebench.store.record import Launch

from .page import Row
from .probe_cost import ALLOWED, FEWEST_PAIRS, Launcher, ProbeCost, measure

LARGEST_CPU_SHARE = 0.02
"""Of one processor, for the orchestrator while requests are timed."""


def probe_rows(pairs: int, launch: Launcher) -> list[Row]:
    """Raises ValueError where too few pairs ended well."""
    launches: list[Launch] = []

    def kept(watch: Watch | None) -> Launch:
        launches.append(launch(watch))
        return launches[-1]

    cost = measure(kept, Watch(), max(FEWEST_PAIRS, pairs))
    share = max(launch.harness_cpu_share or 0.0 for launch in launches)
    return [_ratio(cost), _snapshot(cost), _harness(share, len(launches))]


def _ratio(cost: ProbeCost) -> Row:
    low, high = cost.interval
    return Row(
        what=f"time per token with the noise snapshots ÷ without them, median of {cost.pairs} pairs of launches",
        value=f"{cost.ratio:.4f} [{low:.4f}, {high:.4f}]",
        target=f"within ±{ALLOWED:.1%}, with its 95 % interval",
        passed=cost.passed,
    )


def _snapshot(cost: ProbeCost) -> Row:
    return Row(what="one snapshot, between requests", value=f"{cost.snapshot_ms:.2f} ms", target="", passed=True)


def _harness(share: float, launches: int) -> Row:
    return Row(
        what=f"orchestrator's processor time while requests are timed, of one processor, worst of {launches} launches",
        value=f"{share:.2%}",
        target=f"< {LARGEST_CPU_SHARE:.0%}",
        passed=share < LARGEST_CPU_SHARE,
    )
