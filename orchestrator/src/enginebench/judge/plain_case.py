"""A case of a result in JSON's own types: its names, and what the plan says of its model and workload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def label(case: Mapping[str, Any]) -> str:
    """engine:configuration, and the threads where they are part of the case."""
    threads = f" t{case['threads']}" if case.get("threads") else ""
    return f"{case['engine']}:{case['configuration']}{threads}"


def case_id(case: Mapping[str, Any]) -> str:
    """As `store.record.Case.id`."""
    threads = f"/t{case['threads']}" if case.get("threads") else ""
    return f"{case['engine']}:{case['configuration']}/{case['model']}/{case['workload']}{threads}"


def model_of(case: Mapping[str, Any], plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """Empty where the plan does not know it."""
    return _named(case["model"], plan["models"])


def workload_of(case: Mapping[str, Any], plan: Mapping[str, Any]) -> Mapping[str, Any]:
    """Empty where the plan does not know it."""
    return _named(case["workload"], plan["workloads"])


def _named(name: str, entries: list[Mapping[str, Any]]) -> Mapping[str, Any]:
    return next((entry for entry in entries if entry["name"] == name), {})
