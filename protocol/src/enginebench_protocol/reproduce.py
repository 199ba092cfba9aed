"""Run one engine's recorded cases again, in isolation, and set old and new side by side.

Reads the few fields it needs from a run's result.json (results/SCHEMA.md); the orchestrator is not needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .engine import Engine
from .local import BenchPlan, bench

_ROWS = (
    ("load_ns", "load", 1e9, "s"),
    ("ttft_ns", "TTFT", 1e6, "ms"),
    ("tpot_ns", "TPOT", 1e6, "ms"),
    ("prefill_tps", "prefill", 1.0, "tok/s"),
    ("decode_tps", "decode", 1.0, "tok/s"),
)


def reproduce(
    engine: Engine,
    result_path: Path,
    configuration: str | None,
    locate: Callable[[str, str], Path],
    progress: Callable[[str, float], None],
) -> list[str]:
    """Lines of text. Raises ValueError if the file holds no measured case of this engine."""
    result = read_result(result_path)
    try:
        cases = recorded_cases(result, engine.name, configuration)
        plans = [plan_of(result, case, locate) for case in cases]
        fingerprints = [model_of(result, case)["fingerprint"] for case in cases]
    except (KeyError, StopIteration, TypeError) as error:
        raise ValueError(f"{result_path} is no complete result: {type(error).__name__} {error}") from None
    lines = []
    for case, plan, fingerprint in zip(cases, plans, fingerprints, strict=True):
        new = bench(engine, plan, progress)
        lines += _side_by_side(case, new.summary(), new.loaded.weights_fingerprint == fingerprint)
    return lines


def read_result(path: Path) -> dict[str, Any]:
    try:
        result = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot read {path}: {error}; give the result.json of a run") from None
    if not isinstance(result, dict) or result.get("schema_version") != 1:
        raise ValueError(f"{path} is no result of schema version 1")
    return result


def recorded_cases(result: dict[str, Any], engine: str, configuration: str | None) -> list[dict[str, Any]]:
    cases = [c for c in result["cases"] if c["engine"] == engine and c["status"] == "ok"]
    if configuration is not None:
        cases = [c for c in cases if c["configuration"] == configuration]
    if not cases:
        wanted = f"{engine}:{configuration}" if configuration else engine
        found = sorted({f"{c['engine']}:{c['configuration']}" for c in result["cases"] if c["status"] == "ok"})
        raise ValueError(f"no measured case of {wanted}; the file holds {', '.join(found) or 'none'}")
    return cases


def model_of(result: dict[str, Any], case: dict[str, Any]) -> dict[str, Any]:
    return next(m for m in result["plan"]["models"] if m["name"] == case["model"])


def plan_of(result: dict[str, Any], case: dict[str, Any], locate: Callable[[str, str], Path]) -> BenchPlan:
    """The recorded case as a plan for this process."""
    plan = result["plan"]
    model = model_of(result, case)
    workload = next(w for w in plan["workloads"] if w["name"] == case["workload"])
    return BenchPlan(
        configuration=case["configuration"],
        model_path=locate(model["source"], model["weights"]),
        device=plan["device"],
        threads=case.get("threads") or plan["threads"],
        n_ctx=workload["n_ctx"],
        n_prompt=workload["n_prompt"] + workload.get("n_depth", 0),
        n_gen=workload["n_gen"],
        warmup=plan["warmup"],
        iterations=plan["iterations"],
        seed=plan["seed"],
        options=plan.get("options", {}).get(case["engine"], {}),
        shards=case.get("shards", 1),
    )


def _side_by_side(case: dict[str, Any], new: dict[str, float | None], same_weights: bool) -> list[str]:
    lines = [f"{case['engine']}:{case['configuration']}  {case['model']}  {case['workload']}"]
    lines.append(f"  {'':<8} {'recorded':>10} {'now':>10}   {'now/recorded':>12}")
    for name, label, scale, unit in _ROWS:
        old, now = case["metrics"].get(name, {}).get("value"), new[name]
        ratio = f"{now / old:12.3f}" if old and now else f"{'-':>12}"
        lines.append(f"  {label:<8} {_number(old, scale)} {_number(now, scale)}   {ratio}  {unit}")
    lines.append(f"  weights: {'the same' if same_weights else 'DIFFERENT from the recorded ones'}")
    return lines


def _number(value: float | None, scale: float) -> str:
    return f"{'-':>10}" if value is None else f"{value / scale:10.2f}"
