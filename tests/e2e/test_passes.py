"""The passes that are not timed, on a real engine: energy with a counter of known power, and what looking costs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from enginebench.cli import command_line
from enginebench.judge.energy_metrics import energy_metrics
from enginebench.machine.energy import Meter
from enginebench.machine.watch import Watch
from enginebench.run import energy_pass
from enginebench.run import launch as launching
from enginebench.selftest import pairs
from enginebench.selftest.probe_cost import launches_of, measure
from enginebench.selftest.subjects import of_known_speed
from enginebench.store.record import Workload
from typer.testing import CliRunner

WATTS = 40.0


def scripted(iterations: int) -> Any:
    return of_known_speed(Workload(n_prompt=32, n_gen=20), iterations)


@dataclass(frozen=True)
class SteadyCounter:
    """A machine that always draws WATTS."""

    name: str = "package-0"
    range_j: float | None = None

    def read_j(self) -> float:
        return time.monotonic() * WATTS


def test_an_energy_launch_measures_idle_prefill_and_full_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy_pass, "SETTLE_SECONDS", 0.0)
    real = energy_pass.measure
    monkeypatch.setattr(energy_pass, "measure", lambda *a, **k: real(*a, **k, window_seconds=0.5))
    plain = launching.run_launch

    def energy(order: Any, *rest: Any) -> Any:
        return plain(replace(order, kind="energy", meter=Meter([SteadyCounter()])), *rest)

    monkeypatch.setattr(pairs, "run_launch", energy)
    launch = launches_of(scripted(iterations=10))(Watch())
    assert launch.failure is None
    assert (launch.kind, launch.requests, launch.noise is not None) == ("energy", [], True)
    metrics = energy_metrics([launch], {})
    assert metrics["idle_power_w"].value == pytest.approx(WATTS, rel=0.01)
    # 1 ms for each token, at the power of the idle machine: all of it is idle, and nothing is left of it.
    assert metrics["decode_gross_j_per_token"].value == pytest.approx(WATTS * 0.001, rel=0.3)
    assert metrics["decode_j_per_token"].value == pytest.approx(0, abs=WATTS * 0.0003)
    assert "measured over" in metrics["prefill_j_per_token"].reasons[0]


def test_the_cost_of_the_probe_is_measured_with_the_scripted_engine() -> None:
    cost = measure(launches_of(scripted(iterations=3)), Watch(), pairs=12)
    assert cost.ratio == pytest.approx(1, abs=0.05)
    assert cost.snapshot_ms < 100


def test_a_launch_in_doubt_is_repeated_in_its_place_and_counted(
    monkeypatch: pytest.MonkeyPatch, home: dict[str, str], tmp_path: Path
) -> None:
    """The first timed launch of the run swapped, as the gates would have it."""
    found = iter([["swap: the machine swapped 7 pages"]])
    monkeypatch.setattr(launching, "doubts", lambda noise: next(found, []))
    monkeypatch.setenv("XDG_CACHE_HOME", home["XDG_CACHE_HOME"])
    words = [
        "run",
        "fake",
        "--model",
        "tiny",
        "--preset",
        "smoke",
        "--iterations",
        "8",
        "--results",
        str(tmp_path),
        "-o",
        "json",
    ]
    done = CliRunner().invoke(command_line(), words)
    cases = {case["role"]: case for case in json.loads(done.stdout)["cases"]}
    doubtful = [case for case in cases.values() if any(launch["doubts"] for launch in case["launches"])]
    assert len(doubtful) == 1
    timed = [launch for launch in doubtful[0]["launches"] if launch["kind"] == "timed"]
    assert [(launch["block"], bool(launch["doubts"])) for launch in timed] == [(0, True), (0, False)]
    assert doubtful[0]["status"] == "ok"
    assert doubtful[0]["metrics"]["launches"]["value"] == 1
    assert "1 of 2 timed launches excluded for noise (1 x swap)" in doubtful[0]["metrics"]["tpot_ns"]["reasons"]
    assert "of the measured requests are invalid" in doubtful[0]["reason"]
