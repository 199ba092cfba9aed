"""The harness itself: what the protocol, the clock and the orchestrator add."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from typing import Any

from bench import Bench, Row
from side_by_side import Ready, started


def harness(bench: Bench) -> list[Row]:
    """Protocol round trip; a scripted millisecond per token; the orchestrator's own CPU time."""
    contender = bench.contender("fake", "default")
    with started(contender, bench.model, 128, 1) as ready:
        trips = sorted(round_trip_us(ready) for _ in range(3000))
    middle = trips[len(trips) // 2]
    metrics, share = scripted_run()
    error = abs(metrics["tpot_ns"]["value"] / 1e6 - 1)
    return [
        Row("protocol round trip, median", f"{middle:.0f} µs (p99 {trips[2970]:.0f} µs)", "≤ 100 µs", middle <= 100),
        Row("a scripted 1 ms per token is reported with an error of", f"{error:.2%}", "≤ 1 %", error <= 0.01),
        Row("orchestrator's CPU time while a case is timed, of one core", f"{share:.2%}", "< 2 %", share < 0.02),
    ]


def round_trip_us(ready: Ready) -> float:
    begin = time.perf_counter_ns()
    ready.client.memory(10.0)
    return (time.perf_counter_ns() - begin) / 1e3


def scripted_run() -> tuple[dict[str, Any], float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "enginebench", "run", "fake", "--model", "tiny", "--preset", "smoke"]
        command += ["--n-gen", "500", "--iterations", "10", "--results", folder, "-o", "json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    case = next(c for c in json.loads(done.stdout)["cases"] if c["engine"] == "fake")
    return case["metrics"], max(launch["harness_cpu_share"] or 0 for launch in case["launches"])


PARTS = {"harness": harness}
