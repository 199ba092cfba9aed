"""A case of a result in JSON's own types: its names, and what the plan says of its model and workload."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from enginebench_models.config import read_elements

from enginebench.store.record import Workload

from .evidence import NOTHING_FREE, ONLY_NOISE

SHAPE = ("dim", "n_layers", "n_heads", "n_kv_heads", "head_dim", "hidden_dim", "vocab_size")


def label(case: Mapping[str, Any]) -> str:
    """engine:configuration, and the threads and devices where they are part of the case."""
    return f"{case['engine']}:{case['configuration']}{_suffix(case, ' ')}"


def case_id(case: Mapping[str, Any]) -> str:
    """As `store.record.Case.id`."""
    return f"{case['engine']}:{case['configuration']}/{case['model']}/{case['workload']}{_suffix(case, '/')}"


def _suffix(case: Mapping[str, Any], separator: str) -> str:
    threads, shards = case.get("threads"), case.get("shards")
    return (f"{separator}t{threads}" if threads else "") + (f"{separator}x{shards}" if shards else "")


def by_work(result: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any], list[dict[str, Any]]]]:
    """Model, workload, and the cases of both, in the order of the plan: each is a table."""
    for model in result["plan"]["models"]:
        for workload in result["plan"]["workloads"]:
            work = (model["name"], workload["name"])
            yield model, workload, [case for case in result["cases"] if (case["model"], case["workload"]) == work]


def class_of(case: Mapping[str, Any], plan: Mapping[str, Any]) -> str | None:
    """The precision class within which a fair comparison keeps it; None where all are compared with all."""
    return case["loaded"]["precision"] if plan.get("fair_comparison") and case["loaded"] else None


def memories(case: Mapping[str, Any], plan: Mapping[str, Any]) -> int:
    """Device memories that are read side by side: GPUs have one each, ranks on a processor share theirs."""
    return int(case.get("shards", 1)) if plan.get("device") == "cuda" else 1


def is_spoiled(case: Mapping[str, Any]) -> bool:
    """Whether the machine alone kept a case from having speeds: it ran, and what was noted is noise."""
    return case["status"] == "invalid" and str(case["reason"]).startswith((NOTHING_FREE, ONLY_NOISE))


def model_of(case: Mapping[str, Any], plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """Empty where the plan does not know it."""
    return _named(case["model"], plan["models"])


def workload_of(case: Mapping[str, Any], plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """Empty where the plan does not know it."""
    return _named(case["workload"], plan["workloads"])


def elements_read(case: Mapping[str, Any], plan: Mapping[str, Any]) -> int | None:
    """Weights that a token reads, from the model's shape; None where the plan does not hold all of it."""
    shape = model_of(case, plan).get("shape", {})
    if any(shape.get(name) is None for name in SHAPE):
        return None
    return read_elements(**{name: int(shape[name]) for name in SHAPE})


def mean_context(case: Mapping[str, Any], plan: Mapping[str, Any]) -> float | None:
    """As `store.record.Workload.mean_context`; None where the plan does not know the workload."""
    workload = workload_of(case, plan)
    if not workload:
        return None
    return Workload(**{name: workload[name] for name in ("n_prompt", "n_gen", "n_depth")}).mean_context


def _named(name: str, entries: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((entry for entry in entries if entry["name"] == name), {})
