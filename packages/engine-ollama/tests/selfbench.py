"""engine-ollama against the server's own account, and against a bare loop over the client (`just selfbench ollama`)."""

from __future__ import annotations

import json
import statistics
import subprocess
from pathlib import Path

from bench import Bench, Row
from enginebench.run.passed_on import engine_environment

SCRIPT = Path(__file__).with_name("bare_client.py")
REQUESTS_PER_ROUND = 3


def ollama(bench: Bench) -> list[Row]:
    """Both rates of one request: Ollama's own counts the first token but not its time, so n/(n-1) too much."""
    command = [bench.interpreter("ollama").python, SCRIPT, bench.model, REQUESTS_PER_ROUND * bench.rounds]
    done = subprocess.run(list(map(str, command)), env=engine_environment(), capture_output=True, text=True, check=True)
    pairs: list[tuple[dict[str, float], dict[str, float]]] = json.loads(done.stdout)
    own = statistics.median(ours["reported_tpot"] / ours["tpot"] for ours, _ in pairs)
    added = statistics.median(ours["tpot"] / bare["tpot"] for ours, bare in pairs) - 1
    by_server = statistics.median(overhead(ours) / overhead(bare) for ours, bare in pairs) - 1
    return [
        Row(
            "decode ollama:default ÷ eval_count over eval_duration of the same request",
            f"{own:.3f}",
            "≥ 0.97",
            own >= 0.97,
        ),
        Row(
            "time per token that ollama:default adds to a bare client loop",
            f"{added:+.1%} ({len(pairs)} pairs; {by_server:+.2%} when each is divided by the server's own time)",
            "≤ 2 %",
            added <= 0.02,
        ),
    ]


def overhead(times: dict[str, float]) -> float:
    """Time per token at the client ÷ by the server's own clock: the machine's drift is in both."""
    return times["tpot"] / times["reported_tpot"]


PARTS = {"ollama": ollama}
