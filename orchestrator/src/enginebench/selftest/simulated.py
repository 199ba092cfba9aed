"""Intervals and verdicts where the truth is known and launches cost nothing (`judge.simulation`)."""

from __future__ import annotations

from collections.abc import Callable

from enginebench.judge.simulation import DIFFERENT, Noise, interval_coverage, verdicts
from enginebench.plan.plan import PRESETS

from .page import Row

LAUNCHES = (3, 5, 10, 20)
LAUNCH_CVS = (0.01, 0.02, 0.03)
SLOWDOWNS = (0.01, 0.02, 0.05)
COVERAGE, TOLERANCE = 0.95, 0.015
STANDARD = PRESETS["standard"]


def coverage_rows(experiments: int, say: Callable[[str], None]) -> list[Row]:
    rows = []
    for launches in LAUNCHES:
        say(f"coverage at {launches} launches")
        found = interval_coverage(launches, experiments)
        rows.append(
            Row(
                what=f"95 % intervals that hold the truth, {launches} launches, {experiments} simulated experiments",
                value=f"{found:.1%}",
                target="95 ± 1.5 %",
                passed=abs(found - COVERAGE) <= TOLERANCE,
            )
        )
    return rows


def verdict_rows(runs: int, say: Callable[[str], None]) -> list[Row]:
    """`standard` as it is run: ten launches, and more where the ratios are not known well enough."""
    rows = []
    for cv in LAUNCH_CVS:
        say(f"verdicts at a launch CV of {cv:.0%}")
        equal = verdicts(runs, STANDARD.launches, Noise(cv), stopping=STANDARD.stopping)
        false = equal.share(*DIFFERENT)
        words = f"{equal.share('SAME'):.0%} SAME, {equal.share('INCONCLUSIVE'):.0%} INCONCLUSIVE"
        rows.append(
            Row(
                what=f"false verdicts of `standard` on equals, launch CV {cv:.0%}, {runs} simulated runs",
                value=f"{false:.2%} ({words}; {equal.mean_launches:.1f} launches)",
                target="≤ 1 %",
                passed=false <= 0.01,
            )
        )
        rows += [_detection(runs, cv, slowdown) for slowdown in SLOWDOWNS]
    return rows


def _detection(runs: int, cv: float, slowdown: float) -> Row:
    """At the launch CV of 1 % there is a target; what noisier launches leave of it is told."""
    found = verdicts(runs, STANDARD.launches, Noise(cv), slowdown=slowdown, stopping=STANDARD.stopping)
    asked = cv <= LAUNCH_CVS[0] and slowdown >= SLOWDOWNS[1]
    return Row(
        what=f"a slow-down of {slowdown:.0%} found by `standard`, launch CV {cv:.0%}, {runs} simulated runs",
        value=f"{found.share('SLOWER'):.1%} ({found.mean_launches:.1f} launches)",
        target="≥ 90 %" if asked else "",
        passed=not asked or found.share("SLOWER") >= 0.9,
    )
