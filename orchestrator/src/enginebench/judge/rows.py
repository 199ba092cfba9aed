"""A stored run as rows of `store.tables`: the same values as in its result, none averaged anew but by `metrics`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from enginebench.store.record import Launch, Request
from enginebench.store.tables import HEADLINES, REQUEST_TIMES, Row, RunRows

from .evidence import median_of, timing
from .metrics import LAUNCH_FACTS, TIMES
from .plain_case import case_id, model_of, workload_of
from .stored_run import StoredRun, read_run


def rows_of(folder: Path) -> RunRows:
    """Raises UsageError for a run that cannot be believed."""
    return rows(read_run(folder))


def rows(run: StoredRun) -> RunRows:
    result = run.result
    tables: dict[str, list[Row]] = {"runs": [_run(run)], "cases": [], "metrics": [], "launches": [], "requests": []}
    for case in result["cases"]:
        keys = {"run_id": run.run_id, "case_id": case_id(case)}
        launches = msgspec.convert(case["launches"], list[Launch])
        tables["cases"].append(keys | _case(case, result["plan"]))
        tables["metrics"] += [keys | row for row in _metrics(case)]
        tables["launches"] += [keys | _launch(launch) for launch in launches]
        tables["requests"] += [keys | _request(launch, r) for launch in launches for r in launch.requests]
    return RunRows(run.run_id, tables)


def machine_of(environment: dict[str, Any]) -> str:
    """What two results must share to stand beside each other: the processor and the GPUs, by name and number."""
    cpu = environment["cpu"]
    processors = f"{cpu['model']}, {cpu['allowed']} of {cpu['logical'] or cpu['allowed']} processors"
    return " + ".join([processors, *(gpu["name"] for gpu in environment["gpus"] or [])])


def utc(text: str) -> str:
    """An ISO date as DuckDB's TIMESTAMP wants it: without a zone, in UTC."""
    return dt.datetime.fromisoformat(text).astimezone(dt.UTC).replace(tzinfo=None).isoformat(" ")


def _run(run: StoredRun) -> Row:
    environment, plan = run.result["environment"], run.result["plan"]
    gpus, repository = environment["gpus"] or [], environment["repository"] or {}
    return {
        "run_id": run.run_id,
        "date": utc(environment["date"]),
        "commit": repository.get("commit"),
        "dirty": repository.get("dirty"),
        "machine": machine_of(environment),
        "cpu": environment["cpu"]["model"],
        "gpu": " + ".join(gpu["name"] for gpu in gpus) or None,
        "driver": gpus[0]["driver"] if gpus else None,
        **{name: environment.get(name) for name in ("memory_bytes", "kernel", "distribution", "python")},
        **{name: plan[name] for name in ("device", "preset", "seed", "launches", "iterations", "warmup")},
        "verdicts": plan.get("verdicts", False),
        "rebuilt": run.rebuilt,
    }


_NAMES = ("engine", "configuration", "model", "workload", "role", "status", "reason", "versions")


def _case(case: dict[str, Any], plan: dict[str, Any]) -> Row:
    model, workload = model_of(case, plan), workload_of(case, plan)
    loaded, fidelity = case["loaded"] or {}, case["fidelity"] or {}
    device_peak = _valid(case, "device_peak_memory_bytes")
    return {
        **{name: case[name] for name in _NAMES},
        **{name: workload.get(name) for name in ("n_prompt", "n_gen", "n_depth", "batch_size")},
        "threads": case.get("threads") or plan["threads"],
        "shards": case.get("shards", 1),
        **{name: model.get(name) for name in ("weights", "fingerprint")},
        **{name: loaded.get(name) for name in ("weight_dtype", "kv_dtype")},
        "fidelity_passed": fidelity.get("passed"),
        "mean_kld": fidelity.get("mean_kld"),
        **{name: _valid(case, name) for name in HEADLINES},
        "peak_memory_bytes": _valid(case, "peak_memory_bytes") if device_peak is None else device_peak,
        "engine_versions": ", ".join(f"{k} {v}" for k, v in sorted(loaded.get("versions", {}).items())) or None,
    }


def _valid(case: dict[str, Any], name: str) -> float | None:
    metric = case["metrics"].get(name)
    return metric["value"] if metric and metric["valid"] else None


def _metrics(case: dict[str, Any]) -> Iterator[Row]:
    for name, metric in case["metrics"].items():
        low, high = metric["interval"] or (None, None)
        reasons = "; ".join(metric["reasons"]) or None
        told = {key: metric[key] for key in ("value", "unit", "valid")}
        yield {"metric": name, **told, "low": low, "high": high, "reasons": reasons}


_OF_LAUNCH = {**LAUNCH_FACTS, **{name: median_of(TIMES[name]) for name in ("ttft_ns", "tpot_ns", "e2e_ns")}}


def _launch(launch: Launch) -> Row:
    return {
        "kind": launch.kind,
        "block": launch.block,
        "position": launch.order,
        "started_at": utc(launch.started_at),
        "duration_ns": launch.duration_ns,
        "failure": launch.failure.reason if launch.failure else None,
        **{name: value_of(launch) for name, value_of in _OF_LAUNCH.items()},
        "peak_pss_bytes": launch.memory.peak_pss_bytes if launch.memory else None,
        "harness_cpu_share": launch.harness_cpu_share,
    }


def _request(launch: Launch, request: Request) -> Row:
    of_request = timing(request)
    return {
        "kind": launch.kind,
        "block": launch.block,
        "phase": request.phase,
        "iteration": request.iteration,
        "n_prompt": request.n_prompt,
        "n_tokens": len(request.t_token_ns),
        **{name: TIMES[name](of_request) for name in REQUEST_TIMES},
        "doubts": "; ".join(request.doubts) or None,
    }
