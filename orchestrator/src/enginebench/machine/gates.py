"""The noise gates: one closed set of things that spoil a measurement, each with why it matters and what to do.

A gate looks at a View and says fired, quiet, or cannot be read here. "warn" is told; "invalid" puts a launch in
doubt, and no average uses it. Only recorded causes are invalid; a fact that is missing accuses nobody. Thresholds stand
in docs/methodology.md, "Noise". What the gates look at is read in `machine.noise` and `machine.nvml`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from enginebench.store.surroundings import LaunchNoise, NoiseSnapshot

from . import gpu_gates, processor_gates
from .facts import Environment
from .noise import grown
from .view import Gate, Sight, View, Worked

GATES: tuple[Gate, ...] = (*processor_gates.GATES, *gpu_gates.GATES)


@dataclass(frozen=True)
class Finding:
    """What one gate saw."""

    gate: Gate
    sight: Sight

    @property
    def state(self) -> str:
        """ok, warn, invalid, or unreadable."""
        if self.sight.fired is None:
            return "unreadable"
        return self.gate.severity if self.sight.fired else "ok"

    def __str__(self) -> str:
        return f"{self.gate.name}: {self.sight.seen}"


def findings(view: View) -> list[Finding]:
    """One for each gate, in the order of the set."""
    return [Finding(gate, gate.look(view)) for gate in GATES]


def doubts(noise: LaunchNoise) -> list[str]:
    """Why this launch must not be averaged: what the invalidating gates saw around its measured requests."""
    return [str(finding) for finding in findings(launch_view(noise)) if finding.state == "invalid"]


def launch_view(noise: LaunchNoise, machine: Environment | None = None) -> View:
    return View(
        machine=machine,
        now=noise.before,
        start=noise.start,
        end=noise.end,
        engine=_worked(noise),
        harness_cpu_ns=noise.harness_cpu_ns,
        gpu_after_requests=tuple(noise.gpu_after_requests),
    )


def _worked(noise: LaunchNoise) -> Worked | None:
    first, last = noise.engine_start, noise.engine_end
    if first is None or last is None:
        return None
    counts = {name: grown(first, last, name) or 0 for name in ("cpu_ns", "major_faults", "involuntary_switches")}
    return Worked(**counts)


def noise_warnings(before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> list[str]:
    """What speaks against numbers taken between two stored snapshots."""
    if not before or not after:
        return []
    first, last = (msgspec.convert(dict(stored), NoiseSnapshot) for stored in (before, after))
    view = View(now=first, start=first, end=last)
    return [f"noise during the run: {finding}" for finding in findings(view) if finding.sight.fired]


def launch_warnings(launches: Iterable[Mapping[str, Any]]) -> list[str]:
    """One line for each gate that fired around stored timed launches: how often, and the worst that it saw."""
    noises = [
        msgspec.convert(launch["noise"], LaunchNoise)
        for launch in launches
        if launch["kind"] == "timed" and launch.get("noise")
    ]
    seen = [findings(launch_view(noise)) for noise in noises]
    lines = []
    for of_gate in zip(*seen, strict=True):
        fired = [finding for finding in of_gate if finding.sight.fired]
        if fired:
            worst = max(fired, key=lambda finding: finding.sight.value)
            lines.append(f"noise around {len(fired)} of {len(noises)} timed launches: {worst}")
    return lines
